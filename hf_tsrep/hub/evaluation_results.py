"""Results as the Hub's leaderboards read them: `.eval_results/*.yaml`, for corpora that are benchmarks of the Hub.

The form is https://huggingface.co/docs/hub/eval-results: a data set becomes a benchmark by an `eval.yaml` that names
its tasks, and an entry of a model gives one value for one of these. Every number stays in results.json and in the
card's model-index, for any corpus.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.known_corpora import find_known_corpus
from ..errors import one_line
from ..files import replace_file
from ..modeling.publishing_time_series import EVAL_RESULTS_FILE, PLACEHOLDER_ID
from ..results import RESULTS_FILE, read_results
from .card_parts import ResultRow, hub_metric, result_rows

if TYPE_CHECKING:
    from huggingface_hub import EvalResultEntry

logger = logging.getLogger(__name__)

BENCHMARK_FILE = "eval.yaml"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_KEYS = {"dataset", "value", "verifyToken", "date", "source", "evaluation_framework", "notes"}
_DATASET_KEYS = {"id", "task_id", "revision"}

Tasks = Callable[[str], Sequence[Mapping[str, Any]]]


def hub_dataset_id(corpus: str) -> tuple[str, str] | None:
    """Return a corpus's id on the Hub and its configuration; None where it has none.

    Args:
        corpus: Name of a corpus: an id such as `owner/name` or `owner/name:configuration`; a name that only hf_tsrep
            knows (`ett/ETTh1`) and a file are none.
    """
    name, _, configuration = corpus.partition(":")
    is_id = _HUB_ID.fullmatch(name) is not None and find_known_corpus(name) is None
    return (name, configuration or "default") if is_id else None


def benchmark_tasks(dataset_id: str) -> Sequence[Mapping[str, Any]]:
    """Return the tasks of a data set's eval.yaml, read from the Hub or its cache.

    Args:
        dataset_id: Id of the data set.

    Returns:
        Mappings with `id`, `config` and `split`; none where the data set is no benchmark or cannot be reached.
    """
    import yaml
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(dataset_id, BENCHMARK_FILE, repo_type="dataset")
        stored = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        tasks = stored.get("tasks") if isinstance(stored, Mapping) else None
        return [one for one in tasks or () if isinstance(one, Mapping) and one.get("id")]
    except (
        Exception
    ) as error:  # no such repository, no such file, no network, no YAML: the Hub can show no result there
        logger.info(
            "%s has no %s that can be read (%s): no entry for it.", dataset_id, BENCHMARK_FILE, one_line(error)
        )
        return []


def evaluation_entries(rows: Sequence[ResultRow], tasks_of: Tasks = benchmark_tasks) -> list[EvalResultEntry]:
    """Return the entries of results on benchmarks of the Hub: of each protocol its main metric.

    Args:
        rows: Rows of a card.
        tasks_of: Gives the tasks of a data set by its id.
    """
    from huggingface_hub import EvalResultEntry

    entries = []
    for row in _main_rows(rows):
        found = hub_dataset_id(row.corpus)
        task_id = None if found is None else _task_of(*found, tasks_of(found[0]))
        if found is None or task_id is None:
            continue
        entries.append(
            EvalResultEntry(
                dataset_id=found[0],
                task_id=task_id,
                value=row.mean,
                date=max((one.date for one in row.results if one.date), default=None),
                source_url=f"https://huggingface.co/{PLACEHOLDER_ID}/blob/main/{RESULTS_FILE}",
                source_name=RESULTS_FILE,
                notes=entry_notes(row),
            )
        )
    return entries


def _main_rows(rows: Sequence[ResultRow]) -> Iterator[ResultRow]:
    """Yield one row of each protocol's runs: the first metric, over all horizons where it is one of several."""
    groups: dict[int, list[ResultRow]] = {}
    for row in rows:
        if row.mean is not None:
            groups.setdefault(id(row.results), []).append(row)
    for group in groups.values():
        plain = hub_metric(group[0].metric)
        yield next((row for row in group if row.metric == plain), group[0])


def entry_notes(row: ResultRow) -> str:
    """Return what an entry tells of its value: metric, protocol and its variant, seeds."""
    seeds = f"seed{'' if len(row.seeds) == 1 else 's'} {', '.join(map(str, row.seeds))}"
    return "; ".join(filter(None, (row.metric, row.results[0].protocol, row.variant, seeds)))


