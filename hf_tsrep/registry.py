"""The one list of methods: what lies in model_cards/, one card a method; and their registration with the Auto classes.

A card's front matter holds the facts about its method, and the names of its classes follow from its title, so that a
new method needs no line here. Model classes are imported when they are first used: transformers' modeling code takes
over a second to import, which a program that only lists methods or reads a config should not pay.
"""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from .errors import near_matches
from .imports import after_import

HEADS = {
    "model": "Model",
    "pretraining": "ForPreTraining",
    "classification": "ForTimeSeriesClassification",
    "prediction": "ForTimeSeriesPrediction",
}
"""Suffix of a method's model classes by what they are for."""

AUTO_CLASSES = {
    "model": "AutoModel",
    "pretraining": "AutoModelForPreTraining",
    "classification": "AutoModelForSequenceClassification",
    "prediction": "AutoModelForTimeSeriesPrediction",
}
"""Name of the Auto class that opens a model, by what it is for."""

_FENCE = "---\n"
_CARD_KEYS = frozenset(
    "title summary best_result cost parity paper tiny_config tiny_tokenizer companions demo published".split()
)


@dataclass(frozen=True)
class Paper:
    """Where a method was published."""

    title: str
    authors: str
    venue: str
    year: int
    url: str
    bibtex: str


class LazyClass:
    """A class that is imported when it is first used; the Auto classes hold it in the class's place.

    Args:
        module: Module of the class, below hf_tsrep.
        name: Name of the class.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def resolve(self) -> type:
        """Import and return the class."""
        return getattr(importlib.import_module(f"hf_tsrep.{self._module}"), self._name)

    @property
    def __name__(self) -> str:
        return self._name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") or attribute in ("_module", "_name"):
            raise AttributeError(attribute)
        return getattr(self.resolve(), attribute)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Build an instance of the class."""
        return self.resolve()(*args, **kwargs)

    def __repr__(self) -> str:
        return f"LazyClass({self._module}.{self._name})"


