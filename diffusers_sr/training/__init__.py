"""Training: the engine, options, checkpoints, losses, validation and publishing, and a module for each method."""
