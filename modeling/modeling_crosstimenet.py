"""CrossTimeNet: a language model reads the tokens of time series (Cheng et al., WSDM 2025, arXiv 2403.12372).

Section 3.2, series to tokens -> CrossTimeNetTokenizer, which is saved beside the model; base_crosstimenet.py.
Section 3.3, masked tokens are recovered -> masking_crosstimenet.py, CrossTimeNetForPreTraining; language models and
word mapping -> backbones_crosstimenet.py.
Section 3.4, fine-tuning -> CrossTimeNetForTimeSeriesClassification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers.utils import ModelOutput

from .backbones_crosstimenet import build_backbone, read_tokens
from .base_crosstimenet import CrossTimeNetPreTrainedModel
from .configuration_crosstimenet import SPECIAL_TOKEN_IDS, CrossTimeNetConfig
from .encoding_time_series import observed_span
from .generic_heads_time_series import (
    EncodedForHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
)
from .heads_crosstimenet import DomainClassifiers, MaskedTokenHead, ScaledPredictionHead
from .masking_crosstimenet import NO_LABEL, check_labels, global_count, token_mask
from .outputs_time_series import (
    TimeSeriesClassificationOutput,
    TimeSeriesModelOutput,
    TimeSeriesPredictionOutput,
)
from .pooling_time_series import pool_instance


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
        self.backbone = build_backbone(config.backbone_config)  # type: ignore[arg-type]  # the config has made it one
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

        Timestamps before the first and behind the last observed one have no token and the embedding zero, whether
        they are `inside` or not. Pooling takes the timestamps of tokens that are no special ones.
        """
        ids, attended, first_steps = self.tokenise(past_values, past_observed_mask, domain)
        hidden, _ = read_tokens(self.backbone, ids, attended, False)
        described = (self.config.domains or [])[self.config.served_domain_index(domain)]
        steps = torch.arange(past_values.shape[1], device=ids.device)
        places = (steps - first_steps.unsqueeze(1)).div(described["patch_length"], rounding_mode="floor")
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
        logits, targets = self.head(hidden[mask]), known[mask]
        count = global_count(mask, shared=self.training).clamp(min=torch.finfo(torch.float32).tiny)
        right = (logits.argmax(-1) == targets).sum() / count
        output = CrossTimeNetForPreTrainingOutput(
            loss=F.cross_entropy(logits, targets, reduction="sum") / count,
            accuracy=right.detach(),
            logits=logits,
            mask=mask,
            last_hidden_state=hidden.detach(),
        )
        return output if return_dict is not False else output.to_tuple()

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


class CrossTimeNetForTimeSeriesClassification(GenericForTimeSeriesClassification, CrossTimeNetPreTrainedModel):
    """The encoder with class scores, from one head for all domains or one a domain.

    Args:
        config: Domains and backbone; `num_labels` of the domains, or else of the config, gives the classes.
    """

    def __init__(self, config: CrossTimeNetConfig) -> None:
        super().__init__(config)
        self.model = CrossTimeNetModel(config)
        self.head = DomainClassifiers(config)
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
        return self.score(encoded, labels, return_dict, domain=domain)

    def compute_head_inputs(
        self,
        past_values: torch.Tensor | None = None,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        domain: str | int | None = None,
    ) -> EncodedForHead:
        """Embed the series (batch_size, embedding_size), for flat heads its tokens (.., num_tokens, embedding_size).

        See GenericWithHead.compute_head_inputs, and `forward` for the arguments.
        """
        place = self.head.place_of(domain)
        domain = domain if place is None else place
        input_ids, attended = self.tokens_of(input_ids, attention_mask, past_values, past_observed_mask, domain)
        encoded = self.model(input_ids, attended, output_hidden_states=output_hidden_states)
        is_flat = self.config.classifier == "flatten"
        features = encoded.last_hidden_state if is_flat else encoded.pooler_output
        return EncodedForHead({"features": features}, encoded.hidden_states)


class CrossTimeNetForTimeSeriesPrediction(GenericForTimeSeriesPrediction, CrossTimeNetPreTrainedModel):
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
        return self.predict(encoded, future_values, future_observed_mask, return_dict)

    def compute_head_inputs(
        self,
        past_values: torch.Tensor | None = None,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        domain: str | int | None = None,
    ) -> EncodedForHead:
        """Embed the last token: (batch_size, embedding_size).

        See GenericWithHead.compute_head_inputs, and `forward` for the arguments.
        """
        input_ids, attended = self.tokens_of(input_ids, attention_mask, past_values, past_observed_mask, domain)
        encoded = self.model(input_ids, attended, output_hidden_states=output_hidden_states)
        last = pool_instance(encoded.last_hidden_state, self.model.real_tokens(input_ids, attended), "last")
        return EncodedForHead({"embedding": last}, encoded.hidden_states)


CrossTimeNetModel.register_for_auto_class("AutoModel")
CrossTimeNetForPreTraining.register_for_auto_class("AutoModelForPreTraining")
CrossTimeNetForTimeSeriesClassification.register_for_auto_class("AutoModelForSequenceClassification")
CrossTimeNetForTimeSeriesPrediction.register_for_auto_class("AutoModelForTimeSeriesPrediction")
