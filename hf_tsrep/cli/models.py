"""Opening a model and what is saved beside it, and loading corpora as its training did."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.domains import find_domain
from ..inference.prediction import auto_class_of_head
from ..inference.provenance import corpus_facts
from ..opening import local_folder, without_file_bars

logger = logging.getLogger(__name__)


@dataclass
class OpenedModel:
    """A model ready to encode.

    Args:
        model: The encoder, in evaluation mode.
        name: Hub id, or the name of the local folder.
        folder: The local folder, or None.
        revision: Commit on the Hub, or None.
        training: The record of its training; empty where there is none.
    """

    model: Any
    name: str
    folder: Path | None
    revision: str | None
    training: dict[str, Any] = field(default_factory=dict)

    def domain_of(self, given: str | None, written: str, corpus: Any) -> dict[str, str]:
        """Return the domain to read a corpus in, as an argument of `encode` and of protocols.

        Args:
            given: As the user says it, or None.
            written: How the user named the corpus.
            corpus: From `load_corpus`.

        Returns:
            `domain`, or nothing where the model has no domains.

        Raises:
            ValueError: See `hf_tsrep.data.domains.find_domain`.
        """
        from ..data import corpus_metadata

        found = find_domain(self.model.config, given, written, corpus_metadata(corpus).name)
        return {} if found is None else {"domain": found}

    def trained_on(self, corpus: str) -> bool:
        """Whether the model was trained on the corpus of this name or path."""
        return corpus in (self.training.get("corpus") or [])

    def reading_of(self, corpus: str) -> dict[str, Any]:
        """Return the options of `load_corpus` that the training on this corpus had; empty for another corpus."""
        from ..training.settings import FileSettings

        recorded = (self.training.get("data") or {}) if self.trained_on(corpus) else {}
        fields = (*(one.name for one in dataclasses.fields(FileSettings)), "target", "split")
        return {name: recorded[name] for name in fields if recorded.get(name) is not None}

    def load_input(
        self, written: str, given: dict[str, Any], data_directory: str | None = None, check_values: bool = True
    ) -> Any:
        """Load the corpus of an answer: raw values, whole series, read as the training read this corpus.

        Args:
            written: How the user named it.
            given: Options of `load_corpus` that were given; they go first.
            data_directory: Where known corpora lie.
            check_values: See `load_corpus`.
        """
        from ..data import load_corpus

        reading = {**self.reading_of(written), **given, "split": "none", "target": None}
        return load_corpus(written, data_directory=data_directory, check_values=check_values, **reading)

    def sign(self, provenance: dict[str, Any], corpus: Any) -> dict[str, Any]:
        """Return the provenance of an answer with the name of the model as the user knows it, and the corpus."""
        return {**provenance, "model": self.name, "revision": self.revision, **corpus_facts(corpus)}

    def reading_of_table(self, written: str) -> dict[str, Any]:
        """Return the options with which new series of the training's kind are read.

        Args:
            written: How the user named the corpus. For one that the model was not trained on it is what the training
                said of its table, but not of labels, which new series need not have.
        """
        from ..training.settings import FileSettings

        if self.trained_on(written):
            return {name: value for name, value in self.reading_of(written).items() if name not in ("target", "split")}
        fields = {one.name for one in dataclasses.fields(FileSettings)} - {"label_column"}
        recorded = self.training.get("data") or {}
        return {name: recorded[name] for name in sorted(fields) if recorded.get(name) is not None}

    def preparation(self) -> dict[str, Any]:
        """Return the scaler and the time features that the training had, for `load_corpus`."""
        recorded = self.training.get("data")
        if recorded:
            return {"scaler": recorded.get("scaler"), "time_features": bool(recorded.get("time_features"))}
        extractor = self.model.preparation
        if extractor is None:
            return {}
        return {
            "scaler": "standard" if extractor.mean is not None else None,
            "time_features": bool(extractor.time_features),
        }


def open_model(
    name_or_path: str,
    *,
    revision: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    with_head: bool = False,
) -> OpenedModel:
    """Load a model and the record of its training.

    Args:
        name_or_path: A folder, or a Hub id.
        revision: Branch, tag or commit on the Hub.
        device: Where to compute; None for cuda where there is one.
        trust_remote_code: Whether code of the repository may run.
        with_head: Whether the head that it was fine-tuned with is opened, too.

    Returns:
        The model in evaluation mode.

    Raises:
        FileNotFoundError: There is no such folder, or no finished model in it.
        ValueError: It is no encoder of time series, or has no head.
        OSError: It is not on the Hub, or the Hub cannot be reached.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    from ..training.saving import read_training_record

    folder = local_folder(name_or_path)
    options: dict[str, Any] = {"revision": revision} if folder is None and revision else {}
    options["trust_remote_code"] = trust_remote_code
    try:
        config = AutoConfig.from_pretrained(name_or_path, **options)
    except OSError as error:
        place = "cannot be read" if folder is not None else "is no folder here, and cannot be had from the Hub"
        raise OSError(f"{name_or_path} {place}: {error}") from error
    auto_class = auto_class_of_head(config, name_or_path) if with_head else AutoModel
    with without_file_bars():
        model = auto_class.from_pretrained(name_or_path, config=config, **options).eval()
    if not hasattr(model, "encode"):
        raise ValueError(
            f"{name_or_path} is a {type(model).__name__}, which has no encode: no encoder of time series."
        )
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return OpenedModel(
        model=model,
        name=folder.resolve().name if folder is not None else name_or_path,
        folder=folder,
        revision=getattr(config, "_commit_hash", None),
        training=read_training_record(name_or_path, options.get("revision")),
    )
