"""Everything that goes to the Hub comes back from it.

`test_publishing.py` runs these tests in a process that has a `HubStub`.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline, StableDiffusionPipeline
from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from diffusers_sr.hub import METHODS, load_pipeline, pipeline_class
from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.pretrained.files import ModelFolderError
from diffusers_sr.publishing.model_card import RENDERED, CardDetails, eval_results
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from diffusers_sr.training.adversarial import ONE_STEP_CALL, one_step_scheduler
from diffusers_sr.training.pipeline_run import save_pipeline
from diffusers_sr.training.publish import HubArguments, publisher
from diffusers_sr.training.seesr import TrainableSeeSR
from diffusers_sr.training.trainable import DenoiserArguments
from diffusers_sr.xpsr.pipeline import XPSRPipeline
from tests.components import components, inputs, tiny_image
from tests.hub_stub import OWNER, TOKEN, running
from tests.training.runs import script
from tests.training.stages import base_of

FAST = {"num_inference_steps": 2, "process_size": 16}
TOKEN_OF_NOBODY = "hf_of_nobody"


def image_of(pipeline, method="seesr"):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**inputs(method)).images


@pytest.fixture(autouse=True)
def no_refusals():
    yield
    running.refuse = lambda method, path: False


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def pipeline():
    return SeeSRPipeline(**components("seesr"))


@pytest.fixture(scope="module")
def base():
    parts = components("seesr")
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    stock = {name: parts[name] for name in names}
    nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(**stock, **nothing).push_to_hub("base")
    card = ModelCard("---\nlicense: openrail++\n---\nThe base.\n").content
    HfApi().upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=f"{OWNER}/base")
    return f"{OWNER}/base"


def save_trained(folder, base, scheduler, call):
    """Write what a trainer of SeeSR leaves."""
    parts = components("seesr")
    denoiser = TrainableSeeSR(base_of(parts), parts["controlnet"], parts["adapter"], parts["tagger"])
    save_pipeline(folder, SeeSRPipeline, denoiser, base, scheduler, call)


@pytest.fixture
def trained(base, tmp_path):
    """The output folder of a trainer, of which not all is for everybody."""
    folder = tmp_path / "seesr"
    save_trained(folder, base, components("seesr")["scheduler"], FAST)
    arguments = SeeSRHubArguments(
        output_dir=str(folder), train_data_dir="/home/somebody/photos", pretrained_model_name_or_path="me/base"
    )
    (folder / "training_arguments.json").write_text(json.dumps(vars(arguments)))
    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2" / "state.bin").write_bytes(b"state")
    (folder / "validation").mkdir()
    for step in (2, 10):
        tiny_image(seed=step).save(folder / "validation" / f"step-{step}.png")
    return folder


@dataclass(kw_only=True)
class SeeSRHubArguments(DenoiserArguments, HubArguments):
    """As a trainer's."""


def run_example(repo_id, folder, monkeypatch):
    """Run the code in a repository's card, and give its variables."""
    (code,) = re.findall(r"```python\n(.*?)```", running.files(repo_id)["README.md"].decode(), re.DOTALL)
    monkeypatch.chdir(folder)
    tiny_image().save("photo.png")
    variables: dict[str, Any] = {}
    exec(code, variables)
    assert (folder / "enlarged.png").exists()
    return variables


def test_pushed_pipelines_come_back(method, tmp_path):
    kind = pipeline_class(method)
    pipeline = kind(**components(method))
    pipeline.save_pretrained(tmp_path)
    # Not of the models themselves: rounding depends on where in the memory weights lie.
    expected = image_of(kind.from_pretrained(tmp_path), method)
    details = CardDetails(base_model="me/base", base_license="openrail++", results=eval_results("Set5", {"gmsd": 0.2}))
    url = pipeline.push_to_hub(f"full-{method}", card=details)

    repo_id = f"{OWNER}/full-{method}"
    assert str(url).startswith(f"{running.url}/{repo_id}/commit/")
    assert len(running.repositories[repo_id].commits) == 2, "one, after that of an empty repository"
    by_class = kind.from_pretrained(repo_id)
    by_trust = DiffusionPipeline.from_pretrained(repo_id, trust_remote_code=True)
    by_file = DiffusionPipeline.from_pretrained(repo_id, custom_pipeline=repo_id, trust_remote_code=True)
    for loaded in (by_class, by_trust, by_file, load_pipeline(repo_id, method=method)):
        assert type(loaded) is kind
        np.testing.assert_array_equal(image_of(loaded, method), expected)
    assert by_class.config._name_or_path == repo_id
    card = ModelCard.load(repo_id)
    card.validate()
    assert {kind.paper.name.lower(), f"arxiv:{kind.paper.arxiv}"} <= set(card.data.tags)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(repo_id)


