"""The base of all encoders: missing values, saving with code, and `encode`."""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoFeatureExtractor, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import CONFIG_NAME, cached_file, logging

from .batching_time_series import evaluating, require_room
from .configuration_time_series import TimeSeriesConfig, custom_pipelines, near_match_hint
from .conversion_time_series import Converter, FolderConverter
from .encoding_time_series import EncodeSettings, as_series_list, encode_series, similarity, slide_by_windows
from .files_time_series import full_disk_named, sums_kept
from .layers_attention import MultiHeadAttention
from .layers_convolution import CausalConvolution
from .layers_pooling import pool_instance
from .layers_transformer import CircularTokenEmbedding, LearnedPositions
from .publishing_time_series import add_papers
from .reading_time_series import is_one_series, observed_values
from .streaming_time_series import SeriesStream, WindowStream
from .types_time_series import read_settings

if TYPE_CHECKING:  # transformers saves a file beside the model where another one imports it; to run it is slow
    from .pipeline_time_series import TimeSeriesPipeline as TimeSeriesPipeline

logger = logging.get_logger(__name__)

PREPARATION_FILE = "preprocessor_config.json"
# Options of `from_pretrained` that say where a file lies.
_PLACE_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")

# Arguments that peft's models hand on, whatever is asked of them.
_ARGUMENTS_OF_TEXT = (
    *("input_ids", "attention_mask", "inputs_embeds", "token_type_ids", "position_ids"),
    *("output_attentions", "output_hidden_states"),
)

SUFFIX_OF_AUTO_CLASS = {
    "AutoModel": "Model",
    "AutoModelForPreTraining": "ForPreTraining",
    "AutoModelForSequenceClassification": "ForTimeSeriesClassification",
    "AutoModelForTimeSeriesPrediction": "ForTimeSeriesPrediction",
}


