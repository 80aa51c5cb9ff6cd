"""`hf-tsrep pretrain`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..processes import launched_processes
from ..registry import METHODS, get_method
from .arguments import check_names, parse_fields
from .progress import training_progress


def pretrain_command(
    context: typer.Context,
    method: Annotated[str | None, typer.Option(help="Name of the method; see `hf-tsrep list`.")] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="File, folder, known name (`hf-tsrep data list`) or Hub id; repeat it for several."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Stage of a method that is trained in several: tokenizer, then model.")
    ] = None,
    output_dir: Annotated[str | None, typer.Option(help="Folder of the finished model and its checkpoints.")] = None,
    config: Annotated[str | None, typer.Option(help="YAML file of fields; the command line goes before it.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of --output-dir.")
    ] = False,
    resume_from: Annotated[str | None, typer.Option(help="Go on from this checkpoint folder.")] = None,
) -> None:
    """Pre-train a method on the training part of a corpus.

    Several corpora are joined where a method takes equal channels; a method with domains takes each as one.

    The fields below, every field of the method's config (--embedding-size 320) and every other field of
    transformers.TrainingArguments (--gradient-accumulation-steps 2) can be given; what is not given comes from
    --config, then from the recipe of published values (--recipe).

    On several GPUs: accelerate launch -m hf_tsrep pretrain ...
    """
    from hf_tsrep.training import pretraining_fields, resolve_settings, run_pretraining
    from hf_tsrep.training.settings import DEFAULT_STAGE
    from hf_tsrep.training.settings_sources import read_settings_file

    fields: dict[str, Any] = parse_fields(context.args)
    in_file = read_settings_file(config) if config else {}
    chosen = get_method(str(method or in_file.get("method") or next(iter(METHODS)))).name
    known = pretraining_fields(chosen, stage or in_file.get("stage") or DEFAULT_STAGE)
    check_names(context, fields, known, "pretrain")
    named = {
        "method": method,
        "stage": stage,
        "corpus": corpus[0] if corpus and len(corpus) == 1 else corpus,
        "output_dir": output_dir,
    }
    fields |= {name: value for name, value in named.items() if value}
    settings = resolve_settings(fields, config)
    with training_progress(quiet=bool(context.find_root().params.get("quiet"))):
        result = run_pretraining(settings, resume_from_checkpoint=resume_from or (True if resume else None))
    if not launched_processes().is_first:
        return
    loss = result.metrics.get("loss")
    typer.echo(
        f"{result.output_dir}: {settings.method}, {result.metrics.get('num_steps', 0):.0f} steps in "
        f"{result.metrics.get('train_runtime', 0):.0f} s" + ("" if loss is None else f", last loss {loss:.4g}")
    )