def test_a_repository_of_an_earlier_version_comes_back(pipeline):
    """Its index names the class alone, for which diffusers needs to be told where it is."""
    pipeline.push_to_hub("earlier")
    repo_id = f"{OWNER}/earlier"
    index = {**json.loads(running.files(repo_id)["model_index.json"]), "_class_name": "SeeSRPipeline"}
    HfApi().upload_file(path_or_fileobj=json.dumps(index).encode(), path_in_repo="model_index.json", repo_id=repo_id)
    by_file = DiffusionPipeline.from_pretrained(repo_id, custom_pipeline=repo_id, trust_remote_code=True)
    for loaded in (SeeSRPipeline.from_pretrained(repo_id), load_pipeline(repo_id), by_file):
        assert type(loaded) is SeeSRPipeline


def test_saving_with_push_uploads_the_pipeline_and_nothing_else(pipeline, tmp_path):
    folder = tmp_path / "saved-and-pushed"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    pipeline.save_pretrained(folder, push_to_hub=True, private=True, variant="fp16")
    repo_id = f"{OWNER}/saved-and-pushed"
    files = running.files(repo_id)
    assert files.keys() >= {"model_index.json", "pipeline.py", "README.md", "tagger/diffusers_sr.seesr.tagger.py"}
    assert "notes.txt" not in files
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in files
    assert running.repositories[repo_id].private
    assert not (folder / "README.md").exists(), "there it could be somebody's own"
    loaded = SeeSRPipeline.from_pretrained(repo_id, variant="fp16")
    np.testing.assert_array_equal(image_of(loaded), image_of(pipeline))


def test_components_that_are_given_are_not_needed(pipeline):
    pipeline.push_to_hub("given")
    loaded = SeeSRPipeline.from_pretrained(f"{OWNER}/given", adapter=pipeline.adapter, tagger=None)
    assert loaded.adapter is pipeline.adapter
    assert loaded.tagger is None


def test_what_a_trainer_publishes_can_be_used_as_its_card_says(base, trained, tmp_path, monkeypatch):
    arguments = SeeSRHubArguments(
        output_dir=str(trained), pretrained_model_name_or_path=base, push_to_hub=True, hub_model_id="published"
    )
    upload = publisher(arguments, SeeSRPipeline)
    assert upload is not None
    upload(trained)
    files = running.files(f"{OWNER}/published")
    assert files["pictures/step-10.png"] == (trained / "validation" / "step-10.png").read_bytes()
    assert not [path for path in files if "checkpoint" in path or "training_arguments" in path]
    card = ModelCard(files["README.md"].decode())
    assert isinstance(card.data, ModelCardData)
    assert card.data.license == "openrail++", "the base's"
    assert card.data.base_model == base
    assert "/home/somebody" not in card.text
    assert "photos" in card.text

    made = run_example(f"{OWNER}/published", tmp_path, monkeypatch)
    assert made["image"].size == (64, 64)
    assert made["pipeline"].num_timesteps == FAST["num_inference_steps"]
    expected = image_of(SeeSRPipeline(**components("seesr")))
    np.testing.assert_allclose(image_of(made["pipeline"]), expected, atol=1e-4)


