"""The CLIP that the cognitive encoder sees images with, from the Hub."""

from __future__ import annotations

from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..conversion.checkpoints import PathLike
from .cognition import CLIP


def load_clip(clip: PathLike = CLIP) -> CLIPVisionModelWithProjection:
    """Load a CLIP's vision model with its projection, from a folder or the Hub, in the dtype it is stored in.

    Raises:
        OSError: If it cannot be had, or what is there is no CLIP.
        ValueError: If weights of it are missing.
    """
    try:
        config = CLIPVisionConfig.from_pretrained(clip)
        # LAION's repositories say it of the whole CLIP, and not of its vision model, whose default is another.
        stored, _ = CLIPVisionConfig.get_config_dict(clip)
        config.projection_dim = stored["projection_dim"]
        model, loaded = CLIPVisionModelWithProjection.from_pretrained(clip, config=config, output_loading_info=True)
    except Exception as error:  # what transformers raises on another model's files is no closed set
        raise OSError(
            f"CLIP's vision model could not be loaded from '{clip}': give a Hub id, such as {CLIP!r}, or a folder "
            f"with the same files. ({str(error).strip() or type(error).__name__})"
        ) from error
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"'{clip}' lacks weights of CLIP's vision model with projection: {', '.join(missing)}.")
    return model
