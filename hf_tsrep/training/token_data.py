"""What the training on tokens reads: series of all domains, tokenised once, and batches padded to one length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .codec_data import series_in_batches


@torch.no_grad()
def tokenise_series(tokenizer: Any, domain: str, series: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Tokenise series of a domain.

    Args:
        tokenizer: A CrossTimeNetTokenizer.
        domain: Name of the domain.
        series: Arrays (time, num_input_channels), NaN = missing.

    Returns:
        One array (num_tokens,) int32 a series, without padding.
    """
    found: list[np.ndarray] = []
    for batch in series_in_batches(series):
        ids, attention, _ = tokenizer.tokenize_values(batch, domain=domain)
        for row, real in zip(ids.cpu().numpy(), attention.cpu().numpy(), strict=True):
            found.append(row[real].astype(np.int32))
    return found


def cut_tokens(tokens: Sequence[np.ndarray], longest: int) -> tuple[list[np.ndarray], list[int]]:
    """Cut rows of tokens into the fewest pieces of at most `longest`, equal up to one token.

    Args:
        tokens: Arrays (num_tokens,).
        longest: Largest number of tokens, such as the backbone's number of positions.

    Returns:
        The pieces, and for each the place of its row.
    """
    pieces: list[np.ndarray] = []
    rows: list[int] = []
    for place, row in enumerate(tokens):
        parts = np.array_split(row, max(1, -(-len(row) // longest)))
        pieces += parts
        rows += [place] * len(parts)
    return pieces, rows


class TokenDataset(Dataset):
    """Tokens of all domains, numbered through in their order; items are `{"input_ids": (num_tokens,) int64}`.

    Args:
        domains: Pieces of every domain.
    """

    def __init__(self, domains: Sequence[Sequence[np.ndarray]]) -> None:
        self.pieces = [piece for pieces in domains for piece in pieces]

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.from_numpy(self.pieces[index].astype(np.int64))}


class TokenCollator:
    """Pads tokens at the end.

    Args:
        pad_token_id: Id of the padding.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `input_ids` (batch_size, num_tokens) int64 and `attention_mask`, alike, True = a token."""
        width = max(len(item["input_ids"]) for item in items)
        ids = torch.full((len(items), width), self.pad_token_id, dtype=torch.int64)
        attention = torch.zeros((len(items), width), dtype=torch.bool)
        for row, item in enumerate(items):
            ids[row, : len(item["input_ids"])] = item["input_ids"]
            attention[row, : len(item["input_ids"])] = True
        return {"input_ids": ids, "attention_mask": attention}
