"""The results in the card of a local model folder, brought up to date; the rest of the card stays as it is."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from ..modeling.files_time_series import sums_kept
from .cards import build_model_card
from .evaluation_results import write_evaluation_results

logger = logging.getLogger(__name__)

_RESULTS = re.compile(r"^## Results\n.*?(?=^## |\Z)", flags=re.MULTILINE | re.DOTALL)


def refresh_results(folder: Path) -> Path | None:
    """Write the results of results.json into README.md: its section of results, and what the Hub reads in its header.

    Results on a benchmark of the Hub also go to .eval_results.

    Args:
        folder: Model folder.

    Returns:
        The card, or None where the folder has no card with results and none was written.
    """
    from huggingface_hub import ModelCard

    path = folder / "README.md"
    write_evaluation_results(folder)
    new = build_model_card(folder)
    if not path.is_file():
        _save(new, path)
        return path
    old: Any = ModelCard.load(path)
    section = _RESULTS.search(new.text)
    if section is None or not _RESULTS.search(old.text):
        logger.warning("%s has no section of results; it stays as it is.", path)
        return None
    old.text = _RESULTS.sub(lambda _: section.group(), old.text, count=1)
    data: Any = new.data
    old.data.model_name = old.data.model_name or data.model_name
    old.data.eval_results = data.eval_results
    _save(old, path)
    return path


def _save(card: Any, path: Path) -> None:
    with sums_kept(path.parent, begins=False):
        card.save(path)


def add_figure(folder: Path, file: str, caption: str) -> None:
    """Show a picture of the folder in its card, in front of the results; nothing happens where it is shown already.

    Args:
        folder: Model folder with a README.md.
        file: Name of the picture in it.
        caption: What the picture shows.
    """
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8")
    if f"]({file})" not in text:
        shown = text.replace("\n## Results\n", f"\n![{caption}]({file})\n\n## Results\n", 1)
        with sums_kept(folder, begins=False):
            path.write_text(shown, encoding="utf-8")
