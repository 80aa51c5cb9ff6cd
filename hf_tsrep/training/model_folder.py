"""How a finished folder is written, of any run: whole or not at all, and never lost because of its card or picture."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .figures import plot_loss_curve

logger = logging.getLogger(__name__)

LOG_FILE = "training_log.json"
FIGURE_FILE = "loss_curve.png"
_STAGING = ".saving"


@contextmanager
def staged_folder(output_dir: Path, last_file: str) -> Iterator[Path]:
    """Give a folder to write to, whose files then move to the output folder.

    Args:
        output_dir: Where the files belong; it need not exist.
        last_file: Name of the file that moves last, so that a folder that has it is complete.

    Yields:
        The folder to write to. After an error nothing of it moves.
    """
    staging = output_dir / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    yield staging
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == last_file):
        target = output_dir / path.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    shutil.rmtree(staging)


def write_json(path: Path, values: Any) -> None:
    """Write values as readable JSON."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def save_loss_curve(folder: Path, history: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw the loss where matplotlib is installed and there is something to draw.

    Args:
        folder: Where the picture goes.
        history: What was logged.
        title: Title of the picture.
    """
    try:
        plot_loss_curve(history, folder / FIGURE_FILE, title)
    except ImportError:
        logger.info("matplotlib is not installed; there is no %s.", FIGURE_FILE)
    except ValueError as error:
        logger.warning("There is no %s: %s", FIGURE_FILE, error)


def save_model_card(folder: Path, figure_caption: str, **contents: Any) -> None:
    """Write README.md.

    Args:
        folder: Folder of the saved model, where the card is written.
        figure_caption: What is said of the picture of the loss, where there is one.
        contents: Further arguments of `hf_tsrep.hub.build_model_card`.
    """
    try:
        from ..hub import build_model_card

        figures = {figure_caption: FIGURE_FILE} if (folder / FIGURE_FILE).is_file() else None
        build_model_card(folder, figures=figures, **contents).save(folder / "README.md")
    except Exception:  # whatever is wrong with a card is no reason to lose hours of training
        logger.exception("The model card could not be written; the model itself is saved.")
