"""Attention adapters: new attention for a stock UNet and ControlNet, and what it is made of."""
