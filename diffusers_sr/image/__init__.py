"""Images and their files: reading, writing, sizes, tiles and colours."""
