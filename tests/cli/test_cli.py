from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageCms
from transformers import Idefics3ForConditionalGeneration

import diffusers_sr
from diffusers_sr import CoSeRPipeline, SeeSRPipeline, XPSRPipeline, hub
from diffusers_sr.cli.main import CAPTIONER, LAYOUTS, METHODS, main
from diffusers_sr.image.decoding import ImageFileError
from diffusers_sr.image.outputs import plan_outputs
from diffusers_sr.image.reader import Photo, read_photo
from diffusers_sr.image.writer import check_output, write_photo
from diffusers_sr.xpsr import caption_folder, captioner
from diffusers_sr.xpsr.adapter import XPSRAdapter
from diffusers_sr.xpsr.prompts import ImagePrompts, read_prompts, write_official
from tests.components import components, randomise, tiny_image
from tests.xpsr.test_captioner import build as build_captioner

ORIENTATION, MAKE, COPYRIGHT, EXIF, GPS = 274, 271, 33432, 0x8769, 0x8825
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


CALL_DEFAULTS = {
    "num_inference_steps": 1,
    "guidance_scale": 1.0,
    "process_size": 16,
    "tile_size": 64,
    "tile_overlap": 8,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Folder of a tiny pipeline whose defaults are one step without guidance."""
    folder = tmp_path_factory.mktemp("model")
    SeeSRPipeline(**components("seesr"), call_defaults=CALL_DEFAULTS).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def coser(tmp_path_factory) -> str:
    """The same of CoSeR."""
    folder = tmp_path_factory.mktemp("coser")
    CoSeRPipeline(**components("coser"), call_defaults=CALL_DEFAULTS).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def xpsr(tmp_path_factory) -> str:
    """The same of XPSR."""
    folder = tmp_path_factory.mktemp("xpsr")
    XPSRPipeline(**components("xpsr"), call_defaults=CALL_DEFAULTS).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> str:
    """Folder of a tiny captioner."""
    folder = tmp_path_factory.mktemp("language_model")
    described = build_captioner("idefics3")
    described.model.save_pretrained(folder)
    described.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """The command `upscale` in an empty folder, by factor 2 on the CPU; the exit status."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        return main(["upscale", "--model", model, "--upscale", "2", "--device", "cpu", *arguments])

    return run


def exif() -> Image.Exif:
    data = Image.Exif()
    data.update({ORIENTATION: 6, MAKE: "Maker", COPYRIGHT: "me"})
    data.get_ifd(EXIF).update({0x9003: "2020:02:20 20:20:20", 0xA002: 16, 0xA003: 12})
    data.get_ifd(GPS).update({1: "N"})
    return data


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def files(folder: str | Path = ".") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_file_to_file(run, capsys):
    tiny_image(16, 12).save("photo.png")
    assert run("photo.png", "-o", "out/big.jpg") == 0
    with Image.open("out/big.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 24))
    assert files() == ["out/big.jpg", "photo.png"]
    captured = capsys.readouterr()
    assert "Images done: 1, " in captured.out
    assert "seconds an image" in captured.out
    assert "photo.png: 100%" in captured.err


def test_every_option_reaches_the_pipeline(run):
    tiny_image(16, 12).save("photo.png")

    def result(*arguments: str) -> np.ndarray:
        assert run("photo.png", "-o", "big.png", *arguments) == 0
        return pixels("big.png").astype(int)

    plain = result()
    assert np.array_equal(plain, result("--steps", "1", "--seed", "0", "--color-fix", "adain", "--dtype", "float32"))
    guided = result("--steps", "3", "--guidance-scale", "7")
    changed = {
        "steps": result("--steps", "3"),
        "guidance": guided,
        "seed": result("--seed", "1"),
        "wavelet": result("--color-fix", "wavelet"),
        "none": result("--color-fix", "none"),
        "tiles": result("--tile-size", "16"),
        "overlap": result("--tile-size", "16", "--tile-overlap", "0"),
    }
    for name, other in changed.items():
        assert not np.array_equal(plain, other), name
    assert not np.array_equal(
        guided, result("--steps", "3", "--guidance-scale", "7", "--prompt", "a red cat, 9 zebras")
    )
    assert not np.array_equal(changed["wavelet"], changed["none"])
    assert not np.array_equal(changed["tiles"], changed["overlap"])
    bfloat16 = result("--dtype", "bfloat16")
    assert 0 < np.abs(bfloat16 - plain).mean() < 8


def test_every_option_of_coser_reaches_the_pipeline(run, coser):
    for name, seed in (("photo", 0), ("one", 1), ("two", 2)):
        tiny_image(16, 12, seed=seed).save(f"{name}.png")

    def result(*arguments: str) -> np.ndarray:
        assert run("photo.png", "-o", "big.png", "--model", coser, "--steps", "2", *arguments) == 0
        return pixels("big.png")

    results = [
        result(),
        result("--num-references", "2"),
        result("--cfw-weight", "0"),
        result("--reference", "one.png"),
        result("--reference", "two.png"),
        result("--reference", "one.png", "--reference", "two.png"),
    ]
    for first, second in itertools.combinations(range(len(results)), 2):
        assert not np.array_equal(results[first], results[second]), (first, second)
    assert np.array_equal(results[0], result("--num-references", "1", "--cfw-weight", "0.5", "--method", "coser"))


def test_every_option_of_xpsr_reaches_the_pipeline(run, xpsr, language_model):
    tiny_image(16, 12).save("photo.png")
    write_official("written", "photo", ImagePrompts("a cat", "dim"))
    write_official("other", "photo", ImagePrompts("a dog", "dim"))

    def result(*arguments: str) -> np.ndarray:
        assert run("photo.png", "-o", "big.png", "--model", xpsr, "--steps", "2", *arguments) == 0
        return pixels("big.png")

    results = [
        result(),
        result("--low-level-prompt", "dim"),
        result("--captioner", "measured"),
        result("--captioner", language_model),
        result("--prompts", "written"),
        result("--prompts", "other"),
        result("--prompts", "other", "--low-level-prompt", "bright"),
    ]
    for first, second in itertools.combinations(range(len(results)), 2):
        assert not np.array_equal(results[first], results[second]), (first, second)
    assert np.array_equal(results[0], result("--low-level-prompt", "", "--method", "xpsr"))


def test_prompts_of_each_image(run, xpsr, capsys):
    """Every image has its own; one without is reported."""
    for number, name in enumerate(("a", "b", "c")):
        tiny_image(seed=number).save(f"{name}.png")
    for name in ("a", "c"):
        write_official("prompts", name, ImagePrompts(f"the letter {name}", "dim"))
    images = ("a.png", "b.png", "c.png")
    assert run(*images, "-o", "out", "--model", xpsr, "--prompts", "prompts") == 1
    assert files("out") == ["a.png", "c.png"]
    assert "b.png: There is no prompts/highlevel_prompt/b.txt" in capsys.readouterr().err
    assert run("c.png", "-o", "alone.png", "--model", xpsr, "--prompts", "prompts") == 0
    assert np.array_equal(pixels("out/c.png"), pixels("alone.png"))


def test_prompts_for_pasd_are_its_high_level_ones(run, tmp_path):
    parts = components("xpsr")
    parts["adapter"] = randomise(XPSRAdapter.from_hosts(parts["unet"], parts["controlnet"], fusion=False))
    pasd = str(tmp_path / "pasd")
    XPSRPipeline(**parts, call_defaults=CALL_DEFAULTS).save_pretrained(pasd)
    tiny_image().save("photo.png")
    results = []
    for prompts in (ImagePrompts("a cat", "dim"), ImagePrompts("a cat", "bright"), ImagePrompts("a dog", "dim")):
        write_official("prompts", "photo", prompts)
        assert run("photo.png", "-o", "big.png", "--model", pasd, "--prompts", "prompts") == 0
        results.append(pixels("big.png"))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_captioner_that_cannot_be_had(run, xpsr, capsys):
    for name in ("a.png", "b.png"):
        tiny_image().save(name)
    assert run("a.png", "b.png", "-o", "out", "--model", xpsr, "--captioner", "no/model") == 1
    error = capsys.readouterr().err
    assert error.count("diffusers-sr: No captioner could be loaded from 'no/model'") == 1
    assert main(["caption", ".", "-o", "prompts", "--captioner", "no/model", "--device", "cpu"]) == 1
    assert "No captioner could be loaded from 'no/model'" in capsys.readouterr().err
    assert files() == ["a.png", "b.png"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_is_described_once(run, xpsr, language_model, capsys, monkeypatch, layout):
    Path("in").mkdir()
    for name in ("a.png", "b.jpg"):
        tiny_image(seed=ord(name[0])).save(f"in/{name}")
    command = ["caption", "in", "-o", "prompts", "--device", "cpu", "--layout", layout, "--batch-size", "1"]
    assert main([*command, "--captioner", language_model]) == 0
    assert "Images described: 2, described before: 0" in capsys.readouterr().out
    prompts = read_prompts("prompts", [Path("in/a.png"), Path("in/b.jpg")])
    assert len(set(prompts)) == 2
    tiny_image(seed=3).save("in/c.png")
    Path("in/broken.png").write_text("no image")
    assert main([*command, "--captioner", language_model]) == 1
    captured = capsys.readouterr()
    assert "Images described: 1, described before: 2" in captured.out
    assert "in/broken.png: is not an image that can be read" in captured.err
    Path("in/broken.png").unlink()
    # With nothing to describe no model is loaded.
    monkeypatch.setattr(captioner.Captioner, "from_pretrained", None)
    assert main([*command, "--captioner", language_model]) == 0
    assert "Images described: 0, described before: 3" in capsys.readouterr().out
    assert run("in", "-o", "out", "--model", xpsr, "--prompts", "prompts") == 0
    assert files("out") == ["a.png", "b.jpg", "c.png"]


@pytest.mark.parametrize("size", [2, 5])
def test_the_batch_size_of_caption_is_the_models(run, language_model, monkeypatch, size):
    asked = []

    def generate(self, input_ids, **inputs):
        asked.append(len(input_ids))
        raise torch.OutOfMemoryError("CUDA")

    monkeypatch.setattr(Idefics3ForConditionalGeneration, "generate", generate)
    for seed in range(5):
        tiny_image(seed=seed).save(f"{seed}.png")
    command = ["caption", ".", "-o", "prompts", "--device", "cpu", "--captioner", language_model]
    assert main([*command, "--batch-size", str(size)]) == 1
    assert asked == [size]
    assert not Path("prompts").exists()


def test_too_little_memory_for_a_captioner(run, language_model, monkeypatch, capsys):
    def generate(self, **inputs):
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(Idefics3ForConditionalGeneration, "generate", generate)
    tiny_image().save("photo.png")
    assert main(["caption", ".", "-o", "prompts", "--device", "cpu", "--captioner", language_model]) == 1
    assert "diffusers-sr: there is not enough memory: try a smaller --batch-size" in capsys.readouterr().err


def test_a_folder_is_measured(run, capsys):
    Path("in").mkdir()
    tiny_image().save("in/red_fox.png")
    for names in ([], ["--names"]):
        assert main(["caption", "in", "-o", "prompts", "--captioner", "measured", "--device", "cpu", *names]) == 0
        assert "Images described: 1" in capsys.readouterr().out
        (prompts,) = read_prompts("prompts", [Path("in/red_fox.png")])
        assert prompts.high_level == ("red fox" if names else "")
        assert "resolution" in prompts.low_level


def test_what_the_help_says_of_captions_is_so():
    assert (CAPTIONER, LAYOUTS) == (captioner.PRACTICAL_MODEL, caption_folder.LAYOUTS)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("in", "-o", "out", "--names"), 2, "--names: not allowed with another --captioner than measured"),
        (("in",), 2, "-o/--output"),
        (("in", "-o", "out", "--layout", "xml"), 2, "--layout"),
        (("in", "-o", "out", "--device", "abacus"), 2, "--device: abacus is not there"),
        (("in", "-o", "out"), 1, "There is no image in in"),
        (("nowhere", "-o", "out", "--captioner", "measured"), 1, "nowhere"),
    ],
)
def test_a_folder_that_cannot_be_described(run, capsys, arguments, status, message):
    Path("in").mkdir()
    try:
        assert main(["caption", *arguments]) == status
    except SystemExit as exit:
        assert exit.code == status
    assert message in capsys.readouterr().err
    assert files() == []


