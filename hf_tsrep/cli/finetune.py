"""`hf-tsrep finetune`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..opening import method_of
from ..processes import launched_processes
from ..registry import METHODS
from .arguments import check_names, parse_fields
from .progress import training_progress


def finetune_command(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="Folder or Hub id of a pretrained model; a method's name for random weights.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="File, folder, known name (`hf-tsrep data list`) or Hub id.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="classification (default), multi-label, regression or forecasting.")
    ] = None,
    output_dir: Annotated[str | None, typer.Option(help="Folder of the finished model and its checkpoints.")] = None,
    config: Annotated[str | None, typer.Option(help="YAML file of fields; the command line goes before it.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of --output-dir.")
    ] = False,
    resume_from: Annotated[str | None, typer.Option(help="Go on from this checkpoint folder.")] = None,
) -> None:
    """Fine-tune a pretrained model on a labelled corpus.

    The best epoch on validation data is tested once.

    The fields below, every field of the method's config (--classifier-dropout 0.1, --prediction-length 96) and every
    other field of transformers.TrainingArguments (--gradient-accumulation-steps 2) can be given; what is not given
    comes from --config, then from the recipe (--recipe).

    On several GPUs: accelerate launch -m hf_tsrep finetune ...
    """
    from hf_tsrep.training import finetuning_fields, resolve_finetuning, run_finetuning

    fields: dict[str, Any] = parse_fields(context.args)
    method = method_of(model) if model is not None else next(iter(METHODS))
    check_names(context, fields, finetuning_fields(method), "finetune")
    named = {"model": model, "corpus": corpus, "task": task, "output_dir": output_dir}
    settings = resolve_finetuning(fields | {name: value for name, value in named.items() if value}, config)
    with training_progress(quiet=bool(context.find_root().params.get("quiet"))):
        result = run_finetuning(settings, resume_from_checkpoint=resume_from or (True if resume else None))
    if not launched_processes().is_first:
        return
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
    chosen = f"epoch {result.epoch:g} of {result.facts['num_epochs']:g}"
    typer.echo(f"{result.output_dir}: {settings.method}, {settings.run.mode}, {chosen}, on test {metrics}")
