"""Training photographs: where they are read from, their order, crops and degradation."""
