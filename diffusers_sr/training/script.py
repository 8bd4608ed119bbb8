"""Running a training script: what its user is told, in errors and in the log."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..image.decoding import ImageFileError
from ..pretrained.files import ModelFolderError
from ..publishing.shareable import mask_credentials
from .launcher import end_with_launcher
from .perceptual import MissingPackageError


def run_script(main: Callable[[], Any]) -> None:
    """Run `main`; end with status 1 and one line if a saved model, an image or a package cannot be used.

    No message and no traceback shows credentials.
    """
    end_with_launcher()
    log_without_credentials()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it reports every request to the Hub
    try:
        main()
    except (ModelFolderError, ImageFileError, MissingPackageError) as error:
        message = mask_credentials(" ".join(str(error).split()))
        print(f"{Path(sys.argv[0]).name}: {type(error).__name__}: {message}", file=sys.stderr)
        raise SystemExit(1) from error
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        if mask_credentials(text) == text:
            raise
        print(mask_credentials(text), file=sys.stderr)
        raise SystemExit(1) from None


class _WithoutCredentials(logging.Formatter):
    """A formatter that replaces credentials by asterisks."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record, with what is in its traceback."""
        return mask_credentials(super().format(record))


def log_without_credentials() -> None:
    """Show the log of a run, unless the program that runs it has arranged for that itself."""
    handler = logging.StreamHandler()
    handler.setFormatter(_WithoutCredentials("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
