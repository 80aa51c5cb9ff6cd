"""How a saved model was trained, read from the record in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .settings import FINETUNING_FILE, SETTINGS_FILE


def read_training_record(name_or_path: str, revision: str | None = None) -> dict[str, Any]:
    """Return the record of a model's pre-training, or else of the fine-tuning that it comes from.

    Args:
        name_or_path: A folder, or a Hub id.
        revision: Branch, tag or commit on the Hub.

    Returns:
        What `hf-tsrep pretrain` or `finetune` wrote, empty where neither did. `corpus` is a list; `data` says with
        which scaler and time features the corpus was really read.
    """
    for file in (SETTINGS_FILE, FINETUNING_FILE):
        record = _read(name_or_path, file, revision)
        if record is None:
            continue
        if file == FINETUNING_FILE:  # its settings may leave to the run how the corpus is prepared; the facts say it
            facts = record.get("facts") or {}
            prepared = {name: facts[name] for name in ("scaler", "time_features") if name in facts}
            corpus = record.get("corpus")
            record |= {"corpus": [corpus] if corpus else [], "data": {**(record.get("data") or {}), **prepared}}
        return record
    return {}


def _read(name_or_path: str, file: str, revision: str | None) -> dict[str, Any] | None:
    from transformers.utils import cached_file

    path = cached_file(
        name_or_path,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
