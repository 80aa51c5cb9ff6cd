"""`hf-tsrep detect`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ..inference.inputs import InputSeries, read_input_series
from ..inference.tables import FIGURE_SUFFIXES, check_output, write_answers
from ..visualization_detection import plot_detection
from .arguments import (
    DataDirectory,
    Device,
    Domain,
    Model,
    Revision,
    TrustRemoteCode,
    check_names,
    parse_fields,
    split_at_commas,
    take_reading,
)
from .models import OpenedModel, open_model

if TYPE_CHECKING:
    from ..inference.detection import Detection
    from ..modeling.alarms_time_series import Alarm

_SHOWN = 10  # alarms that are printed


def detect_command(
    context: typer.Context,
    model: Model,
    input: Annotated[str, typer.Option(help="File, folder, known name or Hub id of the series to examine.")],
    output: Annotated[Path, typer.Option(help="File to write, a score a timestamp: .csv or .parquet.")],
    figure: Annotated[
        Path | None, typer.Option(help="Picture of series, scores and alarms: .png, .svg, .pdf.")
    ] = None,
    reference: Annotated[
        str,
        typer.Option(
            help="What is normal: share (0.5) or number of the first steps, or a file that is read as the input is."
        ),
    ] = "0.5",
    score: Annotated[
        str | None,
        typer.Option(help="masked-difference or distance; default the first where the model's encode can mask."),
    ] = None,
    context_length: Annotated[
        int | None, typer.Option(min=2, help="Steps that a score sees; default 201, or 64 for distances.")
    ] = None,
    deviations: Annotated[
        float, typer.Option(min=0, help="Threshold: mean of the reference's scores and so many deviations.")
    ] = 4.0,
    threshold: Annotated[float | None, typer.Option(help="The threshold itself, in place of that rule.")] = None,
    gap: Annotated[int, typer.Option(min=0, help="Alarms that are at most so many steps apart are one.")] = 7,
    difference: Annotated[
        bool | None,
        typer.Option(
            "--difference/--no-difference",
            help="Whether a masked difference is taken of differences, until the reference is stationary (Dickey-"
            "Fuller test, as published); default where that can be done: one channel, no missing values, statsmodels.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows in one forward pass.")] = 256,
    splits: Annotated[str | None, typer.Option(help="Splits to examine, with commas; default all.")] = None,
    domain: Domain = None,
    device: Device = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    data_directory: DataDirectory = None,
) -> None:
    """Find what is unlike the reference in series: a score a timestamp, a threshold, alarms.

    No label is needed. A score sees nothing after its timestamp: it is TS2Vec's masked difference where the model's
    encode can mask, else the distance of the last steps to the nearest ones of the reference. Alarms go into
    NAME.alarms.csv beside the output.
    """
    from hf_tsrep import detect

    check_output(output)
    if figure is not None:
        check_output(figure, FIGURE_SUFFIXES, "--figure")
    fields = parse_fields(context.args)
    given = take_reading(fields)
    check_names(context, fields, (), "detect")
    opened = open_model(model, revision=revision, device=device, trust_remote_code=trust_remote_code)
    corpus = opened.load_input(input, given, data_directory)
    told: dict[str, Any] = opened.domain_of(domain, input, corpus)
    examined = read_input_series(opened.model, corpus, split_at_commas(splits), told)
    part: Any = _part(reference)
    if part is None:
        known = opened.load_input(reference, given, data_directory)
        part = read_input_series(opened.model, known, None, told).series
    answer: Any = detect(
        opened.model,
        examined.series,
        reference=part,
        score=score,
        context_length=context_length,
        deviations=deviations,
        threshold=threshold,
        gap=gap,
        difference=difference,
        timestamps=examined.dates,
        batch_size=batch_size,
        show_progress_bar=not context.find_root().params.get("quiet"),
        **told,
    )
    found: list[Detection] = answer
    provenance = opened.sign(found[0].provenance, corpus) if found else {}
    if isinstance(part, list):
        provenance["reference"] = Path(reference).name
    files = write_answers(output, _score_columns(examined, found), provenance)
    alarm_file = output.with_suffix(f".alarms{output.suffix}")
    files += write_answers(alarm_file, _alarm_columns(examined, found), provenance)
    if figure is not None:
        files.append(_draw(figure, opened, examined, found))
    for line in _summary(examined, found):
        typer.echo(line)
    typer.echo(", ".join(map(str, files)))


def _part(written: str) -> float | int | None:
    """Return the share or the number of steps that --reference says; None where it names series."""
    for kind in (int, float):
        try:
            return kind(written)
        except ValueError:
            continue
    return None


def _score_columns(examined: InputSeries, found: Sequence[Detection]) -> dict[str, np.ndarray]:
    """Return one row a timestamp."""
    lengths = [len(one.scores) for one in found]
    steps = [np.arange(length) for length in lengths]
    columns = {
        "item_id": np.repeat(np.asarray(examined.item_ids), lengths),
        "split": np.repeat(np.asarray(examined.splits), lengths),
        "step": np.concatenate(steps),
    }
    if examined.dates is not None:
        columns["timestamp"] = np.concatenate(examined.dates)
    columns["score"] = np.concatenate([one.scores for one in found])
    columns["threshold"] = np.repeat([one.threshold for one in found], lengths)
    columns["alarm"] = np.concatenate([one.is_alarm for one in found]).astype(np.int8)
    is_reference = [step < one.reference_length for step, one in zip(steps, found, strict=True)]
    columns["reference"] = np.concatenate(is_reference).astype(np.int8)
    return columns


def _alarm_columns(examined: InputSeries, found: Sequence[Detection]) -> dict[str, np.ndarray]:
    """Return one row an alarm; its first and its last step belong to it."""
    counts = [len(one.alarms) for one in found]
    alarms = [alarm for one in found for alarm in one.alarms]
    columns = {
        "item_id": np.repeat(np.asarray(examined.item_ids), counts),
        "split": np.repeat(np.asarray(examined.splits), counts),
        "start": np.asarray([one.start for one in alarms], dtype=np.int64),
        "end": np.asarray([one.end for one in alarms], dtype=np.int64),
    }
    if examined.dates is not None:
        columns["start_time"] = np.asarray([one.start_time for one in alarms], dtype=examined.dates[0].dtype)
        columns["end_time"] = np.asarray([one.end_time for one in alarms], dtype=examined.dates[0].dtype)
    columns["peak"] = np.asarray([one.peak for one in alarms], dtype=np.int64)
    columns["score"] = np.asarray([one.score for one in alarms], dtype=np.float64)
    columns["threshold"] = np.repeat(np.asarray([one.threshold for one in found]), counts)
    return columns


def _summary(examined: InputSeries, found: Sequence[Detection]) -> list[str]:
    alarms = [(name, one) for name, each in zip(examined.item_ids, found, strict=True) for one in each.alarms]
    where = f"in {len(found)} series" if len(found) > 1 else f"in {examined.item_ids[0]}"
    lines = [f"{len(alarms)} alarm{'' if len(alarms) == 1 else 's'} {where}"]
    lines += [f"  {_spell(name, alarm)}" for name, alarm in alarms[:_SHOWN]]
    return lines + ([f"  and {len(alarms) - _SHOWN} more"] if len(alarms) > _SHOWN else [])


def _spell(name: str, alarm: Alarm) -> str:
    dates = "" if alarm.start_time is None else f", {_date(alarm.start_time)} to {_date(alarm.end_time)}"
    return f"{name}: steps {alarm.start} to {alarm.end}{dates}, score {alarm.score:.3g}"


def _date(value: Any) -> str:
    return str(value.astype("datetime64[s]")) if isinstance(value, np.datetime64) else str(value)


def _draw(path: Path, opened: OpenedModel, examined: InputSeries, found: Sequence[Detection]) -> Path:
    """Draw the series whose largest score is furthest above its threshold."""

    def excess(one: Detection) -> float:
        after = one.scores[one.reference_length :]
        return float(np.nanmax(after)) - one.threshold if np.isfinite(after).any() else -np.inf

    index = max(range(len(found)), key=lambda place: excess(found[place]))
    return plot_detection(
        found[index],
        examined.series[index],
        path,
        channel_names=examined.channel_names,
        title=f"{examined.item_ids[index]}: {opened.name}",
    )
