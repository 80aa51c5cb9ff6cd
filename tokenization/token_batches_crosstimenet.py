"""Rows of ids to the batch that a tokenizer of transformers returns."""

from __future__ import annotations

from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizer
from transformers.tokenization_utils_base import TruncationStrategy


def finished_batch(
    tokenizer: PreTrainedTokenizer,
    rows: list[list[int]],
    is_one: bool,
    add_special_tokens: bool,
    padding_side: str | None,
    return_tensors: str | None,
    return_attention_mask: bool | None,
    return_special_tokens_mask: bool,
    return_length: bool,
    **options: Any,
) -> BatchEncoding:
    """Cut rows, add special tokens, pad and convert; the arguments are those of CrossTimeNetTokenizer.__call__.

    Args:
        tokenizer: Whose settings serve where an argument is None.
        rows: Ids of every series.
        is_one: Whether it was one series.
        add_special_tokens: Whether to put [CLS] before and [SEP] behind.
        padding_side: "right", "left" or None.
        return_tensors: "pt", "np" or None.
        return_attention_mask: Whether to return the attention mask; None for yes.
        return_special_tokens_mask: Whether to mark special tokens with 1.
        return_length: Whether to return the number of tokens.
        options: padding, truncation, max_length, pad_to_multiple_of and verbose.

    Raises:
        ValueError: max_length leaves no room for a token of a series.
    """
    padding, truncation, longest, _ = tokenizer._get_padding_truncation_strategies(**options)
    if truncation != TruncationStrategy.DO_NOT_TRUNCATE:
        rows = _cut_rows(tokenizer, rows, longest, add_special_tokens)
    if add_special_tokens:
        rows = [tokenizer.build_inputs_with_special_tokens(row) for row in rows]
    unpadded: Any = {"input_ids": rows[0] if is_one else rows}
    batch: dict[str, Any] = dict(
        tokenizer.pad(
            unpadded,
            padding=padding.value,
            max_length=longest,
            pad_to_multiple_of=options["pad_to_multiple_of"],
            padding_side=padding_side,
            return_attention_mask=return_attention_mask is not False,  # transformers leaves out that of no series
            verbose=False,
        )
    )
    found = [batch["input_ids"]] if is_one else batch["input_ids"]
    if return_special_tokens_mask:
        masks = [tokenizer.get_special_tokens_mask(row, already_has_special_tokens=True) for row in found]
        batch["special_tokens_mask"] = masks[0] if is_one else masks
    if return_length:
        batch["length"] = len(found[0]) if is_one else [len(row) for row in found]
    return BatchEncoding(batch, tensor_type=return_tensors, prepend_batch_axis=is_one)


def _cut_rows(
    tokenizer: PreTrainedTokenizer, rows: list[list[int]], longest: int, add_special_tokens: bool
) -> list[list[int]]:
    room = longest - (tokenizer.num_special_tokens_to_add() if add_special_tokens else 0)
    if room < 1:
        raise ValueError(f"max_length={longest} leaves no room for a token of the series; take a larger one.")
    return [row[-room:] if tokenizer.truncation_side == "left" else row[:room] for row in rows]
