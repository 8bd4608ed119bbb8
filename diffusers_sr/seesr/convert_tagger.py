"""Convert RAM's and DAPE's official weights to `Tagger`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights

from ..conversion.checkpoints import PathLike, check_keys, read_state_dict
from .tagger import Tagger

TAGS_FILE = "ram_tag_list.txt"
THRESHOLDS_FILE = "ram_tag_list_threshold.txt"

# The captioning half of RAM: the official code builds it, but nothing in SeeSR uses it.
CAPTIONING = ("tag_encoder.", "text_decoder.")
# Buffers that some files hold and that follow from the configuration.
BUFFERS = (".relative_position_index", ".attn_mask")
# The shapes do not show it: it is the same in every RAM.
HEAD_NUM_HEADS = 4
# The Swin transformers RAM was published with, by their first stage's channels: known depths reveal a missing block.
PUBLISHED_DEPTHS = {128: (2, 2, 18, 2), 192: (2, 2, 18, 2)}

_RENAMED = (
    ("swin.embeddings.patch_embeddings.projection.", "visual_encoder.patch_embed.proj."),
    ("swin.embeddings.", "visual_encoder.patch_embed."),
    ("swin.encoder.", "visual_encoder."),
    ("swin.layernorm.", "visual_encoder.norm."),
    (".attention.relative_position_bias.", ".attn."),
    (".attention.o_proj.", ".attn.proj."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    ("tagging_head.label_embed", "label_embed"),
    ("tagging_head.label_proj.", "wordvec_proj."),
    ("tagging_head.classifier.", "fc."),
    ("tagging_head.layers.", "tagging_head.encoder.layer."),
    (".query.", ".crossattention.self.query."),
    (".key.", ".crossattention.self.key."),
    (".value.", ".crossattention.self.value."),
    (".attention_output.", ".crossattention.output.dense."),
    (".attention_norm.", ".crossattention.output.LayerNorm."),
    (".intermediate.", ".intermediate.dense."),
    (".feed_forward_output.", ".output.dense."),
    (".feed_forward_norm.", ".output.LayerNorm."),
)
_QKV = {".attention.q_proj.": 0, ".attention.k_proj.": 1, ".attention.v_proj.": 2}


def check_tagger_files(ram: PathLike | None, dape: PathLike | None, ram_tags: PathLike | None) -> None:
    """Raise ValueError if only some of the files are given that a tagger is made of; `dape` may be left out."""
    if (ram is None) != (ram_tags is None):
        raise ValueError("`ram` and `ram_tags` belong together: give both (--ram FILE --ram-tags DIR), or neither.")
    if dape is not None and ram is None:
        raise ValueError("`dape` adapts RAM's weights: give `ram` and `ram_tags` as well (--ram FILE --ram-tags DIR).")


def load_tagger(ram: PathLike, dape: PathLike | None, tags_folder: PathLike) -> Tagger:
    """Read the official files into a tagger whose DAPE matrices are merged.

    Args:
        ram: `ram_swin_large_14m.pth`.
        dape: `DAPE.pth`, or None for plain RAM.
        tags_folder: folder with `ram_tag_list.txt` and `ram_tag_list_threshold.txt`.

    Raises:
        FileNotFoundError: if one of the files does not exist.
        ValueError: if `tagger_from_official` raises it, or if a threshold is not a number.
    """
    tags = _lines(Path(tags_folder) / TAGS_FILE)
    thresholds = [_threshold(line, Path(tags_folder)) for line in _lines(Path(tags_folder) / THRESHOLDS_FILE)]
    lora = None if dape is None else read_state_dict(dape)
    return tagger_from_official(read_state_dict(ram), lora, tags, thresholds)


def tagger_from_official(
    ram: Mapping[str, torch.Tensor],
    dape: Mapping[str, torch.Tensor] | None,
    tags: Sequence[str],
    thresholds: Sequence[float],
) -> Tagger:
    """Make a tagger of RAM's state dict, with DAPE's low-rank matrices merged into its weights.

    The sizes are read from the shapes. RAM's image has the size that makes the last Swin stage one window (384 pixels
    for windows of 12 tokens). Weights keep their dtype.

    Args:
        ram: tensors under the official names; those of the captioning half are ignored.
        dape: every `lora_A` and `lora_B` of the official DAPE, or None for plain RAM.
        tags: names of the tags, in the order of the label embeddings.
        thresholds: one for each tag.

    Raises:
        ValueError: if keys are missing, unexpected or mis-shaped (all of them are listed), if there are not as many
            tags or thresholds as label embeddings, or if DAPE would change the captioning half.
    """
    weights = {
        key.replace("vision_multi", "tagging_head"): tensor
        for key, tensor in ram.items()
        if not key.startswith(CAPTIONING) and not key.endswith(BUFFERS)
    }
    sizes = _sizes(weights)
    labels = len(weights["label_embed"])
    if not labels == len(tags) == len(thresholds):
        raise ValueError(
            f"RAM's weights know {labels} tags, but {TAGS_FILE} has {len(tags)} and {THRESHOLDS_FILE} has "
            f"{len(thresholds)} entries: use the lists that belong to the weights."
        )
    with init_empty_weights(include_buffers=False):
        tagger = Tagger(tags=list(tags), thresholds=list(thresholds), **sizes)
    names = {key: official_key(key) for key in tagger.state_dict()}
    check_keys(weights, _official_shapes(tagger), "RAM")
    if dape is not None:
        weights = _merge_dape(weights, dape)
    tagger.load_state_dict({key: _part(weights[name], part) for key, (name, part) in names.items()}, assign=True)
    return tagger.eval()


def official_key(key: str) -> tuple[str, int | None]:
    """Give the official name of a tagger's key, and which third of it the key is, if that is a fused `qkv`."""
    for projection, part in _QKV.items():
        if projection in key:
            return official_key(key.replace(projection, ".attn.qkv."))[0], part
    for own, official in _RENAMED:
        key = key.replace(own, official)
    return key, None


