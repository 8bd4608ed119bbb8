"""Shards: what prepare writes is what training reads, also of an interrupted run, and of others' shards."""

import io
import os
import signal
import socket
import sys
import tarfile
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_sr.data import prepare
from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.hub_photos import HubPhotos, load_rows
from diffusers_sr.data.lists import list_images
from diffusers_sr.data.photos import read_image
from diffusers_sr.data.shards import ShardPhotos, list_shards
from diffusers_sr.data.tags import split_tags
from diffusers_sr.data.weighted_texts import drawn_text, weighted_texts
from tests import programs
from tests.data.samples import tensor
from tests.seesr.components import tiny_tagger
from tests.training.runs import TRAINING, script


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, size in (("a.1.png", (40, 50)), ("b.jpg", (40, 40)), ("c.gif", (41, 64)), ("e.webp", (40, 33))):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "c.gif").rename(folder / "c.png")  # whose name does not say what it is
    (folder / "d.png").write_bytes(b"no image")
    (tmp_path / "tags.csv").write_text('file,tags\na.1.png,"sky, sea"\nb.jpg,Überall Bäume\n', encoding="utf-8")
    return folder


@pytest.fixture
def run(photos: Path, capsys: pytest.CaptureFixture[str]):
    def run(output: Path, **options: object) -> str:
        options = {
            "train_data_dir": photos,
            "tags_file": photos.parent / "tags.csv",
            "allow_missing_text": True,
            "photos_per_shard": 2,
        } | options
        given = {name: value for name, value in options.items() if value is not None}
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        script("prepare").main([*words, "--output_dir", str(output)])
        return capsys.readouterr().out

    return run


def test_a_table_has_to_have_all_photos(tmp_path: Path, run) -> None:
    with pytest.raises(ValueError, match=r"^3 of the 5 photos have no tags or captions, such as 'c.png', 'e.webp': "):
        run(tmp_path / "shards", allow_missing_text=None)


def test_photos_that_differ_in_the_suffix_keep_it(photos: Path, tmp_path: Path, run) -> None:
    (photos / "b.gif").write_bytes((photos / "c.png").read_bytes())
    run(tmp_path / "whole")
    names = ShardPhotos(list_shards(tmp_path / "whole")).names
    assert names == ["a.1.png", "b.gif.png", "b.jpg", "c.png", "e.webp"]
    run(tmp_path / "crops", crop_size=40)
    names = ShardPhotos(list_shards(tmp_path / "crops")).names
    assert names == [
        *(f"a.1_00{n}.png" for n in (0, 1)),
        "b.gif_000.png",
        "b.gif_001.png",
        "b.gif_002.png",
        "b.gif_003.png",
        "b.jpg_000.png",
        *(f"c_00{n}.png" for n in range(4)),
    ]


def test_several_captions_of_a_photo_come_along(photos: Path, tmp_path: Path, run) -> None:
    for name in ("c.png", "d.png", "e.webp"):
        (photos / name).unlink()
    rows = ("a.1.png,sky,0.5", "b.jpg,a house,0.3", "a.1.png,a sky over a sea,1.5")
    (tmp_path / "tags.csv").write_text("\n".join(("file,tags,weight", *rows)))
    run(tmp_path / "shards", allow_missing_text=None)
    shards = ShardPhotos(list_shards(tmp_path / "shards"))
    assert shards.texts == ["0.5\tsky\n1.5\ta sky over a sea", "a house"]
    drawn = [drawn_text(shards.texts[0], seed) for seed in range(1000)]
    assert drawn.count("sky") + drawn.count("a sky over a sea") == 1000
    assert abs(drawn.count("sky") - 250) < 50
    crops = PhotoCrops(shards, 32)
    for index in range(8):
        seed = int(tensor(crops[index], "seed"))
        assert str(crops[index]["tags"]) in {drawn_text(text, seed) for text in shards.texts}


