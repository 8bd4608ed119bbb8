"""Models that the authors released, by name: what they are made of, fetched and converted once."""