def test_stock_base_and_adapter_repository(base, trained, tmp_path, monkeypatch):
    arguments = SeeSRHubArguments(
        output_dir=str(trained),
        pretrained_model_name_or_path=base,
        push_to_hub=True,
        hub_content="adapter",
        hub_private_repo=True,
    )
    save_trained(
        trained, base, one_step_scheduler(components("seesr")["scheduler"]), {**ONE_STEP_CALL, "process_size": 16}
    )
    upload = publisher(arguments, SeeSRPipeline)
    assert upload is not None
    upload(trained)
    repo_id = f"{OWNER}/seesr"
    files = running.files(repo_id)
    assert {path.partition("/")[0] for path in files} == {
        ".gitattributes", "README.md", "adapter", "controlnet", "pictures", "scheduler", "tagger"
    }  # fmt: skip
    assert not [path for path in files if path.endswith(".py")]
    assert running.repositories[repo_id].private

    parts = components("seesr")
    names = ("controlnet", "adapter", "tagger")
    models = {name: type(parts[name]).from_pretrained(repo_id, subfolder=name) for name in names}
    loaded = SeeSRPipeline.from_pretrained(base, **models)
    np.testing.assert_array_equal(image_of(loaded), image_of(SeeSRPipeline(**parts)))
    made = run_example(repo_id, tmp_path, monkeypatch)
    assert made["image"].size == (64, 64)
    assert made["pipeline"].scheduler.config.timestep_spacing == "trailing"
    assert made["pipeline"].num_timesteps == 1


def test_a_trainer_names_the_base_on_the_hub_and_does_not_copy_it(base, trained, tmp_path):
    """All ways of loading take it from there, in the type that is asked for; what is saved again is whole."""
    assert sorted(path.name for path in (trained / "unet").iterdir()) == [
        "config.json", "diffusers_sr.pretrained.base_component.py"
    ]  # fmt: skip
    index = json.loads((trained / "model_index.json").read_text())
    for name in ("vae", "text_encoder", "tokenizer", "unet"):
        assert index[name] == ["diffusers_sr.pretrained.base_component", "BaseComponent"]
        config = json.loads((trained / name / "config.json").read_text())
        assert (config["pretrained_model_name_or_path"], config["subfolder"]) == (base, name)
    expected = image_of(SeeSRPipeline(**components("seesr"), call_defaults=FAST))  # but for rounding
    by_class = SeeSRPipeline.from_pretrained(trained)
    by_trust = DiffusionPipeline.from_pretrained(trained, trust_remote_code=True)
    for loaded in (by_class, by_trust, load_pipeline(str(trained))):
        assert type(loaded) is SeeSRPipeline
        np.testing.assert_allclose(image_of(loaded), expected, atol=1e-4)
    half = SeeSRPipeline.from_pretrained(trained, torch_dtype=torch.float16)
    assert {half.unet.dtype, half.vae.dtype, half.text_encoder.dtype} == {torch.float16}
    by_class.save_pretrained(tmp_path / "whole")
    assert (tmp_path / "whole/unet/diffusion_pytorch_model.safetensors").is_file()
    np.testing.assert_allclose(image_of(SeeSRPipeline.from_pretrained(tmp_path / "whole")), expected, atol=1e-4)


def test_a_base_that_is_gone_is_named(trained):
    path = trained / "unet/config.json"
    path.write_text(path.read_text().replace('"me/base"', '"me/gone"'))
    with pytest.raises(OSError, match="The unet of this model is that of its base 'me/gone': "):
        SeeSRPipeline.from_pretrained(trained)


