"""What CrossTimeNet's models have in common: their tokenizer, their inputs, and backbones from language models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.utils import logging

from .backbones_crosstimenet import copy_layers, load_language_model, start_from_words
from .configuration_crosstimenet import (
    EMBEDDING_INITIALIZATIONS,
    SPECIAL_TOKEN_IDS,
    CrossTimeNetConfig,
    domains_of_tokenizer,
)
from .encoding_time_series import EncodeSettings, slide_by_windows
from .modeling_time_series import TimeSeriesPreTrainedModel
from .paired_tokenizer_crosstimenet import TokenizerPlace, check_common_domains, paired_domains
from .token_ids_crosstimenet import check_owner, check_token_ids

logger = logging.get_logger(__name__)


class CrossTimeNetPreTrainedModel(TimeSeriesPreTrainedModel):
    """Base class of CrossTimeNet's models.

    A model reads token ids. Where it is given series it needs its tokenizer, which is the one set with `set_tokenizer`
    or the one that lies beside the checkpoint; saving the model saves it.
    """

    config: CrossTimeNetConfig
    config_class = CrossTimeNetConfig
    main_input_name = "input_ids"
    input_modalities = ("time", "text")  # type: ignore[assignment]  # transformers' own models have a tuple here too
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_crosstimenet.CrossTimeNetConfig",
        "AutoModel": "modeling_crosstimenet.CrossTimeNetModel",
        "AutoModelForPreTraining": "modeling_crosstimenet.CrossTimeNetForPreTraining",
        "AutoModelForSequenceClassification": "modeling_crosstimenet.CrossTimeNetForTimeSeriesClassification",
        "AutoModelForTimeSeriesPrediction": "modeling_crosstimenet.CrossTimeNetForTimeSeriesPrediction",
    }

    # Of the base model: the tokenizer, and where to look for it.
    _tokenizer: Any = None
    _place: TokenizerPlace | None = None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # BERT's initialisation for what is not the backbone's, which initialises itself.
        if isinstance(module, nn.Linear):
            spread = getattr(self.config.backbone_config, "initializer_range", 0.02)
            init.normal_(module.weight, mean=0.0, std=spread)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    @property
    def tokenizer(self) -> Any:
        """The CrossTimeNetTokenizer; looked for beside the checkpoint on first use.

        Raises:
            ValueError: None was set, and there is none beside the checkpoint.
        """
        encoder = cast(CrossTimeNetPreTrainedModel, self.base_model)
        if encoder._tokenizer is None:
            place = self._tokenizer_place()
            if place is None:
                raise ValueError(
                    f"{type(self).__name__} has no tokenizer to read series with; call "
                    "model.set_tokenizer(tokenizer), or pass input_ids."
                )
            encoder.set_tokenizer(place.load(type(self)))
        return encoder._tokenizer

    def _tokenizer_place(self) -> TokenizerPlace | None:
        """Return where the model, or else its config, was loaded from; None for one that is new."""
        encoder = cast(CrossTimeNetPreTrainedModel, self.base_model)
        source = self.config._name_or_path
        return encoder._place or (TokenizerPlace.of(source, {}) if source else None)

    def set_tokenizer(self, tokenizer: Any) -> Self:
        """Set the tokenizer that series are read with.

        Args:
            tokenizer: A CrossTimeNetTokenizer with the domains of the model.

        Returns:
            The model.

        Raises:
            ValueError: Its domains are not those of the model, or it is not the one that the model was made for. The
                message names the first domain that differs.
        """
        self.config.domains = paired_domains(self.config, tokenizer)
        cast(CrossTimeNetPreTrainedModel, self.base_model)._tokenizer = tokenizer
        return self

    def add_domains(self, tokenizer: Any) -> Self:
        """Give the model embeddings of what a tokenizer has behind the model's tokens, and set the tokenizer.

        Args:
            tokenizer: A CrossTimeNetTokenizer whose first domains are those of the model; it may have further domains,
                and tokens that were added by hand.

        Returns:
            The model.

        Raises:
            ValueError: Its first domains are not those of the model, which stays as it is.
        """
        before, before_size = self.config.domains or [], cast(int, self.config.vocab_size)
        theirs = check_common_domains(self.config, tokenizer)
        size = max(before_size, len(tokenizer))
        grown = CrossTimeNetConfig(
            domains=[*before, *theirs[len(before) :]], vocab_size=size, backbone_config=self.config.backbone_config
        )
        if size > before_size:
            self.resize_token_embeddings(size, mean_resizing=False)
            cast(PreTrainedConfig, self.config.backbone_config).vocab_size = size
        self.config.domains, self.config.vocab_size = grown.domains, size
        return self.set_tokenizer(tokenizer)

    def tokenise(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        domain: str | int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Turn a batch of series into tokens.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            domain: Name or place of the domain; None where there is only one.

        Returns:
            input_ids (batch_size, num_tokens) int64, attention_mask (batch_size, num_tokens) bool, and the timestamp
            at which each row's tokens begin: (batch_size,) int64.

        Raises:
            ValueError: A shape does not fit, or the domain is unknown.
        """
        place = self.config.served_domain_index(domain)
        self._check_values(past_values, past_observed_mask, place)
        tokenizer, name = self.tokenizer, (self.config.domains or [])[place]["name"]
        if tokenizer.codec.device != past_values.device:
            tokenizer.codec.to(past_values.device)
        return tokenizer.tokenize_values(past_values, past_observed_mask, domain=name)

    def _check_values(self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None, place: int) -> None:
        domain = (self.config.domains or [])[place]
        expected = domain["num_input_channels"]
        if past_values.ndim != 3 or past_values.shape[-1] != expected or not past_values.shape[1]:
            raise ValueError(
                f"past_values has shape {tuple(past_values.shape)}; {type(self).__name__} takes (batch_size, "
                f"sequence_length of at least 1, num_input_channels={expected}) of domain {domain['name']!r}."
            )
        if past_observed_mask is not None and past_observed_mask.shape != past_values.shape:
            raise ValueError(
                f"past_observed_mask has shape {tuple(past_observed_mask.shape)}, "
                f"but past_values {tuple(past_values.shape)}; they must be equal."
            )

    def prepare_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        domain: str | int | None = None,
        **method_arguments: Any,
    ) -> dict[str, torch.Tensor]:
        """Return the series' tokens as arguments of `forward`; see TimeSeriesPreTrainedModel.prepare_inputs.

        Returns:
            {"input_ids": (batch_size, num_tokens) int64, "attention_mask": (batch_size, num_tokens) bool}.
        """
        if method_arguments:
            super().prepare_inputs(past_values, past_observed_mask, **method_arguments)
        input_ids, attention_mask, _ = self.tokenise(past_values, past_observed_mask, domain)
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def tokens_of(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        past_values: torch.Tensor | None,
        past_observed_mask: torch.Tensor | None,
        domain: str | int | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens that `forward` was given, or those of the series that it was given.

        Series in the place of input_ids, which floating-point numbers tell, are past_values: so whoever calls
        the first argument of every method's model with series need not know this one.

        Returns:
            (batch_size, num_tokens) int64 ids, and (batch_size, num_tokens) bool, True = token.

        Raises:
            ValueError: Both or neither are given, ids are of a wrong shape or out of range, or they are codes of
                another domain than the one that is named.
        """
        if input_ids is not None and input_ids.is_floating_point() and past_values is None:
            past_values, past_observed_mask = input_ids, attention_mask
            input_ids, attention_mask = None, None
        if (input_ids is None) == (past_values is None):
            raise ValueError(f"{type(self).__name__} takes either input_ids or past_values.")
        if past_values is not None:
            return self.tokenise(past_values, past_observed_mask, domain)[:2]
        ids = cast(torch.Tensor, input_ids)
        check_token_ids(ids, attention_mask, self.config)
        if domain is not None:
            check_owner(ids, self.config, self.config.domain_index(domain))
        return ids, ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()

    def num_channels_of(self, domain: str | int | None = None, **method_arguments: Any) -> int:
        """Return the number of channels of a domain's series."""
        return (self.config.domains or [])[self.config.served_domain_index(domain)]["num_input_channels"]

    def slide(
        self,
        values: torch.Tensor,
        context: tuple[int, int],
        stride: int,
        batch_size: int,
        pooling: int | str | None = None,
        domain: str | int | None = None,
    ) -> torch.Tensor:
        """Embed one series by a sliding window; see slide_by_windows."""
        return slide_by_windows(self, values, context, stride, batch_size, pooling, domain=domain)

    def encode(
        self,
        series: Any,
        level: str = "instance",
        window_length: int | None = None,
        stride: int | None = None,
        causal: bool = False,
        pooling: str | int | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
        normalize: bool = False,
        show_progress_bar: bool | None = None,
        domain: str | int | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Turn series into embeddings; all arguments but `domain` are those of TimeSeriesPreTrainedModel.encode.

        A timestamp's embedding is that of its token; tokens begin at the first observed timestamp of a series or
        window. A series' embedding is that of `forward`, pooled over its tokens; with `pooling` it is pooled over its
        timestamps, which is the same unless the last token has fewer of them. `domain`: name or place of the series'
        domain; None where there is only one.

        Returns:
            See TimeSeriesPreTrainedModel.encode.

        Raises:
            ValueError: See TimeSeriesPreTrainedModel.encode; or the domain is unknown, or there is no tokenizer.
        """
        settings = EncodeSettings(
            level, window_length, stride, causal, pooling, batch_size, normalize, show_progress_bar
        )
        return self._encode(series, settings, device, {"domain": domain})

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save config, weights, code and the tokenizer; see PreTrainedModel.save_pretrained.

        Raises:
            ValueError: The tokenizer cannot be loaded or saved; nothing is written then.
        """
        tokenizer = self._tokenizer_to_save() if kwargs.get("is_main_process", True) else None
        super().save_pretrained(save_directory, *args, **kwargs)
        if tokenizer is None:
            return
        published: dict[str, Any] = {}
        if kwargs.get("push_to_hub", False):
            published = {"push_to_hub": True, "repo_id": Path(save_directory).name}
            for name in ("repo_id", "token", "revision", "private"):
                if name in kwargs:
                    published[name] = kwargs[name]
        tokenizer.save_pretrained(save_directory, **published)

    def _tokenizer_to_save(self) -> Any:
        """Return the tokenizer, checked; None for a model that has none, and none beside its checkpoint."""
        encoder = cast(CrossTimeNetPreTrainedModel, self.base_model)
        if encoder._tokenizer is None and not self._has_tokenizer_beside():
            return None
        # Also one that was set before: domains or tokens may have been added to it since.
        self.set_tokenizer(self.tokenizer).tokenizer.check_weights()
        return self.tokenizer

    def _has_tokenizer_beside(self) -> bool:
        place = self._tokenizer_place()
        if place is None:
            return False
        try:
            return place.holds_tokenizer()
        except OSError as error:
            if cast(CrossTimeNetPreTrainedModel, self.base_model)._place is None:  # only its config was loaded
                return False
            raise ValueError(
                f"Whether there is a tokenizer beside the checkpoint {place.name_or_path} cannot be told ({error}), "
                "and the model would be saved without it. Make it available again, or call "
                "model.set_tokenizer(tokenizer) before saving."
            ) from error

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model; the tokenizer beside it is loaded when it is needed. See PreTrainedModel.from_pretrained."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if pretrained_model_name_or_path is not None:
            model.base_model._place = TokenizerPlace.of(pretrained_model_name_or_path, kwargs)
        return loaded

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | os.PathLike,
        tokenizer: Any = None,
        config: CrossTimeNetConfig | None = None,
        embedding_initialization: str = "random",
        generator: torch.Generator | None = None,
        **fields: Any,
    ) -> Self:
        """Build a model whose transformer layers are those of a language model; all else is new.

        Args:
            name_or_path: The language model: an id on the Hub, or a folder.
            tokenizer: The CrossTimeNetTokenizer, which the model then has; or None, with a config.
            config: The configuration; its backbone_config is replaced. None: made of the tokenizer and `fields`.
            embedding_initialization: "random", as the backbone initialises embeddings; "word_sample": the codes'
                embeddings are those of distinct words, drawn at random; "word_centroids": they are k-means centroids
                of the language model's word table. Special tokens start at random.
            generator: Source of the words, on the CPU; None for torch's global one.
            fields: Further fields of the configuration, where none is given.

        Returns:
            The model, in float32. Its config says where it comes from: embedding_initialization and backbone_name,
            unless it names one already the id, or the folder's last part.

        Raises:
            ValueError: No tokenizer and no config, or both are not enough; an unknown initialisation; the language
                model does not fit.
        """
        if embedding_initialization not in EMBEDDING_INITIALIZATIONS:
            raise ValueError(
                f"embedding_initialization={embedding_initialization!r} is unknown; choose one of "
                f"{', '.join(map(repr, EMBEDDING_INITIALIZATIONS))}."
            )
        if (config is None and tokenizer is None) or (config is not None and fields):
            raise ValueError("from_backbone takes a config, or a tokenizer and further fields of the config.")
        language_model = load_language_model(os.fspath(name_or_path))
        known = config.to_dict() if config is not None else {"domains": domains_of_tokenizer(tokenizer), **fields}
        known |= {
            "backbone_config": language_model.config,
            "backbone_name": known.get("backbone_name") or _name_of(name_or_path),
            "embedding_initialization": embedding_initialization,
            "embedding_size": None,
        }
        known.pop("model_type", None)
        model = cls(CrossTimeNetConfig(**known))
        encoder = cast(Any, model.base_model)
        copy_layers(language_model, encoder.backbone)
        if embedding_initialization != "random":
            table, first = encoder.get_input_embeddings().weight, len(SPECIAL_TOKEN_IDS)
            words = cast(nn.Embedding, language_model.get_input_embeddings()).weight
            with torch.no_grad():
                table[first:] = start_from_words(words, len(table) - first, embedding_initialization, generator)
        return model if tokenizer is None else model.set_tokenizer(tokenizer)


def _name_of(name_or_path: str | os.PathLike) -> str:
    """Return a Hub id as it is, and the last part of a path: where a folder lies is nobody's business."""
    return Path(name_or_path).resolve().name if os.path.isdir(name_or_path) else str(name_or_path)
