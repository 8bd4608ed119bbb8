"""Scores as tables, as a file for each picture, and in the form of a model card."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from .comparison import Difference
from .protocols import Measure, Protocol
from .scoring import NOT_MEASURED, Scores

_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPACES = {"ycbcr": "Y of YCbCr, 16 to 235", "yiq": "luma, 0 to 255", "rgb": "RGB"}


def markdown(measures: Sequence[Measure], rows: Mapping[str, Scores]) -> str:
    """Write a table with a row for each folder."""
    lines = [["", *(f"{measure.heading} {measure.arrow}" for measure in measures)], ["---"] * (len(measures) + 1)]
    lines += [[name, *_cells(measures, scores, NOT_MEASURED)] for name, scores in rows.items()]
    return _table(lines)


def latex(measures: Sequence[Measure], rows: Mapping[str, Scores]) -> str:
    """Write rows of a LaTeX table, below a comment that names the columns."""
    lines = [f"% & {' & '.join(measure.heading for measure in measures)}"]
    for name, scores in rows.items():
        escaped = "".join(_LATEX.get(letter, letter) for letter in name)
        lines.append(f"{' & '.join([escaped, *_cells(measures, scores, '--')])} \\\\")
    return "\n".join(lines)


def notes(protocol: Protocol, scores: Scores) -> str:
    """Say which variants were measured, and why others were not."""
    lines = [f"{len(scores.names)} pictures; {_variants(protocol, scores)}"]
    reasons: dict[str, list[str]] = {}
    for heading, reason in scores.unmeasured.items():
        reasons.setdefault(reason, []).append(heading)
    lines += [f"{NOT_MEASURED}: {', '.join(headings)}: {reason}" for reason, headings in reasons.items()]
    return "\n".join(lines)


def comparison(name: str, other: str, found: Sequence[Difference]) -> str:
    """Write a table of differences."""
    lines = [["", f"{name} − {other}", "95 % interval", name], ["---"] * 4]
    for difference in found:
        interval = "of whole folders"
        if difference.interval is not None:
            low, high = difference.interval
            interval = f"{low:+.4f} to {high:+.4f}"
        heading = f"{difference.measure.heading} {difference.measure.arrow}"
        lines.append([heading, f"{difference.mean:+.4f}", interval, difference.verdict])
    return _table(lines)


def per_picture(measures: Sequence[Measure], rows: Mapping[str, Scores]) -> str:
    """Write the values of each picture as CSV, in full precision; those of whole folders are not among them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [measure.heading for measure in measures if measure.of != "folders"]
    writer.writerow(["results", "picture", *columns])
    for name, scores in rows.items():
        for number, picture in enumerate(scores.names):
            values = [scores.each[column][number] if column in scores.each else "" for column in columns]
            writer.writerow([name, picture, *values])
    return text.getvalue()


def model_index(name: str, dataset: str, protocol: Protocol, scores: Scores) -> dict[str, Any]:
    """Put what was measured into the metadata of a model card, as the Hub reads it.

    Args:
        name: that of the model.
        dataset: that of the photographs.
        protocol: what was measured.
        scores: the values.
    """
    kind = "".join(letter if letter.isalnum() else "-" for letter in dataset.lower())
    results = [
        EvalResult(
            task_type="image-to-image",
            task_name="super-resolution",
            dataset_type=kind,
            dataset_name=dataset,
            metric_type=measure.heading.lower(),
            metric_name=measure.heading,
            metric_config=_variant(measure, protocol),
            metric_value=scores.whole[measure.heading],
        )
        for measure in protocol.measures
        if measure.heading in scores.whole
    ]
    return {"model-index": eval_results_to_model_index(name, results)}


def _cells(measures: Sequence[Measure], scores: Scores, missing: str) -> list[str]:
    return [
        f"{scores.whole[measure.heading]:.4f}" if measure.heading in scores.whole else missing for measure in measures
    ]


def _variants(protocol: Protocol, scores: Scores) -> str:
    named: dict[str, list[str]] = {}
    for measure in protocol.measures:
        if measure.heading in scores.whole:
            named.setdefault(_variant(measure, protocol), []).append(measure.heading)
    return "; ".join(f"{' and '.join(headings)}: {variant}" for variant, headings in named.items())


def _variant(measure: Measure, protocol: Protocol) -> str:
    if measure.library == "own":
        return f"{_SPACES[measure.variant]}, crop {protocol.crop_border}"
    return f"pyiqa's {measure.variant}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
