"""`DiffusionPipeline.from_pretrained(..., custom_pipeline="pipelines/METHOD")`."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from tests.components import components, inputs
from tests.test_pipeline import PIPELINES

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=PIPELINES)
def method(request):
    return request.param


@pytest.fixture
def folder(method, tmp_path, monkeypatch):
    # Where diffusers copies the code of custom pipelines to.
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    for name in [name for name in sys.modules if name.startswith("diffusers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    PIPELINES[method](**components(method)).save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


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
