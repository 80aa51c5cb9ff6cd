"""A model as one file that runs without this library: ONNX, or a program of torch.export."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ..files import written_atomically
from ..inference.provenance import answer_provenance, preparation_facts
from ..opening import local_folder, read_config

logger = logging.getLogger(__name__)

ExportFormat = Literal["onnx", "torch"]
FILE_OF_FORMAT: dict[str, str] = {"onnx": "model.onnx", "torch": "model.pt2"}
RECORD_FILE = "export.json"
LARGEST_DIFFERENCE = 1e-3  # of an output, over its largest number: the arithmetic is the same, its order is not
_CLASS_OF_HEAD = {
    "ForTimeSeriesClassification": "AutoModelForSequenceClassification",
    "ForTimeSeriesPrediction": "AutoModelForTimeSeriesPrediction",
}


class ExportError(ValueError):
    """A model cannot become one file, or the file computes something else; the message says what helps."""


class ExportedModel(nn.Module):
    """What a file computes: from raw series, or from tokens, to the model's answer in its units.

    Args:
        model: The model, in evaluation mode.
        input_names: Names of the inputs, as the model's `prepare_inputs` returns them.
        preparation: What scales raw values; None where the inputs are scaled or are no values.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, model: Any, input_names: Sequence[str], preparation: Any) -> None:
        super().__init__()
        self.model = model
        self.input_names = tuple(input_names)
        self.output_name = getattr(model, "output_name", None)  # of a head
        num_channels = 1 if preparation is None else preparation.num_channels
        mean = getattr(preparation, "mean", None) or [0.0] * num_channels
        scale = getattr(preparation, "scale", None) or [1.0] * num_channels
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        return (self.output_name,) if self.output_name else ("last_hidden_state", "pooler_output")

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Answer a batch.

        Args:
            inputs: In the order of `input_names`; past_values (batch_size, sequence_length, num_channels), NaN =
                missing.

        Returns:
            In the order of `output_names`.
        """
        named = dict(zip(self.input_names, inputs, strict=True))
        if "past_values" in named:
            named["past_values"] = (named["past_values"] - self.mean) / self.scale
        output = self.model(**named)
        if self.output_name != "prediction_outputs":
            return tuple(output[name] for name in self.output_names)
        prediction = output[self.output_name]
        num_predicted = prediction.shape[-1]  # fewer channels than the series' are the last ones of them
        return (prediction * self.scale[-num_predicted:] + self.mean[-num_predicted:],)


def export_model(
    model: Any,
    output_dir: str | Path,
    format: ExportFormat = "onnx",
    *,
    max_length: int = 4096,
    max_batch_size: int = 512,
    overwrite: bool = False,
) -> Path:
    """Write a model as one file that runs without this library, and compare what it computes with the model.

    Any number of series and, where the head takes any, any number of timestamps go in. The preparation is inside:
    raw values go in, forecasts come out in their units. It cannot be where it makes calendar features or tokens, which
    then are the inputs; the record beside the file says so.

    Args:
        model: Folder or Hub id of a model, or a model: an encoder, or one with a head for a task.
        output_dir: Folder to write: the file (ONNX puts large weights beside it) and export.json, which says what goes
            in and comes out, how the series are prepared, from which weights it was made and how near it comes.
        format: "onnx", for onnxruntime; or "torch", for `torch.export.load`.
        max_length: Largest number of timestamps, or of tokens, that the file takes.
        max_batch_size: Largest number of series that it takes at once.
        overwrite: Whether an existing folder is replaced.

    Returns:
        The folder.

    Raises:
        ExportError: The model cannot become one program, or the file computes something else.
        FileExistsError: The folder is there, and not empty.
        ImportError: The format needs packages that are not there; the message has the command.
        ValueError: A setting is out of its range.
    """
    if format not in FILE_OF_FORMAT:
        raise ValueError(f"format={format!r} is unknown; choose one of {', '.join(FILE_OF_FORMAT)}.")
    for name, value, least in (("max_length", max_length, 8), ("max_batch_size", max_batch_size, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r} must be a whole number of at least {least}.")
    if format == "onnx":
        _require_onnx()
    opened = _open(model) if isinstance(model, (str, Path)) else model
    if not hasattr(opened, "output_name") and opened is not opened.base_model:
        raise ExportError(
            f"{type(opened).__name__} is the model of a pretext task, whose answer nobody asks for; export its "
            "encoder, AutoModel.from_pretrained(folder), or a model with a head."
        )
    was_training = opened.training
    try:
        opened.eval()
        return _export(opened, Path(output_dir), format, max_length, max_batch_size, overwrite)
    finally:
        opened.train(was_training)


def _export(model: Any, output_dir: Path, format: str, max_length: int, max_batch_size: int, overwrite: bool) -> Path:
    length, max_length = _fixed_length(model), min(max_length, model.config.longest_length or max_length)
    example = _example(model, batch_size=2, length=length or min(96, max_length))
    is_inside = _is_preparation_inside(model, example)
    program = ExportedModel(model, list(example), model.preparation if is_inside else None).eval()
    exported = _traced(program, example, None if length else max_length, max_batch_size)
    with written_atomically(output_dir, overwrite) as draft:
        path = draft / FILE_OF_FORMAT[format]
        if format == "onnx":
            _save_onnx(exported, program, path)
            run = _run_onnx(path, program)
        else:
            torch.export.save(exported, path)
            run = _run_torch(path)
        difference = _largest_difference(program, model, run, length, min(max_length, 150))
        if not difference <= LARGEST_DIFFERENCE:
            raise ExportError(
                f"The file's answers differ from the model's by {difference:.2g} of their size, where at most "
                f"{LARGEST_DIFFERENCE:g} was expected: nothing is written. Please report the model's config."
            )
        record = _record(program, model, example, format, length, (max_length, max_batch_size), difference)
        (draft / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    logger.info("%s: the largest difference from the model is %.1e of an output.", output_dir, difference)
    return output_dir


def _require_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401 - only asked for whether it is there
        import onnxscript  # noqa: F401 - as above, for torch.onnx
    except ImportError as error:
        raise ImportError(
            f'format "onnx" needs {error.name}: pip install "hf-tsrep[export]", or export "torch".'
        ) from error


def _open(name: str | Path) -> Any:
    """Open a folder or Hub id with the head that it was saved with; one of a pretext task as its encoder."""
    import transformers

    local_folder(str(name))
    config = read_config(str(name))
    saved = (config.architectures or [""])[0]
    kind = next((kind for suffix, kind in _CLASS_OF_HEAD.items() if saved.endswith(suffix)), "AutoModel")
    return getattr(transformers, kind).from_pretrained(str(name), config=config).eval()


def _fixed_length(model: Any) -> int | None:
    """Return the one number of timestamps that a head takes; None for any."""
    if getattr(model, "output_name", None) == "prediction_outputs":
        return model.config.prediction_context_length
    return model.config.classifier_length() if hasattr(model, "output_name") else None


def _example(model: Any, batch_size: int, length: int) -> dict[str, torch.Tensor]:
    """Return inputs of so many series, some of whose values are missing; the same ones every time."""
    generator = torch.Generator().manual_seed(batch_size * 100_000 + length)
    values = torch.randn(batch_size, length, model.num_channels_of(), generator=generator)
    values[0, length // 3 : length // 2] = torch.nan
    return {name: value.to(model.device) for name, value in model.prepare_inputs(values).items()}


def _is_preparation_inside(model: Any, inputs: Mapping[str, torch.Tensor]) -> bool:
    return model.preparation is not None and not model.preparation.time_features and "past_values" in inputs


def _traced(
    program: ExportedModel, example: Mapping[str, torch.Tensor], max_length: int | None, max_batch_size: int
) -> Any:
    """Return the program of any number of series and, with a largest one, of any number of timestamps."""
    batch = torch.export.Dim("batch", min=1, max=max_batch_size)
    time = None if max_length is None else torch.export.Dim("time", min=2, max=max_length)
    axes = {0: batch} if time is None else {0: batch, 1: time}
    shapes = {"inputs": tuple(dict(axes) for _ in example)}
    try:
        with torch.no_grad():
            return torch.export.export(program, tuple(example.values()), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch.export has no error class of its own
        first = str(error).strip().splitlines()
        raise ExportError(
            f"{type(program.model).__name__} cannot become one program for all lengths: {first[0] if first else error}"
        ) from error


def _save_onnx(exported: Any, program: ExportedModel, path: Path) -> None:
    with _without_notes_of_torch():
        converted: Any = torch.onnx.export(
            exported,
            dynamo=True,
            verbose=False,
            input_names=list(program.input_names),
            output_names=list(program.output_names),
        )
    converted.save(str(path))


@contextmanager
def _without_notes_of_torch() -> Iterator[None]:
    """Keep what torch.onnx says of packages that it lacks, and of its own future, away from a user."""
    of_torch = logging.getLogger("torch.onnx")
    level = of_torch.level
    of_torch.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        of_torch.setLevel(level)


def _run_onnx(path: Path, program: ExportedModel) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*inputs: torch.Tensor) -> list[np.ndarray]:
        named = {name: value.cpu().numpy() for name, value in zip(program.input_names, inputs, strict=True)}
        return session.run(list(program.output_names), named)

    return run


def _run_torch(path: Path) -> Any:
    loaded = torch.export.load(path).module()

    def run(*inputs: torch.Tensor) -> list[np.ndarray]:
        with torch.no_grad():
            return [one.cpu().numpy() for one in loaded(*inputs)]

    return run


def _largest_difference(program: ExportedModel, model: Any, run: Any, length: int | None, longest: int) -> float:
    """Compare the file with the model on other numbers of series and timestamps than it was made with."""
    differences = []
    for batch_size, other in ((1, longest), (3, max(longest // 2, 8))):
        inputs = tuple(_example(model, batch_size, length or other).values())
        with torch.no_grad():
            expected = [one.cpu().numpy() for one in program(*inputs)]
        for found, wanted in zip(run(*inputs), expected, strict=True):
            size = float(np.abs(wanted).max()) or 1.0
            differences.append(float(np.abs(found - wanted).max()) / size)
    return float(np.max(differences))


def _record(
    program: ExportedModel,
    model: Any,
    example: Mapping[str, torch.Tensor],
    format: str,
    length: int | None,
    largest: tuple[int, int],
    difference: float,
) -> dict[str, Any]:
    """Return what export.json says."""
    is_inside, is_known = _is_preparation_inside(model, example), model.preparation is not None
    what = "in the file: give raw values" if is_inside else "none is known: give the model's inputs"
    if is_known and not is_inside:
        what = "before the file: give what model.preparation and model.prepare_inputs make of raw series"
    length_of = {"past_values": length or f"2 to {largest[0]} timestamps"}
    return {
        "file": FILE_OF_FORMAT[format],
        "inputs": {
            name: {
                "dtype": str(value.dtype).removeprefix("torch."),
                "shape": [f"1 to {largest[1]} series", length_of.get(name, f"2 to {largest[0]}"), *value.shape[2:]],
            }
            for name, value in example.items()
        },
        "outputs": list(program.output_names),
        "missing_values": "NaN",
        "preparation": {"where": what, **(preparation_facts(model.preparation) if is_known else {})},
        "class_names": [model.config.id2label[index] for index in range(model.config.num_labels)]
        if program.output_name == "logits"
        else None,
        "largest_relative_difference": difference,
        "made_of": answer_provenance(model, {"format": format}),
    }
