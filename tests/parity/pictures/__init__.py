"""Whole pictures beside those that the official scripts made: every stage of a call, from image file to image file.

A folder of recordings has `<method>/weights`, in the official layout, and `<method>/cases/<case>`, each with
`input.png`, what the script saved (`final.png` or `final_<colour fix>.png`), its arguments (`case.json`), and what was
drawn and computed on the way (`io.safetensors`).
"""
