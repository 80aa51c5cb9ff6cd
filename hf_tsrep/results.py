"""Results of evaluations as files: `results.json` holds a list, one entry a model, corpus, protocol and seed."""

from __future__ import annotations

import json
import logging
import math
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from .files import replace_file
from .modeling.files_time_series import sums_kept

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
RESULTS_FILE = "results.json"
_PACKAGES = ("torch", "transformers", "datasets", "numpy", "scikit-learn", "hf-tsrep")


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation that was really run.

    Attributes:
        protocol: A name of `hf_tsrep.evaluation.PROTOCOLS`.
        corpus: Corpus name.
        metrics: Flat name -> number; None where a metric is undefined (NaN).
        model: Hub id, or the name of the local folder.
        method: Model type, such as `ts2vec`.
        seed: Seed of the run that the spread is taken over (of the pre-training, where it differs from run to run).
        revision: Commit of the model on the Hub, where known.
        commit: Commit of the hf_tsrep sources, where they are a git checkout.
        corpus_fingerprint: `hf_tsrep.data.corpus_fingerprint` of what was evaluated.
        settings: Of the protocol.
        details: What the protocol chose, such as penalties.
        timings: Seconds.
        versions: Of Python and the packages that matter.
        date: UTC, ISO 8601.
    """

    protocol: str
    corpus: str
    metrics: dict[str, float | None]
    model: str = ""
    method: str = ""
    seed: int = 0
    revision: str | None = None
    commit: str | None = None
    corpus_fingerprint: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    details: Any = None
    timings: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    date: str = ""

    @property
    def setting(self) -> str:
        """The variant of the protocol, such as `univariate` or `cold-start`; empty where there is one only."""
        return str(self.settings.get("setting", ""))

    @property
    def identity(self) -> tuple[str, ...]:
        """What a newer run replaces: the same model, corpus, protocol, settings and seed."""
        settings = json.dumps(plain_values(self.settings), sort_keys=True)
        return (self.protocol, self.corpus, self.model, self.method, str(self.seed), settings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types (NaN and infinity become None)."""
        return {key: value for key, value in plain_values(asdict(self)).items() if value not in (None, {}, [])}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EvaluationResult:
        """Return the result of `to_dict`; fields of a later version are ignored.

        Raises:
            ValueError: A missing field, or metrics that are not numbers; the message names it.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"an entry is {type(values).__name__}, not an object")
        for name in ("protocol", "corpus", "metrics"):
            if name not in values:
                raise ValueError(f"an entry has no {name!r}; it has {', '.join(map(str, values))}")
        metrics = values["metrics"]
        if not isinstance(metrics, Mapping):
            raise ValueError(f"'metrics' is {type(metrics).__name__}, not an object")
        for name, value in metrics.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"metric {name!r} is {value!r}, not a number")
        known = {one.name for one in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


def environment_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    import platform
    from importlib import metadata

    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def source_commit() -> str | None:
    """Return the git commit of the hf_tsrep sources, `-dirty` appended where they were changed; None elsewhere."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def write_results(path: str | Path, results: EvaluationResult | Iterable[EvaluationResult]) -> Path:
    """Add results to a file; entries of other models, corpora, protocols, settings and seeds stay.

    The file is replaced in one step, so that a reader never sees half of it.

    Args:
        path: A `.json` file, or a folder that gets `results.json`.
        results: One or several; each replaces an entry of the same identity.

    Returns:
        The file.

    Raises:
        ValueError: The file exists and is not a results file.
    """
    file = Path(path) if str(path).endswith(".json") else Path(path) / RESULTS_FILE
    new = [results] if isinstance(results, EvaluationResult) else list(results)
    entries = {one.identity: one for one in (read_results(file) if file.exists() else [])}
    for one in new:
        entries[one.identity] = one
    text = json.dumps(
        {"format": FORMAT_VERSION, "results": [one.to_dict() for one in entries.values()]},
        indent=1,
        ensure_ascii=False,
        allow_nan=False,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    with sums_kept(file.parent, begins=False):
        replace_file(file, lambda stream: stream.write((text + "\n").encode()))
    return file


def read_results(file: str | Path) -> list[EvaluationResult]:
    """Return the entries of one results file.

    Raises:
        ValueError: Not JSON, no list `results`, or a bad entry; the message names the file.
    """
    content = _read_json(Path(file))
    if not _is_results(content):
        raise ValueError(f"{file}: not a results file (no list 'results').")
    return _entries(Path(file), content)


def load_results(directory: str | Path) -> list[EvaluationResult]:
    """Return the results of every JSON file in a folder and the folders below, by file name.

    JSON files without a list `results` (configurations, for example) are passed over.

    Args:
        directory: A folder, or one file.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: A file is not JSON or has a bad entry; the message names the file.
    """
    place = Path(directory)
    if place.is_file():
        return read_results(place)
    if not place.is_dir():
        raise FileNotFoundError(f"No folder or file {str(directory)!r} with results.")
    results: list[EvaluationResult] = []
    for file in sorted(place.rglob("*.json")):
        content = _read_json(file)
        if _is_results(content):
            results.extend(_entries(file, content))
        else:
            logger.info("%s is not a results file: passed over.", file)
    return results


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not valid JSON ({error}). Repair or remove the file.") from error


def _is_results(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("results"), list)


def _entries(file: Path, content: Mapping[str, Any]) -> list[EvaluationResult]:
    entries = []
    for position, values in enumerate(content["results"]):
        try:
            entries.append(EvaluationResult.from_dict(values))
        except ValueError as error:
            raise ValueError(f"{file}, entry {position}: {error}.") from error
    return entries


def plain_values(value: Any) -> Any:
    """Return plain JSON types; NaN becomes None and infinity a string."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain_values(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain_values(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value if isinstance(value, str | int | float | bool | None) else str(value)