def test_only_weighted_lines_are_several_captions() -> None:
    assert weighted_texts({"a\nb": 0.5}) == "a\nb"
    assert weighted_texts({"a\nb": 0.31, "c": 2e-7}) == "0.31\ta b\n2e-07\tc"
    assert {drawn_text("0.31\ta b\n2e-07\tc", seed) for seed in range(9)} == {"a b"}
    for text in ("", "a", "a\nb", "3\ta", "3\ta\nb", "1.2.3\ta\n4\tb"):
        assert drawn_text(text, 0) == text


def test_whole_photos_come_back_as_they_were(photos: Path, tmp_path: Path, run) -> None:
    printed = run(tmp_path / "shards")
    assert printed.splitlines()[-1] == "4 photos are in 3 shards; 1 were skipped"
    assert "d.png cannot be read" in (tmp_path / "shards/00001.skipped.log").read_text()
    shards = ShardPhotos(list_shards(tmp_path / "shards"))
    assert shards.names == ["a.1.png", "b.jpg", "c.png", "e.webp"]
    assert [shards[number].tags for number in range(4)] == ["sky, sea", "Überall Bäume", "", ""]
    for number, name in enumerate(shards.names):
        assert torch.equal(read_image(shards[number].file), read_image(photos / name))
    assert shards[1].file == (photos / "b.jpg").read_bytes(), "not compressed once more"
    png = shards[2].file
    assert isinstance(png, bytes) and png.startswith(b"\x89PNG")


def test_training_reads_from_shards_what_it_reads_from_the_folder(photos: Path, tmp_path: Path, run) -> None:
    (photos / "d.png").unlink()
    run(tmp_path / "shards")
    crops = (
        PhotoCrops(source, 32, seed=4)
        for source in (list_images(photos), ShardPhotos(list_shards(tmp_path / "shards")))
    )
    folder, shards = crops
    for index in range(8):
        assert torch.equal(tensor(folder[index], "target"), tensor(shards[index], "target"))
    assert {shards[index]["tags"] for index in range(4)} == {"sky, sea", "Überall Bäume", ""}


def test_crops_cover_a_photo_evenly(photos: Path, tmp_path: Path, run) -> None:
    printed = run(tmp_path / "shards", crop_size=36)
    assert printed.splitlines()[-1] == "3 photos are in 3 shards; 2 were skipped"
    assert "e.webp is 33x40 pixels, smaller" in (tmp_path / "shards/00002.skipped.log").read_text()
    shards = ShardPhotos(list_shards(tmp_path / "shards"))
    crops = {photo.name: photo for photo in (shards[number] for number in range(len(shards)))}
    assert len(crops) == 4 * 3
    assert crops["a.1_003.png"].tags == "sky, sea"
    photo = read_image(photos / "a.1.png")
    for number, (top, left) in enumerate([(0, 0), (0, 14), (4, 0), (4, 14)]):
        assert torch.equal(read_image(crops[f"a.1_{number:03d}.png"].file), photo[:, top : top + 36, left : left + 36])


def kill_before(write: int, folder: Path, words: list[str]) -> None:
    """Prepare in `folder`, but end by SIGKILL before what would be its write number `write` there."""
    writes = count()

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        opens = event == "open" and arguments[1] != "r"
        if (opens or event == "os.rename") and str(folder) in str(arguments[0]) and next(writes) == write:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    script("prepare").main([*words, "--output_dir", str(folder)])