@pytest.mark.parametrize(
    "change",
    [
        {"pretrained_model_name_or_path": "../elsewhere/x"},
        {"subfolder": "../unet"},
        {"class_name": None},
        {"library": "os", "class_name": "system"},
        {"class_name": "StableDiffusionPipeline"},
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(trained, change):
    path = trained / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelFolderError, match=r"unet/config\.json"):
        SeeSRPipeline.from_pretrained(trained)


def train_and_publish(stage, base, folder, **options):
    """Train one step on a photo in `folder`, and publish what comes of it; return the output folder."""
    photos, output_dir = folder / "photos", folder / stage
    photos.mkdir()
    tiny_image(48, 48).save(photos / "photo.png")
    options = {
        "pretrained_model_name_or_path": base,
        "train_data_dir": photos,
        "output_dir": output_dir,
        "resolution": 32,
        "max_train_steps": 1,
        "train_batch_size": 1,
        "hub_token": TOKEN,
        **options,
    }
    script(f"train_{stage}").main(
        ["--push_to_hub", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
    )
    return output_dir


def test_a_training_script_publishes(base, tmp_path):
    options = {"checkpointing_steps": 1, "report_to": "tensorboard", "hub_model_id": "trained"}
    output_dir = train_and_publish("xpsr", base, tmp_path, allow_missing_text=True, **options)
    loaded = XPSRPipeline.from_pretrained(f"{OWNER}/trained")
    assert loaded.config.call_defaults["process_size"] == 32
    here = load_pipeline(str(output_dir))
    assert here.config.call_defaults == loaded.config.call_defaults
    assert not list((output_dir / "unet").glob("*.safetensors")), "the base is on the Hub"
    files = running.files(f"{OWNER}/trained")
    for name, parameter in ControlNetModel.from_pretrained(output_dir / "controlnet").state_dict().items():
        assert torch.equal(loaded.controlnet.state_dict()[name], parameter)
    assert "max_train_steps: 1\n" in files["README.md"].decode()
    assert "constraint" not in {path.partition("/")[0] for path in files}, "only training needs it"
    written = {str(path): path.read_bytes() for path in output_dir.rglob("*") if path.is_file()} | files
    assert [path for path, content in written.items() if TOKEN.encode() in content] == []


def test_a_one_step_training_publishes_the_whole_pipeline(base, tmp_path, monkeypatch):
    options = {"validation_images": tmp_path / "photos", "hub_model_id": "one-step"}
    output_dir = train_and_publish("one_step", base, tmp_path, **options)
    repo_id = f"{OWNER}/one-step"
    loaded = OneStepPipeline.from_pretrained(repo_id)
    assert loaded.config.call_defaults["process_size"] == 32
    for name, parameter in OneStepPipeline.from_pretrained(output_dir).unet.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[name], parameter)
    files = running.files(repo_id)
    assert {path.partition("/")[0] for path in files} == {
        ".gitattributes", "README.md", "model_index.json", "pipeline.py", "pictures", "scheduler", "stored_prompt",
        "unet", "vae",
    }  # fmt: skip
    card = ModelCard(files["README.md"].decode())
    assert isinstance(card.data, ModelCardData)
    assert (card.data.license, card.data.base_model) == ("openrail++", base)
    assert "max_train_steps: 1\n" in card.text and "ControlNet" not in card.text
    assert run_example(repo_id, tmp_path, monkeypatch)["image"].size == (64, 64)
    assert [path for path, content in files.items() if TOKEN.encode() in content] == []


def test_a_pipeline_file_that_was_changed_is_not_run(pipeline, tmp_path):
    pipeline.push_to_hub("changed-file")
    repo_id = f"{OWNER}/changed-file"
    mark = tmp_path / "it-ran"
    code = f"open({str(mark)!r}, 'w')\n".encode() + running.files(repo_id)["pipeline.py"]
    HfApi().upload_file(path_or_fileobj=code, path_in_repo="pipeline.py", repo_id=repo_id)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SeeSRPipeline.from_pretrained(repo_id)
    SeeSRPipeline.from_pretrained(repo_id, trust_remote_code=True)
    assert not mark.exists()
    DiffusionPipeline.from_pretrained(repo_id, trust_remote_code=True)
    assert mark.exists(), "it is what would have run"


def test_an_index_that_names_other_code_is_not_trusted(pipeline, tmp_path):
    pipeline.push_to_hub("other-file")
    repo_id = f"{OWNER}/other-file"
    mark = tmp_path / "it-ran"
    index = {**json.loads(running.files(repo_id)["model_index.json"]), "_class_name": ["other", "SeeSRPipeline"]}
    code = f"open({str(mark)!r}, 'w')\n".encode() + running.files(repo_id)["pipeline.py"]
    for path, content in (("other.py", code), ("model_index.json", json.dumps(index).encode())):
        HfApi().upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=repo_id)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SeeSRPipeline.from_pretrained(repo_id)
    assert not mark.exists()


def test_a_community_pipeline_that_the_index_names_is_not_run(pipeline):
    # It comes from elsewhere, for which diffusers would not ask for trust.
    pipeline.push_to_hub("community")
    repo_id = f"{OWNER}/community"
    index = json.loads(running.files(repo_id)["model_index.json"])
    index["_class_name"] = ["clip_guided_stable_diffusion", "SeeSRPipeline"]
    HfApi().upload_file(path_or_fileobj=json.dumps(index).encode(), path_in_repo="model_index.json", repo_id=repo_id)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SeeSRPipeline.from_pretrained(repo_id)


