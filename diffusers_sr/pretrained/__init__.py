"""Loading models that were saved before, with errors that name the damaged file."""
