"""CoSeR: cognitive super-resolution (https://arxiv.org/abs/2311.16512)."""
