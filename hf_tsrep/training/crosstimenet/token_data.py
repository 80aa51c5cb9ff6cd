"""What the training on tokens reads: a tokenizer, series tokenised once, and batches padded to one length."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from ...errors import SettingsError
from ...tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer
from ..callbacks import CollapseMonitor
from .codec_training import series_in_batches

TOKENIZER_COMMAND = "hf-tsrep pretrain --method crosstimenet --stage tokenizer --corpus NAME --output-dir DIR"


def load_tokenizer(name_or_path: str) -> Any:
    """Load a CrossTimeNetTokenizer.

    Args:
        name_or_path: Folder, or id on the Hub.

    Returns:
        The tokenizer; its codec is frozen.

    Raises:
        SettingsError: There is none, or it is damaged; the message names it and the command that makes one.
    """
    is_place = Path(name_or_path).is_absolute() or name_or_path.startswith((".", "~")) or name_or_path.count("/") != 1
    if is_place and not Path(name_or_path).expanduser().is_dir():
        raise SettingsError(f"There is no tokenizer folder {name_or_path!r}. Train one with `{TOKENIZER_COMMAND}`.")
    try:
        return CrossTimeNetTokenizer.from_pretrained(str(Path(name_or_path).expanduser()))
    except (OSError, ValueError, TypeError) as error:  # nothing there; damaged or of another kind; a field of one
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise SettingsError(
            f"{name_or_path!r} holds no tokenizer that can be loaded ({reason}). Train one with `{TOKENIZER_COMMAND}`."
        ) from error


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a sha256 over the domains and weights of a tokenizer: equal ones give equal ids.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(repr([domain.to_dict() for domain in tokenizer.domains]).encode())
    for name, value in sorted(tokenizer.codec.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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


class TokenCollapseMonitor(CollapseMonitor):
    """A CollapseMonitor for models that read `input_ids`: it measures the embeddings of tokens that are no padding."""

    @torch.no_grad()
    def _embed(self, model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return (tokens, embedding_size) float32."""
        encoder: Any = getattr(model, "base_model", model)
        num_rows = max(1, self.num_timestamps // inputs["input_ids"].shape[1])
        ids, attention = inputs["input_ids"][:num_rows], inputs["attention_mask"][:num_rows].bool()
        was_training = encoder.training
        encoder.eval()
        try:
            embeddings = encoder(input_ids=ids, attention_mask=attention).last_hidden_state
        finally:
            encoder.train(was_training)
        return embeddings[attention].float()
