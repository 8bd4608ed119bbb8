"""Save pipelines so that the Hub can serve them, upload them, and load them without needless trust."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar

from diffusers import DiffusionPipeline
from huggingface_hub import CommitInfo

from ..pretrained.files import ModelFolderError
from ..pretrained.loading import INDEX_FILE, check_loaded, explained, read_pipeline_index
from .model_card import CardDetails, picture_paths, render_model_card
from .origin import card_details_of
from .paper import Paper
from .repository import create_repository, folder_files, upload_files
from .stubs import PIPELINE_FILE, index_class_name, trusted_index, write_stubs

Index = dict[str, Any]

_checked: ContextVar[Callable[[Index], Index]] = ContextVar("checked", default=lambda index: index)


class PublishablePipeline(DiffusionPipeline):
    """A pipeline that is saved with everything diffusers needs to load it from a folder or a Hub repository alone.

    Besides the weights there are files of code, which only import from this package
    (`diffusers_sr.publishing.stubs`). Loading through the class itself needs no `trust_remote_code` if there is no
    other code.
    """

    paper: ClassVar[Paper]
    """The paper that the model card credits."""
    example_call: ClassVar[dict[str, Any]] = {}
    """The arguments that the example in the model card needs, besides the image."""

    @property
    def card_details(self) -> CardDetails:
        """The details of the model card, if none are given: where converted weights come from, and their licence."""
        return card_details_of(self.config.get("origin"))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load a pipeline from a folder or a Hub id, as `DiffusionPipeline.from_pretrained` does.

        Only the trust differs: `trust_remote_code=True` is only needed for code that this package would not have
        written.

        Raises:
            ValueError: if there is such code, and it is not trusted.
            OSError: if there is no such folder or repository.
            ModelFolderError: if the folder is damaged or lacks something, or the saved options are not allowed.
        """
        name = pretrained_model_name_or_path
        is_folder = os.path.isdir(name)
        is_asked_for = kwargs.get("trust_remote_code") or kwargs.get("custom_pipeline") is not None
        if is_asked_for or not (is_folder or os.fspath(name).count("/") <= 1):
            with explained(cls, Path(name), kwargs):
                pipeline = super().from_pretrained(name, **kwargs)
            check_loaded(pipeline, Path(name), kwargs)
            return pipeline
        kwargs["trust_remote_code"] = False
        with _check_indices(_refuse_other_class):
            folder = Path(name if is_folder else cls.download(name, **kwargs))
        cls._check_saved(folder, kwargs)
        saved = read_pipeline_index(folder)
        for component in cls.components_left_out(kwargs.get("call_defaults", saved.get("call_defaults")) or {}):
            if saved.get(component) in (None, [None, None]):
                kwargs.setdefault(component, None)
        with explained(cls, folder, kwargs):
            index = trusted_index(folder, cls)
            with _check_indices(_refuse_other_class if index is None else lambda _: {**index}):
                pipeline = super().from_pretrained(folder, **kwargs)
        check_loaded(pipeline, folder, kwargs)
        pipeline.register_to_config(_name_or_path=name)
        return pipeline

    @classmethod
    def components_left_out(cls, call_defaults: Mapping[str, Any]) -> set[str]:
        """Name the components that a model with these call defaults does without, so that it loads without them."""
        return set()

    @classmethod
    def check_options(cls, options: Index) -> None:
        """Raise ValueError if options of the constructor have values that are not allowed."""

    @classmethod
    def _check_saved(cls, folder: Path, given: Index) -> None:
        options = {key: value for key, value in read_pipeline_index(folder).items() if key not in given}
        try:
            cls.check_options(options)
        except ValueError as error:
            raise ModelFolderError(f"{folder / INDEX_FILE}: {error}") from error

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike[str]) -> dict[str, Any]:
        """Read `model_index.json`, without the name of the file that holds the class if the class is this one.

        diffusers would run the file, even before the repository's code can be checked.

        Raises:
            ValueError: if there is the name of another file, and it is not trusted.
        """
        index: dict[str, Any] = super()._dict_from_json_file(json_file)
        for kind in cls.__mro__:
            if index.get("_class_name") == index_class_name(kind):
                index["_class_name"] = kind.__name__
        return _checked.get()(index)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        card: CardDetails | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the pipeline's folder, and with `push_to_hub` upload it.

        Args:
            save_directory: the folder, which is created.
            safe_serialization, variant, max_shard_size, kwargs: see `DiffusionPipeline.save_pretrained`.
            push_to_hub: whether to upload the pipeline's files in one commit.
            repo_id: repository to upload to, by default one with the folder's name.
            commit_message, private, token, create_pr, card: see `push_to_hub`.

        Raises:
            HfHubHTTPError, RuntimeError, ValueError: see `push_to_hub`.
        """
        folder = Path(save_directory)
        super().save_pretrained(folder, safe_serialization, variant, max_shard_size, **kwargs)
        write_stubs(folder, type(self))
        if push_to_hub:
            repo_id = create_repository(repo_id or folder.resolve().name, private, token)
            self._upload(folder, repo_id, card or self.card_details, commit_message, token, create_pr)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        card: CardDetails | None = None,
    ) -> CommitInfo:
        """Upload the pipeline to the Hub, in one commit: weights, code and model card.

        Args:
            repo_id: "owner/name", or a name in your own namespace; it is created if it does not exist.
            commit_message: by default one that names the pipeline.
            private: whether only you see the repository, if it is created now; None is the owner's default.
            token: token with the right to write; None is that of `hf auth login`.
            create_pr: whether to open a pull request instead of committing to the main branch.
            safe_serialization, variant: see `save_pretrained`.
            card: what the model card says besides the method and its use. A card that somebody has written is kept.

        Raises:
            HfHubHTTPError: if the Hub refuses, for instance because the token may not write there.
            RuntimeError: if a file could not be uploaded; the repository is then as it was.
            ValueError: if the Hub does not accept the card's metadata.
        """
        repo_id = create_repository(repo_id, private, token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization, variant)
            return self._upload(Path(folder), repo_id, card or self.card_details, commit_message, token, create_pr)

    def _upload(
        self,
        folder: Path,
        repo_id: str,
        details: CardDetails,
        commit_message: str | None,
        token: str | None,
        create_pr: bool,
    ) -> CommitInfo:
        """Upload what `save_pretrained` wrote into the folder, and nothing else that may be there."""
        return upload_files(
            repo_id,
            folder_files(folder, [self.config_name, PIPELINE_FILE, *self.components]) | picture_paths(details),
            render_model_card(repo_id, type(self), details),
            commit_message or f"Upload {type(self).__name__}",
            token,
            create_pr,
        )


@contextmanager
def _check_indices(check: Callable[[Index], Index]) -> Iterator[None]:
    """Pass every `model_index.json` that diffusers reads inside the `with` block through `check`."""
    token = _checked.set(check)
    try:
        yield
    finally:
        _checked.reset(token)


def _refuse_other_class(index: Index) -> Index:
    """Refuse a file that holds the class: diffusers runs a community pipeline of its name without asking for trust."""
    if isinstance(index.get("_class_name"), list):
        raise ValueError(
            f"The pipeline's class is in code of its own, {index['_class_name']}: pass `trust_remote_code=True` if "
            "you trust it."
        )
    return index
