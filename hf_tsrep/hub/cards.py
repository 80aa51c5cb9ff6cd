"""Model cards as laboratory reports: what a model is, what it was trained on, how, and what was measured."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..modeling.publishing_time_series import CARD_FILE, PLACEHOLDER_ID
from ..registry import Method, card_folder, get_method, read_card
from ..results import RESULTS_FILE, EvaluationResult, read_results
from .card_parts import (
    UNKNOWN_LICENCE,
    WINDOW_LENGTH,
    describe_input,
    eval_results,
    licence_of_weights,
    public_name,
    result_rows,
    shown_series,
)
from .evaluation_results import hub_dataset_id

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from hf_tsrep.data import CorpusMetadata

LIBRARY_NAME = "hf-tsrep"
TAGS = ("time-series", "time-series-embedding", "representation-learning")

# The pipeline that transformers chooses for a repository; see modeling/pipeline_time_series.py.
_PIPELINE_OF_HEAD = {
    "": "time-series-feature-extraction",
    "classification": "time-series-classification",
    "prediction": "time-series-forecasting",
}
# Settings of a training run that say nothing about the model: places, and whatever could be a secret.
_NOT_PUBLISHED = re.compile(r"token|secret|password|_dir$|_directory$|_path$|^local_rank$|^hub_")
_BY_TOKENIZER = "by the tokenizer, with the mean and deviation that it keeps of every domain"


def build_model_card(
    model_or_folder: Any,
    *,
    method: str | None = None,
    corpus_metadata: CorpusMetadata | Mapping[str, Any] | None = None,
    corpus_fingerprint: str | None = None,
    training: Mapping[str, Any] | None = None,
    results: Sequence[EvaluationResult | Mapping[str, Any]] | None = None,
    figures: Mapping[str, str | Path] | Sequence[str | Path] | None = None,
    model_id: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] | None = None,
    converted_from: str | None = None,
    domain: str | None = None,
) -> ModelCard:
    """Build the Hub card of a model.

    Args:
        model_or_folder: A saved model's folder (better: its feature extractor and results.json count too), or a model.
        method: Name of the method; None for the config's.
        corpus_metadata: `hf_tsrep.data.corpus_metadata` of the training corpus.
        corpus_fingerprint: `hf_tsrep.data.corpus_fingerprint` of it.
        training: Hyper-parameters, steps, seed and times, in the order to show them.
        results: Results of `hf_tsrep.evaluation`, or their dictionaries; None for those of the folder's results.json.
        figures: Pictures in the folder, as paths or as caption -> path.
        model_id: Id of the repository; None leaves a placeholder that `push_to_hub` fills in.
        license: Hub licence id of the weights; None for apache-2.0 where the corpus's is known to allow it, else
            "unknown", with a note.
        datasets: Hub ids of the training data; None for the corpus's name where that is one.
        converted_from: File name of the official checkpoint, for converted models.
        domain: Of a model of several domains the one that it was trained for last, whose series the card shows; None
            for the one with a head, else the first.

    Returns:
        The card; `card.save(folder / "README.md")` writes it.

    Raises:
        FileNotFoundError: The folder has no config.json, or a figure is missing.
        ValueError: The method or the domain is unknown, or a result or results.json is damaged.
    """
    from huggingface_hub import ModelCard, ModelCardData

    folder = Path(model_or_folder) if isinstance(model_or_folder, (str, Path)) else None
    config = _config(model_or_folder if folder is None else folder)
    described = get_method(method or config.model_type)
    if results is None:
        results = _results_of(folder)
    rows = result_rows(results)
    corpus = _as_dictionary(corpus_metadata)
    extractor = _feature_extractor(folder)
    license = license or licence_of_weights([corpus.get("licence")])
    data = ModelCardData(
        library_name=LIBRARY_NAME,
        pipeline_tag=_PIPELINE_OF_HEAD[_head(config)],
        tags=[*TAGS, described.name],
        license=license,
        datasets=list(datasets) if datasets is not None else _dataset_ids(corpus),
        model_name=(model_id or PLACEHOLDER_ID) if rows else None,
        eval_results=eval_results(rows) or None,
    )
    return ModelCard.from_template(
        data,
        template_str=(card_folder() / "template.md.jinja").read_text(encoding="utf-8"),
        title=_title(described, corpus, model_id),
        summary=_summary(described, config, corpus),
        paper=described.paper,
        converted_from=converted_from,
        model_id=model_id or PLACEHOLDER_ID,
        config=config,
        head=_head(config),
        has_feature_extractor=extractor is not None,
        shown=shown_series(config, extractor, domain),
        window_length=WINDOW_LENGTH,
        domains=config.domain_entries,
        time_features=bool(extractor and extractor.get("time_features")),
        model_facts=_model_facts(model_or_folder, folder, config, extractor),
        corpus_facts=_corpus_facts(corpus, corpus_fingerprint),
        has_licence=license != UNKNOWN_LICENCE,
        training_facts=[(f"`{name}`", _shown(value)) for name, value in _publishable(training or {})],
        figures=_figures(figures, folder),
        result_lines=[row.table_line for row in rows],
        method_card=read_card(described.name)[1].strip(),
    )


def write_card(folder: Path, model_id: str) -> None:
    """Write the card of a saved model of which nothing is known but what lies in its folder."""
    build_model_card(folder, model_id=model_id).save(folder / CARD_FILE)


def _config(model_or_folder: Any) -> Any:
    if not isinstance(model_or_folder, Path):
        return model_or_folder.config
    from transformers import AutoConfig

    if not (model_or_folder / "config.json").is_file():
        raise FileNotFoundError(f"{model_or_folder} has no config.json; save the model there first.")
    return AutoConfig.from_pretrained(model_or_folder, local_files_only=True)


def _results_of(folder: Path | None) -> list[EvaluationResult]:
    file = None if folder is None else folder / RESULTS_FILE
    return read_results(file) if file is not None and file.is_file() else []


def _as_dictionary(metadata: CorpusMetadata | Mapping[str, Any] | None) -> dict[str, Any]:
    if metadata is None:
        return {}
    plain = dict(metadata) if isinstance(metadata, Mapping) else metadata.to_dict()
    return {**plain, "name": public_name(str(plain.get("name", "corpus")))}


def _feature_extractor(folder: Path | None) -> dict[str, Any] | None:
    path = None if folder is None else folder / "preprocessor_config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else None


def _head(config: Any) -> str:
    """Return "classification" or "prediction" for a model with such a head, else an empty text."""
    heads = {"ForTimeSeriesClassification": "classification", "ForTimeSeriesPrediction": "prediction"}
    names = [str(name) for name in config.architectures or ()]
    return next((head for suffix, head in heads.items() if any(name.endswith(suffix) for name in names)), "")


def _dataset_ids(corpus: Mapping[str, Any]) -> list[str] | None:
    """Return what the Hub can link to: a Hub id; none of a corpus that only hf_tsrep knows by this name."""
    found = hub_dataset_id(str(corpus.get("name", "")))
    return None if found is None else [found[0]]


def _title(method: Method, corpus: Mapping[str, Any], model_id: str | None) -> str:
    if model_id is not None:
        return model_id.rsplit("/", 1)[-1]
    return f"{method.title} on {corpus['name']}" if corpus else method.title


def _summary(method: Method, config: Any, corpus: Mapping[str, Any]) -> str:
    names = ", ".join(map(str, config.id2label.values()))
    told = f"predict {names}" if config.problem_type == "regression" else f"tell {config.num_labels} classes"
    heads = {
        "classification": f", fine-tuned to {told}",
        "prediction": f", fine-tuned to predict {config.prediction_length} steps",
    }
    what = heads.get(_head(config), ", pre-trained" if corpus else "")
    where = f" on {corpus['name']}" if corpus else ""
    return (
        f"A {method.title} encoder of time series{what}{where}: it turns {describe_input(config)} and any length into "
        f"embeddings of {config.embedding_size} numbers, one a series, a window or a timestamp."
    )


def _model_facts(
    model_or_folder: Any, folder: Path | None, config: Any, extractor: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    from transformers import PreTrainedConfig

    standard = set(PreTrainedConfig.__dataclass_fields__)
    told_by_domain = {"domains"} if len(config.domain_entries) == 1 else {"domains", "num_input_channels"}
    told_elsewhere = standard | (told_by_domain if config.domain_entries else set())
    fields = [one.name for one in dataclasses.fields(config) if one.name not in told_elsewhere]
    facts = [
        ("embedding size", f"{config.embedding_size}"),
        ("pooling of a series or window", f"{config.pooling} over its timestamps"),
        ("normalisation of the input", _BY_TOKENIZER if config.domain_entries else describe_preparation(extractor)),
        ("normalisation of the embeddings", "none, unless `encode(..., normalize=True)`"),
        ("missing values", "NaN; see Missing values below"),
    ]
    count = sum(one.numel() for one in model_or_folder.parameters()) if folder is None else parameter_count(folder)
    facts += [("parameters", f"{count:,}")] if count else []
    facts.append(("weights in int8 (torchao)", quantised_share(config)))
    return facts + [(f"`{name}`", _shown(getattr(config, name))) for name in fields]


def describe_preparation(extractor: Mapping[str, Any] | None) -> str:
    """Return the words for what is done to raw values, given the content of preprocessor_config.json or None."""
    given = extractor or {}
    channels = (
        "none: values go in as they are" if given.get("mean") is None else "by the training part's mean and deviation"
    )
    features = "; seven calendar features in front" if given.get("time_features") else ""
    return f"{channels}{features} (preprocessor_config.json)" if extractor else channels


def quantised_share(config: Any) -> str:
    """Return the words for what torchao's quantisation reaches of an encoder, which are its linear layers."""
    import torch

    with torch.device("meta"):
        encoder: Any = get_method(config.model_type).model_classes["model"](config)
    linear = [one for one in encoder.modules() if isinstance(one, torch.nn.Linear)]
    share = sum(one.weight.numel() for one in linear) / max(sum(one.numel() for one in encoder.parameters()), 1)
    if not linear:
        return "reach nothing: the encoder has no linear layer"
    which = "its one linear layer" if len(linear) == 1 else f"its {len(linear)} linear layers"
    return f"reach {share:.0%} of the encoder's parameters, those of {which}"


