"""SeeSR: semantics-aware super-resolution (https://arxiv.org/abs/2311.16518)."""