class _NoTokenizer:
    """Stands for the tokenizer of a method that has none: AutoTokenizer would ask for sentencepiece.

    Args:
        title: Name of the method.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self.__name__ = "NoTokenizer"

    def from_pretrained(self, place: Any, *arguments: Any, **options: Any) -> Any:
        """Say what there is instead."""
        raise ValueError(
            f"{place} is a {self._title} model, which reads values and has no tokenizer. Its encode takes series, "
            "and AutoFeatureExtractor opens their preparation."
        )


@cache
def card_folder() -> Path:
    """Return the folder of cards: a link in the source tree, a folder once installed."""
    folder = Path(__file__).resolve().parent / "model_cards"
    if folder.is_dir():
        return folder
    raise FileNotFoundError(f"{folder} is missing: the installation, or a checkout without links, is not complete.")


@cache
def read_card(name: str) -> tuple[dict[str, Any], str]:
    """Read a method's card.

    Args:
        name: Name of the method.

    Returns:
        Its front matter, and the text below.

    Raises:
        ValueError: The front matter is missing, no YAML, or has a key that nothing reads; the message names the file.
    """
    import yaml

    path = card_folder() / f"{name}.md"
    text = path.read_text(encoding="utf-8")
    _, front, body = text.split(_FENCE, 2) if text.startswith(_FENCE) and text.count(_FENCE) > 1 else ("", "", text)
    try:
        loaded = yaml.load(front, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # the C parser is ten times as fast
    except yaml.YAMLError as error:
        raise ValueError(f"The front matter of {path} is not YAML: {error}") from error
    missing = {"title", "paper", "tiny_config"} - set(loaded or {})
    if missing:
        raise ValueError(f"The front matter of {path} lacks {', '.join(sorted(missing))}.")
    for key in sorted(set(loaded) - _CARD_KEYS):
        raise ValueError(
            f"The front matter of {path} has {key!r}, which nothing reads.{near_matches(key, _CARD_KEYS)}"
        )
    return dict(loaded), body.lstrip("\n")


@dataclass(frozen=True)
class Method:
    """One self-supervised method, as its card describes it.

    Args:
        name: Its model_type, in lower case; the name of its card and the end of the names of its files.
    """

    name: str

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """Front matter of its card."""
        return read_card(self.name)[0]

    @property
    def title(self) -> str:
        """Its name as the paper writes it; the prefix of its classes."""
        return str(self.facts["title"])

    @cached_property
    def paper(self) -> Paper:
        """Where it was published."""
        values = self.facts["paper"]
        return Paper(**{**values, "bibtex": values["bibtex"].strip()})

    @property
    def tiny_config(self) -> dict[str, Any]:
        """Config fields of a model small enough for tests of every promise."""
        return dict(self.facts["tiny_config"])

    @property
    def tiny_tokenizer(self) -> tuple[dict[str, Any], ...]:
        """The domains of the tokenizer that goes with tiny_config; empty for a method that reads values."""
        return tuple(self.facts.get("tiny_tokenizer", ()))

    def _lazy(self, suffix: str) -> LazyClass:
        folder, kind = {"Config": ("modeling", "configuration"), "Tokenizer": ("tokenization", "tokenization")}.get(
            suffix, ("modeling", "modeling")
        )
        return LazyClass(f"{folder}.{kind}_{self.name}", f"{self.title}{suffix}")

    @property
    def lazy_classes(self) -> dict[str, LazyClass]:
        """All public classes of the method by name, not imported yet."""
        suffixes = ["Config", *HEADS.values(), *(["Tokenizer"] if self.tiny_tokenizer else [])]
        found = [self._lazy(suffix) for suffix in suffixes]
        found += [one for companion in self.companions for one in companion]
        return {one.__name__: one for one in found}

    @property
    def companions(self) -> list[tuple[LazyClass, LazyClass]]:
        """Further models of the method, each with its configuration before it."""
        entries = self.facts.get("companions", ())
        return [
            tuple(LazyClass(*entry[kind].rsplit(".", 1)) for kind in ("config", "model"))  # type: ignore[misc]  # two
            for entry in entries
        ]

    @cached_property
    def config_class(self) -> type:
        """The PreTrainedConfig."""
        return self._lazy("Config").resolve()

    @property
    def model_class(self) -> type:
        """The encoder."""
        return self.model_classes["model"]

    @property
    def pretraining_class(self) -> type:
        """The encoder with its pretext task."""
        return self.model_classes["pretraining"]

    @property
    def classification_class(self) -> type:
        """The encoder with class scores."""
        return self.model_classes["classification"]

    @property
    def prediction_class(self) -> type:
        """The encoder with a prediction of the future."""
        return self.model_classes["prediction"]

    @property
    def tokenizer_class(self) -> Any:
        """The PreTrainedTokenizer that turns series into tokens; None for a method that reads values."""
        return self._lazy("Tokenizer").resolve() if self.tiny_tokenizer else None

    @cached_property
    def model_classes(self) -> dict[str, type]:
        """All model classes by what they are for."""
        return {kind: self._lazy(suffix).resolve() for kind, suffix in HEADS.items()}


METHODS: dict[str, Method] = {path.stem: Method(path.stem) for path in sorted(card_folder().glob("*.md"))}


def list_methods() -> list[str]:
    """Return the names of all methods."""
    return sorted(METHODS)


def get_method(name: str) -> Method:
    """Return the method of this name.

    Raises:
        ValueError: There is none; the message names the near matches.
    """
    if name in METHODS:
        return METHODS[name]
    hint = near_matches(name, METHODS, cutoff=0.5)
    raise ValueError(f"Unknown method {name!r}.{hint} Methods: {', '.join(list_methods())}.")


def list_models(pattern: str = "*") -> list[str]:
    """Return the model classes whose method or class name fits a pattern, such as "ts*" or "*Classification".

    Args:
        pattern: Compared with the method's name and with the class's, without regard to case.

    Returns:
        Class names, which are attributes of hf_tsrep.
    """
    found = [
        f"{method.title}{suffix}"
        for method in METHODS.values()
        for suffix in HEADS.values()
        if any(fnmatch.fnmatch(name.lower(), pattern.lower()) for name in (method.name, f"{method.title}{suffix}"))
    ]
    return sorted(found)


@cache
def lazy_classes() -> dict[str, LazyClass]:
    """Return the public classes of all methods by name, not imported yet."""
    return {name: one for method in METHODS.values() for name, one in method.lazy_classes.items()}


def register_methods() -> None:
    """Register every method with transformers' Auto classes and pipelines, so that no remote code has to be trusted.

    Importing those takes seconds, so what belongs to a module of transformers is registered when that is imported.
    Where it has been imported already, that is now.
    """
    auto = "transformers.models.auto"
    after_import(f"{auto}.configuration_auto", _register_configs)
    # A configuration may import an Auto class itself: what is registered with it comes before the first configuration.
    for folder in ("modeling", "tokenization"):
        after_import(f"{__package__}.{folder}", partial(importlib.import_module, f"{auto}.configuration_auto"))
    after_import(f"{auto}.modeling_auto", _register_models)
    after_import(f"{auto}.feature_extraction_auto", _register_preparation)
    after_import(f"{auto}.tokenization_auto", _register_tokenizers)
    after_import("transformers.pipelines", _register_pipelines)
    after_import(f"{__package__}.modeling.modeling_time_series", _register_card_writer)


def _register_configs() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    for method in METHODS.values():
        config_class: Any = method.config_class
        AutoConfig.register(method.name, config_class, exist_ok=True)
        for lazy_config, _ in method.companions:
            companion: Any = lazy_config.resolve()
            AutoConfig.register(companion.model_type, companion, exist_ok=True)


def _register_models() -> None:
    from transformers.models.auto import modeling_auto

    for method in METHODS.values():
        for kind, auto_class in AUTO_CLASSES.items():
            mapping: Any = getattr(modeling_auto, auto_class)._model_mapping
            mapping.register(method.config_class, method._lazy(HEADS[kind]), exist_ok=True)
        for lazy_config, lazy_model in method.companions:
            mapping = modeling_auto.AutoModel._model_mapping
            mapping.register(lazy_config.resolve(), lazy_model, exist_ok=True)


def _register_preparation() -> None:
    from transformers.models.auto.feature_extraction_auto import AutoFeatureExtractor

    extractor: Any = LazyClass("tokenization.feature_extraction_time_series", "TimeSeriesFeatureExtractor")
    for method in METHODS.values():
        AutoFeatureExtractor.register(method.config_class, extractor, exist_ok=True)


def _register_tokenizers() -> None:
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    for method in METHODS.values():
        tokenizer: Any = method._lazy("Tokenizer") if method.tiny_tokenizer else _NoTokenizer(method.title)
        for one in (method.config_class, *(lazy_config.resolve() for lazy_config, _ in method.companions)):
            AutoTokenizer.register(one, tokenizer_class=tokenizer, exist_ok=True)


def _register_pipelines() -> None:
    import transformers
    from transformers.pipelines import PIPELINE_REGISTRY

    from .modeling.configuration_time_series import PIPELINES

    for one in PIPELINES:
        implementation = f"{__package__}.modeling.pipeline_time_series.{one.pipeline}"  # resolved on first use
        models = (getattr(transformers, one.auto_class),)
        PIPELINE_REGISTRY.supported_tasks[one.task] = {"impl": implementation, "pt": models, "type": "time-series"}


def _register_card_writer() -> None:
    """Let a model that is pushed, and is not as it was loaded, have a card."""
    from .modeling.modeling_time_series import TimeSeriesPreTrainedModel

    TimeSeriesPreTrainedModel.card_writer = LazyClass("hub.cards", "write_card")  # it belongs to a room above
