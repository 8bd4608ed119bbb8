"""Running a training script: errors that the user can mend are one line, all others show where they come from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..image.decoding import ImageFileError
from ..pretrained.files import ModelFolderError


def run_script(main: Callable[[], Any]) -> None:
    """Run `main`; end with status 1 and one line if a saved model or an image cannot be used."""
    try:
        main()
    except (ModelFolderError, ImageFileError) as error:
        message = " ".join(str(error).split())
        print(f"{Path(sys.argv[0]).name}: {type(error).__name__}: {message}", file=sys.stderr)
        raise SystemExit(1) from error
