"""One-step models: a LoRA-tuned stock Stable Diffusion that restores a photo in one pass of its UNet."""
