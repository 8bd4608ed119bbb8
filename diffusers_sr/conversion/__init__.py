"""Reading the official checkpoints, and the base models that they were trained on."""