def _official_shapes(tagger: Tagger) -> dict[str, torch.Size]:
    shapes: dict[str, torch.Size] = {}
    for key, tensor in tagger.state_dict().items():
        name, part = official_key(key)
        shapes[name] = tensor.shape if part is None else torch.Size([3 * tensor.shape[0], *tensor.shape[1:]])
    return shapes


def _part(tensor: torch.Tensor, part: int | None) -> torch.Tensor:
    # A copy, so that the tagger neither shares memory with the caller's tensors nor keeps a mapped file open.
    return (tensor if part is None else tensor.chunk(3)[part]).clone()


def _sizes(weights: Mapping[str, torch.Tensor]) -> dict[str, object]:
    """Read the tagger's configuration from the shapes of RAM's weights."""
    stages = _count(weights, "visual_encoder.layers.")
    tables = [f"visual_encoder.layers.{stage}.blocks.0.attn.relative_position_bias_table" for stage in range(stages)]
    patch, feed_forward, projection, _, query, intermediate = needed = [
        "visual_encoder.patch_embed.proj.weight",
        "visual_encoder.layers.0.blocks.0.mlp.fc1.weight",
        "image_proj.weight",
        "label_embed",
        "tagging_head.encoder.layer.0.crossattention.self.query.weight",
        "tagging_head.encoder.layer.0.intermediate.dense.weight",
    ]
    missing = [key for key in [*needed, *tables] if key not in weights]
    if missing or not tables:
        raise ValueError("These are not the weights of RAM's Swin models, missing:\n  " + "\n  ".join(missing))
    embed_dim, _, _, patch_size = weights[patch].shape
    depths = [_count(weights, f"visual_encoder.layers.{stage}.blocks.") for stage in range(stages)]
    head_layers = _count(weights, "tagging_head.encoder.layer.")
    if embed_dim in PUBLISHED_DEPTHS:
        depths, head_layers = list(PUBLISHED_DEPTHS[embed_dim]), 2
    window_size = (math.isqrt(len(weights[tables[0]])) + 1) // 2
    return {
        "image_size": patch_size * 2 ** (stages - 1) * window_size,
        "patch_size": patch_size,
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": [weights[table].shape[1] for table in tables],
        "window_size": window_size,
        "mlp_ratio": len(weights[feed_forward]) / embed_dim,
        "representation_dim": len(weights[projection]),
        "head_hidden_size": len(weights[query]),
        "head_num_heads": HEAD_NUM_HEADS,
        "head_intermediate_size": len(weights[intermediate]),
        "head_num_layers": head_layers,
    }


def _count(weights: Mapping[str, torch.Tensor], prefix: str) -> int:
    numbers = {int(key.removeprefix(prefix).split(".")[0]) for key in weights if key.startswith(prefix)}
    return max(numbers, default=-1) + 1


def _merge_dape(weights: Mapping[str, torch.Tensor], dape: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add `B @ A`, divided by the rank, to the weights it adapts; alpha is 1 in the official code.

    The fused Swin projection is adapted in its queries and values: the upper half of A's rows and of B's rows is for
    the queries, the lower half for the values.
    """
    captioning = {key: tensor for key, tensor in dape.items() if key.startswith(CAPTIONING)}
    trained = [key for key, tensor in captioning.items() if key.endswith(".lora_B") and tensor.any()]
    if trained:
        # Their weights are tied to the tagging head's in the official code: merging there would change it.
        raise ValueError(
            "DAPE adapts RAM's captioning half, which this tagger does not have and SeeSR's training never changes. "
            "Its `lora_B` should be zero in:\n  " + "\n  ".join(trained)
        )
    lora = {key: tensor for key, tensor in dape.items() if key not in captioning}
    rank = next((len(tensor) for key, tensor in lora.items() if key.endswith(".key.lora_A")), 8)
    adapted = [
        key.removesuffix(".weight")
        for key in weights
        if key.endswith((".attn.qkv.weight", ".crossattention.self.query.weight", ".crossattention.self.key.weight"))
    ]
    expected = {}
    for name in adapted:
        rows, columns = weights[f"{name}.weight"].shape
        fused = name.endswith(".qkv")
        expected[f"{name}.lora_A"] = torch.Size([2 * rank if fused else rank, columns])
        expected[f"{name}.lora_B"] = torch.Size([2 * rows // 3 if fused else rows, rank])
    check_keys(lora, expected, "DAPE")
    merged = dict(weights)
    for name in adapted:
        matrix_a, matrix_b = lora[f"{name}.lora_A"].float(), lora[f"{name}.lora_B"].float()
        if name.endswith(".qkv"):
            query, value = (b @ a for a, b in zip(matrix_a.chunk(2), matrix_b.chunk(2), strict=True))
            delta = torch.cat([query, torch.zeros_like(query), value])
        else:
            delta = matrix_b @ matrix_a
        weight = weights[f"{name}.weight"]
        merged[f"{name}.weight"] = (weight.float() + delta / rank).to(weight.dtype)
    return merged


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: it comes with the official RAM weights.")
    return path.read_text(encoding="utf-8").splitlines()


def _threshold(line: str, folder: Path) -> float:
    try:
        return float(line)
    except ValueError:
        raise ValueError(f"{line!r} in {folder / THRESHOLDS_FILE} is not a number.") from None