def test_killed_anywhere_it_goes_on(photos: Path, tmp_path: Path, run) -> None:
    whole = tmp_path / "whole"
    run(whole)
    tags = ("--tags_file", str(tmp_path / "tags.csv"), "--allow_missing_text", "true")
    words = ["--train_data_dir", str(photos), *tags, "--photos_per_shard", "2"]
    complete = []
    for write in count():
        folder = tmp_path / f"killed_{write}"
        process = get_context("fork").Process(target=kill_before, args=(write, folder, words))
        process.start()
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
        complete.append(len(before))
        printed = run(folder, num_workers=2 * (write == 4)).splitlines()  # other processes may go on
        assert f"5 photos, 3 shards, {len(before)} of them complete" in printed
        assert printed[-1] == "4 photos are in 3 shards; 1 were skipped"
        assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "not written once more"
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            path.name: path.read_bytes() for path in whole.iterdir()
        }
    # Settings, and of each of three shards the tar file, what was skipped, and the tar file's name.
    assert complete == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_two_processes_share_the_shards(photos: Path, tmp_path: Path, run) -> None:
    run(tmp_path / "alone", photos_per_shard=1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    common = {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        programs.start(
            *(TRAINING / "prepare.py", "--train_data_dir", photos, "--tags_file", tmp_path / "tags.csv"),
            *("--allow_missing_text", "true", "--photos_per_shard", "1", "--output_dir", tmp_path / "both"),
            environment={**common, "RANK": rank, "LOCAL_RANK": rank},
            output=tmp_path / f"output-{rank}",
            errors=tmp_path / f"errors-{rank}",
        )
        for rank in "01"
    ]
    assert [process.wait() for process in processes] == [0, 0], (tmp_path / "errors-1").read_text()
    alone, both = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in ("alone", "both")
    )
    assert both == alone
    lines = [(tmp_path / f"output-{rank}").read_text().splitlines() for rank in (0, 1)]
    assert lines[0][:2] == ["5 photos, 5 shards, 0 of them complete", "00000.tar is written"]
    assert lines[1][:2] == ["00001.tar is written", "00003.tar is written"]
    assert "4 photos are in 5 shards; 1 were skipped" in (lines[0][-1], lines[1][-1])


def test_shards_of_other_photos_are_not_mixed(photos: Path, tmp_path: Path, run) -> None:
    run(tmp_path / "shards")
    with pytest.raises(ValueError, match="another value of crop_size"):
        run(tmp_path / "shards", crop_size=36)
    (photos / "b.jpg").unlink()
    with pytest.raises(ValueError, match="another value of photos"):
        run(tmp_path / "shards")


def test_prompts_become_captions(photos: Path, tmp_path: Path, run) -> None:
    for folder, text in (("highlevel_prompt", "A {} photo.\nMore."), ("lowlevel_prompt_q", "sharp")):
        (tmp_path / "prompts" / folder).mkdir(parents=True)
        for path in photos.iterdir():
            (tmp_path / "prompts" / folder / f"{path.stem}.txt").write_text(text.format(path.stem))
    with pytest.raises(ValueError, match="one of --tags_file, --prompts_dir and --tagger"):
        run(tmp_path / "shards", prompts_dir=tmp_path / "prompts")
    script("prepare").main(
        ["--train_data_dir", str(photos), "--prompts_dir", str(tmp_path / "prompts"), "--output_dir",
         str(tmp_path / "shards")]
    )  # fmt: skip
    shards = ShardPhotos(list_shards(tmp_path / "shards"))
    assert shards[0].tags == "A a.1 photo."


def test_a_tagger_tags_each_crop(photos: Path, tmp_path: Path, run) -> None:
    for name in ("a.1.png", "b.jpg"):
        Image.new("RGB", (40, 40), "red").save(photos / name)
    torch.manual_seed(0)
    tagger = tiny_tagger()
    tagger.save_pretrained(tmp_path / "tagger")
    options = {"tags_file": None, "tagger": tmp_path / "tagger", "crop_size": 36}
    run(tmp_path / "shards", **options)
    shards = ShardPhotos(list_shards(tmp_path / "shards"))
    tags = [shards[number].tags for number in range(len(shards))]
    assert len(set(tags)) > 1
    with torch.no_grad():
        for number, given in enumerate(tags):
            image = read_image(shards[number].file)[None] / 255
            assert split_tags(given) == tagger.tags(tagger(tagger.preprocess(image)).logits)[0]
    with pytest.raises(ValueError, match="leave out --num_workers"):
        run(tmp_path / "shards", **options, num_workers=1)


