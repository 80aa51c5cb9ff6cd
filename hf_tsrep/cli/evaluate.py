"""`hf-tsrep evaluate`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..hub.card_updates import refresh_results
from .arguments import (
    DataDirectory,
    Device,
    Domain,
    Model,
    Revision,
    TrustRemoteCode,
    check_names,
    parse_fields,
    read_value,
    split_at_commas,
    take_reading,
)
from .models import OpenedModel, open_model
from .progress import training_progress

logger = logging.getLogger(__name__)

_NOT_SETTINGS = ("device", "seed", "show_progress_bar")


def evaluate_command(
    context: typer.Context,
    model: Model,
    corpus: Annotated[str, typer.Option(help="File, folder, known name or Hub id.")],
    protocol: Annotated[
        str, typer.Option(help="classification, forecasting, anomaly, clustering, generation, linear, finetune.")
    ],
    seed: Annotated[int, typer.Option(help="Seed of the protocol.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Results file or folder; default results.json in the model's folder.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="How to cut long series: 70/10/20, '12/4/4 months', none.")] = None,
    target: Annotated[str | None, typer.Option(help="Channels to keep, with commas, or univariate.")] = None,
    scaler: Annotated[
        str | None,
        typer.Option(
            help="none, standard, global, recommended; default as in the training. Fitted on this corpus's train part."
        ),
    ] = None,
    time_features: Annotated[
        bool | None, typer.Option(help="Seven calendar features in front; default as in the training.")
    ] = None,
    domain: Domain = None,
    device: Device = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    data_directory: DataDirectory = None,
) -> None:
    """Evaluate a model by a protocol.

    The result goes into results.json and into the model's card.

    Frozen embeddings: classification, forecasting, anomaly, clustering. A head trained on the frozen encoder: linear.
    The future that a model tells by itself: generation.
    All weights trained: finetune (which keeps no model; `hf-tsrep finetune` does).

    Settings of the protocol are given as fields: --classifiers svm, --horizons 24,48, --pooling mean, --delay 3.
    """
    from hf_tsrep.data import load_corpus
    from hf_tsrep.evaluation import make_result, write_results
    from hf_tsrep.training.protocols import evaluate

    fields = parse_fields(context.args)
    reading = take_reading(fields)
    settings = read_protocol_settings(context, protocol, fields)
    opened = open_model(model, revision=revision, device=device, trust_remote_code=trust_remote_code)
    targets = split_at_commas(target)
    given: dict[str, Any] = {
        "split": split,
        "target": targets[0] if targets and len(targets) == 1 else targets,
    }
    given |= reading
    options = {**opened.reading_of(corpus), **{name: value for name, value in given.items() if value is not None}}
    options |= choose_preparation(opened, protocol, scaler, time_features)
    loaded = load_corpus(corpus, data_directory=data_directory, **options)
    settings |= opened.domain_of(domain, corpus, loaded)
    quiet = bool(context.find_root().params.get("quiet"))
    with training_progress(quiet=quiet):
        outcome = evaluate(opened.model, loaded, protocol, seed=seed, show_progress_bar=not quiet, **settings)
    trains = protocol in ("linear", "finetune")  # then the protocol's own seed tells runs apart
    trained_with = None if trains else (opened.training.get("training") or {}).get("seed")
    result = make_result(
        opened.model,
        loaded,
        protocol,
        outcome,
        seed=seed if trained_with is None else int(trained_with),
        model_name=opened.name if opened.folder is None else str(opened.folder),
    )
    place = output or opened.folder or Path("results.json")
    file = write_results(place, result)
    typer.echo(metrics_text(outcome["metrics"]))
    typer.echo(f"{file}: {protocol} of {result.model} on {result.corpus}")
    if opened.folder is not None and file.parent.resolve() == opened.folder.resolve():
        refresh_results(opened.folder)


def read_protocol_settings(context: typer.Context, protocol: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what was written on the command line into settings of a protocol.

    Args:
        context: The command's.
        protocol: Its name.
        fields: Text by name.

    Returns:
        Values by name.

    Raises:
        ValueError: The protocol is unknown, with the near matches.
        UsageError: A setting is unknown, with the near matches.
    """
    from ..training.protocols import PROTOCOLS, protocol_settings

    known = set(protocol_settings(protocol))
    check_names(context, fields, known - set(_NOT_SETTINGS), f"evaluate --protocol {protocol}")
    parameters = inspect.signature(PROTOCOLS[protocol]).parameters
    return {
        name: read_value(value, is_list="Sequence" in str(parameters[name].annotation))
        for name, value in fields.items()
    }


def choose_preparation(
    opened: OpenedModel, protocol: str, scaler: str | None, time_features: bool | None
) -> dict[str, Any]:
    """Return how the corpus is prepared: as said, else as in the training; the anomaly protocol does it by itself."""
    options = {} if protocol == "anomaly" else opened.preparation()
    if scaler is not None:
        options["scaler"] = None if scaler.lower() == "none" else scaler
    if time_features is not None:
        options["time_features"] = time_features
    return options


def metrics_text(metrics: Mapping[str, float | None]) -> str:
    """Return metrics as a small table, one line each."""
    width = max((len(name) for name in metrics), default=0)
    lines = [f"{name:<{width}}  {'-' if value is None else f'{value:.4f}'}" for name, value in metrics.items()]
    return "\n".join(lines)
