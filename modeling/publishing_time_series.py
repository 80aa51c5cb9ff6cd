"""What goes to the Hub beside weights and code: card, results, records and pictures of the place a model is from."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils import CONFIG_NAME, cached_file, logging
from transformers.utils.hub import ModelCard

from .files_time_series import sums_kept

logger = logging.get_logger(__name__)

CARD_FILE = "README.md"
# Stands for the repository's id in the card of a folder that is not published yet.
PLACEHOLDER_ID = "your-name/your-model"
# The Hub's form of results on its benchmarks; hf_tsrep writes it.
EVAL_RESULTS_FILE = ".eval_results/hf-tsrep.yaml"
RECORDS = ("results.json", "pretraining.json", "finetuning.json", "training_log.json", EVAL_RESULTS_FILE)
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s:]+)\)")


def add_papers(model: Any, folder: Path, repo_id: str, write_card: Callable[[Path, str], Any] | None = None) -> None:
    """Put the card of a model that was just saved beside it, with what the card speaks of.

    The card of the place that the model was loaded from travels, with results, records and pictures, where the model
    still has those weights and that head: else it would tell of another model.

    Args:
        model: The model.
        folder: Where it was saved.
        repo_id: Id of its repository.
        write_card: What writes a new card, given the folder and the id; None where hf_tsrep is not at hand.
    """
    source, card = folder_of(model), folder / CARD_FILE
    # Of the card that transformers makes, or finds in the repository, the tags are kept.
    tags = list(ModelCard.load(card).data.tags or ()) if card.is_file() else []
    with sums_kept(folder):
        if source is not None and is_as_saved(model, source):
            _copy_papers(model, source, folder, repo_id)
        elif write_card is not None:
            write_card(folder, repo_id)
        else:
            logger.warning(
                f"{repo_id} gets no card of its own: the model is not as it was saved, and only hf_tsrep can write "
                "a new one. Import hf_tsrep before the push."
            )
        if tags:
            _add_tags(card, tags)


def _add_tags(path: Path, tags: list[str]) -> None:
    card: Any = ModelCard.load(path)
    present = list(card.data.tags or ())
    if not set(tags) <= set(present):
        card.data.tags = [*present, *(one for one in tags if one not in present)]
        card.save(path)


def folder_of(model: Any) -> Path | None:
    """Return the folder that a model was loaded from, of one from the Hub that in the cache; None for a new one."""
    place = str(getattr(model, "name_or_path", "") or "")
    if not place or Path(place).is_dir():
        return Path(place) if place else None
    found = _file_of(model, place, CONFIG_NAME)
    return None if found is None else found.parent


def _file_of(model: Any, place: str, name: str) -> Path | None:
    """Return a file of a folder or of a repository on the Hub; None where it has none."""
    found = cached_file(
        place,
        name,
        revision=None if Path(place).is_dir() else getattr(model.config, "_commit_hash", None),
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def is_as_saved(model: Any, source: Path) -> bool:
    """Whether a model has the weights that lie in a folder, and the head that they have for a task."""
    if not (source / CONFIG_NAME).is_file():
        return False
    saved_as = str((json.loads((source / CONFIG_NAME).read_text(encoding="utf-8")).get("architectures") or [""])[0])
    if re.search(r"ForTimeSeries\w+$", saved_as) and saved_as != type(model).__name__:
        return False
    prefix = f"{model.base_model_prefix}."
    own, found = model.state_dict(), set()
    for path in sorted(source.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name, value in own.items():
                of_file = next((one for one in (name, prefix + name, name.removeprefix(prefix)) if one in names), None)
                if of_file is None:
                    continue
                if not torch.equal(file.get_tensor(of_file).to(value.dtype), value.detach().cpu()):
                    return False
                found.add(value.data_ptr())
    return bool(found) and all(value.data_ptr() in found for value in own.values())  # a shared weight is saved once


def _copy_papers(model: Any, source: Path, folder: Path, repo_id: str) -> None:
    place = str(model.name_or_path)
    card = _file_of(model, place, CARD_FILE)
    if card is None:
        return
    text = card.read_text(encoding="utf-8")
    pictures = [one for one in _PICTURE.findall(text) if not Path(one).is_absolute() and ".." not in Path(one).parts]
    for name in (*RECORDS, *dict.fromkeys(pictures)):
        found = _file_of(model, place, name)
        target = folder / name
        if found is not None and not (target.exists() and target.samefile(found)):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, target)
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    names = (PLACEHOLDER_ID,) if Path(place).is_dir() else (PLACEHOLDER_ID, place)
    for path in (folder / CARD_FILE, folder / EVAL_RESULTS_FILE):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            for name in names:
                text = text.replace(name, repo_id)
            path.write_text(text, encoding="utf-8")
