"""The corpora that have a name: where their files lie, how they are split, and on which terms they may be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .corpus import CorpusError
from .scaling import UCR_NOT_NORMALISED

SHARE_70_10_20 = "70/10/20"
ETT_MONTHS = "12/4/4 months"


@dataclass(frozen=True)
class KnownCorpus:
    """A corpus with a name.

    Attributes:
        name: `family/NAME`.
        reader: `csv`, `ts`, `npz`, `nab` or `ucr_anomaly`.
        task: See `CorpusMetadata.task`.
        files: Its file (`.ts`: the folder), relative to the data directory; the first that exists counts.
        split: How one long series is cut, or None where the files hold the splits.
        recommended_scaler: `standard`, `global` or None: what the literature does.
        licence: Hub licence id.
        channel_names: Where the file does not say them.
        may_be_tangled: Whether copies with channels and steps tangled are in circulation; see `untangle_channels`.
    """

    name: str
    reader: str
    task: str
    files: tuple[str, ...]
    split: str | None = None
    recommended_scaler: str | None = None
    target: str | None = None
    domain: str = ""
    licence: str = "unknown"
    source: str = ""
    url: str = ""
    citation: str = ""
    missing_mark: float | None = None
    keep_duplicates: bool = False
    one_series_per_column: bool = False
    label_column: str | None = None
    channel_names: tuple[str, ...] | None = None
    may_be_tangled: bool = False


# What the literature on self-supervised learning calls a corpus by, where several have a similar name.
SHORT_NAMES = {"epilepsy": "sensor/Epilepsy_TSTCC", "har": "sensor/HAR"}

HAR_CHANNELS = tuple(f"{sensor}_{axis}" for sensor in ("body_acc", "body_gyro", "total_acc") for axis in "xyz")

UCR_URL = "https://www.timeseriesclassification.com"
ETT_CITATION = (
    "Zhou et al., Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting, AAAI 2021."
)


def _ett(name: str) -> KnownCorpus:
    return KnownCorpus(
        name=f"ett/{name}",
        reader="csv",
        task="forecasting",
        files=(f"forecasting/{name}.csv", f"ETT-small/{name}.csv", f"{name}.csv"),
        split=ETT_MONTHS,
        recommended_scaler="standard",
        target="OT",
        domain="energy",
        licence="cc-by-nd-4.0",
        source="zhouhaoyi/ETDataset",
        url="https://github.com/zhouhaoyi/ETDataset",
        citation=ETT_CITATION,
    )


def _forecasting(name: str) -> KnownCorpus:
    facts = {
        "exchange_rate": ("finance", "laiguokun/multivariate-time-series-data", "OT"),
        "weather": ("weather", "Max Planck Institute for Biogeochemistry, Jena", "OT"),
        "electricity": ("energy", "UCI ElectricityLoadDiagrams20112014", "MT_001"),
        "traffic": ("traffic", "California Department of Transportation, PeMS", "OT"),
    }
    other_names = {"electricity": ("forecasting/ECL.csv", "forecasting/LD2011_2014.txt")}
    domain, source, target = facts.get(name, ("", "", None))
    return KnownCorpus(
        name=f"forecasting/{name}",
        reader="csv",
        task="forecasting",
        files=(f"forecasting/{name}.csv", f"{name}.csv", *other_names.get(name, ())),
        split=SHARE_70_10_20,
        recommended_scaler="standard",
        target=target,
        domain=domain,
        source=source,
        missing_mark=-9999.0 if name == "weather" else None,
        keep_duplicates=name == "weather",
    )


def _archive(family: str, name: str) -> KnownCorpus:
    scaler = "standard" if family == "uea" else "global" if name in UCR_NOT_NORMALISED else None
    return KnownCorpus(
        name=f"{family}/{name}",
        reader="ts",
        task="classification",
        files=(f"{family}/{name}", name),
        recommended_scaler=scaler,
        source=f"{family.upper()} time series classification archive",
        url=f"{UCR_URL}/description.php?Dataset={name}",
        citation="Dau et al., The UCR Time Series Archive, 2019."
        if family == "ucr"
        else "Bagnall et al., The UEA Multivariate Time Series Classification Archive, 2018.",
    )


def _sensor(name: str) -> KnownCorpus:
    bonn = "Bonn University EEG (Andrzejak et al., 2001)"
    facts = {
        "HAR": ("activity", "UCI 240, Human Activity Recognition Using Smartphones", "cc-by-4.0"),
        "Epilepsy_TSTCC": ("eeg", f"{bonn}, split of TS-TCC", "unknown"),
        "Epilepsy_TFC": ("eeg", f"{bonn}, split of TF-C", "unknown"),
        "Gesture": ("activity", "uWave accelerometer gestures, split of TF-C", "unknown"),
    }
    domain, source, licence = facts.get(name, ("", "", "unknown"))
    return KnownCorpus(
        name=f"sensor/{name}",
        reader="npz",
        task="classification",
        files=(f"sensor/{name}.npz", f"{name}.npz"),
        channel_names=HAR_CHANNELS if name == "HAR" else None,
        may_be_tangled=name == "HAR",
        domain=domain,
        source=source,
        licence=licence,
    )


def _anomaly(name: str) -> KnownCorpus | None:
    group, _, rest = name.partition("/")
    known: dict[str, Any] = {"name": f"anomaly/{name}", "task": "anomaly", "recommended_scaler": "standard"}
    if group == "KPI_donut" and rest:
        return KnownCorpus(
            **known,
            reader="csv",
            files=(f"anomaly/{name}.csv",),
            split="50/50",
            label_column="label",
            domain="servers",
            source="NetManAIOps/donut",
            url="https://github.com/NetManAIOps/donut",
        )
    if group == "NAB" and rest:
        return KnownCorpus(
            **known,
            reader="nab",
            files=(f"anomaly/NAB/data/{rest}.csv",),
            split="50/50",
            keep_duplicates=True,
            source="Numenta Anomaly Benchmark",
            url="https://github.com/numenta/NAB",
        )
    if group == "SMD" and rest:
        return KnownCorpus(
            **known,
            reader="npz",
            files=(f"anomaly/{name}.npz",),
            domain="servers",
            licence="mit",
            source="Server Machine Dataset, OmniAnomaly",
            url="https://github.com/NetManAIOps/OmniAnomaly",
        )
    if group == "UCR_anomaly" and rest:
        return KnownCorpus(
            **known,
            reader="ucr_anomaly",
            files=(f"anomaly/{name}.txt", f"anomaly/{name}_*.txt"),
            source="UCR anomaly archive",
        )
    return None


def find_known_corpus(name: str) -> KnownCorpus | None:
    """Return what is known about `family/NAME`, or None for another form. It need not exist on this machine."""
    family, _, rest = name.partition("/")
    if not rest or ".." in rest or any(mark in name for mark in "*?[\\\0"):
        return None
    if family == "anomaly":
        return _anomaly(rest)
    if "/" in rest:
        return None
    if family in ("ucr", "uea"):
        return _archive(family, rest)
    families = {"ett": _ett, "forecasting": _forecasting, "sensor": _sensor}
    return families[family](rest) if family in families else None


def complete_name(name: str, candidates: Iterable[str]) -> str | None:
    """Return the one known name that is meant by a name without its folder, or in other upper and lower case.

    Args:
        name: What the user wrote: `har`, `gunpoint` or `SENSOR/har`.
        candidates: The names that load on this machine.

    Returns:
        The short name's corpus (`har` and `epilepsy` are the ones that the literature on self-supervised learning
        means); else the only candidate that is equal without regard to case, or whose part after the last slash is;
        None where there is none or more than one.
    """
    written = name.lower()
    if written in SHORT_NAMES:
        return SHORT_NAMES[written]
    names = list(candidates)
    whole = [one for one in names if one.lower() == written]
    found = whole or [one for one in names if "/" not in written and one.lower().rpartition("/")[2] == written]
    return found[0] if len(found) == 1 else None


def locate(corpus: KnownCorpus, directory: Path) -> Path | None:
    """Return the corpus' file or folder inside a data directory, or None."""
    for pattern in corpus.files:
        if "*" in pattern:
            matches = sorted(directory.glob(pattern))
            if len(matches) > 1:
                names = ", ".join(match.stem for match in matches[:5])
                raise CorpusError(f"{corpus.name}: {len(matches)} files fit ({names}, ...); write one name in full.")
            if matches:
                return matches[0]
        elif (directory / pattern).exists():
            return directory / pattern
    return None


