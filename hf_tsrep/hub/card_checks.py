"""What is wrong with the card of a model folder, found without the Hub."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..modeling.configuration_time_series import PIPELINES
from ..modeling.publishing_time_series import CARD_FILE, PLACEHOLDER_ID
from ..results import RESULTS_FILE, read_results
from .card_parts import UNKNOWN_LICENCE, ResultRow, result_rows
from .evaluation_results import evaluation_faults, hub_dataset_id

_KEYS = ("library_name", "license", "pipeline_tag")
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s:]+)\)")
_LICENCE_OF_CORPUS = re.compile(r"^\| licence \| (.+?) \|", re.MULTILINE)
# Parts of a Creative Commons licence that bind what is made of a work.
_BINDING = {"nc": "forbids commercial use", "nd": "forbids derived works", "sa": "asks for the same licence"}


def card_faults(folder: str | Path) -> list[str]:
    """Return what is wrong with a card, one sentence each; nothing where it can be published.

    Args:
        folder: A model folder.

    Raises:
        FileNotFoundError: There is no card.
    """
    from huggingface_hub import ModelCard

    path = Path(folder) / CARD_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CARD_FILE}: hf_tsrep.build_model_card writes one.")
    try:
        card: Any = ModelCard.load(path)
    except ValueError as error:
        return [f"its header cannot be read ({error})."]
    file = path.parent / RESULTS_FILE
    rows = result_rows(read_results(file)) if file.is_file() else []
    return [
        *_header_faults(card.data),
        *_result_faults(card.data, rows),
        *evaluation_faults(path.parent, rows),
        *_picture_faults(card.text, path.parent),
    ]


def card_notes(folder: str | Path) -> list[str]:
    """Return what somebody should decide before a card is published, one sentence each."""
    from huggingface_hub import ModelCard

    card: Any = ModelCard.load(Path(folder) / CARD_FILE)
    notes = []
    if PLACEHOLDER_ID in card.content:
        notes.append(f"{PLACEHOLDER_ID} stands for the repository; a push fills its id in.")
    found = _LICENCE_OF_CORPUS.search(card.text)
    note = licence_note(str(card.data.license), UNKNOWN_LICENCE if found is None else found[1])
    return notes if note is None else [*notes, note]


def licence_note(weights: str, corpus: str) -> str | None:
    """Return what is to be decided about the licence of weights; None where nothing is.

    Args:
        weights: Hub licence id of the weights.
        corpus: Hub licence id of the corpus.
    """
    parts = set(corpus.lower().split("-")) - set(weights.lower().split("-"))
    binding = " and ".join(what for part, what in _BINDING.items() if part in parts)
    if weights != UNKNOWN_LICENCE and not binding:
        return None
    told = f"the licence of the weights is {weights}, and that of the corpus is {corpus}"
    told += f", which {binding}" if binding else ""
    return f"{told}: decide whether that binds the weights, and write their licence into the header (license)."


def _header_faults(data: Any) -> Iterator[str]:
    absent = [key for key in _KEYS if not data.get(key)]
    if absent:
        yield f"its header has no {', '.join(absent)}."
    tasks = [one.task for one in PIPELINES]
    if data.get("pipeline_tag") and data.pipeline_tag not in tasks:
        yield f"pipeline_tag is {data.pipeline_tag}, which opens no pipeline; it is one of {', '.join(tasks)}."
    datasets = data.get("datasets") or []
    for name in [datasets] if isinstance(datasets, str) else datasets:
        if hub_dataset_id(str(name)) != (str(name), "default"):
            yield f"datasets has {name}, which is no id of the Hub (owner/name); leave it out."


def _result_faults(data: Any, rows: Sequence[ResultRow]) -> Iterator[str]:
    measured = {(row.corpus, row.variant, row.metric): row.mean for row in rows if row.mean is not None}
    told = {
        (one.dataset_name, one.dataset_config or "", one.metric_name or one.metric_type): one.metric_value
        for one in data.eval_results or ()
    }
    for key in sorted(measured.keys() | told.keys()):
        name = " ".join(filter(None, key))
        if key not in told:
            yield f"{name} is in {RESULTS_FILE} and not in its header."
        elif key not in measured:
            yield f"{name} is in its header and not in {RESULTS_FILE}."
        elif not math.isclose(float(told[key]), float(measured[key] or 0.0), rel_tol=1e-9, abs_tol=1e-12):
            yield f"{name} is {told[key]} in its header and {measured[key]} in {RESULTS_FILE}."


def _picture_faults(text: str, folder: Path) -> Iterator[str]:
    for name in _PICTURE.findall(text):
        if not (folder / name).is_file():
            yield f"it shows {name}, which is not in the folder."
