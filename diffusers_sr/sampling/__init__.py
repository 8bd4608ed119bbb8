"""A call of a pipeline: its arguments, their checks, and the sampling of its result."""
