"""GPHT: Generative Pretrained Hierarchical Transformer for Time Series Forecasting (Liu et al., KDD 2024, 2402.16516).

Section 3.2, channel independence, normalisation and tokens -> align_ends, GPHTPreTrainedModel.cut. Section 3.3,
multi-rate stages and hierarchical residuals -> pool_in_tokens, GPHTStage, GPHTModel.encode_tokens. Section 3.4,
autoregressive pre-training -> next_tokens, GPHTForPreTraining, and inference -> GPHTGenerates. The converter of
official checkpoints is at the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .batching_time_series import evaluating
from .configuration_gpht import GPHTConfig
from .configuration_time_series import near_match_hint
from .conversion_time_series import (
    ConversionError,
    Converter,
    FieldsAndParameters,
    convert_transformer_layer,
    official_layer_names,
    rename_hyperparameters,
    require_fields,
    require_parameters,
)
from .distributed_time_series import GlobalBatch
from .heads_time_series import (
    ClassificationHead,
    EncodedForHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
    TimeSeriesModelOutput,
    TimeSeriesPredictionOutput,
    count_quantiles,
    unflatten_prediction,
)
from .layers_attention import AttentionCache, causal_mask
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_normalization import (
    InstanceStatistics,
    denormalize_instances,
    instance_statistics,
    normalize_instances,
)
from .layers_patching import AlignedSeries, take_context
from .layers_pooling import pool_channels, pool_instance
from .layers_transformer import DROPOUT_SITES_OF_A_LAYER, TransformerEncoder, sinusoidal_positions, sinusoids
from .losses_time_series import prediction_loss
from .modeling_time_series import TimeSeriesPreTrainedModel


@dataclass(frozen=True)
class GPHTDraws:
    """The random choices of one pre-training step.

    Args:
        start: First timestamp that is looked at, of series longer than the context and a token.
        dropout_seed: Seed of all dropout of a step in training; None for torch's global generator.
    """

    start: int = 0
    dropout_seed: int | None = None

    def rows(self, start: int, stop: int) -> GPHTDraws:
        """Return the choices for some series of the batch: they are those of all."""
        return self


def draw_step(config: GPHTConfig, length: int, generator: torch.Generator) -> GPHTDraws:
    """Draw a window of the context and the token after it, and the seed of dropout.

    Args:
        config: Gives context_length and token_length.
        length: Number of timestamps of the series.
        generator: Source of randomness, on the CPU.

    Returns:
        The choices.
    """
    beyond = max(length - config.context_length - config.token_length, 0)
    start = int(torch.randint(beyond + 1, (), generator=generator))
    return GPHTDraws(start, int(torch.randint(2**62, (), generator=generator)))


def align_ends(values: torch.Tensor, observed: torch.Tensor, token_length: int, fewest: int = 1) -> AlignedSeries:
    """Move every series to the end of a grid of tokens, so that its last observed timestamp ends the last token.

    Args:
        values: (batch_size, sequence_length, num_channels).
        observed: The same shape, bool. A series goes from the first to the last timestamp at which any channel is
            observed.
        token_length: Number of timestamps of a token.
        fewest: Number of tokens that there are at least.

    Returns:
        The series on the grid: values and observed (batch_size, num_tokens * token_length, num_channels), missing
        before a series; `start`, (batch_size,), is the timestamp that stands at the first place of the grid, which may
        be negative; `length`, (batch_size,), that of the series, at least 1.
    """
    sequence_length = values.shape[1]
    num_tokens = (sequence_length + token_length - 1) // token_length
    # A traced graph would be another one for one or two tokens; further ones before the series change nothing.
    num_tokens = torch.sym_max(num_tokens, 3) if torch.compiler.is_compiling() else max(num_tokens, fewest)
    steps = torch.arange(sequence_length, device=values.device)
    anything = observed.any(-1)
    stop = torch.where(anything | ~anything.any(1, keepdim=True), steps + 1, 0).amax(1)
    begin = torch.minimum(torch.where(anything, steps, sequence_length).amin(1), stop - 1)
    grid_length = num_tokens * token_length
    start = stop - grid_length
    is_plain = not torch.compiler.is_compiling() and grid_length == sequence_length
    if is_plain and not bool(start.any()):
        return AlignedSeries(values, observed, start, stop - begin)
    places = start.unsqueeze(1) + torch.arange(grid_length, device=values.device)
    inside = ((places >= 0) & (places < sequence_length)).unsqueeze(-1)
    index = places.clamp(min=0, max=sequence_length - 1).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return AlignedSeries(values.gather(1, index), observed.gather(1, index) & inside, start, stop - begin)


def pool_in_tokens(values: torch.Tensor, observed: torch.Tensor | None, rate: int, pooling: str) -> torch.Tensor:
    """Pool neighbouring timestamps of every token into one (section 3.3, the stage's rate).

    Args:
        values: (..., token_length, num_channels).
        observed: The same shape, bool: the others are left out; None for all.
        rate: Number of timestamps that become one, a divisor of token_length.
        pooling: "max" or "average".

    Returns:
        (..., token_length / rate, num_channels); 0 where nothing is observed.
    """
    if rate == 1:
        return values if observed is None else torch.where(observed, values, 0.0)
    cells = values.unflatten(-2, (-1, rate))
    if observed is None:
        return cells.amax(-2) if pooling == "max" else cells.mean(-2)
    seen = observed.unflatten(-2, (-1, rate))
    if pooling == "average":
        return torch.where(seen, cells, 0.0).sum(-2) / seen.sum(-2).clamp(min=1)
    return torch.where(seen.any(-2), cells.masked_fill(~seen, -torch.inf).amax(-2), 0.0)


def shift_by_a_token(outputs: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
    """Put every token's output, which predicts the next token, at that token's place (section 3.3).

    Args:
        outputs: (num_rows, num_tokens, token_length, num_channels).
        before: (num_rows, 1, token_length, num_channels) of the token before the first one; None for zeros.

    Returns:
        The shape of outputs.
    """
    first = torch.zeros_like(outputs[:, :1]) if before is None else before
    return torch.cat((first, outputs[:, :-1]), dim=1)


class SeriesTokens(NamedTuple):
    """Normalised tokens. A row is a series, with independent channels a channel of one.

    Args:
        values: (num_rows, num_tokens, token_length, channels_of_a_row), 0 where nothing is observed.
        observed: The same shape, bool; None for all.
        places: (num_rows, num_tokens) number of every token in its series, negative before it; None for 0, 1, ...
    """

    values: torch.Tensor
    observed: torch.Tensor | None = None
    places: torch.Tensor | None = None


class EncodedTokens(NamedTuple):
    """What the stages make of tokens.

    Args:
        hidden: One (num_rows, num_tokens, hidden_size) a stage.
        outputs: One (num_rows, num_tokens, token_length, channels_of_a_row) for every stage but the last, whose output
            is the head's: what the stage predicts the next token to be, of what the stages before it have left.
    """

    hidden: list[torch.Tensor]
    outputs: list[torch.Tensor]

    @property
    def earlier(self) -> torch.Tensor | None:
        """Sum of the outputs; None for a single stage."""
        return torch.stack(self.outputs).sum(0) if self.outputs else None


@dataclass
class TokenCache:
    """What the tokens so far leave for the next ones: all that a new token needs beside its own values.

    It is exact where statistics and numbers of tokens stay (generation_window="fixed"): pooling looks inside a token,
    attention at keys and values, and the residual of a stage at its output for the token before.

    Args:
        window: Number of tokens that a token sees, itself the last.
    """

    window: int
    attention: AttentionCache = field(init=False)
    before: list[torch.Tensor] = field(default_factory=list)  # every stage's output for the last token
    seen: torch.Tensor | None = None  # (num_rows, at most window - 1) bool
    places: torch.Tensor | None = None  # (num_rows, 1) number of the last token

    def __post_init__(self) -> None:
        """Make the cache of the attention."""
        self.attention = AttentionCache(self.window)

    def extend_seen(self, seen: torch.Tensor) -> torch.Tensor:
        """Put (num_rows, number of new tokens) after those that are kept, and keep the last window - 1 of them."""
        if self.seen is not None:
            seen = torch.cat((self.seen, seen), dim=1)
        self.seen = seen[:, max(seen.shape[1] - self.window + 1, 0) :]
        return seen


class GPHTStage(nn.Module):
    """One stage: pooled tokens, embedded and encoded by layers that look back (section 3.3).

    Args:
        config: Gives the sizes.
        index: Number of the stage.
    """

    def __init__(self, config: GPHTConfig, index: int) -> None:
        super().__init__()
        self.rate, self.pooling = config.pooling_rates[index], config.stage_pooling
        first_site = index * (1 + config.num_hidden_layers * DROPOUT_SITES_OF_A_LAYER)
        self.embedding = nn.Linear(config.token_size // self.rate, config.hidden_size, bias=False)
        self.dropout = SeededDropout(config.dropout, first_site)
        self.encoder = TransformerEncoder(
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.intermediate_size,
            config.dropout,
            first_site + 1,
            config.attention_dropout,
            config.activation,
        )

    def forward(
        self,
        tokens: SeriesTokens,
        positions: torch.Tensor,
        attention_mask: torch.Tensor | None,
        draws: DropoutDraws | None = None,
        states: list[torch.Tensor] | None = None,
        cache: AttentionCache | None = None,
    ) -> torch.Tensor:
        """Encode what the stages before have left.

        Args:
            tokens: The tokens.
            positions: (num_tokens, hidden_size), or one a row.
            attention_mask: See SelfAttention.
            draws: The random choices of dropout; None for random ones in training.
            states: Takes the embedded tokens and every layer's output, when given.
            cache: See SelfAttention.

        Returns:
            (num_rows, num_tokens, hidden_size).
        """
        pooled = pool_in_tokens(tokens.values, tokens.observed, self.rate, self.pooling).flatten(-2)
        embedded = self.embedding(pooled.to(self.embedding.weight.dtype))
        hidden = self.dropout(embedded + positions.to(embedded.dtype), draws)
        if states is not None:
            states.append(hidden)
        return self.encoder(hidden, attention_mask, draws, states, cache)


class TokenForecast(nn.Module):
    """A linear layer from a token's embedding to the token after it.

    Args:
        config: Gives the sizes.
        quantiles: Quantiles of every value; None for one number.
    """

    def __init__(self, config: GPHTConfig, quantiles: list[float] | None = None) -> None:
        super().__init__()
        self.channels_of_a_row, self.quantiles = config.channels_of_a_row, quantiles
        self.projection = nn.Linear(config.hidden_size, config.token_size * count_quantiles(quantiles))

    def forward(self, hidden: torch.Tensor, earlier: torch.Tensor | None = None) -> torch.Tensor:
        """Predict.

        Args:
            hidden: (..., hidden_size).
            earlier: (..., token_length, channels_of_a_row), what other stages predict, which is added; None for none.

        Returns:
            (..., token_length, channels_of_a_row), float32, and with quantiles a last axis of them, rising.
        """
        values = unflatten_prediction(self.projection(hidden), self.channels_of_a_row, self.quantiles).float()
        if earlier is None:
            return values
        return values + (earlier if self.quantiles is None else earlier.unsqueeze(-1))


@dataclass
class GPHTForPreTrainingOutput(ModelOutput):
    """Loss of the pretext task.

    Args:
        loss: Scalar: the mean squared error of the predicted tokens, in the units of the series.
        prediction: (batch_size, num_tokens * token_length, num_input_channels), without gradient: what every token
            predicts the one after it to be.
        target: The same shape: what they are, 0 where nothing is observed or asked.
        stage_outputs: (num_stages, batch_size, num_tokens * token_length, num_input_channels), without gradient, on
            the scale of the normalised series; the prediction is their sum.
    """

    loss: torch.Tensor | None = None
    prediction: torch.Tensor | None = None
    target: torch.Tensor | None = None
    stage_outputs: torch.Tensor | None = None


class GPHTPreTrainedModel(TimeSeriesPreTrainedModel):
    """Base class of GPHT's models."""

    config: GPHTConfig
    config_class = GPHTConfig
    _supports_sdpa = _supports_attention_backend = True  # other functions cannot hide each token's successors
    _no_split_modules = ["TransformerLayer"]  # noqa: RUF012 - as transformers declares it

    def cut(self, series: AlignedSeries, statistics: InstanceStatistics) -> SeriesTokens:
        """Normalise aligned series and cut them into rows of tokens.

        Args:
            series: From align_ends.
            statistics: Of the same series.

        Returns:
            The tokens.
        """
        length = self.config.token_length
        values = self._rows(normalize_instances(series.values, series.observed, statistics))
        num_tokens = values.shape[1]
        of_series = (series.length + length - 1).div(length, rounding_mode="floor")
        places = torch.arange(num_tokens, device=values.device) - (num_tokens - of_series).unsqueeze(1)
        if not torch.compiler.is_compiling():
            if bool(series.observed.all()):
                return SeriesTokens(values)
            if not bool((places[:, 0] < 0).any()):
                return SeriesTokens(values, self._rows(series.observed))
        if self.config.channel_mode == "independent":
            places = places.unsqueeze(1).expand(-1, series.values.shape[-1], -1).flatten(0, 1)
        return SeriesTokens(values, self._rows(series.observed), places)

    def _rows(self, values: torch.Tensor) -> torch.Tensor:
        """Cut (batch_size, grid length, num_channels) into (num_rows, num_tokens, token_length, channels_of_a_row)."""
        if self.config.channel_mode == "independent":
            values = values.transpose(1, 2).flatten(0, 1).unsqueeze(-1)
        return values.unflatten(1, (-1, self.config.token_length))

    def _series(self, rows: torch.Tensor, num_channels: int) -> torch.Tensor:
        """Return (batch_size, grid length, num_channels, ...) of (num_rows, num_tokens, token_length, ...)."""
        rows = rows.flatten(1, 2)
        if self.config.channel_mode == "joint":
            return rows
        return rows.squeeze(2).unflatten(0, (-1, num_channels)).transpose(1, 2)


class GPHTModel(GPHTPreTrainedModel):
    """The stages: each reads what those before it have left of every token (section 3.3)."""

    def __init__(self, config: GPHTConfig) -> None:
        super().__init__(config)
        self.stages = nn.ModuleList(GPHTStage(config, index) for index in range(len(config.pooling_rates)))
        # The last stage's is the head of forecasts, and no part of the encoder.
        self.forecasts = nn.ModuleList(TokenForecast(config) for _ in config.pooling_rates[:-1])
        self.post_init()

    def encode_tokens(
        self,
        tokens: SeriesTokens,
        draws: DropoutDraws | None = None,
        states: list[torch.Tensor] | None = None,
        window: int | None = None,
        cache: TokenCache | None = None,
    ) -> EncodedTokens:
        """Go through the stages, coarse to fine.

        Args:
            tokens: The tokens, with a cache those that follow the ones in it.
            draws: The random choices of dropout; None for random ones in training.
            states: Takes the embedded tokens and every layer's output of every stage, when given.
            window: Number of tokens that a token sees at most, itself the last; None for no bound.
            cache: What earlier tokens left, with the same window; takes what these leave. None for none.

        Returns:
            The embeddings and outputs of the stages.
        """
        positions, attention_mask = self._positions(tokens), self._attention_mask(tokens, window, cache)
        hidden: list[torch.Tensor] = []
        outputs: list[torch.Tensor] = []
        left = tokens
        for index, stage in enumerate(self.stages):
            attention = None if cache is None else cache.attention
            hidden.append(stage(left, positions, attention_mask, draws, states, attention))
            if index == len(self.forecasts):
                break
            output = self.forecasts[index](hidden[-1])
            if tokens.places is not None:  # a token before the series predicts nothing
                output = output * (tokens.places >= 0)[..., None, None]
            before = None if cache is None or not cache.before else cache.before[index]
            values = left.values - shift_by_a_token(output, before)
            if tokens.observed is not None:
                values = torch.where(tokens.observed, values, 0.0)
            left = left._replace(values=values)
            outputs.append(output)
        if cache is not None:
            cache.before = [output[:, -1:] for output in outputs]
        return EncodedTokens(hidden, outputs)

    def _positions(self, tokens: SeriesTokens) -> torch.Tensor:
        if tokens.places is None:
            num_tokens, device = tokens.values.shape[1], tokens.values.device
            return sinusoidal_positions(num_tokens, self.config.hidden_size, device)
        return sinusoids(tokens.places.clamp(min=0), self.config.hidden_size)

    def _attention_mask(
        self, tokens: SeriesTokens, window: int | None, cache: TokenCache | None
    ) -> torch.Tensor | None:
        """Let tokens see themselves and those before them that have a value."""
        num_rows, num_tokens = tokens.values.shape[:2]
        seen = None if tokens.observed is None else tokens.observed.flatten(2).any(-1)
        num_keys = num_tokens
        if cache is not None:
            everything = torch.ones(num_rows, num_tokens, dtype=torch.bool, device=tokens.values.device)
            seen = cache.extend_seen(everything if seen is None else seen)
            num_keys = seen.shape[1]
        if seen is not None and not torch.compiler.is_compiling() and bool(seen.all()):
            seen = None
        if seen is None and num_tokens == 1 and (window is None or num_keys <= window):
            return None
        return causal_mask(num_tokens, num_keys, tokens.values.device, seen, window)

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TimeSeriesModelOutput | tuple[torch.Tensor, ...]:
        """Embed a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            output_hidden_states: Whether to return the embedded tokens and every layer's output of every stage.
            return_dict: Whether to return a TimeSeriesModelOutput instead of a tuple.

        Returns:
            last_hidden_state: the embeddings of all stages beside each other, (batch_size, num_input_channels,
            num_tokens, embedding_size), with joint channels without their axis; the last token ends with the last
            observed timestamp, and those before a series are zero. pooler_output: pooled over the timestamps that have
            a value, and the mean over the channels that have one.
        """
        wants_states = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        states: list[torch.Tensor] | None = [] if wants_states else None
        observed = self.observed_values(past_values, past_observed_mask)
        series = align_ends(past_values, observed, self.config.token_length)
        embeddings = self._embed(series, states)
        output = TimeSeriesModelOutput(
            last_hidden_state=embeddings,
            pooler_output=self._pool(embeddings, series),
            hidden_states=None if states is None else tuple(self._by_series(state, series) for state in states),
        )
        return output if return_dict is not False else output.to_tuple()

    def _by_series(self, rows: torch.Tensor, series: AlignedSeries) -> torch.Tensor:
        """Give the rows of independent channels an axis of channels."""
        if self.config.channel_mode == "joint":
            return rows
        return rows.unflatten(0, (-1, series.values.shape[-1]))

    def _embed(self, series: AlignedSeries, states: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Embed the tokens of aligned series; the shape is that of last_hidden_state."""
        tokens = self.cut(series, instance_statistics(series.values, series.observed))
        embeddings = torch.cat(self.encode_tokens(tokens, states=states).hidden, dim=-1)
        if tokens.places is not None:
            embeddings = embeddings * (tokens.places >= 0).unsqueeze(-1)
        return self._by_series(embeddings, series)

    def _over_channels(self, embeddings: torch.Tensor, series: AlignedSeries) -> torch.Tensor:
        """Take the mean over independent channels with a value: (batch_size, num_tokens, embedding_size)."""
        if self.config.channel_mode == "joint":
            return embeddings
        return pool_channels(embeddings, series.observed.any(1))

    def _pool(self, embeddings: torch.Tensor, series: AlignedSeries) -> torch.Tensor:
        """Pool over timestamps: a token counts as often as it has timestamps with a value."""
        of_tokens = self._over_channels(embeddings, series)
        count = series.observed.any(-1).unflatten(1, (-1, self.config.token_length)).sum(-1)
        if self.config.pooling != "mean":
            return pool_instance(of_tokens, count > 0, self.config.pooling)
        weights = count.unsqueeze(-1)
        return (of_tokens * weights).sum(1) / weights.sum(1).clamp(min=1)

    def embed_timestamps(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Give every timestamp the embedding of its token, the mean over the channels with a value.

        Missing timestamps at an end are padding, whatever `inside` says. See TimeSeriesPreTrainedModel.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        series = align_ends(past_values, observed, self.config.token_length)
        of_tokens = self._over_channels(self._embed(series), series)
        grid_length = series.values.shape[1]
        places = torch.arange(past_values.shape[1], device=past_values.device) - series.start.unsqueeze(1)
        inside_series = (places < grid_length) & (places >= grid_length - series.length.unsqueeze(1))
        token = places.clamp(min=0, max=grid_length - 1).div(self.config.token_length, rounding_mode="floor")
        embeddings = of_tokens.gather(1, token.unsqueeze(-1).expand(-1, -1, of_tokens.shape[-1]))
        return embeddings * inside_series.unsqueeze(-1), self.pooled_timestamps(observed.any(-1))

    def embed_instances(self, past_values: torch.Tensor, **method_arguments: Any) -> torch.Tensor:
        """Embed every series as a whole; see TimeSeriesPreTrainedModel.embed_instances."""
        return self(past_values, **method_arguments).pooler_output


class GPHTGenerates(GPHTPreTrainedModel):
    """What the models with a head of forecasts share: the future, token by token (section 3.4)."""

    model: GPHTModel
    head: TokenForecast

    @torch.no_grad()
    def generate(
        self,
        past_values: torch.Tensor,
        prediction_length: int | None = None,
        past_observed_mask: torch.Tensor | None = None,
        generation_window: str | None = None,
        use_cache: bool | None = None,
        **unknown: Any,
    ) -> torch.Tensor:
        """Tell the future of any length: every step predicts a token, which the next one reads.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing; at least token_length
                timestamps, of which the last context_length are read.
            prediction_length: Number of future timestamps; None for the config's.
            past_observed_mask: The same shape as past_values, True = observed, or None.
            generation_window: "sliding" (the published rule) or "fixed"; None for the config's. See GPHTConfig.
            use_cache: Whether to keep keys and values, so that a token costs the same however many came before. Needs
                generation_window="fixed"; None for wherever it can be. The numbers are the same.
            unknown: No further argument is known.

        Returns:
            (batch_size, prediction_length, num_output_channels) in the units of past_values, of quantiles the median.

        Raises:
            TypeError: An argument is unknown.
            ValueError: A value is out of its range, the past is shorter than a token, or a cache is asked for where
                the window slides.
        """
        if unknown:
            name = next(iter(unknown))
            known = ("past_values", "prediction_length", "past_observed_mask", "generation_window", "use_cache")
            raise TypeError(
                f"{type(self).__name__}.generate has no argument {name!r}.{near_match_hint(name, known)} "
                f"It takes {', '.join(known)}."
            )
        rule = self.config.generation_window if generation_window is None else generation_window
        if rule not in ("sliding", "fixed"):
            raise ValueError(f"generation_window={rule!r} is unknown; choose 'sliding' or 'fixed'.")
        if use_cache and rule == "sliding":
            raise ValueError(
                "use_cache=True with generation_window='sliding': every token is read anew there, normalised and "
                "numbered by the window that it is in. Say generation_window='fixed', which keeps both, or leave "
                "use_cache out."
            )
        length = self.config.prediction_length if prediction_length is None else prediction_length
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ValueError(f"prediction_length={length!r} must be a whole number of at least 1.")
        observed = self.observed_values(past_values, past_observed_mask)
        self._require_a_token(past_values)
        return self._point(evaluating(self)._generate(past_values, observed, length, rule, use_cache is not False))

    def _require_a_token(self, past_values: torch.Tensor) -> None:
        """Refuse a past that is shorter than what a forecast goes on by."""
        if past_values.shape[1] < self.config.token_length:
            raise ValueError(
                f"past_values has {past_values.shape[1]} timestamps, fewer than a token; give at least "
                f"{self.config.token_length} (token_length), at best {self.config.context_length} (context_length)."
            )

    def _point(self, values: torch.Tensor) -> torch.Tensor:
        """Return one number a value, of quantiles the median."""
        levels = self.head.quantiles
        return values if levels is None else values[..., levels.index(0.5)]

    def _generate(
        self,
        values: torch.Tensor,
        observed: torch.Tensor,
        length: int,
        rule: str,
        use_cache: bool = True,
        first: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict (batch_size, length, num_output_channels), with quantiles a last axis of them.

        Args:
            values: (batch_size, sequence_length, num_input_channels), anything where it is not observed.
            observed: The same shape, bool.
            length: Number of timestamps.
            rule: The generation window.
            use_cache: Whether keys and values are kept where they can be.
            first: (batch_size, token_length, num_input_channels), with quantiles a last axis of them: the first token,
                where the window slides and it is known already.
        """
        context_length = min(values.shape[1], self.config.context_length)
        values, observed = take_context(values, observed, context_length, at_end=True)
        if rule == "fixed":
            future = self._generate_in_place(values, observed, length, use_cache)
        else:
            future = self._generate_sliding(values, observed, length, first)
        count = self.config.num_output_channels
        return future[:, :length] if count is None else future[:, :length, -count:]

    def _generate_sliding(
        self, values: torch.Tensor, observed: torch.Tensor, length: int, first: torch.Tensor | None
    ) -> torch.Tensor:
        """Read the last context_length timestamps anew for every token, as the official code does."""
        known = [] if first is None else [first]
        parts: list[torch.Tensor] = []
        while len(parts) * self.config.token_length < length:
            parts.append(known.pop() if known else self._next_token(values, observed))
            point = self._point(parts[-1])
            values = torch.cat((values, point.to(values.dtype)), dim=1)[:, -self.config.context_length :]
            there = torch.ones_like(point, dtype=torch.bool)
            observed = torch.cat((observed, there), dim=1)[:, -self.config.context_length :]
        return torch.cat(parts, dim=1)

    def _next_token(self, values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Predict the token after a window: (batch_size, token_length, num_input_channels), with quantiles an axis."""
        series = align_ends(values, observed, self.config.token_length)
        statistics = instance_statistics(series.values, series.observed)
        encoded = self.model.encode_tokens(self.cut(series, statistics))
        return self._in_units(self._normalized_next(encoded), statistics)

    def _normalized_next(self, encoded: EncodedTokens) -> torch.Tensor:
        """Predict what follows the last token: (num_rows, 1, token_length, channels_of_a_row), and quantiles."""
        earlier = encoded.earlier
        return self.head(encoded.hidden[-1][:, -1:], None if earlier is None else earlier[:, -1:])

    def _in_units(self, rows: torch.Tensor, statistics: InstanceStatistics) -> torch.Tensor:
        """Bring predicted rows of tokens to the units of the series, as series."""
        of_values = statistics if self.head.quantiles is None else statistics.of_quantiles()
        return denormalize_instances(self._series(rows, statistics.mean.shape[-1]), of_values)

    def _generate_in_place(
        self, values: torch.Tensor, observed: torch.Tensor, length: int, use_cache: bool
    ) -> torch.Tensor:
        """Keep statistics and numbers of the given past; every token sees the last num_context_tokens ones."""
        series = align_ends(values, observed, self.config.token_length)
        statistics = instance_statistics(series.values, series.observed)
        tokens, window = self.cut(series, statistics), self.config.num_context_tokens
        cache = TokenCache(window) if use_cache else None
        if tokens.places is None:
            tokens = tokens._replace(places=torch.arange(tokens.values.shape[1], device=values.device).unsqueeze(0))
        parts: list[torch.Tensor] = []
        while len(parts) * self.config.token_length < length:
            encoded = self.model.encode_tokens(tokens, window=window, cache=cache)
            parts.append(self._normalized_next(encoded))
            new = SeriesTokens(self._point(parts[-1]), None, cast(Tensor, tokens.places)[:, -1:] + 1)
            tokens = new if use_cache else _append(tokens, new)
        return self._in_units(torch.cat(parts, dim=1), statistics)


def _append(tokens: SeriesTokens, new: SeriesTokens) -> SeriesTokens:
    """Put new tokens, all of whose values are there, after others."""
    observed = tokens.observed
    if observed is not None:
        observed = torch.cat((observed, torch.ones_like(new.values, dtype=torch.bool)), dim=1)
    places = torch.cat((cast(Tensor, tokens.places), cast(Tensor, new.places)), dim=1)
    return SeriesTokens(torch.cat((tokens.values, new.values), dim=1), observed, places)


def next_tokens(
    values: torch.Tensor, observed: torch.Tensor, token_length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what every token of series is to predict, the token after it (section 3.4).

    Args:
        values: (batch_size, (num_tokens + 1) * token_length, num_channels), on a grid of tokens.
        observed: The same shape, bool.
        token_length: Number of timestamps of a token.

    Returns:
        The targets, which of them count, (batch_size, num_tokens * token_length, num_channels), and the inputs'
        observed values. Tokens before a series predict nothing.
    """
    inputs = observed[:, :-token_length]
    begun = inputs.any(-1).unflatten(1, (-1, token_length)).any(-1).cumsum(1) > 0
    asked = observed[:, token_length:] & begun.repeat_interleave(token_length, 1).unsqueeze(-1)
    return torch.where(asked, values[:, token_length:], 0.0), asked, inputs


class GPHTForPreTraining(GPHTGenerates):
    """The pretext task: every token predicts the one after it (section 3.4).

    With several processes dropout is drawn for the global batch, and the mean of the processes' losses is the loss of
    one process on it, with its gradient.
    """

    def __init__(self, config: GPHTConfig) -> None:
        super().__init__(config)
        self.model = GPHTModel(config)
        self.head = TokenForecast(config)
        self.post_init()

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        draws: GPHTDraws | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool | None = None,
    ) -> GPHTForPreTrainingOutput | tuple[torch.Tensor, ...]:
        """Compute the loss of a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing. Of longer series than the
                context and a token a random window is taken; its last token is predicted only.
            past_observed_mask: The same shape, True = observed, or None.
            draws: The random choices; None to draw them.
            generator: Source of the random choices, on the CPU; None for torch's global one.
            return_dict: Whether to return a GPHTForPreTrainingOutput instead of a tuple.

        Returns:
            The loss and what it compares.
        """
        config, batch = self.config, GlobalBatch.of(self)
        observed = self.observed_values(past_values, past_observed_mask)
        if draws is None:
            length = past_values.shape[1]
            draws = batch.draw(lambda _, source: draw_step(config, length, source), past_values, generator)
        window = slice(draws.start, draws.start + config.context_length + config.token_length)
        series = align_ends(past_values[:, window], observed[:, window], config.token_length, fewest=2)
        target, asked, inputs = next_tokens(series.values, series.observed, config.token_length)
        read = replace(
            series,
            values=series.values[:, : -config.token_length],
            observed=inputs,
            length=(series.length - config.token_length).clamp(min=0),
        )
        statistics = instance_statistics(read.values, read.observed)
        dropout = None
        if self.training and draws.dropout_seed is not None:
            dropout = DropoutDraws(draws.dropout_seed, 1, batch.rank, batch.num_processes)
        encoded = self.model.encode_tokens(self.cut(read, statistics), dropout)
        outputs = torch.stack([*encoded.outputs, self.head(encoded.hidden[-1])])
        prediction = self._in_units(outputs.sum(0), statistics)
        errors = torch.where(asked, prediction - target.float(), 0.0).square()
        output = GPHTForPreTrainingOutput(
            loss=batch.mean(errors, asked),
            prediction=prediction.detach(),
            target=target,
            stage_outputs=torch.stack([self._series(one, past_values.shape[-1]) for one in outputs.detach()]),
        )
        return output if return_dict is not False else output.to_tuple()


class GPHTForTimeSeriesClassification(GenericForTimeSeriesClassification, GPHTPreTrainedModel):
    """The encoder with class scores on the embedding of the series.

    Args:
        config: Configuration; num_labels or id2label gives the classes.
    """

    def __init__(self, config: GPHTConfig) -> None:
        super().__init__(config)
        self.model = GPHTModel(config)
        self.classifier = ClassificationHead(config)
        self.post_init()


class GPHTForTimeSeriesPrediction(GenericForTimeSeriesPrediction, GPHTGenerates):
    """The future token by token; a pre-trained model predicts without any fine-tuning.

    The future follows the last observed timestamp; timestamps before the last context_length are not looked at.

    Args:
        config: Configuration; prediction_length and num_output_channels (the last channels) give the future's.
    """

    def __init__(self, config: GPHTConfig) -> None:
        super().__init__(config)
        self.model = GPHTModel(config)
        self.head = TokenForecast(config, config.quantiles)
        self.post_init()

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Embed the tokens of the context; see GenericWithHead.compute_head_inputs.

        Returns:
            context (batch_size, num_tokens * token_length, num_input_channels) on the grid of tokens, NaN = missing;
            hidden (batch_size, rows of a series, number of tokens, hidden_size) of the last stage, and earlier
            (batch_size, rows of a series, number of tokens, token_length, channels of a row), the sum of what the
            others predict: of the last token, or of all where the config's forecast_loss asks for them.
        """
        config = self.config
        wants_states = output_hidden_states if output_hidden_states is not None else config.output_hidden_states
        states: list[torch.Tensor] | None = [] if wants_states else None
        observed = self.observed_values(past_values, past_observed_mask)
        length = min(past_values.shape[1], config.context_length)
        series = align_ends(*take_context(past_values, observed, length, at_end=True), config.token_length)
        tokens = self.cut(series, instance_statistics(series.values, series.observed))
        encoded = self.model.encode_tokens(tokens, states=states)
        kept = slice(None) if config.forecast_loss == "tokens" else slice(-1, None)
        inputs = {
            "context": torch.where(series.observed, series.values, torch.nan),
            "hidden": encoded.hidden[-1][:, kept],
        }
        if encoded.earlier is not None:
            inputs["earlier"] = encoded.earlier[:, kept]
        shape = (-1, past_values.shape[-1] // config.channels_of_a_row)  # a row for all channels, or for each one
        inputs = {name: one if name == "context" else one.unflatten(0, shape) for name, one in inputs.items()}
        of_series = None if states is None else tuple(state.unflatten(0, shape) for state in states)
        return EncodedForHead(inputs, of_series)

    def tell_future(self, past_values: torch.Tensor, prediction_length: int, **method_arguments: Any) -> Any:
        """Predict so many timestamps by the config's generation_window; see PredictsFuture.tell_future."""
        self._require_a_token(past_values)
        observed = self.observed_values(past_values, None)
        future = self._generate(past_values, observed, prediction_length, self.config.generation_window)
        levels = self.config.quantiles
        return TimeSeriesPredictionOutput(
            prediction_outputs=self._point(future), quantile_outputs=None if levels is None else future
        )

    def _forecast(
        self,
        encoded: EncodedForHead,
        future_values: torch.Tensor | None,
        future_observed_mask: torch.Tensor | None,
        return_dict: bool | None,
    ) -> TimeSeriesPredictionOutput | tuple[torch.Tensor, ...]:
        """Predict the future; the rest is as in `forward`."""
        config, levels = self.config, self.config.quantiles
        context = encoded.head_inputs["context"]
        observed = ~context.isnan()
        statistics = instance_statistics(context, observed)
        rows = {name: one.flatten(0, 1) for name, one in encoded.head_inputs.items() if name != "context"}
        predicted = self._in_units(self.head(**rows), statistics)  # of every token that is kept
        learns_tokens = config.forecast_loss == "tokens" and future_values is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not learns_tokens):
            future = self._generate(
                context,
                observed,
                config.prediction_length,
                config.generation_window,
                first=predicted[:, -config.token_length :],
            )
        if learns_tokens:
            loss = self._token_loss(predicted, context, cast(Tensor, future_values), future_observed_mask)
        else:
            loss = prediction_loss(future, future_values, future_observed_mask, levels)
        output = TimeSeriesPredictionOutput(
            loss=loss,
            prediction_outputs=self._point(future),
            quantile_outputs=None if levels is None else future,
            hidden_states=encoded.hidden_states,
        )
        return output if return_dict is not False else output.to_tuple()

    def _token_loss(
        self,
        predicted: torch.Tensor,
        context: torch.Tensor,
        future_values: torch.Tensor,
        future_observed_mask: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Compare what every token predicts with the one after it; of the future the first token, as far as given."""
        length, count = self.config.token_length, future_values.shape[-1]
        future = future_values[:, :length]
        if future_observed_mask is not None:
            future = future.masked_fill(~future_observed_mask[:, :length].bool(), torch.nan)
        future = nn.functional.pad(future, (0, 0, 0, length - future.shape[1]), value=torch.nan)
        whole = torch.cat((context[..., -count:], future), dim=1)
        observed = torch.cat(
            (~context.isnan().all(-1, keepdim=True).expand_as(context)[..., -count:], ~future.isnan()), 1
        )
        target, asked, _ = next_tokens(whole, observed, length)
        known = asked & ~whole[:, length:].isnan()
        return prediction_loss(predicted[:, :, -count:], target, known, self.config.quantiles)


# Official arguments that shape the model or its forecasts -> our fields, and official values -> ours.
_FIELDS_OF_ARGUMENTS = {
    "C": "num_input_channels",
    "enc_in": "num_input_channels",
    "seq_len": "context_length",
    "token_len": "token_length",
    "pred_len": "token_length",
    "ar_seq_len": "context_length",
    "ar_pred_len": "prediction_length",
    "GT_pooling_rate": "pooling_rates",
    "GT_d_model": "hidden_size",
    "GT_d_ff": "intermediate_size",
    "GT_e_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "dropout": "dropout",
    "activation": "activation",
    "pooling": "stage_pooling",
}
_VALUES_OF_ARGUMENTS: dict[str, dict[Any, Any]] = {"pooling": {"avg": "average"}}
# Arguments that other fields follow from, or that only one value of is converted.
_CHECKED_ARGUMENTS = ("depth", "GT_patch_len", "norm", "features")
# Arguments of data, training and evaluation, and of the other models of the official repository.
_TRAINING_ARGUMENTS = frozenset(
    {"task_name", "is_training", "model_id", "model", "load_pretrain", "checkpoints", "transfer_data", "percent"}
    | {"transfer_root_path", "transfer_data_path", "pretrain_batch_size", "batch_size", "data", "root_path"}
    | {"data_path", "target", "freq", "label_len", "seasonal_patterns", "inverse", "mask_rate", "top_k", "dec_in"}
    | {"c_out", "d_model", "e_layers", "d_layers", "d_ff", "moving_avg", "factor", "distil", "embed", "num_workers"}
    | {"output_attention", "itr", "train_epochs", "patience", "learning_rate", "des", "loss", "lradj", "use_amp"}
    | {"use_gpu", "gpu", "use_multi_gpu", "devices", "p_hidden_dims", "p_hidden_layers", "seed"}
)
_STAGE = re.compile(r"encoders\.(\d+)\.(.+)")
_LAYER = re.compile(r"encoder\.attn_layers\.(\d+)\..+")
_POSITIONS = "patch_embedding.position_embedding.pe"
_EMBEDDING = "patch_embedding.value_embedding.weight"
_KINDS = ("weight", "bias")


def _num_stages(official: Mapping[str, Tensor]) -> int:
    return len({match[1] for key in official if (match := _STAGE.fullmatch(key))})


def _num_layers(official: Mapping[str, Tensor]) -> int:
    inside = (match[2] for key in official if (match := _STAGE.fullmatch(key)))
    return len({match[1] for name in inside if (match := _LAYER.fullmatch(name))})


def convert_gpht_state_dict(state_dict: Mapping[str, Tensor]) -> FieldsAndParameters:
    """Turn an official state dict (github.com/icantnamemyself/GPHT) into that of our encoder.

    Args:
        state_dict: Of the official model.

    Returns:
        Fields for GPHTConfig that the shapes tell, and the parameters of GPHTModel.

    Raises:
        ConversionError: Parameters are missing or unknown.
    """
    num_stages, num_layers = _num_stages(state_dict), _num_layers(state_dict)
    expected = {key for key in state_dict if key.endswith(f".{_POSITIONS}")}
    for stage in range(max(num_stages, 1)):
        names = {_EMBEDDING, *(f"{layer}.{kind}" for layer in ("encoder.norm", "forecast_head") for kind in _KINDS)}
        for index in range(max(num_layers, 1)):
            names |= official_layer_names(f"encoder.attn_layers.{index}")
        expected |= {f"encoders.{stage}.{name}" for name in names}
    require_parameters(state_dict, expected, f"a GPHT with {num_stages} stages of {num_layers} layers")
    ours: dict[str, Tensor] = {}
    for stage in range(num_stages):
        place = f"encoders.{stage}"
        ours[f"stages.{stage}.embedding.weight"] = state_dict[f"{place}.{_EMBEDDING}"]
        for index in range(num_layers):
            own = f"stages.{stage}.encoder.layers.{index}"
            ours |= convert_transformer_layer(state_dict, f"{place}.encoder.attn_layers.{index}", own)
        for kind in _KINDS:
            ours[f"stages.{stage}.encoder.norm.{kind}"] = state_dict[f"{place}.encoder.norm.{kind}"]
            if stage < num_stages - 1:
                ours[f"forecasts.{stage}.projection.{kind}"] = state_dict[f"{place}.forecast_head.{kind}"]
    token_length, hidden_size = state_dict["encoders.0.forecast_head.weight"].shape
    patches = [state_dict[f"encoders.{stage}.{_EMBEDDING}"].shape[1] for stage in range(num_stages)]
    if any(token_length % length for length in patches):
        raise ConversionError(
            f"The stages have patches of {patches} values, which tokens of {token_length} timestamps are no multiple "
            "of: with such rates the official code leaves timestamps out, and ours does not."
        )
    fields = {
        "token_length": token_length,
        "pooling_rates": [token_length // length for length in patches],
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "intermediate_size": state_dict["encoders.0.encoder.attn_layers.0.conv1.weight"].shape[0],
    }
    return fields, ours


def gpht_fields_of_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn arguments of the official code into fields of GPHTConfig, but for what concerns training alone.

    Args:
        hyperparameters: By their official names, such as n_heads, token_len, depth, GT_pooling_rate.

    Returns:
        Fields.

    Raises:
        ConversionError: Two arguments contradict each other, or a value is not converted.
    """
    plain = {name: value for name, value in hyperparameters.items() if name not in _CHECKED_ARGUMENTS}
    fields = rename_hyperparameters(plain, _FIELDS_OF_ARGUMENTS, _TRAINING_ARGUMENTS, _VALUES_OF_ARGUMENTS)
    depth, patches = hyperparameters.get("depth"), hyperparameters.get("GT_patch_len")
    if patches is not None and "token_length" in fields:
        told = [fields["token_length"] // length for length in patches]
        if fields.setdefault("pooling_rates", told) != told:
            raise ConversionError(f"GT_patch_len={patches!r} contradicts GT_pooling_rate={fields['pooling_rates']!r}.")
    rates = fields.get("pooling_rates")
    if rates is not None and depth is not None:
        if len(rates) < depth:
            raise ConversionError(f"depth={depth!r} needs as many rates, but GT_pooling_rate={rates!r}.")
        fields["pooling_rates"] = list(rates[:depth])  # the official code reads no more
    if hyperparameters.get("norm") not in (None, "ln"):
        raise ConversionError(
            f"norm={hyperparameters['norm']!r} is not converted; ours has layer normalisation, 'ln'."
        )
    if hyperparameters.get("features") == "MS":
        fields["num_output_channels"] = 1
    return fields


def complete_gpht_fields(of_shapes: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what the shapes and the arguments tell.

    Args:
        of_shapes: From convert_gpht_state_dict.
        given: Fields that the caller gave.

    Returns:
        All fields of the config; without a number of channels it takes any.

    Raises:
        ConversionError: The number of heads or the length of the context is missing.
    """
    require_fields(given, {"num_attention_heads": "n_heads", "context_length": "seq_len"})
    fields = {"prediction_length": of_shapes["token_length"], **of_shapes, **given}
    fields.setdefault("accepts_any_channels", "num_input_channels" not in given)
    return fields


def convert_gpht_heads(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the official last stage's layer into the head of our models of the future.

    Args:
        state_dict: Official parameters.

    Returns:
        Parameters named as in GPHTForPreTraining and GPHTForTimeSeriesPrediction.
    """
    last = f"encoders.{_num_stages(state_dict) - 1}.forecast_head"
    found = {kind: state_dict[f"{last}.{kind}"] for kind in _KINDS if f"{last}.{kind}" in state_dict}
    return {f"head.projection.{kind}": value for kind, value in found.items()}


def choose_gpht_model(state_dict: Mapping[str, Tensor], fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return "prediction" and no further fields: every official checkpoint tells the future."""
    return "prediction", {}


GPHTPreTrainedModel.converter = Converter(
    convert=convert_gpht_state_dict,
    fields_of_hyperparameters=gpht_fields_of_hyperparameters,
    hyperparameter_names={*_FIELDS_OF_ARGUMENTS, *_CHECKED_ARGUMENTS, *_TRAINING_ARGUMENTS},
    fields_of_shapes=("token_length", "pooling_rates", "hidden_size", "num_hidden_layers", "intermediate_size"),
    complete=complete_gpht_fields,
    heads=convert_gpht_heads,
    choose_model=choose_gpht_model,
)
