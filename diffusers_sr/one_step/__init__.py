"""One-step super-resolution with a tuned Stable Diffusion: PiSA-SR, OSEDiff, GDPO-SR, OMGSR and HYPIR."""
