"""`hf-tsrep info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..hub.card_parts import describe_input, result_rows
from ..hub.cards import describe_preparation, parameter_count
from ..hub.transfers import hub_error, is_of_the_hub
from ..modeling.files_time_series import SUMS_FILE, read_sums
from ..opening import local_folder, read_config
from ..registry import get_method
from ..results import RESULTS_FILE, read_results

_WEIGHTS = ("*.safetensors", "*.py")  # what is not needed to tell what a model is


def info_command(model: Annotated[str, typer.Argument(help="Folder of a model, or its id on the Hub.")]) -> None:
    """Tell what a model is: method, sizes, inputs, preparation, training, results, files.

    Of a model on the Hub nothing but its small files is downloaded.
    """
    for name, value in facts_of(model):
        typer.echo(f"{name + ':':<13}{value}")


def facts_of(model: str) -> list[tuple[str, str]]:
    """Return what a model is, as names and words.

    Args:
        model: Folder or Hub id.

    Raises:
        FileNotFoundError: There is no such folder.
        OSError: It is not on the Hub, or the Hub cannot be reached.
    """
    from ..training.saving import read_training_record

    folder = local_folder(model) or _small_files(model)
    config = read_config(str(folder))
    method = get_method(config.model_type)
    extractor_file = folder / "preprocessor_config.json"
    extractor = json.loads(extractor_file.read_text(encoding="utf-8")) if extractor_file.is_file() else None
    count = parameter_count(folder)
    sums = read_sums(folder) if (folder / SUMS_FILE).is_file() else {}
    weights = [f"{name} {value[:16]}" for name, value in sums.items() if name.endswith(".safetensors")]
    results = read_results(folder / RESULTS_FILE) if (folder / RESULTS_FILE).is_file() else []
    rows = [row for row in result_rows(results) if row.mean is not None]
    facts = [
        ("model", f"{model}: {(config.architectures or ['?'])[0]}"),
        (
            "method",
            f"{method.title} ({method.paper.authors.split(',')[0]} et al., {method.paper.venue} {method.paper.year})",
        ),
        ("sizes", f"embeddings of {config.embedding_size}" + (f", {count:,} parameters" if count else "")),
        ("inputs", f"{describe_input(config)}, of any length"),
        ("preparation", describe_preparation(extractor)),
        ("training", _training_words(read_training_record(str(folder)))),
        ("results", "; ".join(f"{row.corpus} {row.metric} {row.mean:.4g}" for row in rows) or "none recorded"),
        ("files", f"{len(sums)} in {SUMS_FILE}" if sums else "no SHA256SUMS"),
        ("sha256", ", ".join(weights) or "unknown"),
    ]
    return facts


def _training_words(record: dict[str, Any]) -> str:
    if not record:
        return "not recorded"
    what = record.get("task") or f"stage {record.get('stage', 'model')}"
    return f"{what} on {', '.join(map(str, record.get('corpus') or ['?']))}, recipe {record.get('recipe', '?')}"


def _small_files(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, ignore_patterns=list(_WEIGHTS)))
    except Exception as error:
        if is_of_the_hub(error) or isinstance(error, FileNotFoundError):
            raise hub_error(error, repo_id) from error
        raise
