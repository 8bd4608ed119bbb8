"""The CLIP with which the cognitive encoder sees images, from the Hub."""

from __future__ import annotations

from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..conversion.checkpoints import PathLike
from .cognition import CLIP


def load_clip(clip: PathLike = CLIP) -> CLIPVisionModelWithProjection:
    """Load a CLIP's vision model with its projection, from a folder or the Hub, in the dtype it is stored in.

    Raises:
        OSError: if it cannot be loaded, or is not a CLIP.
        ValueError: if some of its weights are missing.
    """
    try:
        config = CLIPVisionConfig.from_pretrained(clip)
        # LAION's repositories give it for the whole CLIP, and not for its vision model, whose default differs.
        stored, _ = CLIPVisionConfig.get_config_dict(clip)
        config.projection_dim = stored["projection_dim"]
        model, loaded = CLIPVisionModelWithProjection.from_pretrained(clip, config=config, output_loading_info=True)
    except Exception as error:  # transformers may raise anything on another model's files
        raise OSError(
            f"CLIP's vision model could not be loaded from '{clip}': give a Hub id, such as {CLIP!r}, or a folder "
            f"with the same files. ({str(error).strip() or type(error).__name__})"
        ) from error
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"'{clip}' lacks weights of CLIP's vision model with projection: {', '.join(missing)}.")
    return model
