"""Draw charts to train on besides photographs: flat shapes, stripes and smooth shades, whose edges are perfect.

    python training/make_charts.py --count 80 --output_dir photos/charts

Photographs seldom have an edge between two flat areas. A model that sees only them draws outlines there, and a weave
into what is flat.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from diffusers_sr.image.partial import whole_file
from diffusers_sr.training.script import run_script

FINER = 4  # Charts are drawn so many times larger, and averaged, for smooth edges.
KINDS = {"polygon": 0.35, "rectangle": 0.25, "ellipse": 0.15, "line": 0.15, "stripes": 0.1}


def color(chance: random.Random) -> tuple[int, int, int]:
    """Draw a colour, or a grey for two in five."""
    if chance.random() < 0.6:
        power = chance.choice((0.6, 1, 1.6))  # for light, even and dark colours
        red, green, blue = (int(255 * chance.random() ** power) for _ in range(3))
        return red, green, blue
    grey = chance.randrange(256)
    return grey, grey, grey


def draw_shape(canvas: ImageDraw.ImageDraw, side: int, chance: random.Random) -> None:
    """Draw one of `KINDS` somewhere on a canvas of `side` pixels, for a chart of side / FINER."""
    (kind,) = chance.choices(list(KINDS), list(KINDS.values()))
    x, y = chance.randrange(side), chance.randrange(side)
    width, height = (chance.randrange(20 * FINER, 200 * FINER) for _ in range(2))
    if kind == "polygon":
        corners = [
            (x + chance.randrange(-width, width), y + chance.randrange(-width, width))
            for _ in range(chance.randrange(3, 6))
        ]
        canvas.polygon(corners, fill=color(chance))
    elif kind == "rectangle":
        canvas.rectangle((x, y, x + width, y + height), fill=color(chance))
    elif kind == "ellipse":
        canvas.ellipse((x, y, x + width, y + height), fill=color(chance))
    elif kind == "line":
        end = chance.randrange(side), chance.randrange(side)
        canvas.line((x, y, *end), fill=color(chance), width=chance.choice((2, 4, 6, 10, 20)) * FINER)
    else:
        period = chance.choice((6, 8, 12, 16, 24)) * FINER
        colors = color(chance), color(chance)
        for number, left in enumerate(range(0, width, period // 2)):
            canvas.rectangle((x + left, y, x + left + period // 2 - 1, y + height), fill=colors[number % 2])


def draw_chart(side: int, seed: int) -> Image.Image:
    """Draw the chart of a seed, `side` pixels wide and high; two in five have a shade over all."""
    chance = random.Random(seed)
    image = Image.new("RGB", (side * FINER, side * FINER), color(chance))
    canvas = ImageDraw.Draw(image)
    for _ in range(chance.randrange(6, 22)):
        draw_shape(canvas, side * FINER, chance)
    pixels = np.asarray(image, dtype=np.float32).reshape(side, FINER, side, FINER, 3).mean((1, 3))
    if chance.random() < 0.4:
        down, right = np.mgrid[:side, :side] / side
        angle, strength = chance.uniform(0, 2 * math.pi), chance.uniform(0, 0.5)
        shade = (math.cos(angle) * right + math.sin(angle) * down).clip(0, 1)
        pixels = pixels * (1 - strength * shade)[..., None]
    return Image.fromarray(pixels.round().astype(np.uint8))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=80, help="number of charts (%(default)s)")
    parser.add_argument("--side", type=int, default=448, help="of a chart in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first chart; each has the next (%(default)s)")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write")
    options = parser.parse_args(argv)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for number in range(options.count):
        with whole_file(options.output_dir / f"chart_{number:03}.png") as path:
            draw_chart(options.side, options.seed + number).save(path, "PNG")


if __name__ == "__main__":
    run_script(main)
