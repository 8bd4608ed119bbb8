"""CasSR: image activation, and attention to the image and to its reference."""