def _task_of(dataset_id: str, configuration: str, tasks: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the one task of a benchmark that is the test part of a configuration; None where there is not one."""
    fitting = [
        str(one["id"])
        for one in tasks
        if one.get("split", "test") == "test" and one.get("config", "default") == configuration
    ]
    if len(fitting) == 1:
        return fitting[0]
    if tasks:
        told = f"{len(fitting)} of its tasks fit" if fitting else "none of its tasks is"
        logger.warning("%s: %s configuration %s, split test: no entry.", dataset_id, told, configuration)
    return None


def write_evaluation_results(folder: Path, tasks_of: Tasks = benchmark_tasks) -> Path | None:
    """Write .eval_results/hf-tsrep.yaml of a model folder from its results.json.

    Args:
        folder: A model folder.
        tasks_of: Gives the tasks of a data set by its id.

    Returns:
        The file; None where no result is on a benchmark of the Hub that can be reached: nothing is written then.
    """
    import yaml
    from huggingface_hub import eval_result_entries_to_yaml

    results = folder / RESULTS_FILE
    entries = evaluation_entries(result_rows(read_results(results)) if results.is_file() else [], tasks_of)
    path = folder / EVAL_RESULTS_FILE
    if not entries:
        return None
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=1000)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(exist_ok=True)
        replace_file(path, lambda stream: stream.write(text.encode()))
    return path


def evaluation_faults(folder: Path, rows: Sequence[ResultRow]) -> Iterator[str]:
    """Yield what is wrong with the files of .eval_results, one sentence each, without the Hub.

    Args:
        folder: A model folder.
        rows: Rows of its results.json.
    """
    measured = {(found[0], entry_notes(row)): row.mean for row in rows if (found := hub_dataset_id(row.corpus))}
    for path in sorted((folder / EVAL_RESULTS_FILE).parent.glob("*.yaml")):
        name = path.relative_to(folder).as_posix()
        for place, entry in _entries_of(path):
            told = f"{name}, entry {place}" if place else name
            if isinstance(entry, str):
                yield f"{told}: {entry}."
                continue
            for fault in _entry_faults(entry):
                yield f"{told}: {fault}."
            key = (str(_dataset_of(entry).get("id")), str(entry.get("notes")))
            if path == folder / EVAL_RESULTS_FILE and measured.get(key) != entry.get("value"):
                was = f"it is {measured[key]}" if key in measured else "there is no such result"
                yield f"{told}: the value {entry.get('value')} on {key[0]} is not from {RESULTS_FILE}, where {was}."


def _entries_of(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Yield number and content of every entry of a file, or what is wrong with it."""
    import yaml

    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        yield 0, f"it is no YAML ({one_line(error)})"
        return
    if not isinstance(stored, list) or not stored:
        yield 0, "it is no list of entries"
        return
    for place, entry in enumerate(stored, start=1):
        yield place, entry if isinstance(entry, Mapping) else "it is no mapping"


def _dataset_of(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    dataset = entry.get("dataset")
    return dataset if isinstance(dataset, Mapping) else {}


def _entry_faults(entry: Mapping[str, Any]) -> Iterator[str]:
    dataset, value, source = _dataset_of(entry), entry.get("value"), entry.get("source")
    for name in sorted(map(str, set(entry) - _KEYS | set(dataset) - _DATASET_KEYS)):
        yield f"the Hub knows no field {name}"
    if hub_dataset_id(str(dataset.get("id", ""))) is None:
        yield f"dataset.id is {dataset.get('id')}, which is no id of the Hub (owner/name)"
    if not dataset.get("task_id"):
        yield f"dataset.task_id is missing, a task of the data set's {BENCHMARK_FILE}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        yield f"value is {value}, which is no number"
    if source is not None and not (isinstance(source, Mapping) and source.get("url")):
        yield "source has no url"
    if entry.get("date") is not None and not _is_date(entry["date"]):
        yield f"date is {entry['date']}, which is not as ISO 8601 writes one"


def _is_date(value: Any) -> bool:
    try:
        datetime.fromisoformat(str(value))
    except ValueError:
        return False
    return True
