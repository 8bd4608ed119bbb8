"""The images of a call that are given by their paths or URLs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import requests
from diffusers.utils import logging
from diffusers.utils.constants import DIFFUSERS_REQUEST_TIMEOUT
from numpy.typing import NDArray

from .decoding import ImageFileError, on_white, to_array
from .deep import WHITE
from .reader import Photo, read_photo

logger = logging.get_logger(__name__)


def read_source(source: str | os.PathLike[str]) -> tuple[NDArray[Any], bytes | None]:
    """Read an image file, turned upright as its EXIF data says, with what is transparent on white.

    Args:
        source: a path, or a URL that begins with http:// or https://.

    Returns:
        Its pixels, of 8 or 16 bits, or floats in [0, 1], and the colour profile that they are in.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        photo = _fetch(str(source)) if str(source).startswith(("http://", "https://")) else read_photo(Path(source))
    except (ImageFileError, requests.RequestException, OSError) as error:
        raise ValueError(
            f"The image {str(source)!r} cannot be read: {error}. Give the path of an image file, a URL that begins "
            "with http:// or https://, a PIL image, an array or a tensor."
        ) from error
    for note in photo.notes:
        if note not in photo.metadata.notes:
            logger.warning(f"The image {str(source)!r} {note}.")
    return _opaque(photo, str(source)), photo.icc_profile


def _fetch(url: str) -> Photo:
    response = requests.get(url, timeout=DIFFUSERS_REQUEST_TIMEOUT)
    response.raise_for_status()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image")
        path.write_bytes(response.content)
        return read_photo(path)


def _opaque(photo: Photo, source: str) -> NDArray[Any]:
    if photo.alpha is None or photo.alpha.getextrema() == (255, 255):
        return to_array(photo.image) if photo.deep is None else photo.deep.colours
    logger.warning(
        f"The image {source!r} is transparent in parts: it is put on white, and the result has no alpha channel."
    )
    if photo.deep is None or photo.deep.alpha is None:
        return to_array(on_white(photo.image, photo.alpha))
    colours, alpha = (values / np.float32(WHITE) for values in (photo.deep.colours, photo.deep.alpha[..., None]))
    return 1 - alpha * (1 - colours)
