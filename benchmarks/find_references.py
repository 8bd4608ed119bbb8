"""Time and peak memory of finding references among many photos: `python benchmarks/find_references.py`.

The embeddings are random, as wide as those of the CLIP that CoSeR uses. The peak is that of the whole process, with
Python, torch and the table of references.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

from diffusers_sr.data.references import nearest_photos

CHANNELS = 1024


def main() -> None:
    """Print memory before and after, and the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000, help="number of photos (%(default)s)")
    parser.add_argument("--count", type=int, default=10, help="references for each photo (%(default)s)")
    options = parser.parse_args()
    embeddings = torch.randn(options.photos, CHANNELS, generator=torch.Generator().manual_seed(0))
    names = [f"{number:08d}.jpg" for number in range(options.photos)]
    before = peak_gigabytes()
    start = time.perf_counter()
    nearest = nearest_photos(names, embeddings, options.count)
    assert len(nearest) == options.photos
    print(
        f"{options.photos:,} photos: peak memory {peak_gigabytes():.2f} GB ({before:.2f} GB before the search, with "
        f"the embeddings), {time.perf_counter() - start:.0f} s with {torch.get_num_threads()} thread(s)"
    )


def peak_gigabytes() -> float:
    """Give the most memory that this process has had so far, as Linux counts it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
