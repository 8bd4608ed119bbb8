"""The code files of pipeline repositories, and which of them are trusted."""

import json
from pathlib import Path

import pytest

from diffusers_sr.hub import METHODS, pipeline_class
from diffusers_sr.publishing.stubs import component_stub, pipeline_stub, trusted_index
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from tests.components import components

ROOT = Path(__file__).parents[2]
ADAPTER_STUB = "adapter/diffusers_sr.seesr.adapter.py"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    # Where diffusers copies the code of custom components to.
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    SeeSRPipeline(**components("seesr")).save_pretrained(tmp_path / "seesr")
    return tmp_path / "seesr"


def rewrite_index(folder, **entries):
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize("method", METHODS)
def test_the_folder_of_a_method_holds_the_stub_of_its_pipeline(method):
    assert (ROOT / "pipelines" / method / "pipeline.py").read_text() == pipeline_stub(pipeline_class(method))


def test_a_saved_pipeline_holds_stubs_of_what_is_in_the_package(folder):
    files = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.py")}
    assert files == {
        "pipeline.py": pipeline_stub(SeeSRPipeline),
        ADAPTER_STUB: "from diffusers_sr.seesr.adapter import SeeSRAdapter\n",
        "tagger/diffusers_sr.seesr.tagger.py": component_stub("diffusers_sr.seesr.tagger", "Tagger"),
    }
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == ["pipeline", "SeeSRPipeline"]
    assert trusted_index(folder, SeeSRPipeline) is not None
    assert isinstance(SeeSRPipeline.from_pretrained(folder), SeeSRPipeline)


def test_the_index_of_earlier_versions_is_trusted(folder):
    rewrite_index(folder, _class_name="SeeSRPipeline")
    assert trusted_index(folder, SeeSRPipeline) is not None


def test_the_code_in_the_folder_is_not_what_the_class_is_taken_from(folder, tmp_path):
    """Not even with trust: what was asked for is the installed class."""
    mark = tmp_path / "it-ran"
    (folder / "pipeline.py").write_text(f"open({str(mark)!r}, 'w')\n")
    assert type(SeeSRPipeline.from_pretrained(folder, trust_remote_code=True)) is SeeSRPipeline
    assert not mark.exists()


def test_a_pipeline_class_of_another_package_has_no_stub(tmp_path):
    class OtherPipeline(SeeSRPipeline):
        __module__ = "another_package.pipeline"

    OtherPipeline(**components("seesr")).save_pretrained(tmp_path)
    assert not (tmp_path / "pipeline.py").exists()
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "OtherPipeline"
    assert trusted_index(tmp_path, OtherPipeline) is not None


@pytest.mark.parametrize("path", ["pipeline.py", ADAPTER_STUB, "unet/None.py", "None.py", "HELPER.PY"])
def test_other_code_is_not_trusted(folder, path, tmp_path):
    mark = tmp_path / "it-ran"
    file = folder / path
    before = file.read_text() if file.exists() else ""
    file.write_text(f"open({str(mark)!r}, 'w')\n{before}")
    assert trusted_index(folder, SeeSRPipeline) is None
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SeeSRPipeline.from_pretrained(folder)
    assert not mark.exists()


def test_the_stub_of_another_class_is_not_trusted(folder):
    (folder / ADAPTER_STUB).write_text(component_stub("diffusers_sr.xpsr.adapter", "XPSRAdapter"))
    assert trusted_index(folder, SeeSRPipeline) is None


@pytest.mark.parametrize(
    "entries",
    [
        {"adapter": ["../../other/code", "SeeSRAdapter"]},
        {"adapter": [["diffusers_sr"], "SeeSRAdapter"]},
        {"_class_name": ["../other/pipeline", "SeeSRPipeline"]},
        {"_class_name": ["../other/pipeline", "SeeSRPipeline", ""]},
        {"_class_name": ["pipeline", "SeeSRPipeline", ""]},
        {"_class_name": ["pipeline", "CoSeRPipeline"]},
        {"_class_name": ["other", "SeeSRPipeline"]},
        {"_class_name": ["SeeSRPipeline"]},
    ],
)
def test_an_index_that_leads_to_other_code_is_not_trusted(folder, entries):
    rewrite_index(folder, **entries)
    assert trusted_index(folder, SeeSRPipeline) is None


def test_an_index_that_writes_other_code_into_a_stub_is_not_trusted(folder):
    name = "SeeSRAdapter\nimport os"
    rewrite_index(folder, adapter=["diffusers_sr.seesr.adapter", name])
    (folder / ADAPTER_STUB).write_text(component_stub("diffusers_sr.seesr.adapter", name))
    assert trusted_index(folder, SeeSRPipeline) is None


def test_code_of_another_package_is_not_trusted(folder):
    rewrite_index(folder, adapter=["another_package.adapter", "SeeSRAdapter"])
    (folder / ADAPTER_STUB).unlink()
    assert trusted_index(folder, SeeSRPipeline) is not None, "there is no code that could run"
    (folder / "adapter" / "another_package.adapter.py").write_text(
        component_stub("another_package.adapter", "SeeSRAdapter")
    )
    assert trusted_index(folder, SeeSRPipeline) is None


def test_remote_code_that_is_disabled(folder, monkeypatch):
    """None is run: the classes are the package's own."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.DIFFUSERS_DISABLE_REMOTE_CODE", True)
    assert type(SeeSRPipeline.from_pretrained(folder)) is SeeSRPipeline
    (folder / ADAPTER_STUB).write_text("")
    with pytest.raises(ValueError, match="DIFFUSERS_DISABLE_REMOTE_CODE"):
        SeeSRPipeline.from_pretrained(folder)


@pytest.mark.parametrize("device_map", ["cpu", "balanced"])
def test_a_device_map(folder, device_map):
    """For "balanced" diffusers builds each model without weights first, and does not pass trust on."""
    assert type(SeeSRPipeline.from_pretrained(folder, device_map=device_map)) is SeeSRPipeline


def test_a_component_of_this_package_that_does_not_exist(folder):
    for module, name in (("diffusers_sr.seesr.nothing", "SeeSRAdapter"), ("diffusers_sr.seesr.adapter", "Nothing")):
        rewrite_index(folder, adapter=[module, name])
        (folder / ADAPTER_STUB).unlink(missing_ok=True)
        (folder / "adapter" / f"{module}.py").write_text(component_stub(module, name))
        with pytest.raises(ValueError, match=f"has no class `{module}:{name}`"):
            SeeSRPipeline.from_pretrained(folder)
        (folder / "adapter" / f"{module}.py").unlink()