def locate_bundled(corpus: KnownCorpus) -> Path | None:
    """Return the folder of a problem that the installed aeon carries in its package, or None."""
    directory = bundled_directory()
    if corpus.reader != "ts" or directory is None:
        return None
    folder = directory / corpus.name.rpartition("/")[2]
    return folder if (folder / f"{folder.name}_TRAIN.ts").is_file() else None


def bundled_directory() -> Path | None:
    """Return the folder of data files inside the aeon package, found without importing it, or None."""
    from importlib.util import find_spec

    specification = find_spec("aeon")
    if specification is None or specification.origin is None:
        return None
    directory = Path(specification.origin).parent / "datasets" / "data"
    return directory if directory.is_dir() else None


def list_known_corpora(data_directory: str | Path | None = None) -> list[str]:
    """Return the names that load without a network: those of the data directory and those that aeon carries.

    Args:
        data_directory: A folder laid out as `forecasting/`, `ucr/`, `uea/`, `sensor/`, `anomaly/`; by default the
            environment variable `HF_TSREP_DATA`.
    """
    import os

    names: set[str] = set()
    directory = data_directory or os.environ.get("HF_TSREP_DATA")
    if directory:
        names.update(_names_in(Path(directory)))
    bundled = bundled_directory()
    if bundled is not None:
        for file in bundled.glob("*/*_TRAIN.ts"):
            if file.name == f"{file.parent.name}_TRAIN.ts" and file.parent.name != "UnitTest":
                multivariate = file.parent.name in ("BasicMotions", "JapaneseVowels")
                names.add(f"{'uea' if multivariate else 'ucr'}/{file.parent.name}")
    return sorted(names)


