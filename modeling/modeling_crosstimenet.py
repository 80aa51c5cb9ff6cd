"""CrossTimeNet: a language model reads the tokens of time series (Cheng et al., WSDM 2025, arXiv 2403.12372).

Section 3.2, series to tokens -> CrossTimeNetTokenizer, which is saved beside the model.
Section 3.3, masked tokens are recovered -> CrossTimeNetForPreTraining; language models and
word mapping -> backbones_crosstimenet.py.
Section 3.4, fine-tuning -> CrossTimeNetForTimeSeriesClassification.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from .backbones_crosstimenet import (
    BERT_PREFIX,
    TRAINING_ARGUMENTS,
    activation_name,
    build_backbone,
    copy_layers,
    fields_of_official_arguments,
    load_language_model,
    name_of_language_model,
    normalization_epsilon,
    num_positions,
    official_bert_config,
    read_tokens,
    word_mapping,
)
from .configuration_crosstimenet import (
    EMBEDDING_INITIALIZATIONS,
    MASK_TOKEN_ID,
    SPECIAL_TOKEN_IDS,
    CrossTimeNetConfig,
    domains_of_tokenizer,
)
from .conversion_time_series import ConversionError, FolderConverter, PreparedFolder, load_converted
from .distributed_time_series import fork_generator, process_share
from .encoding_time_series import observed_span
from .heads_time_series import (
    ClassificationHead,
    EncodedForHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
    PredictionHead,
    TimeSeriesClassificationOutput,
    TimeSeriesModelOutput,
    TimeSeriesPredictionOutput,
)
from .layers_masking import nearest_values
from .layers_pooling import pool_instance
from .losses_time_series import finish_scores
from .modeling_time_series import TimeSeriesPreTrainedModel
from .pairing_crosstimenet import (
    NO_LABEL,
    TokenizerPlace,
    check_common_domains,
    check_labels,
    check_owner,
    check_token_ids,
    paired_domains,
)
from .reading_time_series import check_batch


class CrossTimeNetPreTrainedModel(TimeSeriesPreTrainedModel):
    """Base class of CrossTimeNet's models.

    A model reads token ids. Where it is given series it needs its tokenizer, which is the one set with `set_tokenizer`
    or the one that lies beside the checkpoint; saving the model saves it.
    """

    config: CrossTimeNetConfig
    config_class = CrossTimeNetConfig
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True
    main_input_name = "input_ids"
    input_modalities = ("time", "text")  # type: ignore[assignment]  # transformers' own models have a tuple here too
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

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
        """Give the model embeddings of what a tokenizer has after the model's tokens, and set the tokenizer.

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
            # New rows as in a new model: transformers would draw them around the mean of the rows that are there.
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
        described = (self.config.domains or [])[self.config.served_domain_index(domain)]
        name, taker = described["name"], f"{type(self).__name__} for domain {described['name']!r}"
        check_batch(past_values, past_observed_mask, described["num_input_channels"], taker, fewest_timestamps=1)
        tokenizer = self.tokenizer
        if tokenizer.codec.device != past_values.device:
            tokenizer.codec.to(past_values.device)
        return tokenizer.tokenize_values(past_values, past_observed_mask, domain=name)

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
            past_values, input_ids = input_ids, None
            if past_observed_mask is None:  # the second argument of every method's model
                past_observed_mask, attention_mask = attention_mask, None
        if (input_ids is None) == (past_values is None):
            raise ValueError(f"{type(self).__name__} takes either input_ids or past_values.")
        if past_values is not None:
            if attention_mask is not None:
                raise ValueError("attention_mask belongs to input_ids; past_observed_mask to past_values.")
            return self.tokenise(past_values, past_observed_mask, domain)[:2]
        ids = cast(torch.Tensor, input_ids)
        check_token_ids(ids, attention_mask, self.config)
        if domain is not None:
            check_owner(ids, self.config, self.config.domain_index(domain))
        return ids, ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()

    def num_channels_of(self, domain: str | int | None = None, **method_arguments: Any) -> int:
        """Return the number of channels of a domain's series."""
        return (self.config.domains or [])[self.config.served_domain_index(domain)]["num_input_channels"]

    def attention_operations(
        self, sequence_length: int, domain: str | int | None = None, **method_arguments: Any
    ) -> int:
        """Count what the backbone's attention computes; see TimeSeriesPreTrainedModel.attention_operations."""
        described = (self.config.domains or [])[self.config.served_domain_index(domain)]
        num_tokens = -(-sequence_length // described["patch_length"])
        backbone = cast(CrossTimeNetModel, self.base_model).backbone
        seen = min(num_tokens, num_positions(backbone) or num_tokens)
        return 4 * int(backbone.config.num_hidden_layers) * int(backbone.config.hidden_size) * num_tokens * seen

    def encode_arguments(self, domain: str | int | None = None) -> dict[str, Any]:
        """Check what CrossTimeNet's `encode` takes beside what every method's takes.

        A timestamp's embedding is that of its token; tokens begin at the first observed timestamp of a series or
        window. A series' embedding is that of `forward`, pooled over its tokens; with `pooling` it is pooled over its
        timestamps, which is the same unless the last token has fewer of them.

        Args:
            domain: Name or place of the series' domain; None where there is only one.

        Returns:
            The domain.
        """
        return {"domain": domain}

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
        # Of a model that only its config was loaded for, nothing lies beside a checkpoint of its own.
        is_own = cast(CrossTimeNetPreTrainedModel, self.base_model)._place is not None
        return place is not None and place.holds_tokenizer_to_save(is_own)

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
            "backbone_name": known.get("backbone_name") or name_of_language_model(name_or_path),
            "embedding_initialization": embedding_initialization,
            "embedding_size": None,
        }
        known.pop("model_type", None)
        model = cls(CrossTimeNetConfig(**known))
        encoder = cast(Any, model.base_model)
        copy_layers(language_model, encoder.backbone)
        if embedding_initialization != "random":
            words = cast(nn.Embedding, language_model.get_input_embeddings()).weight
            codes = encoder.get_input_embeddings().weight[len(SPECIAL_TOKEN_IDS) :]
            with torch.no_grad():
                codes.copy_(word_mapping(words, len(codes), embedding_initialization, generator))
        return model if tokenizer is None else model.set_tokenizer(tokenizer)