def test_code_that_was_changed_is_not_trusted(pipeline, tmp_path):
    pipeline.push_to_hub("changed")
    repo_id = f"{OWNER}/changed"
    SeeSRPipeline.from_pretrained(repo_id)
    mark = tmp_path / "it-ran"
    stub = running.files(repo_id)["adapter/diffusers_sr.seesr.adapter.py"].decode()
    code = f"open({str(mark)!r}, 'w')\n{stub}".encode()
    HfApi().upload_file(path_or_fileobj=code, path_in_repo="adapter/diffusers_sr.seesr.adapter.py", repo_id=repo_id)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SeeSRPipeline.from_pretrained(repo_id)
    assert not mark.exists()
    SeeSRPipeline.from_pretrained(repo_id, trust_remote_code=True)
    assert mark.exists(), "it is what would have run"


@pytest.mark.parametrize("path", ["/large/", "/commit/"])
def test_an_upload_that_breaks_leaves_what_was_there(pipeline, path):
    name = f"broken-at-{path.strip('/')}"
    pipeline.push_to_hub(name)
    repository = running.repositories[f"{OWNER}/{name}"]
    commits = list(repository.commits)
    expected = image_of(pipeline)
    for parameter in pipeline.unet.parameters():
        parameter.data.mul_(1.1)
    running.refuse = lambda method, asked_for: method in ("PUT", "POST") and path in asked_for
    with pytest.raises((RuntimeError, HfHubHTTPError)):
        pipeline.push_to_hub(name)
    assert repository.commits == commits
    running.refuse = lambda method, path: False
    np.testing.assert_array_equal(image_of(SeeSRPipeline.from_pretrained(f"{OWNER}/{name}")), expected)
    pipeline.push_to_hub(name)
    loaded = SeeSRPipeline.from_pretrained(f"{OWNER}/{name}")
    assert len(repository.commits) == len(commits) + 1
    np.testing.assert_array_equal(image_of(loaded), image_of(pipeline))


def test_a_card_that_somebody_wrote_is_kept(pipeline):
    pipeline.push_to_hub("cards")
    repo_id = f"{OWNER}/cards"
    pipeline.push_to_hub(repo_id, card=CardDetails(license="mit"))
    rendered = running.files(repo_id)["README.md"].decode()
    assert "license: mit" in rendered, "a rendered card is rendered anew"
    own = rendered.replace(RENDERED, "My own words.").encode()
    HfApi().upload_file(path_or_fileobj=own, path_in_repo="README.md", repo_id=repo_id)
    pipeline.push_to_hub(repo_id)
    assert running.files(repo_id)["README.md"] == own


def test_metadata_that_the_hub_refuses(pipeline):
    details = CardDetails(license=["mit"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"license. must be a text"):
        pipeline.push_to_hub("refused", card=details)
    assert len(running.repositories[f"{OWNER}/refused"].commits) == 1


def test_errors_of_the_hub_say_what_is_wrong(pipeline, trained, base, tmp_path):
    with pytest.raises(HfHubHTTPError, match=r"401.*repos/create"):
        pipeline.push_to_hub("mine", token=TOKEN_OF_NOBODY)
    with pytest.raises(HfHubHTTPError, match="rights to create a model under the namespace 'others'"):
        pipeline.push_to_hub("others/theirs")
    pipeline.push_to_hub("hidden", private=True)
    SeeSRPipeline.from_pretrained("me/hidden")
    for name, token in (("nothing", None), ("hidden", TOKEN_OF_NOBODY)):
        with pytest.raises(OSError, match=f"Cannot load model me/{name}") as error:
            SeeSRPipeline.from_pretrained(f"me/{name}", token=token, force_download=True, cache_dir=tmp_path)
        assert isinstance(error.value.__cause__, RepositoryNotFoundError)

    arguments = SeeSRHubArguments(
        output_dir=str(trained), pretrained_model_name_or_path=base, push_to_hub=True, hub_token=TOKEN_OF_NOBODY
    )
    with pytest.raises(HfHubHTTPError, match=r"401.*repos/create"):
        publisher(arguments, SeeSRPipeline)
    arguments = SeeSRHubArguments(
        output_dir=str(trained), pretrained_model_name_or_path=base, push_to_hub=True, hub_model_id="late"
    )
    upload = publisher(arguments, SeeSRPipeline)
    assert upload is not None
    running.refuse = lambda method, path: "/commit/" in path
    with pytest.raises(RuntimeError, match=r"finished weights are in .* --resume_from_checkpoint latest"):
        upload(trained)
