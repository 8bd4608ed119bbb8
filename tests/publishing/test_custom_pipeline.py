"""`DiffusionPipeline.from_pretrained` of a saved folder, alone and with `custom_pipeline="pipelines/METHOD"`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from diffusers_sr.hub import load_pipeline
from tests.components import components, inputs
from tests.pipeline.tiny import PIPELINES

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=PIPELINES)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in PIPELINES}
    for name, folder in folders.items():
        PIPELINES[name](**components(name)).save_pretrained(folder)
    return folders


@pytest.fixture
def folder(method, saved, tmp_path, monkeypatch):
    # Where diffusers copies the code of custom pipelines to.
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    for name in [name for name in sys.modules if name.startswith("diffusers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    return shutil.copytree(saved[method], tmp_path / "weights")


def rewrite_class_name(folder, name):
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": name}))


def image_of(pipeline, method):
    pipeline.set_progress_bar_config(disable=True)
    return torch.as_tensor(pipeline(**{**inputs(method), "output_type": "np"}).images)


def test_nothing_but_trust_is_needed(method, folder, tmp_path):
    """The Hub's own snippet, and what is saved by what it loads."""
    expected = image_of(PIPELINES[method](**components(method)), method)
    for _ in range(2):
        assert DiffusionPipeline.load_config(folder)["_class_name"] == ["pipeline", PIPELINES[method].__name__]
        pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
        assert type(pipeline) is PIPELINES[method]
        assert (image_of(pipeline, method) - expected).abs().max() < 1e-5  # weights of a file lie elsewhere in memory
        folder = tmp_path / "again"
        pipeline.save_pretrained(folder)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(folder)


def test_the_package_itself_needs_no_trust(method, folder):
    """Folders of today, and those of earlier versions, which name the class alone."""
    name = PIPELINES[method].__name__
    for class_name in (["pipeline", name], name):
        rewrite_class_name(folder, class_name)
        for loaded in (PIPELINES[method].from_pretrained(folder), load_pipeline(str(folder), method=method)):
            assert type(loaded) is PIPELINES[method]
    loaded = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=str(ROOT / "pipelines" / method), trust_remote_code=True
    )
    assert type(loaded) is PIPELINES[method]


def test_from_pipe(method, folder):
    """A loaded pipeline's models go on to a stock pipeline, and from there to one of the method again."""
    loaded = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    stock = StableDiffusionPipeline.from_pipe(loaded, **nothing)
    assert type(stock) is StableDiffusionPipeline
    own = {name: part for name, part in loaded.components.items() if name not in stock.components}
    again = PIPELINES[method].from_pipe(stock, **own)
    assert type(again) is PIPELINES[method]
    assert again.components == loaded.components
    again.save_pretrained(folder)
    assert type(DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)) is PIPELINES[method]


def test_a_class_derived_from_the_packages_own_is_what_was_asked_for(method, folder):
    derived: Any = type("DerivedPipeline", (PIPELINES[method],), {"__module__": "another_package.pipeline"})
    assert type(derived.from_pretrained(folder, trust_remote_code=True)) is derived
    derived.from_pretrained(folder, trust_remote_code=True).save_pretrained(folder / "derived")
    index = json.loads((folder / "derived" / "model_index.json").read_text())
    assert index["_class_name"] == "DerivedPipeline", "there is no file to load it from"


def test_custom_pipeline_is_the_packages_own(method, folder):
    for _ in range(2):
        pipeline = DiffusionPipeline.from_pretrained(
            folder, custom_pipeline=str(ROOT / "pipelines" / method), trust_remote_code=True
        )
        assert type(pipeline) is PIPELINES[method]
    expected = PIPELINES[method](**components(method))
    images = [torch.as_tensor(part(**{**inputs(method), "output_type": "np"}).images) for part in (pipeline, expected)]
    assert (images[0] - images[1]).abs().max() < 1e-5  # weights of a file lie elsewhere in memory


def test_the_last_custom_pipeline_does_not_stand_in_the_way(method, folder, tmp_path):
    """All local folders share one module in diffusers; another pipeline's class may still be in it."""
    other = tmp_path / "other"
    other.mkdir()
    code = "from diffusers import DiffusionPipeline\n\n\nclass OtherPipeline(DiffusionPipeline):\n"
    code += "    def __init__(self):\n        super().__init__()\n"
    (other / "pipeline.py").write_text(code)
    # Where the index names a file, diffusers takes it before another pipeline that is asked for.
    rewrite_class_name(folder, PIPELINES[method].__name__)
    pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(other), trust_remote_code=True)
    assert type(pipeline).__name__ == "OtherPipeline"
    pipeline = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=str(ROOT / "pipelines" / method), trust_remote_code=True
    )
    assert type(pipeline) is PIPELINES[method]


def test_without_the_package_the_error_says_what_to_install(method):
    code = f"""
import sys
sys.modules["diffusers_sr"] = None
exec(compile(open({str(ROOT / "pipelines" / method / "pipeline.py")!r}).read(), "pipeline.py", "exec"))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install diffusers-sr" in result.stderr.splitlines()[-1]