@pytest.mark.parametrize("method", ["xpsr", "pasd"])
def test_converters_of_xpsr_and_pasd(run, capsys, method):
    folders = ("--unet", "no_unet", "--controlnet", "no_controlnet", "--output", "out", "--base", "base")
    assert main(["convert", method, *folders]) == 1
    assert "no_unet" in capsys.readouterr().err
    assert files() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reference", "photo.png"), "is a SeeSRPipeline, which has no --reference"),
        (("--low-level-prompt", "dim"), "is a SeeSRPipeline, which has no --low-level-prompt"),
        (("--prompts", "nowhere"), "is a SeeSRPipeline, which has no --prompts"),
        (("--captioner", "no/model"), "is a SeeSRPipeline, which has no --captioner"),
        (("--captioner", "measured", "--prompts", "nowhere"), "not allowed with argument"),
        (("--num-references", "2", "--cfw-weight", "1"), "which has no --num-references, --cfw-weight"),
        (("--reference", "nowhere.png"), "argument --reference: nowhere.png: there is no such file"),
        (("--reference", "text.png"), "argument --reference: text.png: is not an image that can be read"),
        (("--reference", "photo.png", "--num-references", "2"), "not allowed with argument --reference"),
        (("--cfw-weight", "1.5"), "--cfw-weight: 1.5 is not from 0 to 1"),
        (("--num-references", "0"), "--num-references: 0 is not above 0"),
    ],
)
def test_options_of_a_method_that_make_no_sense(run, capsys, arguments, message):
    tiny_image().save("photo.png")
    Path("text.png").write_text("This is not a photograph.")
    with pytest.raises(SystemExit) as exit:
        run("photo.png", "-o", "out", *arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
    assert files() == ["photo.png", "text.png"]


def test_model_of_another_method(run, model, coser, capsys):
    tiny_image().save("photo.png")
    assert run("photo.png", "-o", "big.png", "--method", "coser") == 1
    assert f"'{model}' holds a SeeSRPipeline, but method='coser' is CoSeRPipeline" in capsys.readouterr().err
    assert run("photo.png", "-o", "big.png", "--method", "seesr", "--model", coser) == 1
    assert "holds a CoSeRPipeline, but method='seesr' is SeeSRPipeline" in capsys.readouterr().err
    assert files() == ["photo.png"]
    with pytest.raises(ValueError, match="method='magic', expected one of 'seesr', 'coser'"):
        hub.load_pipeline(coser, method="magic")


def test_methods_are_those_of_the_package():
    assert tuple(hub.METHODS) == METHODS


@pytest.mark.parametrize("arguments", [(), ("--method", "seesr"), ("--method", "coser"), ("--model", "coser-small")])
def test_the_small_model_of_a_method(model, coser, tmp_path, monkeypatch, capsys, arguments):
    """Of what is in the package the method's is taken, with the parts of the base."""
    parts = components("seesr")
    base = {name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    StableDiffusionPipeline(
        **base, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(tmp_path / hub.BASE)
    for name, folder in (("seesr-small", model), ("coser-small", coser)):
        shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns(*hub.BASE_COMPONENTS))
        index = json.loads((tmp_path / name / "model_index.json").read_text())
        index |= {part: [None, None] for part in hub.BASE_COMPONENTS}
        (tmp_path / name / "model_index.json").write_text(json.dumps(index))
    monkeypatch.setattr(hub, "MODELS", tmp_path)
    assert hub.embedded_models() == ["coser-small", "seesr-small"]
    tiny_image().save(tmp_path / "photo.png")
    results = []
    for extra in (arguments, ("--model", coser if "coser" in "".join(arguments) else model)):
        path = str(tmp_path / f"{len(results)}.png")
        assert main(["upscale", str(tmp_path / "photo.png"), "-o", path, "--device", "cpu", *extra]) == 0
        results.append(pixels(path))
    assert np.array_equal(*results)


def test_a_method_without_a_small_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffusers_sr.cli.upscale.MODELS", tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(["upscale", "photo.png", "-o", "out.png", "--method", "xpsr"])
    assert exit.value.code == 2
    assert "no small model of xpsr; give one with --model" in capsys.readouterr().err


def test_upscale_factor(run, model):
    tiny_image(16, 11).save("photo.png")
    assert main(["upscale", "photo.png", "-o", "4.png", "--model", model, "--device", "cpu"]) == 0
    assert pixels("4.png").shape == (44, 64, 3)
    assert run("photo.png", "-o", "1.png", "--upscale", "1.5") == 0
    assert pixels("1.png").shape == (16, 24, 3)


def test_folders_and_files_to_a_folder(run, capsys):
    for name in (
        "in/a.png",
        "in/b.JPG",
        "in/b.png",
        "in/c.gif",
        "in/c.png",
        "in/.hidden.png",
        "in/sub/d.png",
        "e.bmp",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        tiny_image().save(name)
    Path("in/notes.txt").write_text("no image")
    assert run("in", "e.bmp", "in/a.png", "-o", "out") == 0
    assert files("out") == ["a.png", "b.JPG", "b.png", "c.png", "c_2.png", "e.bmp"]
    assert "Images done: 6, " in capsys.readouterr().out
    assert pixels("out/b.JPG").shape == (32, 32, 3)


def test_an_images_result_does_not_depend_on_the_others(run):
    Path("in").mkdir()
    tiny_image(seed=1).save("in/a.png")
    tiny_image(seed=2).save("in/b.png")
    assert run("in", "-o", "out") == 0
    assert run("in/b.png", "-o", "alone.png") == 0
    assert np.array_equal(pixels("out/b.png"), pixels("alone.png"))


def test_bad_files_are_named_and_the_others_done(run, capsys):
    Path("in").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for kind in ("png", "jpg", "webp", "tif"):
        Image.fromarray(noise).save(f"whole.{kind}")
        Path(f"in/cut.{kind}").write_bytes(Path(f"whole.{kind}").read_bytes()[:1500])
    Path("in/empty.png").touch()
    Path("in/text.jpg").write_text("This is not a photograph.")
    Path("in/zero.ppm").write_bytes(b"P6\n0 0\n255\n")
    Path("in/broken.png").write_bytes(Path("whole.png").read_bytes()[:33] + bytes(100))
    tiny_image().save("in/z_good.png")
    assert run("in", "missing.png", "-o", "out") == 1
    assert files("out") == ["z_good.png"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "it/s" not in line and "%" not in line]
    reasons = dict(line.split(": ", 1) for line in lines if line.startswith(("in", "missing")))
    assert reasons.pop("missing.png") == "there is no such file"
    assert reasons.pop("in/empty.png") == "the file is empty"
    assert reasons.pop("in/text.jpg") == "is not an image that can be read"
    assert reasons.pop("in/zero.ppm") == "is not an image that can be read"
    assert {Path(name).stem for name in reasons} == {"cut", "broken"}
    assert len(reasons) == 5
    assert "truncated" in reasons["in/cut.png"]


def test_folder_without_images(run, capsys):
    Path("empty").mkdir()
    tiny_image().save("photo.png")
    assert run("empty", "photo.png", "-o", "out") == 1
    assert files("out") == ["photo.png"]
    assert "empty: there is no image in this folder" in capsys.readouterr().err


def test_nothing_is_loaded_for_nothing(capsys, tmp_path):
    (tmp_path / "empty.png").touch()
    assert main(["upscale", str(tmp_path / "empty.png"), "-o", str(tmp_path / "out.png"), "--model", "no/model"]) == 1
    assert "model" not in capsys.readouterr().err


def test_model_that_cannot_be_had(run, capsys):
    tiny_image().save("photo.png")
    assert run("photo.png", "-o", "big.png", "--model", "no/model") == 1
    assert "the model no/model could not be loaded" in capsys.readouterr().err
    assert files() == ["photo.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tile-size", "13"), "tile_size=13, expected a multiple of 8"),
        (("--tile-size", "8"), "tile_overlap=8, expected less than tile_size=8"),
        (("--tile-overlap", "64"), "tile_overlap=64, expected less than tile_size=64"),
        (("--tile-overlap", "-8"), "tile_overlap=-8, expected a multiple of 8"),
        (("--guidance-scale", "nan"), "guidance_scale=nan, expected a number"),
    ],
)
def test_argument_that_the_pipeline_refuses(run, capsys, arguments, message):
    """It is wrong for all images, and said once, before the first of them."""
    for name in ("a.png", "b.png"):
        tiny_image().save(name)
    with pytest.raises(SystemExit) as exit:
        run("a.png", "b.png", "-o", "out", *arguments)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.count(message) == 1
    assert ".png" not in error
    assert files() == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory"), MemoryError()]
)
def test_too_little_memory(run, capsys, monkeypatch, error):
    tiny_image().save("photo.png")

    def call(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(SeeSRPipeline, "__call__", call)
    assert run("photo.png", "-o", "big.png") == 1
    assert "photo.png: there is not enough memory: try a smaller --tile-size" in capsys.readouterr().err


def test_interruption_leaves_nothing(run, capsys, monkeypatch):
    tiny_image().save("photo.png")

    def interrupted(self: Image.Image, path: Path, **kwargs: object) -> None:
        Path(path).write_bytes(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    assert run("photo.png", "-o", "big.png") == 130
    assert capsys.readouterr().err.endswith("diffusers-sr: interrupted\n")
    assert files() == ["photo.png"]


def test_output_that_cannot_be_written(run, capsys):
    tiny_image().save("photo.png")
    Path("occupied").write_text("a file")
    assert run("photo.png", "-o", "occupied/big.png") == 1
    assert capsys.readouterr().err.count("photo.png: ") == 1
    assert files() == ["occupied", "photo.png"]


def test_existing_output_is_overwritten_or_skipped(run, capsys):
    tiny_image().save("a.png")
    tiny_image().save("b.png")
    Path("out").mkdir()
    Path("out/a.png").write_text("old")
    assert run("a.png", "b.png", "-o", "out", "--skip-existing") == 0
    assert Path("out/a.png").read_text() == "old"
    assert pixels("out/b.png").shape == (32, 32, 3)
    assert "Skipped, because they exist: 1" in capsys.readouterr().out
    assert run("a.png", "b.png", "-o", "out") == 0
    assert pixels("out/a.png").shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.png", "-o", "a.png"), "would overwrite the input"),
        (("in", "-o", "in"), "would overwrite the input"),
        (("a.png", "b.png", "-o", "big.png"), "go to a folder"),
        (("in", "-o", "big.png"), "go to a folder"),
        (("a.png", "-o", "b"), "go to a folder"),
        (("a.png",), "-o/--output"),
        (("a.png", "-o", "out", "--upscale", "0"), "--upscale"),
        (("a.png", "-o", "out", "--upscale", "nan"), "--upscale"),
        (("a.png", "-o", "out", "--steps", "0"), "--steps"),
        (("a.png", "-o", "out", "--color-fix", "magic"), "--color-fix"),
        (("a.png", "-o", "out", "--device", "abacus"), "--device: abacus is not there"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name in ("a.png", "b.png", "in/c.png"):
        tiny_image().save(name)
    Path("b").touch()
    before = {name: Path(name).read_bytes() for name in files()}
    with pytest.raises(SystemExit) as exit:
        main(["upscale", *arguments])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
    assert {name: Path(name).read_bytes() for name in files()} == before


def test_results_of_one_name_do_not_overwrite_each_other():
    pairs = plan_outputs([Path("x/a.png"), Path("y/A.png"), Path("z/a_2.png")], Path("out"))
    assert [str(target) for _, target in pairs] == ["out/a.png", "out/A_2.png", "out/a_2_2.png"]


def test_exif_orientation_profile_and_data_are_kept(run):
    for name in ("photo.jpg", "photo.png", "photo.webp"):
        tiny_image(16, 12).save(name, exif=exif().tobytes(), icc_profile=SRGB)
        assert run(name, "-o", f"big_{name}") == 0
        with Image.open(f"big_{name}") as image:
            assert image.size == (24, 32)
            assert image.info["icc_profile"] == SRGB
            data = image.getexif()
            assert ORIENTATION not in data
            assert (data[MAKE], data[COPYRIGHT]) == ("Maker", "me")
            assert data.get_ifd(EXIF) == {0x9003: "2020:02:20 20:20:20", 0xA002: 24, 0xA003: 32}
            assert data.get_ifd(GPS) == {1: "N"}


def test_image_is_turned_before_it_is_enlarged(run):
    upright = Image.new("RGB", (12, 16), (220, 30, 30))
    upright.paste((30, 30, 220), (0, 8, 12, 16))
    data = Image.Exif()
    data[ORIENTATION] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save("photo.png", exif=data)
    assert np.array_equal(np.asarray(read_photo(Path("photo.png")).image), np.asarray(upright))


def test_transparency_is_kept(run):
    image = tiny_image(16, 12)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save("photo.png")
    assert run("photo.png", "-o", "big.png") == 0
    expected = np.asarray(image.getchannel("A").resize((32, 24), Image.Resampling.BICUBIC))
    assert np.array_equal(pixels("big.png")[..., 3], expected)


def test_transparency_is_not_lost_in_a_jpeg(run, capsys):
    image = tiny_image()
    image.putalpha(100)
    image.save("photo.png")
    assert run("photo.png", "-o", "big.jpg") == 1
    assert "photo.png: JPEG cannot hold its transparency: choose .png" in capsys.readouterr().err
    image.putalpha(255)
    image.save("photo.png")
    assert run("photo.png", "-o", "big.jpg") == 0


def test_transparent_palette_colour_is_kept(run):
    image = tiny_image().quantize(8)
    image.save("photo.gif", transparency=3)
    assert run("photo.gif", "-o", "out") == 0
    with Image.open("out/photo.png") as result:
        assert result.mode == "RGBA"
        assert result.getextrema()[3] == (0, 255)


def test_grey_stays_grey(run):
    grey = tiny_image().convert("L")
    grey.save("grey.png")
    grey.convert("RGB").save("grey_rgb.jpg")
    grey.convert("LA").save("grey_alpha.png")
    assert run("grey.png", "grey_rgb.jpg", "grey_alpha.png", "-o", "out") == 0
    with Image.open("out/grey.png") as image:
        assert image.mode == "L"
    with Image.open("out/grey_alpha.png") as image:
        assert image.mode == "LA"
    colours = pixels("out/grey_rgb.jpg")
    assert (colours == colours[..., :1]).all()


def test_sixteen_bits_are_read_and_said(run, capsys):
    ramp = np.linspace(0, 65535, 16 * 16).reshape(16, 16).round().astype(np.uint16)
    Image.fromarray(ramp).save("deep.png")
    Image.fromarray(ramp).save("deep.tif")
    expected = np.round(ramp / 257)
    for name in ("deep.png", "deep.tif"):
        photo = read_photo(Path(name))
        assert np.array_equal(np.asarray(photo.image)[..., 1], expected)
        assert photo.mode == "L"
    header = b"P6\n2 1\n65535\n"
    Path("deep.ppm").write_bytes(header + np.array([0, 32896, 65535] * 2, ">u2").tobytes())
    photo = read_photo(Path("deep.ppm"))
    assert photo.image.getpixel((1, 0)) == (0, 128, 255)
    assert photo.notes == ["has 16 bits a channel; the output has 8"]
    assert run("deep.png", "-o", "big.png") == 0
    assert "deep.png: has 16 bits a channel; the output has 8" in capsys.readouterr().err


def test_eight_bits_are_not_called_sixteen(tmp_path):
    for name in ("a.png", "a.jpg", "a.bmp", "a.tif", "a.webp", "a.ppm", "a.gif"):
        tiny_image().save(tmp_path / name)
        assert read_photo(tmp_path / name).notes == []


def test_unknown_range_is_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 1 << 20, np.int32)).save(tmp_path / "integer.tif")
    for name in ("float.tif", "integer.tif"):
        with pytest.raises(ImageFileError, match="range is unknown"):
            read_photo(tmp_path / name)


def test_tiff_keeps_what_describes_the_photo_alone(tmp_path):
    tiny_image(16, 12).save(tmp_path / "photo.jpg", exif=exif().tobytes())
    photo = read_photo(tmp_path / "photo.jpg")
    write_photo(tmp_path / "one.tif", photo.image, photo)
    photo = read_photo(tmp_path / "one.tif")
    write_photo(tmp_path / "two.tif", photo.image.resize((48, 64)), photo)
    write_photo(tmp_path / "two.jpg", photo.image.resize((48, 64)), photo)
    for name in ("two.tif", "two.jpg"):
        photo = read_photo(tmp_path / name)
        assert photo.image.size == (48, 64)
        assert dict(photo.exif.get_ifd(EXIF)) == {0x9003: "2020:02:20 20:20:20", 0xA002: 48, 0xA003: 64}
        assert photo.exif[MAKE] == "Maker"
        assert photo.exif.get_ifd(GPS) == {1: "N"}
    assert 256 not in photo.exif  # the size of the TIFF it came through


def test_damaged_exif_does_not_cost_the_image(tmp_path):
    tiny_image().save(tmp_path / "photo.png", exif=b"Exif\0\0no TIFF header")
    photo = read_photo(tmp_path / "photo.png")
    assert photo.exif is None
    assert photo.notes == ["has damaged EXIF data, which is not kept"]


def test_further_frames_are_spoken_of(tmp_path):
    tiny_image().save(tmp_path / "a.gif", save_all=True, append_images=[tiny_image(seed=1), tiny_image(seed=2)])
    assert read_photo(tmp_path / "a.gif").notes == ["has 3 frames; only the first is taken"]


def test_cmyk_becomes_srgb(tmp_path):
    tiny_image().convert("CMYK").save(tmp_path / "photo.jpg", quality=100)
    photo = read_photo(tmp_path / "photo.jpg")
    assert (photo.image.mode, photo.mode, photo.is_grey) == ("RGB", "RGB", False)
    difference = np.asarray(photo.image).astype(int) - np.asarray(tiny_image())
    assert np.abs(difference).mean() < 16


@pytest.mark.parametrize(
    ("path", "size", "message"),
    [
        ("big.webp", (20000, 10), "20000x10 is too large for WEBP"),
        ("big.jpg", (10, 70000), "10x70000 is too large for JPEG"),
        ("big.bmp", (10, 10), "BMP cannot hold its transparency and colour profile and EXIF data"),
    ],
)
def test_formats_that_cannot_hold_the_result(path, size, message):
    photo = Photo(tiny_image(), Image.new("L", (16, 16), 9), "RGB", False, SRGB, exif())
    with pytest.raises(ImageFileError, match=message):
        check_output(photo, Path(path), *size)
    check_output(photo, Path("big.png"), *size)


def test_decompression_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    tiny_image().save(tmp_path / "photo.png")
    with pytest.raises(ImageFileError, match="exceeds limit"):
        read_photo(tmp_path / "photo.png")


def test_image_of_one_pixel(run):
    Image.new("RGB", (1, 1), (200, 100, 50)).save("photo.png")
    assert run("photo.png", "-o", "big.png") == 0
    assert pixels("big.png").shape == (2, 2, 3)


def test_as_a_program():
    command = [sys.executable, "-m", "diffusers_sr.cli", "upscale", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(diffusers_sr.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert "--color-fix {adain,wavelet,none}" in done.stdout


def test_progress_and_reports_stay_off_standard_output(run, capfd):
    tiny_image().save("photo.png")
    assert run("photo.png", "-o", "big.png") == 0
    assert capfd.readouterr().out.count("\n") == 1


def test_only_the_images_progress_is_shown(model, tmp_path):
    tiny_image().save(tmp_path / "photo.png")
    command = [
        sys.executable,
        "-m",
        "diffusers_sr.cli",
        "upscale",
        "photo.png",
        "-o",
        "big.png",
        "--model",
        model,
    ]
    folder = Path(diffusers_sr.__file__).parents[1]
    done = subprocess.run(
        [*command, "--upscale", "2", "--device", "cpu"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    assert "photo.png: 100%" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("photo.png: ")] == []