@dataclass
class CrossTimeNetForPreTrainingOutput(ModelOutput):
    """Loss of the pretext task.

    Args:
        loss: Scalar: mean cross-entropy over the hidden tokens.
        accuracy: Share of the hidden tokens whose code has the highest score, a scalar without gradient.
        logits: (num_hidden_tokens, vocab_size), row by row of the batch.
        mask: (batch_size, num_tokens) bool, True = hidden.
        last_hidden_state: (batch_size, num_tokens, embedding_size), without gradient.
    """

    loss: torch.Tensor | None = None
    accuracy: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


class CrossTimeNetModel(CrossTimeNetPreTrainedModel):
    """The encoder: tokens of a series to embeddings.

    Args:
        config: Domains and backbone.
    """

    def __init__(self, config: CrossTimeNetConfig) -> None:
        super().__init__(config)
        self.backbone = build_backbone(
            cast(PreTrainedConfig, config.backbone_config), self.config._attn_implementation
        )
        self.post_init()

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the embedding of tokens, which is the backbone's own."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        """Set the embedding of tokens."""
        self.backbone.set_input_embeddings(value)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_values: torch.Tensor | None = None,
        past_observed_mask: torch.Tensor | None = None,
        domain: str | int | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TimeSeriesModelOutput | tuple[torch.Tensor, ...]:
        """Embed a batch of series, given as tokens or as values; see CrossTimeNetPreTrainedModel.tokens_of.

        Args:
            input_ids: (batch_size, num_tokens) int64.
            attention_mask: (batch_size, num_tokens), True or 1 = token; None: all but the padding ids.
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing, in place of input_ids.
            past_observed_mask: The shape of past_values, True = observed, or None.
            domain: Name or place of the domain of past_values; None where there is only one.
            output_hidden_states: Whether to return the backbone's hidden states.
            return_dict: Whether to return a TimeSeriesModelOutput instead of a tuple.

        Returns:
            last_hidden_state (batch_size, num_tokens, embedding_size), zero at padding; pooler_output (batch_size,
            embedding_size) over all tokens but special ones; hidden_states.
        """
        input_ids, attended = self.tokens_of(input_ids, attention_mask, past_values, past_observed_mask, domain)
        wants_states = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        hidden, states = read_tokens(self.backbone, input_ids, attended, bool(wants_states))
        pooled = pool_instance(hidden, self.real_tokens(input_ids, attended), self.config.pooling)
        output = TimeSeriesModelOutput(last_hidden_state=hidden, pooler_output=pooled, hidden_states=states)
        return output if return_dict is not False else output.to_tuple()

    @staticmethod
    def real_tokens(input_ids: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Mark the tokens that say something of the series: (batch_size, num_tokens) bool. Special ones do not."""
        return attended & (input_ids >= len(SPECIAL_TOKEN_IDS))

    def embed_instances(self, past_values: torch.Tensor, **method_arguments: Any) -> torch.Tensor:
        """Embed every series by its tokens: `pooler_output`. A last token of fewer timestamps counts as any other."""
        return self(past_values=past_values, **method_arguments).pooler_output

    def embed_timestamps(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
        domain: str | int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Give every timestamp the embedding of its token; see TimeSeriesPreTrainedModel.embed_timestamps.

        Timestamps before the first and after the last observed one have no token and the embedding zero, whether
        they are `inside` or not. Pooling takes the timestamps of tokens that are no special ones.
        """
        ids, attended, first_steps = self.tokenise(past_values, past_observed_mask, domain)
        hidden, _ = read_tokens(self.backbone, ids, attended, False)
        described = (self.config.domains or [])[self.config.served_domain_index(domain)]
        steps = torch.arange(past_values.shape[1], device=ids.device)
        places = (steps - first_steps.unsqueeze(1)).div(described["patch_length"], rounding_mode="floor")
        # What lies before the first or after the last token is gathered from somewhere, and set to zero below.
        places = places.clamp(0, ids.shape[1] - 1)
        observed = ~past_values.isnan()
        if past_observed_mask is not None:
            observed = observed & past_observed_mask.bool()
        has_token = observed_span(observed.any(-1)) & attended.gather(1, places)
        embeddings = hidden.gather(1, places.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        pooled = has_token & self.real_tokens(ids, attended).gather(1, places)
        return torch.where(has_token.unsqueeze(-1), embeddings, 0.0), pooled


class CrossTimeNetForPreTraining(CrossTimeNetPreTrainedModel):
    """The pretext task: hidden tokens are recovered from the others (paper, section 3.3).

    A hidden token becomes the mask token, always; its loss is the cross-entropy over the whole vocabulary. With
    several processes tokens are hidden in the global batch, and the mean of the processes' losses is the loss of one
    process on the same global batch, with its gradient.

    Args:
        config: Domains, backbone and settings of the task.
    """

    def __init__(self, config: CrossTimeNetConfig) -> None:
        super().__init__(config)
        self.model = CrossTimeNetModel(config)
        self.head = MaskedTokenHead(config)
        self.post_init()

    def get_output_embeddings(self) -> torch.nn.Module:
        """Return the layer of the tokens' scores, which is not tied to their embedding."""
        return self.head.decoder

    def set_output_embeddings(self, new_embeddings: torch.nn.Linear) -> None:
        """Set the layer of the tokens' scores."""
        self.head.decoder = new_embeddings

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_values: torch.Tensor | None = None,
        past_observed_mask: torch.Tensor | None = None,
        domain: str | int | None = None,
        mask: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> CrossTimeNetForPreTrainingOutput | tuple[torch.Tensor, ...]:
        """Compute the loss of a batch.

        Args:
            input_ids: (batch_size, num_tokens) int64, nothing hidden yet.
            attention_mask: (batch_size, num_tokens), True or 1 = token; None: all but the padding ids.
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing, in place of input_ids.
            past_observed_mask: The shape of past_values, True = observed, or None.
            domain: Name or place of the domain of past_values; None where there is only one.
            mask: (batch_size, num_tokens) bool, the tokens to hide; None to draw them with probability
                `config.mask_ratio` among the real tokens, at least one a global batch. Special tokens and padding are
                never hidden.
            generator: Source of the draw, on the CPU; None for torch's global one.
            labels: (batch_size, num_tokens) int64, for input_ids in which something is hidden already, as
                DataCollatorForLanguageModeling of transformers does: what is to be recovered, and -100 elsewhere.
                Nothing is drawn.
            return_dict: Whether to return a CrossTimeNetForPreTrainingOutput instead of a tuple.

        Returns:
            The loss, the accuracy, and the scores at the hidden tokens. A batch without a real token has loss 0.

        Raises:
            ValueError: The mask or the labels have another shape than the tokens, or labels are given for series, with
                a mask, or of ids that are never predicted.
        """
        if labels is not None:
            check_labels(labels, input_ids, mask, self.config)
            domain = None  # ids that were drawn to disturb are of any domain
        input_ids, attended = self.tokens_of(input_ids, attention_mask, past_values, past_observed_mask, domain)
        if labels is None:
            mask = self._hidden_tokens(input_ids, attended, mask, generator)
            hidden_ids, known = input_ids.masked_fill(mask, self.config.mask_token_id), input_ids
        else:
            mask, hidden_ids, known = (labels != NO_LABEL) & attended, input_ids, labels
        hidden, _ = read_tokens(self.model.backbone, hidden_ids, attended, False)
        # The scores of a vocabulary are the widest thing here: they are computed where they are asked for alone.
        logits, targets = self.head(hidden[mask]), known[mask]
        count = global_count(mask, shared=self.training).clamp(min=torch.finfo(torch.float32).tiny)
        right = (logits.argmax(-1) == targets).sum() / count
        output = CrossTimeNetForPreTrainingOutput(
            loss=masked_token_loss(logits, targets, count),
            accuracy=right.detach(),
            logits=logits,
            mask=mask,
            last_hidden_state=hidden.detach(),
        )
        return output if return_dict is not False else output.to_tuple()

    def reconstruct_series(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        domain: str | int | None = None,
        **method_arguments: Any,
    ) -> torch.Tensor:
        """Recover the tokens with a missing value, among the codes of the domain; see TimeSeriesPreTrainedModel."""
        described = (self.config.domains or [])[self.config.served_domain_index(domain)]
        observed = (
            past_values.isfinite() if past_observed_mask is None else past_observed_mask & past_values.isfinite()
        )
        # What stands in a gap is hidden anyway; a channel without any value says nothing, and hides nothing.
        known = observed.any(1, keepdim=True)
        filled = torch.where(known, nearest_values(past_values, observed), torch.nan)
        ids, attended, _ = self.tokenise(filled, domain=domain)
        length, patch = past_values.shape[1], described["patch_length"]
        missing = F.pad((known & ~observed).any(-1), (0, ids.shape[1] * patch - length))
        hidden = missing.unfold(1, patch, patch).any(-1) & self.model.real_tokens(ids, attended)
        states, _ = read_tokens(
            self.model.backbone, ids.masked_fill(hidden, self.config.mask_token_id), attended, False
        )
        first = described["first_id"]
        scores = self.head(states[hidden])[:, first : first + described["codebook_size"]]
        ids = ids.masked_scatter(hidden, scores.argmax(-1) + first)
        decoded = self.tokenizer.decode(ids.cpu(), domain=described["name"], length=length)
        return torch.stack([torch.as_tensor(one, dtype=torch.float32) for one in decoded]).to(past_values.device)

    def _hidden_tokens(
        self,
        input_ids: torch.Tensor,
        attended: torch.Tensor,
        mask: torch.Tensor | None,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Return the real tokens that the mask names, or draw them: (batch_size, num_tokens) bool."""
        real = self.model.real_tokens(input_ids, attended)
        if mask is None:
            return token_mask(real, self.config.mask_ratio, generator, shared=self.training)
        if mask.shape != input_ids.shape:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}, but the tokens {tuple(input_ids.shape)}; they must be equal."
            )
        return mask.bool() & real


class _ReadsTokens(CrossTimeNetPreTrainedModel):
    """What the models with a head for a task have in common: from tokens or series to what the head reads."""

    model: CrossTimeNetModel

    def compute_head_inputs(
        self,
        past_values: torch.Tensor | None = None,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        domain: str | int | None = None,
    ) -> EncodedForHead:
        """Embed the series, or their tokens; the arguments are those of `forward`.

        Returns:
            What `forward` takes as head_inputs; and the backbone's hidden states, or None.
        """
        domain = self._domain_of_head(domain)
        input_ids, attended = self.tokens_of(input_ids, attention_mask, past_values, past_observed_mask, domain)
        encoded = self.model(input_ids, attended, output_hidden_states=output_hidden_states)
        real = self.model.real_tokens(input_ids, attended)
        return EncodedForHead(self._head_inputs(encoded, real), encoded.hidden_states)

    def predict_arguments(self, domain: str | int | None = None) -> dict[str, Any]:
        """Take the domain of the series as a further argument of `predict`; None where there is only one."""
        return {"domain": domain}

    def _domain_of_head(self, domain: str | int | None) -> str | int | None:
        return domain

    def _head_inputs(self, encoded: TimeSeriesModelOutput, real: torch.Tensor) -> dict[str, torch.Tensor]:
        raise NotImplementedError


class CrossTimeNetForTimeSeriesClassification(_ReadsTokens, GenericForTimeSeriesClassification):
    """The encoder with class scores, from one head for all domains or one a domain.

    Args:
        config: Domains and backbone; `num_labels` of the domains, or else of the config, gives the classes.
    """

    def __init__(self, config: CrossTimeNetConfig) -> None:
        super().__init__(config)
        self.model = CrossTimeNetModel(config)
        self.classifier = DomainClassifiers(config)
        self.post_init()

    def forward(  # type: ignore[override]  # it also takes tokens
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_values: torch.Tensor | None = None,
        past_observed_mask: torch.Tensor | None = None,
        domain: str | int | None = None,
        labels: torch.Tensor | None = None,
        head_inputs: dict[str, torch.Tensor] | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TimeSeriesClassificationOutput | tuple[torch.Tensor, ...]:
        """Score the classes.

        Args:
            input_ids: (batch_size, num_tokens) int64.
            attention_mask: (batch_size, num_tokens), True or 1 = token; None: all but the padding ids.
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing, in place of input_ids.
            past_observed_mask: The shape of past_values, True = observed, or None.
            domain: Name or place of the domain, of the series or ids and of the head; None where there is only one,
                or only one with a head.
            labels: (batch_size,) class indices, or None.
            head_inputs: What `compute_head_inputs` returned for the series, in place of the series.
            output_hidden_states: Whether to return the backbone's hidden states.
            return_dict: Whether to return a TimeSeriesClassificationOutput instead of a tuple.

        Returns:
            Loss (with labels) and logits (batch_size, num_labels).
        """
        encoded = EncodedForHead(head_inputs or {})
        if head_inputs is None:
            encoded = self.compute_head_inputs(
                past_values, past_observed_mask, output_hidden_states, input_ids, attention_mask, domain
            )
        return self._score(encoded, labels, return_dict, domain=domain)

    def _domain_of_head(self, domain: str | int | None) -> str | int | None:
        place = self.classifier.place_of(domain)
        return domain if place is None else place

    def _head_inputs(self, encoded: TimeSeriesModelOutput, real: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the pooled embedding, for flat heads all tokens (batch_size, num_tokens, embedding_size)."""
        is_flat = self.config.classifier == "flatten"
        return {"features": cast(torch.Tensor, encoded.last_hidden_state if is_flat else encoded.pooler_output)}


class CrossTimeNetForTimeSeriesPrediction(_ReadsTokens, GenericForTimeSeriesPrediction):
    """The encoder with a linear prediction of the future from the embedding of the last token.

    Args:
        config: Domains and backbone; prediction_length and num_output_channels give the future's sizes,
            target_mean and target_scale its units.
    """

    def __init__(self, config: CrossTimeNetConfig) -> None:
        super().__init__(config)
        self.model = CrossTimeNetModel(config)
        self.head = ScaledPredictionHead(config)
        self.post_init()

    def forward(  # type: ignore[override]  # it also takes tokens
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_values: torch.Tensor | None = None,
        past_observed_mask: torch.Tensor | None = None,
        domain: str | int | None = None,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
        head_inputs: dict[str, torch.Tensor] | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TimeSeriesPredictionOutput | tuple[torch.Tensor, ...]:
        """Predict the future.

        Args:
            input_ids: (batch_size, num_tokens) int64.
            attention_mask: (batch_size, num_tokens), True or 1 = token; None: all but the padding ids.
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing, in place of input_ids.
            past_observed_mask: The shape of past_values, True = observed, or None.
            domain: Name or place of the domain of past_values; None where there is only one.
            future_values: (batch_size, prediction_length, num_output_channels), NaN = missing, or None.
            future_observed_mask: The same shape, True = observed, or None.
            head_inputs: What `compute_head_inputs` returned for the series, in place of the series.
            output_hidden_states: Whether to return the backbone's hidden states.
            return_dict: Whether to return a TimeSeriesPredictionOutput instead of a tuple.

        Returns:
            Loss (with future_values), in units of target_scale; and prediction_outputs (batch_size, prediction_length,
            num_output_channels), in those of the series.
        """
        encoded = EncodedForHead(head_inputs or {})
        if head_inputs is None:
            encoded = self.compute_head_inputs(
                past_values, past_observed_mask, output_hidden_states, input_ids, attention_mask, domain
            )
        return self._forecast(encoded, future_values, future_observed_mask, return_dict)

    def _head_inputs(self, encoded: TimeSeriesModelOutput, real: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the embedding of the last token: (batch_size, embedding_size)."""
        return {"embedding": pool_instance(cast(torch.Tensor, encoded.last_hidden_state), real, "last")}


class MaskedTokenHead(nn.Module):
    """Scores of all tokens, as BERT's masked language modelling has them, but with an output layer of its own.

    Args:
        config: Gives the vocabulary, the backbone and the ids that are never predicted.
    """

    def __init__(self, config: CrossTimeNetConfig) -> None:
        super().__init__()
        backbone = cast(PreTrainedConfig, config.backbone_config)
        width = cast(int, config.embedding_size)
        self.never_predicted_ids = list(config.never_predicted_ids)
        self.dense = nn.Linear(width, width)
        self.activation = ACT2FN[activation_name(backbone)]
        self.norm = nn.LayerNorm(width, eps=normalization_epsilon(backbone))
        self.decoder = nn.Linear(width, cast(int, config.vocab_size), bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (..., embedding_size) to float32 logits (..., vocab_size).

        Ids that are never predicted have the lowest finite number, whose probability is exactly zero.
        """
        logits = self.decoder(self.norm(self.activation(self.dense(hidden)))).float()
        if self.never_predicted_ids:
            excluded = torch.tensor(self.never_predicted_ids, device=logits.device)
            logits = logits.index_fill(-1, excluded, torch.finfo(logits.dtype).min)
        return logits


class FlattenClassifier(nn.Module):
    """The published head: all tokens beside each other, GELU, layer normalisation and a linear layer.

    Args:
        config: Gives embedding_size and classifier_dropout.
        num_labels: Number of classes.
        num_tokens: Number of tokens of every series.
    """

    def __init__(self, config: CrossTimeNetConfig, num_labels: int, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.dropout = nn.Dropout(config.classifier_dropout)
        width = num_tokens * cast(int, config.embedding_size)
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, num_labels)

    def scores(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens (batch_size, num_tokens, embedding_size) to logits (batch_size, num_labels).

        Raises:
            ValueError: The number of tokens is another one.
        """
        if tokens.shape[1] != self.num_tokens:
            raise ValueError(
                f"The series have {tokens.shape[1]} tokens, but classifier='flatten' was built for {self.num_tokens}; "
                "pad or cut them, or use classifier='pooled'."
            )
        return self.projection(self.norm(self.dropout(F.gelu(tokens.flatten(1)))))


class _ZeroGradients(torch.autograd.Function):
    """Passes logits on, and gives parameters that had no part in them a gradient of zero, whatever their values."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*parameters)
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return gradient, *map(torch.zeros_like, ctx.saved_tensors)


class DomainClassifiers(nn.Module):
    """A head a domain that has `num_labels`, or one head for all where no domain has.

    In training the heads of the other domains get a gradient of zero, so that several processes may train on
    different domains at once: DistributedDataParallel waits for the gradients of all parameters.

    Args:
        config: Gives the domains, the kind of head and num_labels.

    Raises:
        ValueError: classifier="flatten" without num_tokens.
    """

    def __init__(self, config: CrossTimeNetConfig) -> None:
        super().__init__()
        self.config = config
        described = [(place, one) for place, one in enumerate(config.domains or []) if one.get("num_labels")]
        self.places = [place for place, _ in described]
        labels = [int(one["num_labels"]) for _, one in described] or [cast(int, config.num_labels)]
        tokens = [one.get("num_tokens", config.num_tokens) for _, one in described] or [config.num_tokens]
        self.heads = nn.ModuleList(map(self._build, labels, tokens))

    def _build(self, num_labels: int, num_tokens: int | None) -> nn.Module:
        if self.config.classifier == "pooled":
            return ClassificationHead(self.config, num_labels)
        if num_tokens is None:
            raise ValueError(
                "classifier='flatten' needs num_tokens, the number of tokens of every series: ceil(length / "
                "patch_length)."
            )
        return FlattenClassifier(self.config, num_labels, num_tokens)

    def forward(
        self,
        features: torch.Tensor,
        domain: str | int | None = None,
        labels: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Score the classes of a domain.

        Args:
            features: The pooled tokens (batch_size, embedding_size), or with classifier="flatten" all tokens
                (batch_size, num_tokens, embedding_size).
            domain: Name or place of the domain; None where there is one head.
            labels: See losses_time_series.finish_scores.

        Returns:
            The scalar loss or None, and the logits (batch_size, number of the domain's labels).

        Raises:
            ValueError: The domain is unknown, or has no head.
        """
        place = self.place_of(domain)
        head = cast(
            "ClassificationHead | FlattenClassifier", self.heads[0 if place is None else self.places.index(place)]
        )
        scores = head.scores(features)
        if self.training:
            others = [value for other in self.heads if other is not head for value in other.parameters()]
            learning = [value for value in others if value.requires_grad]
            scores = _ZeroGradients.apply(scores, *learning) if learning else scores
        return finish_scores(scores, labels, self.config)

    def place_of(self, domain: str | int | torch.Tensor | None) -> int | None:
        """Return the place of the domain whose head scores; None where one head serves all domains.

        Args:
            domain: Name or place of the domain; None where there is one head.

        Raises:
            ValueError: The domain is unknown, or has no head.
        """
        if not self.places:
            return None
        place = self.config.served_domain_index(domain)
        if place not in self.places:
            domains = self.config.domains or []
            names = ", ".join(domains[one]["name"] for one in self.places)
            raise ValueError(
                f"Domain {domains[place]['name']!r} has no classification head; these have: {names}. "
                "Give it num_labels in config.domains."
            )
        return place


class ScaledPredictionHead(PredictionHead):
    """A linear layer to the future in units of `config.target_scale`: the tokens tell no units of the series.

    Args:
        config: Gives the sizes, and mean and scale of the predicted channels or None.
    """

    def __init__(self, config: CrossTimeNetConfig) -> None:
        super().__init__(config)
        self.target_mean, self.target_scale = config.target_mean, config.target_scale

    def forward(
        self,
        embedding: torch.Tensor,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Predict the future; see PredictionHead.forward.

        Returns:
            The loss in scaled units or None, and the prediction in the units of the series.
        """
        if self.target_mean is None or self.target_scale is None:
            return super().forward(embedding, future_values, future_observed_mask)
        known = torch.tensor([self.target_mean, self.target_scale], dtype=torch.float32, device=embedding.device)
        mean, scale = known.unbind(0)
        # Another number of channels is for PredictionHead to refuse.
        if future_values is not None and future_values.shape[-1] == len(mean):
            future_values = (future_values.float() - mean) / scale
        loss, prediction = super().forward(embedding, future_values, future_observed_mask)
        if self.quantiles is not None:
            mean, scale = mean.unsqueeze(-1), scale.unsqueeze(-1)
        return loss, prediction.float() * scale + mean


# The pretext task's equations and draws.


def masked_token_loss(logits: torch.Tensor, tokens: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Return -1/count * sum over the hidden tokens of log p(token | the others) (section 3.3).

    Args:
        logits: (num_hidden_tokens, vocab_size), float32.
        tokens: (num_hidden_tokens,) int64, what was hidden.
        count: A scalar above 0, by which the sum is divided.

    Returns:
        A scalar.
    """
    return F.cross_entropy(logits, tokens, reduction="sum") / count


@torch.compiler.disable  # generators cannot be compiled
def token_mask(
    real: torch.Tensor, mask_ratio: float, generator: torch.Generator | None = None, shared: bool = True
) -> torch.Tensor:
    """Draw the hidden tokens (section 3.3): each real one by itself, and always the one with the batch's lowest draw.

    So at least one token is hidden wherever there is a real one, and the loss is a mean over something. All processes
    draw for the global batch from the first one's seed, and each takes its rows.

    Args:
        real: (batch_size, num_tokens) bool, the tokens that may be hidden.
        mask_ratio: Probability that a token is hidden.
        generator: Source of the seed, on the CPU; None for torch's global one.
        shared: Whether the batch is a part of the global batch of all processes.

    Returns:
        (batch_size, num_tokens) bool, True = hidden.
    """
    is_shared = shared and process_share()[1] > 1
    source = fork_generator(generator, real.device, is_shared)
    before, num_rows, num_columns = _place_of_rows(real) if is_shared else (0, *real.shape)
    draws = torch.rand(num_rows, num_columns, generator=source)
    draws = draws[before : before + len(real), : real.shape[1]].to(real.device)
    # Above every draw: of a batch without a real token nothing is hidden.
    lowest = torch.where(real, draws, 2.0).amin() if real.numel() else draws.new_tensor(2.0)
    if is_shared:
        dist.all_reduce(lowest, op=dist.ReduceOp.MIN)
    return real & ((draws < mask_ratio) | (draws <= lowest))


def _place_of_rows(real: torch.Tensor) -> tuple[int, int, int]:
    """Return the number of rows before ours in the global batch, of its rows, and of its longest row's tokens."""
    rank, num_processes = process_share()
    own = torch.tensor(real.shape, device=real.device)
    sizes = [torch.empty_like(own) for _ in range(num_processes)]
    dist.all_gather(sizes, own)
    rows = [int(size[0]) for size in sizes]
    return sum(rows[:rank]), sum(rows), max(int(size[1]) for size in sizes)


def global_count(mask: torch.Tensor, shared: bool = True) -> torch.Tensor:
    """Return the number of hidden tokens divided by the number of processes that share the batch; a scalar.

    The sum of a process's losses divided by it has the mean over processes that one process has on the global batch.
    """
    count = mask.sum().float()
    if not shared or process_share()[1] == 1:
        return count
    dist.all_reduce(count)
    return count / process_share()[1]


# Official checkpoints: github.com/Mingyue-Cheng/CrossTimeNet, bert4timeseries.py and TStokenizer/model.py.

_CODEC_PREFIX = "vqvae_model."
# Parameters that the official code creates and no computation reads.
_UNUSED_PARAMETERS = re.compile(
    r"mask|encoder\.bert\.embeddings\.(word_embeddings\.weight|position_ids)|encoder\.cls\.predictions\.bias"
)
_OUR_NAMES = {
    "encoder.cls.predictions.transform.dense": "head.dense",
    "encoder.cls.predictions.transform.LayerNorm": "head.norm",
    "encoder.cls.predictions.decoder": "head.decoder",
    "emb_layer": "model.backbone.embeddings.word_embeddings",
}
_TABLES = ("emb_layer.weight", "encoder.cls.predictions.decoder.weight")
_HEADS = ("pretraining", "classification")


def prepare_crosstimenet_folder(
    state_dict: Mapping[str, torch.Tensor], hyperparameters: Mapping[str, Any], method: Any
) -> PreparedFolder:
    """Convert an official checkpoint, of a tokenizer or of a model with its three tokenizers.

    Args:
        state_dict: Of the official VQVAE, or of the official bert4ts.
        hyperparameters: Official arguments, compared with the shapes that tell them; `domain`, the name of a lone
            tokenizer's domain. Of a model: `bert_config` or single arguments of the BERT; `head`, "pretraining" (the
            default) for the layer that recovers tokens or "classification" for the data sets' heads, of which
            training leaves only one kind trained; and fields of CrossTimeNetConfig.
        method: The method's classes: `model_classes` by kind and `tokenizer_class`.

    Returns:
        The tokenizer, or the model with its tokenizer.

    Raises:
        ConversionError: The parameters are no such checkpoint's, or a hyper-parameter is unknown or contradicts them.
    """
    given = {
        name: value for name, value in hyperparameters.items() if value is not None and name not in TRAINING_ARGUMENTS
    }
    parts = split_codecs(state_dict)
    try:
        if parts:
            return _prepared_model(state_dict, given, method, method.tokenizer_class.from_official(parts))
        tokenizer = method.tokenizer_class.from_official({str(given.pop("domain", "series")): state_dict}, given)
    except ConversionError:
        raise
    except ValueError as error:  # the tokenizer's own, which knows no conversion
        raise ConversionError(str(error)) from error
    return PreparedFolder(tokenizer, _card_of_tokenizer(tokenizer.domains[0]))


def _prepared_model(
    state_dict: Mapping[str, torch.Tensor], given: dict[str, Any], method: Any, tokenizer: Any
) -> PreparedFolder:
    head = given.pop("head", _HEADS[0])
    if head not in _HEADS:
        raise ConversionError(f"head={head!r} is unknown; choose one of {', '.join(map(repr, _HEADS))}.")
    fields, parameters, classifiers = convert_crosstimenet_state_dict(
        state_dict, tokenizer.domains, fields_of_official_arguments(given)
    )
    if head == "classification":
        parameters = {name: value for name, value in parameters.items() if name.startswith("model.")} | classifiers
    model = load_converted(method.model_classes[head](CrossTimeNetConfig(**fields)), parameters)
    return PreparedFolder(model.set_tokenizer(tokenizer))


def convert_crosstimenet_state_dict(
    state_dict: Mapping[str, torch.Tensor], tokenizer_domains: Sequence[Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Turn an official model's state dict into ours.

    Args:
        state_dict: Of the official bert4ts.
        tokenizer_domains: The converted tokenizers' domains, in the order of ids.
        given: Fields that the caller says, of fields_of_official_arguments.

    Returns:
        Fields of CrossTimeNetConfig; the parameters of CrossTimeNetForPreTraining; and those of the classification
        heads of CrossTimeNetForTimeSeriesClassification (classifier="flatten").

    Raises:
        ConversionError: Parameters are missing, unknown or of shapes that do not fit each other or what was said.
    """
    official = {
        key: value
        for key, value in state_dict.items()
        if not key.startswith(_CODEC_PREFIX) and not _UNUSED_PARAMETERS.fullmatch(key)
    }
    domains, classifiers = _domains_and_heads(official, split_codecs(state_dict), tokenizer_domains)
    num_codes = sum(one["codebook_size"] for one in domains)
    parameters = {}
    for key, value in official.items():
        if not key.startswith("head."):
            converted = rows_of_our_vocabulary(value, num_codes) if key in _TABLES else value
            parameters[rename_official_parameter(key)] = converted
    fields = {
        "domains": domains,
        "never_predicted_ids": [one for one in SPECIAL_TOKEN_IDS if one != MASK_TOKEN_ID],
        "classifier": "flatten",
    }
    backbone = official_bert_config(official, given.get("backbone_config", {}))
    return {**fields, **given, "backbone_config": backbone}, parameters, classifiers


def rename_official_parameter(key: str) -> str:
    """Return our name of a parameter of the official model, its tokenizers and classification heads left aside.

    Raises:
        ConversionError: The official model has no such parameter.
    """
    if key.startswith(BERT_PREFIX):
        return f"model.backbone.{key.removeprefix(BERT_PREFIX)}"
    layer, _, kind = key.rpartition(".")
    if layer not in _OUR_NAMES:
        raise ConversionError(f"The official model has no parameters {key}.")
    return f"{_OUR_NAMES[layer]}.{kind}"


def split_codecs(state_dict: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the tokenizers' state dicts of a model's by their domain, "har" for "har-data", in the order of ids.

    The official code counts its data sets ecg-data, eeg-data, har-data, which is also their alphabetical order.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key in sorted(state_dict):
        if key.startswith(_CODEC_PREFIX):
            data_set, name = key.removeprefix(_CODEC_PREFIX).split(".", 1)
            parts.setdefault(data_set.removesuffix("-data"), {})[name] = state_dict[key]
    return parts


def rows_of_our_vocabulary(table: torch.Tensor, num_codes: int) -> torch.Tensor:
    """Put the rows of an official table, codes and then the mask token, at our ids; zeros where it has none.

    Args:
        table: (num_codes + 1, width).
        num_codes: Number of codes of all domains.

    Returns:
        (4 + num_codes, width).
    """
    if table.ndim != 2 or len(table) != num_codes + 1:
        raise ConversionError(
            f"A table of tokens has shape {tuple(table.shape)}; {num_codes + 1} rows are needed, the {num_codes} "
            "codes of the tokenizers and the mask token."
        )
    rows = table.new_zeros(len(SPECIAL_TOKEN_IDS) + num_codes, table.shape[1])
    rows[MASK_TOKEN_ID] = table[-1]
    rows[len(SPECIAL_TOKEN_IDS) :] = table[:-1]
    return rows


def _domains_and_heads(
    official: Mapping[str, torch.Tensor], parts: Mapping[str, Any], tokenizer_domains: Sequence[Any]
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    domains, heads = [], {}
    for place, (name, described) in enumerate(zip(parts, tokenizer_domains, strict=True)):
        for layer, ours in (("1", "norm"), ("2", "projection")):
            for kind in ("weight", "bias"):
                key = f"head.{name}-data.{layer}.{kind}"
                if key not in official:
                    raise ConversionError(f"This is no whole model of CrossTimeNet: {key} is missing.")
                heads[f"classifier.heads.{place}.{ours}.{kind}"] = official[key]
        sizes = {field: getattr(described, field) for field in ("num_input_channels", "patch_length", "codebook_size")}
        num_tokens = described.num_patches(described.context_length)
        num_labels = len(official[f"head.{name}-data.2.bias"])
        domains.append({"name": described.name, **sizes, "num_labels": num_labels, "num_tokens": num_tokens})
    return domains, heads


def _card_of_tokenizer(domain: Any) -> str:
    return (
        "---\nlibrary_name: hf-tsrep\nlicense: unknown\ntags:\n- time-series\n- tokenizer\n- crosstimenet\n---\n\n"
        f"# CrossTimeNet tokenizer of {domain.name}\n\n"
        "Converted from `{source}`, a checkpoint of the official implementation of CrossTimeNet (Cheng et al., WSDM "
        f"2025, arXiv 2403.12372). It turns series of {domain.context_length} timestamps and "
        f"{domain.num_input_channels} channels into {domain.num_patches(domain.context_length)} of "
        f"{domain.codebook_size} codes; the published decoder takes that length only. The official training "
        "multiplied series by 2.5 before the tokenizer: whoever trained it so does the same before tokenising.\n"
    )


CrossTimeNetPreTrainedModel.converter = FolderConverter(prepare_crosstimenet_folder)