def test_webdataset_reads_what_is_written(photos: Path, tmp_path: Path, run) -> None:
    webdataset = pytest.importorskip("webdataset")
    run(tmp_path / "shards", crop_size=36)
    shards = ShardPhotos(list_shards(tmp_path / "shards"))
    paths = list(map(str, list_shards(tmp_path / "shards")))
    samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode("pil").to_tuple("png", "txt", "json"))
    assert [(about["file"], text) for _, text, about in samples] == [
        (shards[number].name, shards[number].tags) for number in range(12)
    ]
    assert np.array_equal(samples[3][0], read_image(shards[3].file).permute(1, 2, 0))


def test_datasets_reads_what_is_written(photos: Path, tmp_path: Path, run) -> None:
    pytest.importorskip("datasets")
    run(tmp_path / "shards", crop_size=36)
    rows = load_rows(str(tmp_path / "shards"), None, "train", False, "png", "txt")
    shards = ShardPhotos(list_shards(tmp_path / "shards"))
    photo = HubPhotos(rows, "png", "txt")[3]
    assert (photo.file, photo.tags) == (shards[3].file, shards[3].tags)


def test_nothing_but_damaged_photos_is_an_error(photos: Path, tmp_path: Path, run) -> None:
    for path in photos.iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"None of the 5 photos can be used; the first of them: a.1.png cannot be read"
    ):
        run(tmp_path / "shards")


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_shards_of_others_are_read(photos: Path, tmp_path: Path) -> None:
    image, other = (photos / "a.1.png").read_bytes(), (photos / "b.jpg").read_bytes()
    first = write_tar(
        tmp_path / "train-0.tar",
        {
            "x/001.cls": b"3",
            "x/001.png": image,
            "x/001.txt": b"a caption \n",
            "y/001.jpg": other,
            "y/001.json": b'{"file": "red house.jpg", "width": 40}',
        },
    )
    second = write_tar(tmp_path / "train-1.tar", {"README.md": b"none", "z.seg.png": image, "z.jpg": other})
    shards = ShardPhotos(list_shards(tmp_path / "train-*.tar"))
    assert [(shards[number].name, shards[number].tags) for number in range(3)] == [
        ("001.png", "a caption"), ("red house.jpg", ""), ("z.seg.png", "")
    ]  # fmt: skip
    assert [shards[number].file for number in range(3)] == [image, other, image]
    assert list_shards(first) == [first] and list_shards(tmp_path) == [first, second]


def test_shards_that_cannot_be_read_are_named(photos: Path, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {"a.png": (photos / "a.1.png").read_bytes()})
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"0.tar is not a shard that can be read"):
        ShardPhotos([path])
    with pytest.raises(ValueError, match=r"0.tar is not a shard.*does not hold a JSON object"):
        ShardPhotos([write_tar(path, {"a.png": b"", "a.json": b"[]"})])
    with pytest.raises(ValueError, match="There is no image in"):
        ShardPhotos([write_tar(path, {"a.txt": b""})])
    with pytest.raises(ValueError, match="No shard found"):
        list_shards(tmp_path / "none-*.tar")
    with pytest.raises(ValueError, match="--dataset_name"):
        list_shards("https://example.com/0.tar")


def test_the_earlier_command_runs_the_script(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prepare", "--help"])
    with pytest.raises(SystemExit) as ended:
        prepare.main()
    assert ended.value.code == 0
    output = capsys.readouterr()
    assert "--photos_per_shard" in output.out
    assert output.err == "python -m diffusers_sr.data.prepare is now python training/prepare.py.\n"
    monkeypatch.setattr(prepare, "SCRIPT", Path("nothing.py"))
    with pytest.raises(SystemExit, match="run it in a checkout of the repository"):
        prepare.main()
