"""Text from elsewhere, such as options, names and licences, made fit to be shown to others."""

from __future__ import annotations

import html
import os
import re
from pathlib import PureWindowsPath
from typing import Any

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
# The user's name and password before the host; the values of a query whose names say that they are secret; and the
# Hub's tokens, wherever they are.
_USER = re.compile(r"(?<=://)[^/?#\s]*@")
_SECRET = re.compile(
    r"(?<=[?&;#])([^=&;#\s]*(?:token|key|secret|signature|sig|passw|credential|auth)[^=&;#\s]*)=[^&;#\s'\"]*", re.I
)
# A folder of the Hub's cache: a repository at a commit.
_SNAPSHOT = re.compile(r".*[/\\]models--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\][0-9a-f]{40}[/\\]?", re.ASCII)
_HUB_TOKEN = re.compile(r"(?<![A-Za-z0-9_])(hf_|api_org_)[A-Za-z0-9]{8,}")


def is_hub_id(name: str | None) -> bool:
    """Whether a model of this name would be looked for on the Hub."""
    return name is not None and not os.path.isdir(name) and _HUB_ID.fullmatch(name) is not None and name[0] != "."


def shareable(value: Any) -> Any:
    """Strip an option's value of this machine's folders, only the name of a path is left, and of credentials.

    A repository in the Hub's cache is given by its Hub id.
    """
    if isinstance(value, list):
        return [shareable(one) for one in value]
    if not isinstance(value, str):
        return value
    value = mask_credentials(value)
    if "://" in value:
        return value
    if snapshot := _SNAPSHOT.fullmatch(value):
        return "/".join(snapshot.groups())
    is_path = value.startswith(("/", ".", "~")) or "\\" in value or value.count("/") > 1
    return PureWindowsPath(value).name if is_path else value


def mask_credentials(text: str) -> str:
    """Replace names, passwords and tokens in the URLs of a text, and tokens of the Hub, by asterisks."""
    return _HUB_TOKEN.sub(r"\1***", _SECRET.sub(r"\1=***", _USER.sub("***@", text)))


def masked(value: Any) -> Any:
    """Replace credentials in a text by asterisks, and in those of a list or dictionary; leave other values."""
    if isinstance(value, dict):
        return {name: masked(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(one) for one in value]
    return mask_credentials(value) if isinstance(value, str) else value


def inline(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line: neither HTML nor markup, nor a table's cell."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def code(text: str) -> str:
    """Put a text on one line into a code span that nothing in the text can end."""
    text = " ".join(text.split())
    ticks = "`" * (_longest_run(text) + 1)
    return f"{ticks}{text}{ticks}" if len(ticks) == 1 else f"{ticks} {text} {ticks}"


def fenced(text: str, language: str) -> str:
    """Put a text into a code block that nothing in the text can end."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
