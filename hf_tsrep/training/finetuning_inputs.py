"""What is computed once before a fine-tuning instead of in every epoch: tokens, or what a frozen encoder gives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .finetuning_data import FinetuningData
from .tensor_rows import Columns, TensorRows, map_tensors

logger = logging.getLogger(__name__)

Prepare = Callable[[Tensor], Columns]
HEAD_INPUTS = "head_inputs"


def prepare_inputs(model: Any, data: FinetuningData, arguments: Any, is_frozen: bool, feature_memory: float) -> None:
    """Put what never changes in place of the series: what the head of a frozen encoder reads, or the model's tokens.

    Args:
        model: A model with a head; it moves to the device of the arguments.
        data: The datasets, which are replaced.
        arguments: The Trainer's arguments.
        is_frozen: Whether the encoder never changes.
        feature_memory: Memory in GiB up to which a frozen encoder's outputs are kept; where they need more, they are
            computed in every epoch.
    """
    given = {} if data.domain is None else {"domain": data.domain}
    model.to(arguments.device)
    model.eval()

    @torch.no_grad()
    def head_inputs(past_values: Tensor) -> Columns:
        with _precision_of(arguments):
            encoded = model.compute_head_inputs(past_values=past_values.to(arguments.device), **given)
        return {HEAD_INPUTS: encoded.head_inputs}

    @torch.no_grad()
    def inputs(past_values: Tensor) -> Columns:
        return model.prepare_inputs(past_values.to(arguments.device), **given)

    if is_frozen and _fits(data, head_inputs, feature_memory):
        _replace(data, head_inputs, arguments)
    elif model.main_input_name != "past_values":
        _replace(data, inputs, arguments)


def _precision_of(arguments: Any) -> torch.autocast:
    """Return the autocast context of the Trainer's arguments."""
    dtype = torch.float16 if arguments.fp16 else torch.bfloat16
    return torch.autocast(arguments.device.type, dtype, enabled=arguments.fp16 or arguments.bf16)


def _fits(data: FinetuningData, prepare: Prepare, feature_memory: float) -> bool:
    row = prepare(data.datasets["train"][0]["past_values"].unsqueeze(0))
    sizes: list[int] = []
    map_tensors(row, lambda column: sizes.append(column.nbytes))
    needed = sum(sizes) * sum(map(len, data.datasets.values())) / 2**30
    if needed <= feature_memory:
        logger.info("The frozen encoder runs once; its outputs take %.2f GiB.", needed)
        return True
    logger.info(
        "The frozen encoder runs in every epoch: its outputs would take %.2f GiB, and feature_memory allows %.2f.",
        needed,
        feature_memory,
    )
    return False


def _replace(data: FinetuningData, prepare: Prepare, arguments: Any) -> None:
    data.datasets = {name: _prepared(name, one, prepare, arguments) for name, one in data.datasets.items()}


def _prepared(name: str, dataset: Any, prepare: Prepare, arguments: Any) -> TensorRows:
    """Return a dataset with other inputs in place of past_values."""
    from tqdm.auto import tqdm

    loader = DataLoader(dataset, arguments.per_device_eval_batch_size)
    hidden = arguments.disable_tqdm or not arguments.should_log
    columns: dict[str, Any] = {}
    first = 0
    for batch in tqdm(loader, desc=f"Preparing {name}", unit="batch", disable=hidden):
        rows = {**prepare(batch.pop("past_values")), **batch}
        if not columns:
            columns = map_tensors(
                rows, lambda column: column.new_empty((len(dataset), *column.shape[1:]), device="cpu")
            )
        first += _fill(columns, rows, first)
    return TensorRows(columns)


def _fill(columns: Columns, rows: Columns, first: int) -> int:
    """Write rows into the columns from row `first` on and return how many they are."""
    number = 0
    for name, value in rows.items():
        if isinstance(value, Mapping):
            number = _fill(columns[name], value, first)
        else:
            number = len(value)
            columns[name][first : first + number] = value
    return number