def parameter_count(folder: Path) -> int:
    """Return the number of parameters in a folder's files of weights; 0 where there are none."""
    from math import prod

    from safetensors import safe_open

    count = 0
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            count += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())
    return count


def _corpus_facts(corpus: Mapping[str, Any], fingerprint: str | None) -> list[tuple[str, str]]:
    if not corpus:
        return [] if fingerprint is None else [("fingerprint of the values", f"`{fingerprint}`")]
    names = list(corpus.get("channel_names") or ())
    more = f" and {len(names) - 30} more" if len(names) > 30 else ""
    scaler = corpus.get("scaler")
    facts = {
        "name": corpus["name"],
        "task": corpus.get("task"),
        "channels": ", ".join(names[:30]) + more,
        "frequency": corpus.get("freq"),
        "scaling": f"{scaler.get('kind', 'standard')}, fitted on the training part"
        if scaler
        else "none"
        if names
        else "",
        "licence": corpus.get("licence", "unknown"),
        "source": " ".join(filter(None, (corpus.get("source"), corpus.get("url")))),
        "citation": corpus.get("citation"),
        "notes": " ".join(corpus.get("notes") or ()),
        "fingerprint of the values": None if fingerprint is None else f"`{fingerprint}`",
    }
    return [(name, _shown(value)) for name, value in facts.items() if value]


