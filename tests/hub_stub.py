"""A stand-in for the Hub on the loopback: as much of its HTTP API as uploads and downloads of models take.

It keeps every commit of every repository in memory, tells files from large files, checks their hashes and tokens, and
validates the metadata of model cards. It serves parts of files, and files that are no repository's under `/web/`.
`serve()` starts one and points huggingface_hub at it, which reads where the Hub is when it is imported: call it
before.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

OWNER, TOKEN = "me", "hf_of_me"
REGULAR_SUFFIXES = (".json", ".md", ".py", ".txt")

_RUN_WITH_STUB = """
import gc, sys
gc.set_threshold(50_000, 10, 10)
from tests.hub_stub import serve
serve()
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def run_tests_with_hub(folder: Path, *arguments: str) -> None:
    """Run tests in a process of its own that has a stand-in for the Hub, and whose home of the Hub is a folder.

    They are without the settings of the other tests, which turn the network off.

    Args:
        folder: empty, or new.
        arguments: pytest's.
    """
    command = [sys.executable, "-c", _RUN_WITH_STUB, "--noconftest", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, "--basetemp", str(folder / "tests"), *arguments],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "HF_HOME": str(folder)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


@dataclass
class Repository:
    """Commits, from the first to the last: a hash and all files of each."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def commit(self, files: dict[str, bytes]) -> str:
        contents = "".join(f"{path} {hashlib.sha1(content).hexdigest()}" for path, content in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)} {contents}".encode()).hexdigest()
        self.commits.append((sha, files))
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        return self.commits[-1] if revision == "main" else dict.get({c[0]: c for c in self.commits}, revision)


class HubStub(ThreadingHTTPServer):
    """The server; its threads run until the process ends.

    Args:
        refuse: given the method and path of a request, says whether it is to fail with status 403.
        requests: the method, the path and the range of every request.
        web: the files under `/web/`, by their paths after it.
        tampered: what is sent for a path instead of its content.
        gated: the repositories whose files are only for those who have accepted terms, which nobody has.
        cut: the number of bytes after which the connection ends at the next request for a path.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.refuse: Callable[[str, str], bool] = lambda method, path: False
        self.requests: list[tuple[str, str, str | None]] = []
        self.web: dict[str, bytes] = {}
        self.tampered: dict[str, bytes] = {}
        self.gated: set[str] = set()
        self.cut: dict[str, int] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def files(self, repo_id: str) -> dict[str, bytes]:
        """The newest files of a repository."""
        return dict(self.repositories[repo_id].commits[-1][1])


def serve() -> HubStub:
    global running
    running = HubStub()
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_MODULES_CACHE"):
        os.environ.pop(name, None)
    os.environ |= {
        "HF_ENDPOINT": running.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "*",
    }
    return running


