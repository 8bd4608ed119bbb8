"""Saving, describing and uploading pipelines so that the Hub can serve them."""