class TimeSeriesPreTrainedModel(PreTrainedModel):
    """Base class of every model of every method.

    A method's base model implements `forward` and `embed_timestamps`. Heads hold it as `self.model`.
    """

    config: TimeSeriesConfig
    config_class = TimeSeriesConfig
    base_model_prefix = "model"
    main_input_name = "past_values"
    input_modalities = ("time",)  # type: ignore[assignment]  # transformers' own models have a tuple here too
    supports_gradient_checkpointing = True
    # The encoder and models with another head open a checkpoint without its head.
    _keys_to_ignore_on_load_unexpected = [r"^(head|classifier)\."]  # noqa: RUF012 - transformers declares it as an instance's variable

    _preparation: Any = None  # see preparation

    card_writer: ClassVar[Callable[[Path, str], Any] | None] = None
    """What writes a card into a folder, for a repository's id; hf_tsrep sets it, and remote code does without."""

    # How official checkpoints of the method become ours; None where there are none.
    converter: ClassVar[Converter | FolderConverter | None] = None

    @classmethod
    def _prefix(cls) -> str:
        """Return what the names of the method's classes begin with."""
        return cls.config_class.__name__.removesuffix("Config")

    @classmethod
    def auto_classes(cls) -> dict[str, str]:
        """Return "file.Class" of the method by Auto class; saved configs hold it, so that any opens any checkpoint."""
        file = cls.config_class.__module__.rpartition(".")[2]
        modeling = file.replace("configuration_", "modeling_", 1)
        heads = {one: f"{modeling}.{cls._prefix()}{suffix}" for one, suffix in SUFFIX_OF_AUTO_CLASS.items()}
        return {"AutoConfig": f"{file}.{cls.config_class.__name__}", **heads}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw the initial weights of a module: of shared layers as they say, of others as PyTorch does."""
        if isinstance(module, CircularTokenEmbedding):
            init.normal_(module.weight, std=module.initial_deviation)
        elif isinstance(module, LearnedPositions):
            init.normal_(module.weight)
        elif isinstance(module, CausalConvolution):
            init.kaiming_uniform_(module.direction, a=math.sqrt(5))
            init.copy_(module.magnitude, module.direction.square().sum((1, 2)).sqrt())
            bound = 1.0 / math.sqrt(module.direction[0].numel())
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, (nn.LayerNorm, nn.BatchNorm1d)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm1d):
                for buffer, initial in zip(module.buffers(), (0.0, 1.0, 0.0), strict=True):
                    init.constant_(buffer, initial)  # running mean, running variance, number of batches
        elif isinstance(weight := getattr(module, "weight", None), nn.Parameter) and weight.ndim >= 2:
            # PyTorch's own initialisation, as the published methods have it.
            init.kaiming_uniform_(weight, a=math.sqrt(5))
            bias = module.bias
            if isinstance(bias, torch.Tensor):
                bound = 1.0 / math.sqrt(weight[0].numel())
                init.uniform_(bias, -bound, bound)

    @property
    def preparation(self) -> Any:
        """What makes model inputs of raw series, a TimeSeriesFeatureExtractor; None where nobody knows.

        A model that this library trained has it, and saves and loads it beside its weights (preprocessor_config.json).
        A fresh or converted model has none, until one is set: `encode` then takes series as they are.
        """
        return self._preparation

    @preparation.setter
    def preparation(self, preparation: Any) -> None:
        for model in (self, self.base_model):
            vars(model)["_preparation"] = preparation

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model with its preparation; see PreTrainedModel.from_pretrained.

        Raises:
            ValueError: A file of weights is damaged or was cut off, or is not that of the configuration; the message
                names it and the fix.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        renamed = getattr(cls, "_renamed_parameters", {})  # of a head
        if renamed and _is_of_class(pretrained_model_name_or_path, cls, kwargs):
            kwargs["key_mapping"] = {**renamed, **(kwargs.get("key_mapping") or {})}
        try:
            opened: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
            model, info = opened
            # Transformers would save the old names again.
            vars(model).pop("_weight_conversions", None)
            model._require_whole_encoder(info, str(pretrained_model_name_or_path))
            model.preparation = _preparation_beside(pretrained_model_name_or_path, cls, kwargs)
            return (model, info) if wants_info else model
        except SafetensorError as error:
            place = _damaged_file(str(pretrained_model_name_or_path), kwargs.get("subfolder") or "")
            raise ValueError(
                f"{place} cannot be read as safetensors ({error}); it is damaged or was cut off. Save the model "
                "again, or download it again with force_download=True."
            ) from error

    def _require_whole_encoder(self, info: dict[str, Any], place: str) -> None:
        """Refuse an encoder some of whose weights are fresh, left over or no numbers: it would encode noise.

        Args:
            info: What transformers found out when it loaded the weights.
            place: Where they were loaded from.

        Raises:
            ValueError: The message names a parameter and the fix.
        """
        prefix = "" if self.base_model is self else f"{self.base_model_prefix}."
        parts = {name for name, _ in self.base_model.named_children()}
        changed = {one[0] if isinstance(one, tuple) else one for one in info["mismatched_keys"]}
        missing = sorted(name for name in set(info["missing_keys"]) - changed if name.startswith(prefix))
        left_over = sorted(
            name for name in info["unexpected_keys"] if name.removeprefix(prefix).partition(".")[0] in parts
        )
        if missing or left_over:
            what = (
                f"lack {missing[0]}" if missing else f"have {left_over[0]}, which the configuration has no place for"
            )
            sizes = f"num_hidden_layers={getattr(self.config, 'num_hidden_layers', 'none')}"
            raise ValueError(
                f"{place}: the weights {what} ({len(missing)} missing, {len(left_over)} left over). config.json is "
                f"not that of the weights: a size, such as {sizes}, is wrong or was deleted. Save the model again, or "
                "restore the file."
            )
        for name, parameter in self.base_model.named_parameters():
            # Quantised weights, of a class of their own, cannot be asked.
            is_plain = not parameter.is_meta and type(parameter.data) is torch.Tensor
            if is_plain and not bool(parameter.isfinite().all()):
                raise ValueError(
                    f"{place}: {name} holds numbers that are not finite. The weights are damaged; save or "
                    "download them again."
                )

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save config, weights (safetensors), preparation, code and sums; see PreTrainedModel.save_pretrained.

        Raises:
            FullDiskError: There is no room for it.
        """
        self.config.auto_map = self.auto_classes()
        if not kwargs.get("is_main_process", True):
            self._save_with_pipelines(save_directory, *args, **kwargs)
            return
        num_bytes = sum(value.numel() * value.element_size() for value in self.state_dict().values())
        with sums_kept(save_directory):
            with full_disk_named(save_directory, num_bytes):
                self._save_with_pipelines(save_directory, *args, **kwargs)
            for path in Path(save_directory).glob("*.safetensors"):  # safetensors writes for the owner alone
                shutil.copymode(Path(save_directory) / CONFIG_NAME, path)
            if self.preparation is not None:
                self.preparation.save_pretrained(save_directory)

    def _save_with_pipelines(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save as transformers does; the saved config also says how the model's pipelines are made."""
        self.config.custom_pipelines = custom_pipelines(type(self).__name__, self.config.generates)
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            del self.config.custom_pipelines  # what is saved, not what this model is: see TimeSeriesConfig.from_dict

    def _upload_modified_files(self, working_dir: Any, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        """Send a saved model to the Hub, where `push_to_hub` ends, with the card of what it is."""
        add_papers(self, Path(working_dir), repo_id, type(self).card_writer)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def post_init(self) -> None:
        """Begin the weights, and let attention follow the config; see PreTrainedModel.post_init."""
        super().post_init()
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                module.config = self.config

    def train(self, mode: bool = True) -> Self:
        """Set the mode; batch normalisation that is frozen keeps its statistics, which no adapter of peft holds."""
        super().train(mode)
        for module in self.modules():
            weights = list(module.parameters()) if isinstance(module, nn.BatchNorm1d) else []
            if weights and not any(weight.requires_grad for weight in weights):
                module.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the layer that series enter by: the first one with weights. Transformers and peft ask for it."""
        for module in self.base_model.modules():
            if next(module.children(), None) is None and next(module.parameters(), None) is not None:
                return module
        raise NotImplementedError(f"{type(self).__name__} has no layer with weights.")

    def prepare_inputs(
        self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None = None, **method_arguments: Any
    ) -> dict[str, torch.Tensor]:
        """Return what `forward` makes of a batch of series before it computes anything that is trained.

        A method that looks series up in a table, such as a codebook, returns what it found, so that training does it
        once for all epochs.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            method_arguments: Further arguments of the method.

        Returns:
            Arguments of `forward`, one row a series.

        Raises:
            TypeError: The method has no such further argument.
        """
        if method_arguments:
            raise TypeError(f"{type(self).__name__} takes no {', '.join(map(repr, method_arguments))}; leave it out.")
        inputs = {"past_values": past_values}
        return inputs if past_observed_mask is None else {**inputs, "past_observed_mask": past_observed_mask}

    def encode_arguments(self) -> dict[str, Any]:
        """Check the method's further arguments of `encode`, beside those that all methods have.

        A method with such arguments overrides it: its signature declares their names and defaults, its docstring
        describes them, and both appear in `help(model.encode)`.

        Returns:
            What `embed_timestamps`, `embed_instances`, `slide` and `num_channels_of` take by name.

        Raises:
            ValueError: A value is out of its range.
        """
        return {}

    def attention_operations(self, sequence_length: int, **method_arguments: Any) -> int:
        """Count what attention computes for one series: four operations a number of a query and token that it sees.

        That is the square of the length, unless every layer has a window.

        Args:
            sequence_length: Number of timestamps.
            method_arguments: Further arguments of the method, those of its `encode_arguments`.
        """
        num_tokens = self.config.attention_tokens(sequence_length)
        num_rows = self.config.num_input_channels if self.config.channel_mode == "independent" else 1
        layers = [one for one in self.base_model.modules() if isinstance(one, MultiHeadAttention)]
        seen = (one.output_projection.in_features * min(num_tokens, one.window or num_tokens) for one in layers)
        return 4 * num_rows * num_tokens * sum(seen)

    def num_channels_of(self, **method_arguments: Any) -> int:
        """Return how many channels a series has that `encode` is given with these further arguments of the method."""
        return self.config.num_input_channels

    def channels_read(self, **method_arguments: Any) -> int | None:
        """Return how many channels a series must have, given these further arguments; None for any number."""
        return None if self.config.takes_any_channels else self.num_channels_of(**method_arguments)

    def embed_timestamps(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed every timestamp of a batch.

        A method whose `encode` has further arguments (`encode_arguments`) takes them here and in `slide`.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            inside: (batch_size, sequence_length) bool, False = beyond the series; None: found from what is observed.

        Returns:
            The embeddings (batch_size, sequence_length, embedding_size), and which timestamps pooling takes:
            (batch_size, sequence_length) bool, or None for all.
        """
        output = self(past_values, past_observed_mask)
        observed = self.observed_timestamps(self.observed_values(past_values, past_observed_mask))
        return output.last_hidden_state, self.pooled_timestamps(observed)

    def embed_instances(self, past_values: torch.Tensor, **method_arguments: Any) -> torch.Tensor:
        """Embed every series of a batch as a whole, as `encode` does where no pooling is asked for.

        A method whose embedding of a series is no pooling of its timestamps overrides it.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            method_arguments: Further arguments of the method's `embed_timestamps`.

        Returns:
            (batch_size, embedding_size).
        """
        embeddings, pooled = self.embed_timestamps(past_values, **method_arguments)
        return pool_instance(embeddings, pooled, self.config.pooling)

    def reconstruct_series(
        self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None = None, **method_arguments: Any
    ) -> torch.Tensor:
        """Tell the values of every timestamp from those that are observed, as the pretext task does.

        The pre-training model of a method whose config `reconstructs` overrides it.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing; at most
                `config.reconstruction_length` timestamps.
            past_observed_mask: The same shape, True = observed, or None.
            method_arguments: Further arguments of the method, those of its `encode_arguments`.

        Returns:
            The same shape, float, finite: an estimate of every value, of observed ones too.

        Raises:
            ValueError: The model cannot.
        """
        reason = (
            "only its pre-training model has the layers; open it with AutoModelForPreTraining"
            if self.config.reconstructs
            else f"{self.config.model_type} has no pretext task that recovers hidden values (config.reconstructs)"
        )
        raise ValueError(f"{type(self).__name__} cannot reconstruct series: {reason}.")

    def after_optimizer_step(self) -> None:
        """Do what a method does after every optimiser step, here nothing; the library's trainer calls it.

        What it changes must be in the state dict, so that a resumed training goes on with it, and follow from weights
        alone, so that all processes do the same.
        """

    def codeword_shares(
        self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Return how often every codeword of a pretext task is expected in a batch: (num_codewords,), of sum 1.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.

        Returns:
            None: the method has no codewords that its own model chooses.
        """
        return None

    def observed_timestamps(self, observed: torch.Tensor) -> torch.Tensor:
        """Return which timestamps tell the method something: those with any observed channel.

        A method that needs all channels of a timestamp overrides it.

        Args:
            observed: (..., num_input_channels) bool, True = observed.

        Returns:
            (...) bool.
        """
        return observed.any(-1)

    def pooled_timestamps(self, observed: torch.Tensor) -> torch.Tensor | None:
        """Return which timestamps pooling takes, given the observed ones: (batch_size, sequence_length) bool."""
        return None if not torch.compiler.is_compiling() and bool(observed.all()) else observed

    def slide(
        self,
        values: torch.Tensor,
        context: tuple[int, int],
        stride: int,
        batch_size: int,
        pooling: int | str | None = None,
        **method_arguments: Any,
    ) -> torch.Tensor:
        """Embed one series by a sliding window; see slide_by_windows. A method may have an equal, faster way."""
        return slide_by_windows(self, values, context, stride, batch_size, pooling, **method_arguments)

    def stream(
        self, window_length: int, pooling: int | str | None = None, batch_size: int = 32, **method_arguments: Any
    ) -> SeriesStream:
        """Begin a series whose steps are embedded as they come, each from the window that ends with it.

        Step by step or many at once, the embeddings are those of
        `encode(series, level="timestamp", window_length=window_length, causal=True, prepared=True)`.

        Args:
            window_length: Number of steps that an embedding sees, its own the last; before the first step all are
                missing.
            pooling: See `encode`, level "timestamp".
            batch_size: Number of windows in one forward pass, where many steps come at once.
            method_arguments: Further arguments of the method, as in `encode`.

        Returns:
            Its `push` takes model inputs (num_steps, num_input_channels).

        Raises:
            TypeError: An argument is unknown.
            ValueError: A setting is out of its range.
        """
        EncodeSettings("timestamp", window_length, None, True, pooling, batch_size, False, False)
        arguments = self._checked_encode_arguments(method_arguments)
        require_room(self, window_length)
        return evaluating(self.base_model).open_stream(window_length, batch_size, pooling, **arguments)

    def open_stream(
        self, window_length: int, batch_size: int, pooling: int | str | None = None, **method_arguments: Any
    ) -> SeriesStream:
        """Return what `stream` returns, its arguments checked. A method may have an equal, faster way."""
        return WindowStream(self, window_length, batch_size, pooling, **method_arguments)

    def observed_values(self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None) -> torch.Tensor:
        """Return which values are observed: neither NaN nor masked out.

        Raises:
            ValueError: A shape does not fit. The message names it and what was expected.
        """
        expected = None if self.config.takes_any_channels else self.config.num_input_channels
        return observed_values(past_values, past_observed_mask, expected, type(self).__name__)

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
        timestamps: Any = None,
        prepared: bool = False,
        layout: str | None = None,
        truncate_dim: int | None = None,
        **method_arguments: Any,
    ) -> np.ndarray | list[np.ndarray]:
        """Turn series of any length into embeddings.

        Their order and the batch size change a result by rounding at most, about 1e-5 of its size.

        Series are raw: a model with a `preparation` chooses their channels by name and scales them as its training
        series were. What that has made, and what `get_series` takes from a scaled corpus, is known as prepared.

        Args:
            series: One series, as an array, tensor or DataFrame (time, num_input_channels); or several, as an array or
                tensor (series, time, num_input_channels), or as a list or datasets column of series of any lengths.
                (time,) will do for one channel. NaN = missing.
            level: "instance" for one embedding a series, "timestamp" for one a timestamp, "window" for one a window.
            window_length: "instance" and "timestamp": number of steps that are looked at to encode `stride` of them,
                where a step beyond an end is missing. "window": number of steps of a window; a last, shorter window
                holds what remains. None: look at the whole series, which takes a method with full attention the square
                of its length; where that is minutes or more, a warning says so.
            stride: Number of steps by which the window moves on. Default 1, and window_length for "window".
            causal: Whether the window ends with the steps that it encodes, instead of lying evenly around them.
            pooling: "instance" and "window": "max", "mean" or "last" over the observed timestamps; None for the
                config's. "timestamp": None, a number of steps to max-pool around each timestamp, or "multiscale" for
                windows of 3, 5, 9, ... steps.
            batch_size: Number of series, or of sliding windows, in one forward pass.
            device: Where to compute; the model moves there. None: where the model is.
            normalize: Whether embeddings have length 1.
            show_progress_bar: None: when transformers' logging is at level INFO.
            timestamps: Dates of the steps, for a model with calendar features: (time,) for one series or for all, else
                a list of one (time,) a series. A DataFrame brings its own.
            prepared: Whether the series are model inputs already, so that nothing is scaled again.
            layout: "ntc" for (series, time, channel) or (time, channel); "nct" for (series, channel, time) or
                (channel, time), as in aeon, sktime and tsai. None: "ntc", but refused where all series are as long as
                wide.
            truncate_dim: Number of first dimensions that are kept, before `normalize`; None for all.
            method_arguments: Further arguments of the method, those of its `encode_arguments`.

        Returns:
            float32. "instance": (num_series, embedding_size). "timestamp": (num_series, time, embedding_size), or a
            list of (time, embedding_size) when the lengths differ. "window": the same with windows for timestamps.
            For one series, its result alone.

        Raises:
            TypeError: `series` holds no series, or an argument is unknown.
            ValueError: A setting or a series is out of range. The message names the value, the place and the fix.
        """
        settings = EncodeSettings(
            level, window_length, stride, causal, pooling, batch_size, normalize, show_progress_bar, truncate_dim
        )
        method_arguments = self._checked_encode_arguments(method_arguments)
        arrays, single = self._read_series(series, timestamps, prepared, layout, method_arguments)
        if device is not None:
            cast(nn.Module, self).to(device)  # transformers' wrapper hides the types
        if not arrays:
            return np.empty((0, self.config.embedding_size), dtype=np.float32)[:, :truncate_dim]
        with torch.inference_mode():
            results = encode_series(evaluating(self.base_model), arrays, settings, method_arguments)
        return _as_asked(results, single)

    def similarity(self, first: Any, second: Any, metric: str = "cosine") -> torch.Tensor:
        """Return how similar embeddings are, (num_first, num_second); see encoding_time_series.similarity."""
        return similarity(first, second, metric)

    def preparation_for(self, **method_arguments: Any) -> Any:
        """Return the preparation of series that `encode` is given with these further arguments of the method.

        Args:
            method_arguments: Those that `encode_arguments` returns.

        Returns:
            `preparation`; None where that knows another number of channels, as it was saved for another domain.
        """
        preparation, num_channels = self.preparation, self.num_channels_of(**method_arguments)
        is_other = bool(self.config.domain_entries) and getattr(preparation, "num_input_channels", 0) != num_channels
        return None if is_other else preparation

    def channel_names_for(self, **method_arguments: Any) -> list[str] | None:
        """Return the names of the channels of prepared series, where the preparation knows them; else None."""
        preparation = self.preparation_for(**method_arguments)
        named = preparation is not None and getattr(preparation, "channel_names", None)
        return list(preparation.input_channel_names) if named else None

    def _read_series(
        self, series: Any, timestamps: Any, prepared: bool, layout: str | None, method_arguments: dict[str, Any]
    ) -> tuple[list[np.ndarray], bool]:
        """Return the model inputs of series, and whether it was one series."""
        preparation = self.preparation_for(**method_arguments)
        if preparation is None or prepared or getattr(series, "is_prepared", False):
            if timestamps is not None:
                raise ValueError(
                    "timestamps were given, and nothing reads them: the series are prepared, or the model has no "
                    "preparation. Leave them out."
                )
            return as_series_list(series, self.channels_read(**method_arguments), layout)
        return preparation.transform(series, timestamps, layout), is_one_series(series)

    def _checked_encode_arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the method's further arguments of `encode` from those given, or say which one it does not have."""
        declared = inspect.signature(self.encode_arguments).parameters
        for name in given:
            if name not in declared:
                known = list(inspect.signature(self.encode).parameters)
                raise TypeError(
                    f"{type(self).__name__}.encode has no argument {name!r}.{near_match_hint(name, known)} "
                    f"It takes {', '.join(known)}."
                )
        return self.encode_arguments(**given)

    def __init_subclass__(cls, **options: Any) -> None:
        """Tell transformers which Auto class opens the class, and show a method's further arguments of `encode`.

        The code of a class that an Auto class opens is saved with it. The arguments that `encode_arguments` declares
        appear in the signature and the help of `encode`.
        """
        super().__init_subclass__(**options)
        if cls.forward is not nn.Module.forward:
            cast(Any, cls).forward = _without_arguments_of_text(cls.forward)
        for auto_class, suffix in SUFFIX_OF_AUTO_CLASS.items():
            if cls.__name__ == cls._prefix() + suffix:
                cast(Any, cls)._auto_class = auto_class
        if "encode_arguments" in vars(cls) and "encode" not in vars(cls):
            shared = inspect.unwrap(TimeSeriesPreTrainedModel.encode)
            cast(Any, cls).encode = _with_arguments_of(cls.encode_arguments, shared)


def _without_arguments_of_text(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return `forward` that also takes, as None, what a model of texts is given; peft passes all of that to any model.

    An argument of text that is not None is refused as any unknown one.
    """
    known = inspect.signature(forward).parameters
    left_out = [name for name in _ARGUMENTS_OF_TEXT if name not in known]
    if getattr(forward, "_leaves_out", None) == left_out:
        return forward

    @functools.wraps(forward)
    def forward_of_series(self: Any, *arguments: Any, **named: Any) -> Any:
        for name in left_out:
            if name in named and named[name] is None:
                del named[name]
        return forward(self, *arguments, **named)

    cast(Any, forward_of_series)._leaves_out = left_out
    return forward_of_series


def _with_arguments_of(declaration: Callable[..., Any], encode: Callable[..., Any]) -> Callable[..., Any]:
    """Return `encode`, described with the arguments of a method's `encode_arguments`."""

    @functools.wraps(encode)
    def encode_of_method(self: Any, *arguments: Any, **named: Any) -> Any:
        return encode(self, *arguments, **named)

    shared = inspect.signature(encode)
    own = [one for one in shared.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    _, *further = inspect.signature(declaration).parameters.values()
    parameters = [*own, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in further)]
    cast(Any, encode_of_method).__signature__ = shared.replace(parameters=parameters)
    described = re.search(r"Args:\n(.*?)\n\n", declaration.__doc__ or "", re.DOTALL)  # none with python -OO
    if described:
        encode_of_method.__doc__ = re.sub(r" +method_arguments: .*", described[1], encode.__doc__ or "")
    return encode_of_method


# Whoever reads the signature learns that a method without further arguments takes none.
cast(Any, TimeSeriesPreTrainedModel).encode = _with_arguments_of(
    TimeSeriesPreTrainedModel.encode_arguments, TimeSeriesPreTrainedModel.encode
)


def _preparation_beside(name_or_path: Any, model_class: type, options: dict[str, Any]) -> Any:
    """Return the TimeSeriesFeatureExtractor that is saved beside a model; None where there is none.

    Its code may run where the model's own code came from the same place.
    """
    place = {name: options[name] for name in _PLACE_OPTIONS if options.get(name) is not None}
    found = name_or_path is not None and cached_file(
        name_or_path,
        PREPARATION_FILE,
        **place,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if not found:
        logger.info(f"{name_or_path} has no {PREPARATION_FILE}: encode takes series as they are.")
        return None
    if not read_settings(Path(found)).get("feature_extractor_type"):
        raise ValueError(f"{found}: feature_extractor_type is missing; it says how series are prepared. Restore it.")
    is_remote = model_class.__module__.startswith("transformers_modules")
    return AutoFeatureExtractor.from_pretrained(name_or_path, **place, trust_remote_code=is_remote or None)


def _is_of_class(name_or_path: Any, model_class: type, options: dict[str, Any]) -> bool:
    """Return whether a folder says that a model of this class was saved in it."""
    config = options.get("config")
    if config is None and name_or_path is not None:
        place = {name: options[name] for name in _PLACE_OPTIONS if options.get(name) is not None}
        config = PreTrainedConfig.get_config_dict(name_or_path, **place)[0]
    saved = config.get("architectures") if isinstance(config, dict) else getattr(config, "architectures", None)
    return model_class.__name__ in (saved or ())


def _damaged_file(place: str, subfolder: str) -> Path | str:
    """Return the first file of weights in a folder that cannot be opened; the place itself where there is none."""
    for path in sorted(Path(place, subfolder).glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                continue
        except SafetensorError:
            return path
    return place


def _as_asked(results: np.ndarray | list[np.ndarray], single: bool) -> np.ndarray | list[np.ndarray]:
    if single:
        return results[0]
    if isinstance(results, list) and len({len(result) for result in results}) == 1:
        return np.stack(results)
    return results
