"""Uploading the result of a training: the options, and when what is uploaded to the Hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..publishing.repository import create_repository
from .arguments import option


class _HubToken:
    """A slot that keeps the token out of `vars(arguments)`, which goes into files, trackers and the model card."""

    __slots__ = ("hub_token",)
    hub_token: str | None


@dataclass(kw_only=True)
class UploadArguments(_HubToken):
    """The options of the trainers whose result can be uploaded."""

    push_to_hub: bool = option(False, "Upload the result, with a model card, when the training is over.")
    hub_model_id: str | None = option(None, "Repository to upload to; by default it has the output folder's name.")
    # With a factory the class has no attribute of this name, and the value goes to the slot.
    hub_token: str | None = field(
        default_factory=lambda: None,
        repr=False,
        metadata={"help": "Token for writing to the Hub; by default that of `hf auth login`."},
    )
    hub_private_repo: bool = option(False, "Create a private repository.")


def uploader(arguments: Any, upload: Callable[[Path, str], object]) -> Callable[[Path], None] | None:
    """Make the function that uploads the result of a training; None without `push_to_hub`.

    The repository is created now, so that a wrong token is noticed before the training and not after it.

    Args:
        arguments: `UploadArguments` that are `TrainingArguments` too.
        upload: uploads what is in an output folder to a repository.

    Raises:
        ValueError: if the token could be seen in Weights & Biases.
        HfHubHTTPError: if the token does not allow creating the repository.
    """
    if arguments.hub_token is not None and {"wandb", "all"} & set(arguments.report_to):
        raise ValueError(
            "--report_to wandb with --hub_token would show the token, as Weights & Biases keeps the command line: "
            "use `hf auth login` instead of --hub_token."
        )
    if not arguments.push_to_hub:
        return None
    name = arguments.hub_model_id or Path(arguments.output_dir).resolve().name
    repo_id = create_repository(name, arguments.hub_private_repo or None, arguments.hub_token)

    def publish_result(output_dir: Path) -> None:
        try:
            upload(output_dir, repo_id)
        except Exception as error:  # the errors of a network are not a closed set
            raise RuntimeError(
                f"The finished weights are in {output_dir}, but could not be uploaded to {repo_id}. Run the same "
                f"command with --resume_from_checkpoint latest to try only that again. ({error})"
            ) from error

    return publish_result