def _publishable(training: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield settings, nested ones under joined names, without places on this machine and secrets."""
    for name, value in training.items():
        if _NOT_PUBLISHED.search(str(name)):
            continue
        if isinstance(value, Mapping):
            yield from _publishable(value, f"{prefix}{name}.")
        elif value is not None and not isinstance(value, Path):
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    """Return a value as a cell of a Markdown table."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _figures(
    figures: Mapping[str, str | Path] | Sequence[str | Path] | None, folder: Path | None
) -> list[tuple[str, str]]:
    if not figures:
        return []
    if isinstance(figures, Mapping):
        pairs = [(caption, Path(path)) for caption, path in figures.items()]
    else:
        pairs = [(Path(path).stem.replace("_", " "), Path(path)) for path in figures]
    return [(caption, _path_in_folder(path, folder)) for caption, path in pairs]


def _path_in_folder(path: Path, folder: Path | None) -> str:
    if folder is None:
        return path.as_posix() if not path.is_absolute() else path.name
    inside = path if not path.is_absolute() and (folder / path).is_file() else path.resolve()
    if inside.is_absolute() and inside.is_relative_to(folder.resolve()):
        inside = inside.relative_to(folder.resolve())
    if inside.is_absolute() or not (folder / inside).is_file():
        raise FileNotFoundError(f"The figure {path} is not in {folder}; save it there, so that it is published too.")
    return inside.as_posix()
