from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard, ModelCardData

from diffusers_sr.evaluation.comparison import Difference, differences
from diffusers_sr.evaluation.protocols import PROTOCOLS
from diffusers_sr.evaluation.report import comparison, latex, markdown, model_index, notes, per_picture
from diffusers_sr.evaluation.scoring import Scores

PSNR, SSIM, LPIPS, DISTS, FID = PROTOCOLS["seesr"].measures[:5]
MEASURES = (PSNR, SSIM, LPIPS, FID)
SCORES = Scores(
    names=["a", "b,c"],
    each={"PSNR": [20.0, 21.5], "LPIPS": [0.25, 0.125]},
    whole={"PSNR": 20.75, "LPIPS": 0.1875, "FID": 123.49382},
    unmeasured={"SSIM": "reason"},
)
OTHERS = Scores(
    names=["a", "b,c"],
    each={"PSNR": [19.0, 20.0], "LPIPS": [0.125, 0.0625]},
    whole={"PSNR": 19.5, "LPIPS": 0.09375, "FID": 120.0},
    unmeasured={"SSIM": "reason"},
)


def test_markdown():
    assert markdown(MEASURES, {"mine|2": SCORES}) == (
        "|  | PSNR ↑ | SSIM ↑ | LPIPS ↓ | FID ↓ |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| mine\\|2 | 20.7500 | not measured | 0.1875 | 123.4938 |"
    )


def test_latex():
    assert latex(MEASURES, {"my_model 100%": SCORES, "a\\b": OTHERS}) == (
        "% & PSNR & SSIM & LPIPS & FID\n"
        "my\\_model 100\\% & 20.7500 & -- & 0.1875 & 123.4938 \\\\\n"
        "a\\textbackslash{}b & 19.5000 & -- & 0.0938 & 120.0000 \\\\"
    )


def test_notes_say_which_variants_and_why_not():
    assert notes(PROTOCOLS["seesr"], SCORES) == (
        "2 pictures; PSNR: Y of YCbCr, 16 to 235, crop 4; LPIPS: pyiqa's lpips; FID: pyiqa's fid\n"
        "not measured: SSIM: reason"
    )


def test_each_picture_has_its_values():
    assert per_picture(MEASURES, {"mine": SCORES, "theirs": OTHERS}) == (
        "results,picture,PSNR,SSIM,LPIPS\n"
        "mine,a,20.0,,0.25\n"
        'mine,"b,c",21.5,,0.125\n'
        "theirs,a,19.0,,0.125\n"
        'theirs,"b,c",20.0,,0.0625\n'
    )


def test_the_hub_reads_the_model_index():
    text = json.dumps(model_index("my-model", "DIV2K-Val", PROTOCOLS["seesr"], SCORES))
    data = ModelCardData(**json.loads(text))
    assert data.model_name == "my-model"
    assert data.eval_results is not None
    assert [
        (result.dataset_name, result.dataset_type, result.metric_type, result.metric_name, result.metric_value)
        for result in data.eval_results
    ] == [
        ("DIV2K-Val", "div2k-val", "psnr", "PSNR", 20.75),
        ("DIV2K-Val", "div2k-val", "lpips", "LPIPS", 0.1875),
        ("DIV2K-Val", "div2k-val", "fid", "FID", 123.49382),
    ]
    assert data.eval_results[0].metric_config == "Y of YCbCr, 16 to 235, crop 4"
    assert data.eval_results[1].metric_config == "pyiqa's lpips"
    again = ModelCard(f"---\n{data.to_yaml()}\n---\n").data
    assert isinstance(again, ModelCardData)
    assert again.eval_results == data.eval_results


def test_differences_of_two_folders():
    psnr, lpips, fid = differences(MEASURES, SCORES, OTHERS)
    # Of two pictures, a quarter of the draws has the one twice, a quarter the other.
    assert psnr == Difference(PSNR, 1.25, (1.0, 1.5))
    assert lpips == Difference(LPIPS, 0.09375, (0.0625, 0.125))
    assert fid.measure is FID
    assert fid.mean == pytest.approx(3.49382)
    assert [psnr.verdict, lpips.verdict, fid.verdict] == ["better", "worse", "not clear"]
    assert Difference(PSNR, 0.1, (-0.1, 0.3)).verdict == "not clear"


def test_a_table_of_differences():
    assert comparison("mine", "theirs", differences(MEASURES, SCORES, OTHERS)) == (
        "|  | mine − theirs | 95 % interval | mine |\n"
        "| --- | --- | --- | --- |\n"
        "| PSNR ↑ | +1.2500 | +1.0000 to +1.5000 | better |\n"
        "| LPIPS ↓ | +0.0938 | +0.0625 to +0.1250 | worse |\n"
        "| FID ↓ | +3.4938 | of whole folders | not clear |"
    )
