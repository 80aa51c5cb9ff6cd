"""CrossTimeNet's first stage: the codecs of all domains, which become a tokenizer (paper, section 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import SettingsError, near_matches
from ...tokenization.codec_crosstimenet import CrossTimeNetCodec
from ...tokenization.configuration_crosstimenet_codec import CodecDomain, CrossTimeNetCodecConfig
from ..batches import DomainBatchSampler, IndexedCollator, IndexedDataset
from ..recipe_files import load_recipe
from ..run import HUB_FIELDS
from ..saving import PretrainingResult
from ..settings_sources import coerce, dataclass_fields
from ..stages import PretrainingStage
from .codec_saving import FinishedCodec, save_tokenizer
from .codec_training import (
    CODEBOOK_INITIALIZATIONS,
    CodecTrainer,
    DomainSeriesDataset,
    collate_one_domain,
    fit_statistics,
    initialise_codebook,
    latents_of,
    measure_codec,
    share_codebooks,
)
from .domains import DomainSeries, load_domains
from .token_data import load_tokenizer

logger = logging.getLogger(__name__)

CODEC_FILE = "codec.safetensors"
_LONGEST_PUBLISHED = 125  # tokens of a series
_NOT_GIVEN = frozenset({"name", "num_input_channels", "context_length"})
_NUM_INITIAL_SERIES = 2048


@dataclass(frozen=True)
class CodecOptions:
    """What only the tokenizer's stage can be told; the fields of a CodecDomain are given beside it.

    Args:
        codebook_initialization: First codes: "kmeans" centroids of latents, "data" for latents drawn at random,
            "random" for uniform codes, as published.
        validation_fraction: Share of a corpus's training series that is kept for validation where the corpus has no
            such part; with 0, what is measured is measured on the training series.
        domains: Fields of a CodecDomain for some domains only: {"har": {"patch_length": 4}}.
        tokenizer: A saved tokenizer (folder or Hub id) to which the domains are added; its own domains, their ids and
            their codes stay as they are. None for a new one.
    """

    codebook_initialization: str = "kmeans"
    validation_fraction: float = 0.1
    domains: dict[str, Any] | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.codebook_initialization not in CODEBOOK_INITIALIZATIONS:
            raise SettingsError(
                f"codebook_initialization={self.codebook_initialization!r} is unknown; choose one of "
                f"{', '.join(CODEBOOK_INITIALIZATIONS)}."
            )
        if not 0.0 <= self.validation_fraction < 1.0:
            raise SettingsError(f"validation_fraction={self.validation_fraction} must be at least 0 and below 1.")


class CodecStage(PretrainingStage):
    """One codec a corpus; each batch is of one domain, as often as the domain has series."""

    weights_file = CODEC_FILE
    options_class = CodecOptions
    recipe = "tokenizer"  # it has the values of every domain
    run_defaults: ClassVar[dict[str, Any]] = {"weight_averaging": False, "monitor_collapse": False}
    refused: ClassVar[dict[str, str]] = {
        **dict.fromkeys(HUB_FIELDS, "only models are pushed; call push_to_hub of the finished tokenizer"),
        "weight_averaging": "the codebook is a moving average already, of the latents of the last weights",
        "monitor_collapse": "the log tells the codebook's perplexity",
        "published_steps": "give max_steps or num_train_epochs",
        "scaler": "the tokenizer keeps mean and scale of the training series and takes raw values",
        "time_features": "dates are no part of a series's tokens",
        "window_stride": "series are tokenised whole; max_train_length cuts longer ones",
        "validation_loss": "the finished stage is measured on validation series anyway",
    }

    options: CodecOptions
    domains: list[DomainSeries]
    _num_old_domains = 0

    @classmethod
    def model_fields(cls, method: str) -> tuple[Any, set[str]]:
        """Return the fields of a CodecDomain that the corpus does not say."""
        return CodecDomain, set(_NOT_GIVEN)

    def read_corpora(self) -> None:
        """Read one domain a corpus."""
        self.options = CodecOptions(**self.settings.options)
        self.domains = load_domains(self.settings, self.options.validation_fraction, self.arguments.seed)
        self._check_domain_names()
        if len(self.domains) > 1:  # a step leaves the other domains without a gradient
            self.arguments.ddp_find_unused_parameters = True
        if self.arguments.ddp_broadcast_buffers is None:  # the codebooks are equal by what is summed up
            self.arguments.ddp_broadcast_buffers = False

    def _check_domain_names(self) -> None:
        """Refuse fields of a domain that no corpus is; a recipe may have those of others."""
        known = [name for domain in self.domains for name in domain.names]
        of_recipe = load_recipe(self.settings.method, self.settings.recipe).get("domains") or {}
        for name in self.options.domains or {}:
            if name not in known and name not in of_recipe:
                hint = near_matches(name, known, count=1)
                names = ", ".join(domain.name for domain in self.domains)
                raise SettingsError(f"domains has fields of {name!r}, which no corpus is.{hint} Domains: {names}.")

    @property
    def corpora(self) -> list[Any]:
        """The corpora, every split."""
        return [domain.corpus for domain in self.domains]

    @property
    def num_batch_items(self) -> int:
        """Number of series of the largest domain."""
        return max(len(domain.series) for domain in self.domains)

    @property
    def num_elements(self) -> int:
        """Numbers in the training series."""
        return sum(domain.num_elements for domain in self.domains)

    def data_facts(self) -> dict[str, Any]:
        """Return sizes of the domains."""
        return {
            "num_series": sum(len(domain.series) for domain in self.domains),
            "num_training_items": sum(len(domain.series) for domain in self.domains),
            "sequence_length": max(len(one) for domain in self.domains for one in domain.series),
            "num_elements": self.num_elements,
            "domains": [
                {
                    "series": len(domain.series),
                    "validation_series": len(domain.validation),
                    "measured_on": domain.measured_on,
                    **self.describe(domain),
                }
                for domain in self.domains
            ],
        }

    def describe(self, domain: DomainSeries) -> dict[str, Any]:
        """Return the fields of the domain's CodecDomain: its own, then those for all, then what the series say."""
        fields: dict[str, Any] = dict(self.settings.model)
        own: Mapping[str, Any] = self.options.domains or {}
        for name in reversed(domain.names):
            fields |= own.get(name, {})
        longest = max(map(len, domain.series))
        fields.setdefault("patch_length", -(-longest // _LONGEST_PUBLISHED))
        if fields.get("decoder") == "fixed_length":
            if any(len(one) != longest for one in [*domain.series, *domain.validation]):
                raise SettingsError(
                    f"Domain {domain.name!r} has series of unequal lengths, which decoder='fixed_length' does not "
                    "take; choose decoder='any_length'."
                )
            fields["context_length"] = longest
        return {"name": domain.name, "num_input_channels": domain.num_input_channels, **self._in_types(fields)}

    def _in_types(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return fields that stand in `domains`, where YAML and JSON give any type, in their types."""
        known = dataclass_fields("model", CodecDomain, _NOT_GIVEN)
        return {
            name: coerce(name, value, known[name].annotation, "domains") if name in known else value
            for name, value in fields.items()
        }

    def build_model(self, resumed: bool) -> Any:
        """Return a codec with statistics and first codes of the training series, alike on all processes."""
        described = [self.describe(domain) for domain in self.domains]
        if self.options.tokenizer is None:
            codec: Any = CrossTimeNetCodec(CrossTimeNetCodecConfig(domains=described))
        else:
            codec = self._codec_to_extend()
            self._num_old_domains = len(codec.config.domains)
            for one in described:
                codec.add_domain(one)
        if resumed:
            return codec
        codec.to(self.arguments.device)
        for domain in self.domains:
            fit_statistics(codec, codec.domain_index(domain.name), domain.series)
        if self.arguments.process_index == 0:
            self._initialise_codebooks(codec)
        share_codebooks(codec)
        return codec

    def _codec_to_extend(self) -> Any:
        codec = load_tokenizer(str(self.options.tokenizer)).codec
        taken = {one["name"] for one in codec.config.domains} & {domain.name for domain in self.domains}
        if taken:
            raise SettingsError(
                f"The tokenizer {self.options.tokenizer} has the domain {sorted(taken)[0]!r} already; name only "
                "corpora that are new to it."
            )
        return codec.train()

    def _initialise_codebooks(self, codec: Any) -> None:
        whole = self.arguments.per_device_train_batch_size * self.arguments.world_size
        seed = self.arguments.seed
        for domain in self.domains:
            place = codec.domain_index(domain.name)
            order = np.random.default_rng(seed).permutation(len(domain.series))[:_NUM_INITIAL_SERIES]
            latents = latents_of(codec, place, [domain.series[index] for index in order])
            a_step = min(whole, len(domain.series)) * len(latents) / len(order)
            initialise_codebook(codec, place, latents, self.options.codebook_initialization, a_step, seed)
            logger.info("Domain %s: first codes by %s.", domain.name, self.options.codebook_initialization)

    def trainer_class(self) -> type:
        """Return the CodecTrainer."""
        return CodecTrainer

    def trainer_options(self) -> dict[str, Any]:
        """Return dataset, collator and the sampler of batches of one domain."""
        # The domains of a tokenizer that is extended come first, and see no batch.
        places = range(self._num_old_domains, self._num_old_domains + len(self.domains))
        several = len(self.domains) > 1
        return {
            "train_dataset": IndexedDataset(DomainSeriesDataset(self.domains, places)),
            "data_collator": IndexedCollator(collate_one_domain),
            "batch_sampler": DomainBatchSampler(
                [len(domain.series) for domain in self.domains],
                self.arguments.per_device_train_batch_size,
                self.arguments.world_size,
                self.arguments.seed if self.arguments.data_seed is None else self.arguments.data_seed,
            ),
            "item_names": [
                f"{domain.name}: {item}" if several else item for domain in self.domains for item in domain.items
            ],
            "logged_outputs": ("codebook_perplexity",),
        }

    def evaluate(self, model: Any) -> dict[str, float]:
        """Measure every domain on its validation series; see measure_codec."""
        found: dict[str, float] = {}
        for domain in self.domains:
            measures = measure_codec(model, model.domain_index(domain.name), domain.validation)
            found |= {f"{domain.name}_validation_{name}": value for name, value in measures.items()}
        return found

    def save(self, folder: Path, result: PretrainingResult, facts: dict[str, Any]) -> None:
        """Write the tokenizer, a picture a domain and the card."""
        options = self.options
        started = (options.tokenizer, options.codebook_initialization)
        save_tokenizer(folder, FinishedCodec(self.settings, *started, self.domains, result, facts))
