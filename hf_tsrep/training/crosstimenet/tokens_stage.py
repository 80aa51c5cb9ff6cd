"""CrossTimeNet's second stage: a transformer that recovers masked tokens of all domains (paper, section 3.3)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import CONFIG_MAPPING, AutoConfig

from ...errors import SettingsError, near_matches
from ...modeling.backbones_crosstimenet import build_backbone, num_positions
from ...registry import get_method
from ..batches import DomainBatchSampler, IndexedCollator, IndexedDataset
from ..saving import PretrainingResult, save_card
from ..stages import PretrainingStage
from .domains import DomainSeries, load_domains
from .language_models import language_model_name, resolve_language_model
from .token_data import (
    TOKENIZER_COMMAND,
    TokenCollapseMonitor,
    TokenCollator,
    TokenDataset,
    cut_tokens,
    load_tokenizer,
    tokenise_series,
    tokenizer_fingerprint,
)

DOMAIN_BATCHES = ("one_domain", "mixed")
RANDOM_BACKBONE = "random"
# What the tokenizer or the backbone says, or an option of the stage stands for.
_NOT_GIVEN = (
    *("domains", "vocab_size", "num_input_channels", "embedding_size", "backbone_config", "backbone_name"),
    *("pad_token_id", "mask_token_id", "cls_token_id", "sep_token_id", "classifier", "num_tokens"),
    *("target_mean", "target_scale"),
)
_VALIDATION_BATCH = 32
_OTHER_NAMES = {"intermediate_size": "n_inner"}  # GPT-2's, which its attribute_map leaves out
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")


@dataclass(frozen=True)
class TokensOptions:
    """What only this stage can be told.

    Args:
        tokenizer: Folder or Hub id of the tokenizer that the stage "tokenizer" has made. It stays as it is.
        backbone: "random" for fresh weights; or path, Hub id or package (see `language_models`) of a language model
            whose transformer layers are taken.
        backbone_type: model_type of a random backbone: "bert", "gpt2", "modernbert" or another of transformers.
        embedding_initialization: Where the codes' embeddings start: "random"; "word_sample", distinct words of the
            language model (the paper's word mapping); "word_centroids", k-means centroids of its word table.
        domain_batches: "one_domain": every step has one domain, as often as the domain has series, as published;
            "mixed": batches of all domains shuffled together.
        hidden_size: Width of a random backbone.
        num_hidden_layers: Number of its layers.
        num_attention_heads: Number of its attention heads.
        intermediate_size: Width of its feed-forward layers.
        max_position_embeddings: Number of its positions; longer rows of tokens are cut.
        backbone_options: Further fields of its config, such as {"attention_probs_dropout_prob": 0.0}.
    """

    tokenizer: str | None = None
    backbone: str = RANDOM_BACKBONE
    backbone_type: str = "bert"
    embedding_initialization: str = "random"
    domain_batches: str = "one_domain"
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    max_position_embeddings: int | None = None
    backbone_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check the words."""
        if self.tokenizer is None:
            raise SettingsError(
                f"tokenizer is missing: the folder of a trained tokenizer. Train one with `{TOKENIZER_COMMAND}`."
            )
        if self.domain_batches not in DOMAIN_BATCHES:
            hint = near_matches(self.domain_batches, DOMAIN_BATCHES, count=1)
            raise SettingsError(
                f"domain_batches={self.domain_batches!r} is unknown.{hint} Choose one of {', '.join(DOMAIN_BATCHES)}."
            )


class TokensStage(PretrainingStage):
    """The corpora are tokenised once, before the first step, with a tokenizer that stays as it is."""

    options_class = TokensOptions
    run_defaults: ClassVar[dict[str, Any]] = {"weight_averaging": False}
    refused: ClassVar[dict[str, str]] = {
        "scaler": "the tokenizer takes raw values",
        "time_features": "dates are no part of a series's tokens",
        "window_stride": "series are tokenised whole; max_train_length cuts longer ones",
        "validation_loss": "the finished stage is measured on validation series anyway",
    }

    options: TokensOptions
    domains: list[DomainSeries]
    pieces: list[list[Any]]
    items: list[str]
    validation: dict[str, list[Any]]

    @classmethod
    def model_fields(cls, method: str) -> tuple[Any, set[str]]:
        """Return the fields of the config that neither the tokenizer nor the backbone says."""
        owner, left_out = super().model_fields(method)
        return owner, left_out | set(_NOT_GIVEN) | {"embedding_initialization"}

    def read_corpora(self) -> None:
        """Read one domain a corpus and tokenise all of it."""
        self.options = TokensOptions(**self.settings.options)
        self.tokenizer = load_tokenizer(str(self.options.tokenizer))
        self.domains = load_domains(self.settings, 0.0, self.arguments.seed)
        self.config = self._config()
        self._tokenise()

    def _config(self) -> Any:
        """Return the model's config: that of a random backbone, or of the language model's transformer."""
        config_class: Any = get_method(self.settings.method).config_class
        backbone = self.options.backbone
        return config_class.from_tokenizer(
            self.tokenizer,
            backbone_config=self._backbone_config(),
            backbone_name=None if backbone == RANDOM_BACKBONE else language_model_name(backbone),
            **self.settings.model,
        )

    def _backbone_config(self) -> Any:
        sizes = {name: getattr(self.options, name) for name in _SIZES if getattr(self.options, name) is not None}
        if self.options.backbone == RANDOM_BACKBONE:
            if self.options.embedding_initialization != "random":
                raise SettingsError(
                    f"embedding_initialization={self.options.embedding_initialization!r} takes words of a language "
                    "model; name one with backbone, or choose 'random'."
                )
            further = self.options.backbone_options or {}
            return {"model_type": self.options.backbone_type, **self._sizes_of_type(sizes), **further}
        for name in [*sizes, "backbone_type", "backbone_options"]:
            where = self.settings.sources.get(name, "")
            if where and not where.startswith("recipe "):
                raise SettingsError(
                    f"{name} ({where}) is that of the language model {self.options.backbone}; give it for a random "
                    "backbone only."
                )
        try:
            return AutoConfig.from_pretrained(self._language_model)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise SettingsError(
                f"The language model {self.options.backbone!r} cannot be loaded: {reason} Name a folder, an id on the "
                "Hub, or a package that carries one."
            ) from error

    def _sizes_of_type(self, sizes: dict[str, int]) -> dict[str, int]:
        """Return the sizes under the names that the backbone's type has for them.

        Raises:
            SettingsError: The type is unknown, or has no such size.
        """
        kind = self.options.backbone_type
        if kind not in CONFIG_MAPPING:
            hint = near_matches(kind, CONFIG_MAPPING, count=1)
            raise SettingsError(f"backbone_type={kind!r} is no model_type of transformers.{hint}")
        config_class: Any = CONFIG_MAPPING[kind]
        known = set(config_class.__dataclass_fields__) | set(config_class.attribute_map)
        found: dict[str, int] = {}
        for name, value in sizes.items():
            own = name if name in known else _OTHER_NAMES.get(name, name)
            if own not in known:
                raise SettingsError(
                    f"A backbone of type {kind!r} has no {name}; give its own field with backbone_options."
                )
            found[own] = value
        return found

    @property
    def _language_model(self) -> str:
        """Path or Hub id of the language model."""
        return resolve_language_model(self.options.backbone)

    def build_model(self, resumed: bool) -> Any:
        """Return the model with its pretext task: fresh, or with the layers of a language model."""
        model_class: Any = get_method(self.settings.method).pretraining_class
        if self.options.backbone == RANDOM_BACKBONE:
            return model_class(self.config)
        return model_class.from_backbone(
            self._language_model,
            config=self.config,
            embedding_initialization=self.options.embedding_initialization,
            generator=torch.Generator().manual_seed(self.arguments.seed),
        )

    def _name_in_tokenizer(self, domain: DomainSeries) -> str:
        """Return what the tokenizer calls a domain.

        Raises:
            SettingsError: It does not know it, or for other channels.
        """
        known = {one.name: one for one in self.tokenizer.domains}
        found = [name for name in domain.names if name in known]
        if not found:
            hint = near_matches(domain.name, known, count=1)
            raise SettingsError(
                f"The tokenizer {self.options.tokenizer} has no domain {domain.name!r}.{hint} Domains: "
                f"{', '.join(known)}. Add it with `{TOKENIZER_COMMAND} --tokenizer {self.options.tokenizer}`."
            )
        expected = known[found[0]].num_input_channels
        if expected != domain.num_input_channels:
            raise SettingsError(
                f"Corpus {domain.metadata.name} has {domain.num_input_channels} channels, but domain {found[0]!r} of "
                f"the tokenizer {self.options.tokenizer} has {expected}."
            )
        return found[0]

    def _tokenise(self) -> None:
        longest = self._most_tokens()
        several = len(self.domains) > 1
        self.pieces, self.items, self.validation = [], [], {}
        for domain in self.domains:
            name = self._name_in_tokenizer(domain)
            pieces, rows = cut_tokens(tokenise_series(self.tokenizer, name, domain.series), longest)
            self.pieces.append(pieces)
            self.items += [f"{name}: {domain.items[row]}" if several else domain.items[row] for row in rows]
            if "validation" in domain.corpus:
                self.validation[name] = cut_tokens(tokenise_series(self.tokenizer, name, domain.validation), longest)[
                    0
                ]

    def _most_tokens(self) -> int:
        """Return how many tokens the backbone reads at once; as many as there are where it reads any number."""
        with torch.device("meta"):
            return num_positions(build_backbone(self.config.backbone_config)) or sys.maxsize

    @property
    def corpora(self) -> list[Any]:
        """The corpora, every split."""
        return [domain.corpus for domain in self.domains]

    @property
    def is_mixed(self) -> bool:
        """Whether batches hold several domains."""
        return self.options.domain_batches == "mixed"

    @property
    def num_batch_items(self) -> int:
        """Number of rows of tokens of the largest domain, or of all where batches are mixed."""
        sizes = [len(pieces) for pieces in self.pieces]
        return sum(sizes) if self.is_mixed else max(sizes)

    @property
    def num_elements(self) -> int:
        """Numbers in the training series."""
        return sum(domain.num_elements for domain in self.domains)

    def data_facts(self) -> dict[str, Any]:
        """Return sizes of the domains, and which tokenizer was used."""
        return {
            "num_series": sum(len(domain.series) for domain in self.domains),
            "num_training_items": sum(map(len, self.pieces)),
            "sequence_length": max(len(piece) for pieces in self.pieces for piece in pieces),
            "num_elements": self.num_elements,
            "tokenizer_fingerprint": tokenizer_fingerprint(self.tokenizer),
            "domains": [
                {
                    "name": self._name_in_tokenizer(domain),
                    "series": len(domain.series),
                    "tokens": sum(map(len, pieces)),
                }
                for domain, pieces in zip(self.domains, self.pieces, strict=True)
            ],
        }

    def trainer_options(self) -> dict[str, Any]:
        """Return dataset, collator, batch sampler and monitors."""
        return {
            "train_dataset": IndexedDataset(TokenDataset(self.pieces)),
            "data_collator": IndexedCollator(TokenCollator(int(self.tokenizer.pad_token_id))),
            "batch_sampler": DomainBatchSampler(
                [len(pieces) for pieces in self.pieces],
                self.arguments.per_device_train_batch_size,
                self.arguments.world_size,
                self.arguments.seed if self.arguments.data_seed is None else self.arguments.data_seed,
                self.is_mixed,
            ),
            "monitors": [TokenCollapseMonitor()] if self.settings.run.monitor_collapse else [],
            "item_names": self.items,
            "logged_outputs": ("accuracy",),
        }

    def evaluate(self, model: Any) -> dict[str, float]:
        """Return the loss of the pretext task on the validation part of every corpus that has one."""
        collate = TokenCollator(int(self.tokenizer.pad_token_id))
        measures: dict[str, float] = {}
        for name, pieces in self.validation.items():
            generator = torch.Generator().manual_seed(self.arguments.seed)
            total, count = 0.0, 0
            for start in range(0, len(pieces), _VALIDATION_BATCH):
                rows = [
                    {"input_ids": torch.from_numpy(row).long()} for row in pieces[start : start + _VALIDATION_BATCH]
                ]
                batch = {key: value.to(model.device) for key, value in collate(rows).items()}
                with torch.no_grad():
                    output = model(**batch, generator=generator)
                masked = int(output.mask.sum())
                total, count = total + float(output.loss) * masked, count + masked
            measures[f"{name}_validation_loss"] = total / max(count, 1)
        return measures

    def save(self, folder: Path, result: PretrainingResult, facts: dict[str, Any]) -> None:
        """Write the model with the tokenizer beside it, and the card."""
        result.model.set_tokenizer(self.tokenizer)
        result.model.save_pretrained(folder)
        save_card(folder, self.settings, result, facts, [domain.metadata for domain in self.domains])
