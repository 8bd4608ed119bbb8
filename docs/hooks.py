"""Links from the pages to files of the repository outside `docs/`, such as `../README.md`, in the site.

In the Markdown they are relative, so that they work in a checkout and on GitHub. In the site, pictures become a part
of it, and other files are links to the repository. A file that does not exist is left for MkDocs to report.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"\]\((?P<path>\.\./[^)#]+)(?P<anchor>#[^)]*)?\)")
_PICTURES = (".jpg", ".png")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the links of a page that lead out of `docs/`. MkDocs calls it for each page."""
    docs = Path(config.docs_dir)
    folder = posixpath.dirname(page.file.src_uri)

    def target(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(docs.name, folder, link["path"]))
        if path.startswith(f"{docs.name}/") or not (docs.parent / path).exists():
            return link[0]
        if not path.endswith(_PICTURES):
            return f"]({config.extra['repository']}/blob/main/{path}{link['anchor'] or ''})"
        if files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, abs_src_path=str(docs.parent / path)))
        return f"]({posixpath.relpath(path, folder or '.')})"

    return _LINK.sub(target, markdown)
