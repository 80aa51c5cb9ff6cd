"""Tokenizers that a training reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..errors import SettingsError

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
    from ..tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer

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