running: HubStub


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubStub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._read_chunk, b""))
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        try:
            if self.server.refuse(self.command, path):
                raise _Refusal(403, message="The stub was told to refuse this.")
            status, content, headers = self._answer(path, body)
        except _Refusal as refusal:
            status, content = refusal.status, json.dumps({"error": refusal.message}).encode()
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
        if self.command == "GET" and status == 200:
            status, content, headers = self._part(self.server.tampered.get(path, content), headers)
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            cut = self.server.cut.pop(path, None) if self.command == "GET" else None
            self.wfile.write(content[:cut])
            self.close_connection = self.close_connection or cut is not None

    def _part(self, content: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        """Take the range that was asked for."""
        if not (asked := self.headers.get("Range")):
            return 200, content, headers
        start = int(asked.removeprefix("bytes=").partition("-")[0])
        if start >= len(content):
            return 416, b"", headers
        return 206, content[start:], {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}

    def _read_chunk(self) -> bytes:
        size = int(self.rfile.readline().partition(b";")[0], 16)
        chunk = self.rfile.read(size)
        self.rfile.readline()
        return chunk

    def _answer(self, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if path == "/api/validate-yaml":
            errors = card_errors(json.loads(body)["content"])
            answer = {"errors": [{"message": error} for error in errors], "warnings": []}
            return (400 if errors else 200), json.dumps(answer).encode(), {}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.startswith("/large/"):
            if hashlib.sha256(body).hexdigest() != path.rpartition("/")[2]:
                raise _Refusal(400, message="The content is not of this hash.")
            self.server.large_files[path.rpartition("/")[2]] = body
            return 200, b"", {}
        if path.startswith("/web/"):
            if path.removeprefix("/web/") not in self.server.web:
                raise _Refusal(404)
            return 200, self.server.web[path.removeprefix("/web/")], {"Content-Type": "application/octet-stream"}
        parts = path.strip("/").split("/")
        if parts[0] == "spaces":
            parts = parts[1:]
        if parts[:2] in (["api", "models"], ["api", "spaces"]):
            repo_id, what, rest = "/".join(parts[2:4]), parts[4] if len(parts) > 4 else "revision", parts[5:]
            return self._api(repo_id, what, rest[0] if rest else "main", body)
        if path.endswith(".git/info/lfs/objects/batch"):
            self._repository(path[1:].partition(".git/")[0], write=True)
            return self._large_file_batch(json.loads(body))
        if len(parts) > 4 and parts[2] == "resolve":
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        raise _Refusal(404, message=f"The stub knows no {self.command} {path}.")

    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, repo_id: str, write: bool = False) -> Repository:
        repository = self.server.repositories.get(repo_id)
        if repository is None or (repository.private and not self._is_owner()):
            # As the Hub does, which does not tell strangers whether there is a private one.
            raise _Refusal(404 if self._is_owner() else 401, "RepoNotFound", "Repository not found")
        if write and not self._is_owner():
            raise _Refusal(403, message="No right to write")
        return repository

    def _commit(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = self._repository(repo_id).at(revision)
        if commit is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _create(self, request: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        if not self._is_owner():
            raise _Refusal(401, message="Invalid username or password.")
        owner = request.get("organization") or OWNER
        if owner != OWNER:
            raise _Refusal(403, message=f"You don't have the rights to create a model under the namespace {owner!r}.")
        repo_id = f"{owner}/{request['name']}"
        exists = repo_id in self.server.repositories
        if not exists:
            self.server.repositories[repo_id] = Repository(request.get("visibility") == "private")
            self.server.repositories[repo_id].commit({".gitattributes": b""})
        return (409 if exists else 200), json.dumps({"url": f"{self.server.url}/{repo_id}"}).encode(), {}

    def _api(self, repo_id: str, what: str, revision: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        answer: Any
        if what == "revision":
            sha, files = self._commit(repo_id, revision)
            answer = {"id": repo_id, "sha": sha, "private": self._repository(repo_id).private, "tags": []}
            answer["siblings"] = [_sibling(path, content) for path, content in files.items()]
        elif what == "tree":
            answer = [_tree_entry(path, content) for path, content in self._commit(repo_id, revision)[1].items()]
        elif what == "preupload":
            self._repository(repo_id, write=True)
            answer = {
                "files": [
                    {"path": path, "uploadMode": "regular" if _is_regular(path) else "lfs", "shouldIgnore": False}
                    for path in (file["path"] for file in json.loads(body)["files"])
                ]
            }
        elif what == "commit":
            repository = self._repository(repo_id, write=True)
            files = dict(repository.commits[-1][1])
            for line in body.splitlines():
                operation = json.loads(line)
                value = operation["value"]
                if operation["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif operation["key"] == "lfsFile":
                    files[value["path"]] = self.server.large_files[value["oid"]]
                elif operation["key"] == "deletedFile":
                    del files[value["path"]]
            sha = repository.commit(files)
            answer = {"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{repo_id}/commit/{sha}"}
        else:
            raise _Refusal(404, message=f"The stub knows no {what}.")
        return 200, json.dumps(answer).encode(), {}

    def _large_file_batch(self, request: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        objects = [
            {"oid": file["oid"], "size": file["size"]}
            | (
                {}
                if file["oid"] in self.server.large_files
                else {"actions": {"upload": {"href": f"{self.server.url}/large/{file['oid']}"}}}
            )
            for file in request["objects"]
        ]
        return 200, json.dumps({"transfer": "basic", "objects": objects}).encode(), {}

    def _file(self, repo_id: str, revision: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        sha, files = self._commit(repo_id, revision)
        if repo_id in self.server.gated:
            raise _Refusal(403, "GatedRepo", "Access to this model is restricted.")
        if path not in files:
            raise _Refusal(404, "EntryNotFound", "Entry not found")
        content = files[path]
        headers = {"X-Repo-Commit": sha, "Content-Type": "application/octet-stream", "ETag": f'"{_git_hash(content)}"'}
        if not _is_regular(path):
            headers |= {"ETag": f'"{_sha256(content)}"', "X-Linked-ETag": f'"{_sha256(content)}"'}
            headers |= {"X-Linked-Size": str(len(content))}
        return 200, content, headers


def card_errors(text: str) -> list[str]:
    """List what the Hub would not take of a model card's metadata."""
    _, separator, rest = text.partition("---\n")
    head, separator, _ = rest.partition("\n---")
    try:
        metadata = yaml.safe_load(head) if separator else None
    except yaml.YAMLError as error:
        return [str(error)]
    if not isinstance(metadata, dict):
        return []  # of which the Hub only warns
    texts = ("license", "pipeline_tag", "library_name")
    errors = [f"{name!r} must be a text" for name in texts if not isinstance(metadata.get(name, ""), str)]
    base_models = metadata.get("base_model", [])
    for base_model in base_models if isinstance(base_models, list) else [base_models]:
        if not isinstance(base_model, str) or base_model.count("/") > 1 or base_model.startswith(("/", ".")):
            errors.append(f"base_model {base_model!r} is not a model id")
    for index in metadata.get("model-index", []):
        if not isinstance(index.get("name"), str):
            errors.append("model-index has no name")
        for result in index["results"]:
            required = [result["task"].get("type"), result["dataset"].get("type"), result["dataset"].get("name")]
            if not all(isinstance(value, str) for value in required) or not result["metrics"]:
                errors.append(f"model-index is incomplete: {result}")
            for metric in result["metrics"]:
                if not isinstance(metric.get("type"), str) or not isinstance(metric.get("value"), (int, float)):
                    errors.append(f"model-index has a metric without type or value: {metric}")
    return errors


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    sibling = {"rfilename": path, "size": len(content), "blobId": _git_hash(content)}
    if _is_regular(path):
        return sibling
    return {**sibling, "lfs": {"sha256": _sha256(content), "size": len(content), "pointerSize": 1}}


def _tree_entry(path: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(content), "oid": _git_hash(content)}
    if _is_regular(path):
        return entry
    return {**entry, "lfs": {"oid": _sha256(content), "size": len(content), "pointerSize": 1}}


def _is_regular(path: str) -> bool:
    return path.endswith(REGULAR_SUFFIXES) or path.startswith(".")


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
