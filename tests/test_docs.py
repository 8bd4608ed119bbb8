"""The site of `docs/` builds, asks nothing of other servers, and names only what there is."""

from __future__ import annotations

import argparse
import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusers_sr.cli.main import _parser

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "training" / "README.md", *PAGES]

_EXAMPLES = re.compile(r"^```.*?^```$|``[^`\n].*?``", re.MULTILINE | re.DOTALL)
_CODE_LINK = re.compile(r"\[`(?P<name>[\w.]+)`\]\((?P<path>[^)#]+\.py)\)")
_SPAN = re.compile(r"`([^`\n]+)`")
_FOLDERS = "diffusers_sr|training|benchmarks|tests|examples|model_cards|pipelines|docs"
_PATH = re.compile(rf"(?:{_FOLDERS})/[\w./-]*")
_MODULE = re.compile(r"(?P<module>diffusers_sr(?:\.\w+)+)(?::(?P<attribute>[\w.]+))?")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def defined(path: Path, dotted: str) -> bool:
    """Whether a module's text defines a name, or a class in it a method: nothing is imported."""
    body: list[ast.stmt] = ast.parse(path.read_text()).body
    for part in dotted.split("."):
        found = [node for node in body if part in _names(node)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def _names(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign(targets=[*targets]):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=identifier)):
            return [identifier]
        case ast.ImportFrom(names=imported):
            return [alias.asname or alias.name for alias in imported]
    return []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_the_site_builds_without_a_warning(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("index.html")}
    assert pages >= {"index.html", "models/index.html", "methods/seesr/index.html"}
    # A picture that lies outside of docs/, and a link to a file of the repository.
    index = (site / "index.html").read_text()
    assert '<img alt="Input, bicubic' in index and 'src="examples/astronaut_one-step-small.jpg"' in index
    assert (site / "examples" / "astronaut_one-step-small.jpg").is_file()
    assert 'href="https://github.com/diffusers-sr/diffusers-sr/blob/main/README.md"' in index
    assert not (site / "hooks.py").exists()


def test_a_page_asks_nothing_of_other_servers(site: Path) -> None:
    loaded = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
    for page in site.rglob("*.html"):
        assert loaded.findall(page.read_text()) == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", sheet.read_text()), sheet


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_code_that_a_document_names_exists(document: Path) -> None:
    text = _EXAMPLES.sub("", document.read_text())
    missing = [
        f"{match['name']} in {match['path']}"
        for match in _CODE_LINK.finditer(text)
        if not (path := document.parent / match["path"]).is_file() or not defined(path, match["name"])
    ]
    for span in _SPAN.findall(text):
        if _PATH.fullmatch(span) and not (ROOT / span).exists():
            missing.append(span)
        if (match := _MODULE.fullmatch(span)) and not _exists(match["module"], match["attribute"]):
            missing.append(span)
    assert missing == []


def _exists(module: str, attribute: str | None) -> bool:
    """Whether there is a module, or one and its attribute, which `module.Attribute` may name as well."""
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return attribute is None or defined(file, attribute)
    parent, _, last = module.rpartition(".")
    return attribute is None and "." in parent and _exists(parent, last)


@pytest.mark.parametrize("document", PAGES, ids=name)
def test_options_that_a_page_names_exist(document: Path) -> None:
    text = _EXAMPLES.sub("", document.read_text())
    named = {option for span in _SPAN.findall(text) for option in re.findall(r"(?<!\S)--[a-z][\w-]*", span)}
    assert {option for option in named - options_of_commands() if not is_option_of_training(option)} == set()


@functools.cache
def options_of_commands() -> set[str]:
    def walk(parser: argparse.ArgumentParser) -> Iterator[str]:
        if (complete := getattr(parser, "complete", None)) is not None:
            complete(parser)
        for action in parser._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for command in set(action.choices.values()):
                    yield from walk(command)

    return set(walk(_parser()))


def is_option_of_training(option: str) -> bool:
    """Whether a script of `training/` has an option: as a field of a dataclass, or an argument of a parser."""
    pattern = re.compile(rf'^    {option[2:]}: |"{option}"', re.MULTILINE)
    scripts = [*(ROOT / "training").glob("*.py"), *(ROOT / "diffusers_sr" / "training").glob("*.py")]
    return any(pattern.search(path.read_text()) for path in scripts)


def test_a_table_that_the_readme_and_a_page_share_is_the_same_in_both() -> None:
    readme = tables(ROOT / "README.md")
    shared = [(header, rows) for page in PAGES for header, rows in tables(page).items() if header in readme]
    assert shared
    for header, rows in shared:
        assert rows == readme[header], header


def tables(document: Path) -> dict[str, list[str]]:
    """Give the rows of a document's tables by their headers."""
    blocks = re.findall(r"^\|[^\n]*\n\|[-: |]+\|\n(?:\|[^\n]*\n)+", document.read_text(), re.MULTILINE)
    return {lines[0]: lines[2:] for block in blocks if (lines := block.splitlines())}


@pytest.mark.parametrize(
    ("dotted", "there"),
    [("defined", True), ("PAGES", True), ("TableOf.rows", False), ("site.path", False), ("defin", False)],
)
def test_names_are_found_in_a_text(dotted: str, there: bool) -> None:
    assert defined(Path(__file__), dotted) is there


@pytest.mark.parametrize(
    ("module", "attribute", "there"),
    [
        ("diffusers_sr.coser.one_hot", None, True),
        ("diffusers_sr.coser.one_hot.one_hot_attention", None, True),
        ("diffusers_sr.coser.one_hot", "best_keys", True),
        ("diffusers_sr.cli", "main", True),
        ("diffusers_sr.cli", "mein", False),
        ("diffusers_sr.coser.two_hot", None, False),
        ("diffusers_sr.none", None, False),
    ],
)
def test_modules_and_their_attributes_are_found(module: str, attribute: str | None, there: bool) -> None:
    assert _exists(module, attribute) is there
