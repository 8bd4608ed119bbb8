"""The names of files as they are shown to a user."""

from __future__ import annotations


def printable(name: object) -> str:
    r"""Give a name on one line: line breaks, other control characters and broken encodings as escapes, such as \n."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in str(name)
    )
