"""XPSR, and PASD, which it builds on: prompts from a captioner, semantic fusion and pixel attention."""
