"""What tiles take at their peak, beyond the weights: written by `benchmarks/tile_memory.py`.

"float16" holds for bfloat16 too.
"""

from __future__ import annotations

from collections.abc import Mapping

BYTES_PER_LATENT: Mapping[tuple[str, int], Mapping[str, int]] = {
    ("SeeSRPipeline", 64): {"float32": 9458, "float16": 4729},
    ("CoSeRPipeline", 64): {"float32": 5776, "float16": 4032},
    ("CasSRPipeline", 64): {"float32": 13448, "float16": 6724},
    ("XPSRPipeline", 64): {"float32": 12477, "float16": 6238},
    ("PASDPipeline", 64): {"float32": 12448, "float16": 6224},
    ("OneStepPipeline", 64): {"float32": 3072, "float16": 1536},
    ("SeeSRPipeline", 320): {"float32": 91408, "float16": 45704},
    ("CoSeRPipeline", 320): {"float32": 68097, "float16": 40609},
    ("CasSRPipeline", 320): {"float32": 136642, "float16": 68321},
    ("XPSRPipeline", 320): {"float32": 90535, "float16": 45268},
    ("PASDPipeline", 320): {"float32": 88802, "float16": 44401},
    ("OneStepPipeline", 320): {"float32": 33281, "float16": 16641},
}
"""Those of a guided step for each latent, by the pipeline's class and the channels of the UNet's first level."""

BYTES_PER_PIXEL: Mapping[tuple[str, int], Mapping[str, int]] = {
    ("AutoencoderDC", 16): {"float32": 97, "float16": 64},
    ("AutoencoderKL", 32): {"float32": 770, "float16": 385},
    ("AutoencoderKL", 128): {"float32": 3072, "float16": 1536},
}
"""Those of encoding or decoding for each pixel, by the autoencoder's class and the channels of its first level."""