def name_in_full(corpus: Any, data_directory: str | Path | None = None) -> str | None:
    """Return the name of a corpus with its folder where it was written without.

    Args:
        corpus: What was written: a name, a path or a Hub id, or an object.
        data_directory: See `list_known_corpora`.

    Returns:
        The full name; what was written where that is no known name; None for an object.
    """
    if not isinstance(corpus, str) or "/" in corpus:
        return corpus if isinstance(corpus, str) else None
    return complete_name(corpus, list_known_corpora(data_directory)) or corpus


def _names_in(directory: Path) -> Iterator[str]:
    for file in directory.glob("forecasting/*.csv"):
        yield f"ett/{file.stem}" if file.stem.startswith("ETT") else f"forecasting/{file.stem}"
    for family in ("ucr", "uea"):
        for folder in directory.glob(f"{family}/*/"):
            yield f"{family}/{folder.name}"
    for file in directory.glob("sensor/*.npz"):
        yield f"sensor/{file.stem}"
    for pattern in ("KPI_donut/*.csv", "SMD/*.npz", "UCR_anomaly/*.txt"):
        for file in (directory / "anomaly").glob(pattern):
            yield f"anomaly/{file.parent.name}/{file.stem}"
    for file in (directory / "anomaly" / "NAB" / "data").glob("*/*.csv"):
        yield f"anomaly/NAB/{file.parent.name}/{file.stem}"
