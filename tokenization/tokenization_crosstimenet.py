"""CrossTimeNet's tokenizer: series to tokens of one shared vocabulary and back (arXiv 2403.12372, section 3.2).

The ids 0 to 3 are [PAD], [MASK], [CLS] and [SEP]; then come the codes of one domain after the other, `<har_0>`,
`<har_1>`, ... A token stands for patch_length timestamps. A model learns on these ids as on those of words.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedTokenizer, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import TruncationStrategy

from .codec_crosstimenet import CrossTimeNetCodec
from .configuration_crosstimenet_codec import CodecDomain, near_match_hint
from .files_time_series import sums_kept
from .reading_time_series import as_numbers, check_finite, check_shape, is_frame, is_one_series, read_series
from .series_crosstimenet_codec import ReconstructionQuality, codes_of_values, series_of_codes
from .types_time_series import read_settings, require_types
from .weights_crosstimenet_codec import (
    check_codec,
    codec_from_bytes,
    codec_of_weights,
    codec_to_bytes,
    convert_official_codec,
    fresh_codec,
    joined_codec,
    load_codec,
    save_codec,
)

_CODE = re.compile(r"<(?P<domain>[^<>\s]*)_(?P<code>0|[1-9][0-9]*)>")
_PIECES = re.compile(r"<[^<>\s]*>|[^<>\s]+|[<>]")


def split_tokens(text: str) -> list[str]:
    """Split text into tokens, with or without spaces between them."""
    return _PIECES.findall(text)


class CodeVocabulary:
    """Which id stands for which code of which domain.

    Ids never move: a new domain's come after all others, also after tokens that were added in the meantime.

    Args:
        special_tokens: The tokens with the ids 0, 1, ...
        domains: The domains in the order of their ids.
        first_ids: Id of every domain's code 0; None for one domain after the other.

    Raises:
        ValueError: The first ids do not fit the domains.
    """

    def __init__(
        self, special_tokens: Sequence[str], domains: Sequence[CodecDomain], first_ids: Sequence[int] | None = None
    ) -> None:
        self.special_tokens = list(special_tokens)
        self.domains: list[CodecDomain] = []
        self.first_ids: list[int] = []
        if first_ids is not None and len(first_ids) != len(domains):
            raise ValueError(f"There are {len(first_ids)} first_ids for {len(domains)} domains; give one a domain.")
        for place, domain in enumerate(domains):
            self.add(domain, self.next_id if first_ids is None else int(first_ids[place]))

    @property
    def next_id(self) -> int:
        """The first id after all codes."""
        if not self.domains:
            return len(self.special_tokens)
        return self.first_ids[-1] + self.domains[-1].codebook_size

    @property
    def num_tokens(self) -> int:
        """Number of special tokens and codes."""
        return len(self.special_tokens) + sum(domain.codebook_size for domain in self.domains)

    def add(self, domain: CodecDomain, first_id: int) -> None:
        """Add a domain.

        Raises:
            ValueError: Its ids are not after all others.
        """
        if first_id < self.next_id:
            raise ValueError(
                f"Domain {domain.name!r} begins at id {first_id}, but {self.next_id} is the first free one."
            )
        self.domains.append(domain)
        self.first_ids.append(first_id)

    def ids_of_tokens(self) -> dict[str, int]:
        """Return all tokens with their ids."""
        ids = {token: index for index, token in enumerate(self.special_tokens)}
        for domain, first_id in zip(self.domains, self.first_ids, strict=True):
            ids.update({f"<{domain.name}_{code}>": first_id + code for code in range(domain.codebook_size)})
        return ids

    def id_of(self, token: str) -> int:
        """Return the id of a token.

        Raises:
            ValueError: There is no such token; the message names it and what comes near.
        """
        if token in self.special_tokens:
            return self.special_tokens.index(token)
        match = _CODE.fullmatch(token)
        names = [domain.name for domain in self.domains]
        if match is None or match["domain"] not in names:
            raise ValueError(f"Unknown token {token!r}.{self._hint(token, match, names)}")
        place, code = names.index(match["domain"]), int(match["code"])
        size = self.domains[place].codebook_size
        if code >= size:
            raise ValueError(f"Unknown token {token!r}: domain {names[place]!r} has codes 0 to {size - 1}.")
        return self.first_ids[place] + code

    def _hint(self, token: str, match: re.Match[str] | None, names: list[str]) -> str:
        if match is not None:
            same_code = [f"<{name}_{match['code']}>" for name in names]
            return f"{near_match_hint(token, same_code)} Domains: {', '.join(names) or 'none'}."
        examples = [*self.special_tokens, *(f"<{name}_0>" for name in names)]
        return f"{near_match_hint(token, self.special_tokens, 0.5)} Tokens look like {', '.join(examples)}."

    def token_of(self, index: int) -> str:
        """Return the token of an id.

        Raises:
            ValueError: There is no such id.
        """
        if 0 <= index < len(self.special_tokens):
            return self.special_tokens[index]
        places, codes = self.codes_of(np.asarray([index]))
        if places[0] < 0:
            raise ValueError(f"Id {index} stands for no token. {self.describe_ids()}")
        return f"<{self.domains[places[0]].name}_{codes[0]}>"

    def codes_of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the place of the domain and the code of ids of any shape; -1 for what is no code."""
        places = np.searchsorted(np.asarray(self.first_ids, dtype=np.int64), ids, side="right") - 1
        if not self.domains:
            return places, places
        codes = ids - np.asarray(self.first_ids)[places]
        sizes = np.asarray([domain.codebook_size for domain in self.domains])
        is_code = (places >= 0) & (codes < sizes[places])
        return np.where(is_code, places, -1), np.where(is_code, codes, -1)

    def describe_ids(self) -> str:
        """Say in a sentence which ids there are."""
        spans = [f"0 to {len(self.special_tokens) - 1} are special tokens"]
        for domain, first_id in zip(self.domains, self.first_ids, strict=True):
            spans.append(f"{first_id} to {first_id + domain.codebook_size - 1} codes of {domain.name!r}")
        return f"Ids {', '.join(spans)}."

    def __repr__(self) -> str:
        domains = ", ".join(
            f"{domain.name}: {domain.num_input_channels} channels, {domain.patch_length} timestamps a token, "
            f"{domain.codebook_size} codes from id {first_id}"
            for domain, first_id in zip(self.domains, self.first_ids, strict=True)
        )
        return f"domains=[{domains}]"


CODEC_FILE = "codec.safetensors"
CONFIG_FILE = "tokenizer_config.json"
# The weights of a domain that decide which code a patch gets; the others turn codes back into series.
_DECIDES_IDS = ("channel_", "input_projection.", "encoder.", "patch_projection.", "codebook.codes")


class CodeTokenizer(PreTrainedTokenizer):
    """What CrossTimeNetTokenizer has in common with every tokenizer; a subclass sets the codec and the vocabulary."""

    _codec: CrossTimeNetCodec
    _vocabulary: CodeVocabulary

    @property
    def codec(self) -> CrossTimeNetCodec:
        """The codec, frozen."""
        return self._codec.eval()

    @property
    def domains(self) -> list[CodecDomain]:
        """The domains in the order of their ids."""
        return list(self._vocabulary.domains)

    @property
    def first_ids(self) -> list[int]:
        """Id of every domain's code 0."""
        return list(self._vocabulary.first_ids)

    def first_id(self, domain: str | int | None = None) -> int:
        """Return the id of a domain's code 0.

        Args:
            domain: Name or place of the domain; None where there is only one.

        Raises:
            ValueError: There is no such domain. The message names the near matches.
        """
        return self._vocabulary.first_ids[self._codec.domain_index(domain)]

    def fingerprint(self, domain: str | int | None = None) -> str:
        """Return a sha256 over what decides the codes of a domain's series: equal ones give equal codes.

        Args:
            domain: Name or place of the domain; None where there is only one.

        Returns:
            64 hexadecimal digits.

        Raises:
            ValueError: There is no such domain.
        """
        network = self._codec.domain_codec(domain)
        described = network.domain
        digest = hashlib.sha256(f"{described.num_input_channels} {described.patch_length}\n".encode())
        if described.dilations != (1, 4):  # no shape tells them; the usual ones have been left out from the start
            digest.update(f"dilations {described.dilations}\n".encode())
        for name, value in sorted(network.state_dict().items()):
            if name.startswith(_DECIDES_IDS):
                digest.update(f"{name} {tuple(value.shape)}\n".encode())
                digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def check_weights(self) -> None:
        """Raise ValueError for a codec that could not be loaded again: weights not finite, a codebook of zeros."""
        check_codec(self._codec, "the tokenizer")

    @property
    def vocab_size(self) -> int:
        """Number of special tokens and codes; len(tokenizer) counts tokens that were added by hand too."""
        return self._vocabulary.num_tokens

    def get_vocab(self) -> dict[str, int]:
        """Return all tokens with their ids."""
        return {**self._vocabulary.ids_of_tokens(), **self._added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        tokens = split_tokens(text)
        for token in tokens:
            self._vocabulary.id_of(token)
        return tokens

    def _convert_token_to_id(self, token: str) -> int:
        return self._vocabulary.id_of(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._vocabulary.token_of(index)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Save settings, codec and code; see PreTrainedTokenizerBase.save_pretrained.

        Raises:
            ValueError: Weights of the codec cannot be right; nothing is written then.
        """
        self.check_weights()
        with sums_kept(save_directory):
            return super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Self:
        """Load a tokenizer; see PreTrainedTokenizerBase.from_pretrained.

        Raises:
            ValueError: A file of a folder is missing or damaged; the message names it and the fix.
        """
        folder = Path(pretrained_model_name_or_path) / (kwargs.get("subfolder") or "")
        if (folder / CODEC_FILE).is_file():
            _check_settings(folder / CONFIG_FILE)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the codec's weights, complete or not at all; see save_pretrained.

        Returns:
            The path.
        """
        path = Path(save_directory) / (f"{filename_prefix}-{CODEC_FILE}" if filename_prefix else CODEC_FILE)
        save_codec(self._codec, path)
        return (str(path),)

    def _save_pretrained(self, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        # transformers also names the file of added tokens where there are none.
        return tuple(path for path in super()._save_pretrained(*args, **kwargs) if Path(path).is_file())

    @classmethod
    def convert_added_tokens(cls, obj: Any, save: bool = False, add_type_field: bool = True) -> Any:
        """Return what tokenizer_config.json holds of a value: transformers asks this for everything that it writes."""
        if isinstance(obj, CodecDomain):
            return obj.to_dict()
        return super().convert_added_tokens(obj, save=save, add_type_field=add_type_field)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_codec"]
        state["codec_bytes"] = codec_to_bytes(self._codec)
        state["deprecation_warnings"] = {}  # which warnings were given is no part of what the tokenizer does
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        content = state.pop("codec_bytes")
        self.__dict__.update(state)
        self._codec = codec_from_bytes(self.domains, content)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name_or_path={self.name_or_path!r}, {self._vocabulary!r})"


# Further settings are those of every tokenizer; the fields of a domain have types where they are read.
_TYPES_OF_SETTINGS: dict[str, Any] = {
    "domains": list[dict] | None,
    "first_ids": list[int] | None,
    **dict.fromkeys(("pad_token", "mask_token", "cls_token", "sep_token"), str | dict),
}


def _check_settings(path: Path) -> None:
    """Refuse a file of settings that is missing or no JSON: ids and padding would silently be the default ones."""
    again = "Save the tokenizer again with tokenizer.save_pretrained, or download the file again."
    if not path.is_file():
        raise ValueError(f"{path.parent} holds {CODEC_FILE}, but no {CONFIG_FILE}, the tokenizer's settings. {again}")
    require_types(str(path), read_settings(path), _TYPES_OF_SETTINGS)


# From whatever holds series or strings to batches.

# Timestamps of a batch, padding included, and timestamps that are read before they are sorted by length.
STEPS_IN_BATCH = 65_536
STEPS_READ_AHEAD = 16 * STEPS_IN_BATCH


def series_column(corpus: Any) -> Any:
    """Return the column `series` of a dataset; anything else as it is.

    Raises:
        ValueError: It has several splits.
    """
    columns = getattr(corpus, "column_names", None)
    if isinstance(columns, dict):
        splits = ", ".join(map(repr, columns))
        raise ValueError(f"Choose a split of the corpus, such as corpus[{next(iter(columns))!r}]: {splits}.")
    return corpus["series"] if columns is not None and "series" in columns else corpus


def is_text(series: Any) -> bool:
    """Whether this is a string, or a list of strings.

    Raises:
        ValueError: Strings and series are mixed.
    """
    if isinstance(series, str):
        return True
    if isinstance(series, (np.ndarray, torch.Tensor, dict)) or is_frame(series) or not hasattr(series, "__len__"):
        return False
    if not len(series) or not isinstance(next(iter(series)), str):
        return False
    other = [index for index, one in enumerate(series) if not isinstance(one, (str, list, tuple))]
    if other:
        kind = type(series[other[0]]).__name__
        raise ValueError(f"Item 0 is a string and item {other[0]} a {kind}; give strings or series in one call.")
    return True


def read_batches(
    series: Any, num_channels: int, shortest: int = 1, num_steps: int = STEPS_IN_BATCH
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Yield all series in batches of about num_steps timestamps; see read_series.

    Series of a list are read ahead and sorted by length, so that little is padding; an array (series, time, channel)
    is cut without looking at single series. However many there are, only what was read ahead is copied.

    Args:
        series: A holder of series.
        num_channels: Number of channels of a series.
        shortest: Batches are padded to at least this length.
        num_steps: Timestamps of a batch, padding included; a longer series is a batch of its own.

    Yields:
        The places (batch_size,) of the series, and (batch_size, longest, num_channels) float32, NaN after the end.

    Raises:
        ValueError: See read_series.
    """
    if isinstance(series, (np.ndarray, torch.Tensor)) and series.ndim == 3:
        yield from _cut_array(series, num_channels, shortest, num_steps)
        return
    ahead: list[np.ndarray] = []
    num_done = num_read = 0
    for one in read_series(series, num_channels, is_one_series(series, num_channels), "ntc"):
        ahead.append(one)
        num_read += len(one)
        if num_read >= STEPS_READ_AHEAD:
            yield from _sorted_batches(ahead, num_done, shortest, num_steps)
            num_done, num_read, ahead = num_done + len(ahead), 0, []
    yield from _sorted_batches(ahead, num_done, shortest, num_steps)


def _cut_array(
    series: np.ndarray | torch.Tensor, num_channels: int, shortest: int, num_steps: int
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    check_shape(tuple(series.shape[1:]), num_channels, "every series of the batch")
    rows = max(1, num_steps // series.shape[1])
    for start in range(0, len(series), rows):
        # A copy of this part only: the array may be read-only, of another type or on another device.
        part = np.array(as_numbers(series[start : start + rows], "the batch"), dtype=np.float32)
        places = np.arange(start, start + len(part))
        if np.isinf(part).any():
            for place, values in zip(places, part, strict=True):
                check_finite(values, f"series {place}")
        yield places, _padded(list(part), shortest) if shortest > part.shape[1] else torch.from_numpy(part)


def _sorted_batches(
    series: list[np.ndarray], first_place: int, shortest: int, num_steps: int
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    order = np.argsort([len(one) for one in series], kind="stable")
    start = 0
    for stop in range(1, len(order) + 1):
        if stop == len(order) or (stop + 1 - start) * len(series[order[stop]]) > num_steps:
            chosen = order[start:stop]
            yield chosen + first_place, _padded([series[index] for index in chosen], shortest)
            start = stop


def _padded(series: list[np.ndarray], shortest: int) -> torch.Tensor:
    longest = max(shortest, *(len(one) for one in series))
    batch = np.full((len(series), longest, series[0].shape[1]), np.nan, dtype=np.float32)
    for row, one in zip(batch, series, strict=True):
        row[: len(one)] = one
    return torch.from_numpy(batch)


def as_id_rows(token_ids: Any) -> tuple[list[np.ndarray], bool]:
    """Turn any holder of ids into one array (num_tokens,) int64 a series, and tell whether it was one series.

    Raises:
        ValueError: There are other things than whole numbers.
    """
    if isinstance(token_ids, (torch.Tensor, np.ndarray)):
        is_one = token_ids.ndim < 2
    else:
        is_one = not isinstance(token_ids, (list, tuple)) or not any(hasattr(one, "__len__") for one in token_ids)
        is_one = is_one or any(getattr(one, "ndim", 1) == 0 for one in token_ids)
    rows = [token_ids] if is_one else list(token_ids)
    return [_ids(row, index) for index, row in enumerate(rows)], is_one


def _ids(row: Any, index: int) -> np.ndarray:
    array = np.atleast_1d(row.detach().cpu().numpy() if isinstance(row, torch.Tensor) else np.asarray(row))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"Row {index} holds {array.dtype} of shape {array.shape}; ids are whole numbers (num_tokens,)."
        )
    return array.astype(np.int64)


def codes_of_rows(
    vocabulary: CodeVocabulary,
    rows: Sequence[np.ndarray],
    without_values: Collection[int],
    mask_id: int,
    place: int | None,
) -> tuple[int | None, list[np.ndarray]]:
    """Turn ids into codes of one domain.

    Args:
        vocabulary: The vocabulary.
        rows: Ids (num_tokens,) of every series.
        without_values: Ids of tokens that stand for no timestamps.
        mask_id: Id of a patch of which nothing is known.
        place: Place of the domain; None for that of the codes.

    Returns:
        Place of the domain, None if no code tells it; and codes (num_patches,) of every series, -1 for mask_id.

    Raises:
        ValueError: An id is out of range, or the codes are of several domains.
    """
    ids = np.concatenate([*rows, np.empty(0, dtype=np.int64)])
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    is_silent = np.isin(ids, np.fromiter(without_values, dtype=np.int64))
    places, codes = vocabulary.codes_of(ids)
    wrong = np.flatnonzero((places < 0) & ~is_silent & (ids != mask_id))
    if wrong.size:
        raise ValueError(
            f"Id {ids[wrong[0]]} of series {owners[wrong[0]]} stands for no token. {vocabulary.describe_ids()}"
        )
    found = np.unique(places[places >= 0])
    names = [vocabulary.domains[one].name for one in found]
    if len(found) > 1:
        raise ValueError(f"The ids are of the domains {', '.join(names)}; decode one domain a call.")
    if place is not None and len(found) and found[0] != place:
        raise ValueError(
            f"The ids are of domain {names[0]!r}, but domain={vocabulary.domains[place].name!r} was given; leave it "
            "out."
        )
    kept = [row[~silent] for row, silent in zip(_split(codes, rows), _split(is_silent, rows), strict=True)]
    return (int(found[0]) if len(found) else place), kept


def _split(flat: np.ndarray, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(flat, np.cumsum([len(row) for row in rows])[:-1]) if rows else []


def lengths_of_rows(rows: Sequence[np.ndarray], domain: CodecDomain, length: int | Sequence[int] | None) -> list[int]:
    """Return the number of timestamps of every series, which may end inside the last token.

    Raises:
        ValueError: There are not as many lengths as series, or one is no whole number or longer than the tokens.
    """
    most = [domain.num_steps(len(row)) for row in rows]
    if length is None:
        return most
    given = np.asarray(length)
    if given.size and given.dtype.kind not in "iu":
        raise ValueError(f"length={length!r} must be a number of timestamps: a whole number, or one for each series.")
    lengths = given.tolist() if given.ndim else [int(given)] * len(rows)
    if len(lengths) != len(rows):
        raise ValueError(
            f"There are {len(lengths)} lengths for {len(rows)} series; give one for each, or one for all."
        )
    for index, (wanted, possible) in enumerate(zip(lengths, most, strict=True)):
        if not 0 <= wanted <= possible:
            raise ValueError(
                f"length={wanted} does not fit series {index}: its {len(rows[index])} tokens are {possible} "
                "timestamps."
            )
    return lengths


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
        add_special_tokens: Whether to put [CLS] before and [SEP] after.
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


# What transformers' tools pass to any tokenizer: of no use for series, and no harm while it is not set.
_TEXT_ARGUMENTS = frozenset(inspect.signature(PreTrainedTokenizerBase.__call__).parameters)


class CrossTimeNetTokenizer(CodeTokenizer):
    """Turn series into ids and ids into series; strings of tokens such as "<har_17> [MASK]" too.

    Its codec is frozen: in evaluation mode, in float32 and without gradients, whatever runs around it.

    A series has ceil(timestamps / patch_length) tokens, of which the last may stand for fewer timestamps: one that is
    shorter than a patch is one token. `decode` gives whole patches unless it is told the `length`.

    Args:
        codec_file: File of the codec's weights; None for fresh ones.
        domains: The fields of a CodecDomain for each domain, in the order of their ids.
        first_ids: Id of every domain's code 0; None for one domain after the other.
        pad_token: What stands at the end of a shorter series; id 0.
        mask_token: What stands for a patch without an observed value, or one that a model must find; id 1.
        cls_token: What can stand at the beginning; id 2. Only with add_special_tokens=True.
        sep_token: What can stand at the end; id 3. Only with add_special_tokens=True.
        kwargs: Settings of every tokenizer, such as padding_side and model_max_length.

    Raises:
        ValueError: The file is missing or damaged, or does not fit the domains.
    """

    vocab_files_names = {"codec_file": CODEC_FILE}  # noqa: RUF012 - as transformers declares it
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 - as transformers declares it

    def __init__(
        self,
        codec_file: str | None = None,
        domains: Sequence[Mapping[str, Any]] | None = None,
        first_ids: Sequence[int] | None = None,
        pad_token: str = "[PAD]",
        mask_token: str = "[MASK]",
        cls_token: str = "[CLS]",
        sep_token: str = "[SEP]",
        **kwargs: Any,
    ) -> None:
        described = None if domains is None else [CodecDomain.from_dict(one) for one in domains]
        # transformers tells where it loads from; these two must not be saved again.
        is_loaded = kwargs.pop("is_local", None) is not None
        kwargs.pop("local_files_only", None)
        if codec_file is None and is_loaded:
            raise ValueError(
                f"{kwargs.get('name_or_path')} holds no {CODEC_FILE}, the weights of the tokenizer. Save it there "
                "with tokenizer.save_pretrained, or name another folder or repository."
            )
        self._codec = fresh_codec(described or []) if codec_file is None else load_codec(codec_file, described)
        special_tokens = [str(token) for token in (pad_token, mask_token, cls_token, sep_token)]
        self._vocabulary = CodeVocabulary(special_tokens, self._codec.config.codec_domains, first_ids)
        kwargs["special_tokens_pattern"] = "cls_sep"
        super().__init__(
            domains=[domain.to_dict() for domain in self.domains],
            first_ids=self.first_ids,
            pad_token=pad_token,
            mask_token=mask_token,
            cls_token=cls_token,
            sep_token=sep_token,
            **kwargs,
        )

    @classmethod
    def from_codec(cls, codec: CrossTimeNetCodec, **kwargs: Any) -> CrossTimeNetTokenizer:
        """Build a tokenizer with a copy of a codec, which may go on training.

        Args:
            codec: The codec.
            kwargs: Settings of the tokenizer.

        Raises:
            ValueError: A codebook holds no codes, or weights are not finite.
        """
        tokenizer = cls(**kwargs)
        tokenizer.add_domain(codec)
        return tokenizer

    @classmethod
    def from_official(
        cls, state_dicts: Mapping[str, Mapping[str, torch.Tensor]], arguments: Mapping[str, Any] | None = None
    ) -> CrossTimeNetTokenizer:
        """Build a tokenizer of official checkpoints (github.com/Mingyue-Cheng/CrossTimeNet).

        The official training multiplied series by 2.5 before the tokenizer: whoever trained it so does the same
        before tokenising.

        Args:
            state_dicts: State dict of an official VQVAE by the name of its domain, in the order of ids.
            arguments: Official arguments that are the same for all; those that shapes tell are compared with them.

        Raises:
            ValueError: Parameters are missing, unknown or do not fit each other; or arguments are unknown or
                contradict them.
        """
        converted = [convert_official_codec(part, name, arguments) for name, part in state_dicts.items()]
        weights = {
            f"domains.{place}.{name}": value
            for place, (_, parameters) in enumerate(converted)
            for name, value in parameters.items()
        }
        return cls.from_codec(codec_of_weights([domain for domain, _ in converted], weights, "the checkpoint"))

    def add_domain(self, codec_or_domain: CrossTimeNetCodec | CodecDomain | Mapping[str, Any]) -> None:
        """Add domains after all others. No id moves, and what the others' ids decode to stays the same.

        Args:
            codec_or_domain: A codec, of which all domains are copied, or the fields of one domain, which then has
                fresh weights.

        Raises:
            ValueError: A name is taken, or weights cannot be right.
        """
        added = codec_or_domain
        if not isinstance(added, CrossTimeNetCodec):
            added = fresh_codec([CodecDomain.from_dict(added)])
        names = [domain.name for domain in self.domains]
        taken = [domain.name for domain in added.config.codec_domains if domain.name in names]
        if taken:
            raise ValueError(f"Domain {taken[0]!r} is in the tokenizer already; a new domain needs another name.")
        self._codec = joined_codec(self._codec, added)
        for domain in added.config.codec_domains:
            # After tokens that were added by hand, which have ids of their own.
            self._vocabulary.add(domain, max([self._vocabulary.next_id - 1, *self._added_tokens_decoder]) + 1)
        self._update_total_vocab_size()

    def to(self, device: str | torch.device) -> CrossTimeNetTokenizer:
        """Move the codec to a device; results stay where the series are. Returns the tokenizer itself."""
        self._codec.to(device)  # type: ignore[arg-type]  # transformers' wrapper hides the types
        return self

    # Series to ids.

    def __call__(
        self,
        series: Any = None,
        text_pair: Any = None,
        *,
        domain: str | int | None = None,
        add_special_tokens: bool = False,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        text: Any = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Turn series, or strings of tokens, into ids.

        A series begins at its first observed timestamp and ends at its last one. A patch without an observed value
        inside it is [MASK]; a series without any is one [MASK]. Order and company of series do not matter.

        Args:
            series: One array, tensor or DataFrame (time, channel), an array (series, time, channel), or a list or
                datasets column of arrays (time, channel) of any lengths; (time,) will do for one channel. NaN =
                missing. Or a string of tokens, such as "<har_17> [MASK]", or a list of them.
            text_pair: For strings only: what comes after.
            domain: Name or place of the domain; None where there is only one. Not for strings, whose tokens name it.
            add_special_tokens: Whether to put [CLS] before and [SEP] after.
            padding: True or "longest", "max_length", or False.
            truncation: Whether to cut after max_length tokens; at the beginning with truncation_side="left".
            max_length: Largest number of tokens, special ones included.
            pad_to_multiple_of: What the padded number of tokens is a multiple of.
            padding_side: "right" or "left"; None for the tokenizer's.
            return_tensors: "pt" or "np"; None for lists.
            return_attention_mask: Whether to return the attention mask; None for yes.
            return_special_tokens_mask: Whether to mark special tokens with 1.
            return_length: Whether to return the number of tokens, padding included.
            verbose: Whether to warn.
            text: Another name of `series`, for strings.
            kwargs: For strings: further arguments of transformers' tokenizers.

        Returns:
            input_ids and attention_mask, (num_series, num_tokens) each; of one series (num_tokens,), or
            (1, num_tokens) as tensors.

        Raises:
            ValueError: The domain or a token is unknown; or a series is empty, has another number of channels, or
                holds text or infinite values. The message names the series and what was expected.
            TypeError: An argument is unknown, or for strings only.
        """
        series = text if series is None else series
        options: dict[str, Any] = {
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "pad_to_multiple_of": pad_to_multiple_of,
            "verbose": verbose,
        }
        if kwargs.get("is_split_into_words") or is_text(series):
            if domain is not None:
                raise ValueError(f"domain={domain!r} is for series; the tokens of a string name their own domain.")
            return super().__call__(
                series,
                text_pair,
                add_special_tokens=add_special_tokens,
                padding_side=padding_side,
                return_tensors=return_tensors,
                return_attention_mask=return_attention_mask,
                return_special_tokens_mask=return_special_tokens_mask,
                return_length=return_length,
                **options,
                **kwargs,
            )
        refused = [name for name, value in kwargs.items() if value or name not in _TEXT_ARGUMENTS]
        refused += ["text_pair"] if text_pair is not None else []
        if refused:
            raise TypeError(f"For series there is no {', '.join(refused)}; leave it out.")
        place = self._codec.domain_index(domain)
        rows = self._rows_of_series(series, place)
        return finished_batch(
            self,
            rows,
            is_one=is_one_series(series, self.domains[place].num_input_channels),
            add_special_tokens=add_special_tokens,
            padding_side=padding_side,
            return_tensors=return_tensors,
            return_attention_mask=return_attention_mask,
            return_special_tokens_mask=return_special_tokens_mask,
            return_length=return_length,
            **options,
        )

    def encode(self, series: Any, text_pair: Any = None, add_special_tokens: bool = False, **kwargs: Any) -> Any:
        """Return the input_ids of __call__."""
        return self(series, text_pair, add_special_tokens=add_special_tokens, **kwargs)["input_ids"]

    @torch.no_grad()
    def tokenize_values(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        domain: str | int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Turn a batch of series into ids, on the device of the series.

        Rows begin at their first timestamp with an observed value, so that padding on either side changes no id. A
        patch inside a series without an observed value is [MASK]; what lies after the last observed timestamp is
        [PAD]; a series without an observed value is one [MASK].

        Args:
            past_values: (batch_size, time, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            domain: Name or place of the domain; None where there is only one.

        Returns:
            input_ids (batch_size, num_tokens) int64; attention_mask, alike, bool, False where the token is [PAD]; and
            the timestamps (batch_size,) int64 at which the rows begin.

        Raises:
            ValueError: The domain is unknown, a shape does not fit, or an observed value is infinite.
        """
        place = self._codec.domain_index(domain)
        codes, known, attention, first_steps = codes_of_values(self._codec, place, past_values, past_observed_mask)
        ids = torch.where(known, codes + self.first_ids[place], int(self.mask_token_id))
        return torch.where(attention, ids, int(self.pad_token_id)), attention, first_steps

    def _rows_of_series(self, series: Any, place: int) -> list[list[int]]:
        rows: dict[int, list[int]] = {}
        for places, values in self._batches(series, place):
            ids, attention, _ = self.tokenize_values(values, domain=place)
            for index, row, count in zip(places.tolist(), ids.tolist(), attention.sum(1).tolist(), strict=True):
                rows[index] = row[:count]
        return [rows[index] for index in range(len(rows))]

    def _batches(self, series: Any, place: int) -> Any:
        described = self.domains[place]
        shortest = described.context_length or 1
        return read_batches(series, described.num_input_channels, shortest)

    # Ids to series.

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        domain: str | int | None = None,
        length: int | Sequence[int] | None = None,
        as_text: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Turn ids into the series that they stand for, or into text.

        [PAD], [CLS] and [SEP] stand for no timestamps. [MASK] stands for a patch of which nothing is known: it is
        taken to be the code before it (the next one where there is none before), as the codec repeats the last value
        where one is missing; without any code it is the mean of every channel. The result is never NaN. The published
        decoder (decoder="fixed_length") mixes a fixed number of tokens: what fewer tokens lack is taken to be [MASK],
        and the result is cut to the tokens that were given.

        Args:
            token_ids: Ids of one series (num_tokens,), or of several: an array, tensor or list of lists.
            skip_special_tokens: For text: whether to leave special tokens out. Series always do.
            domain: Name or place of the domain, which the codes tell; needed only where there is no code.
            length: Number of timestamps to return, one for all series or one for each; None for all of the tokens'.
            as_text: Whether to return the tokens' text instead, such as "<har_17> [MASK]".
            kwargs: For text: further arguments of transformers' tokenizers.

        Returns:
            (time, num_input_channels) float32 in the units of the training series, or a list of them; with as_text a
            string or a list of strings.

        Raises:
            ValueError: An id is out of range, the ids are of several domains, or a length does not fit.
            TypeError: An argument is unknown, or not for text.
        """
        if as_text:
            for_series = [name for name, value in {"domain": domain, "length": length}.items() if value is not None]
            if for_series:
                raise TypeError(f"For text there is no {', '.join(for_series)}; leave it out, or as_text.")
            return super().decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)
        kwargs.pop("clean_up_tokenization_spaces", None)
        if kwargs:
            raise TypeError(f"For series there is no {', '.join(kwargs)}; leave it out, or pass as_text=True.")
        rows, is_one = as_id_rows(token_ids)
        mask_id = int(self.mask_token_id)
        without_values = set(self._added_tokens_decoder) - {mask_id}
        place, codes = codes_of_rows(
            self._vocabulary,
            rows,
            without_values,
            mask_id,
            None if domain is None else self._codec.domain_index(domain),
        )
        place = self._codec.domain_index(None) if place is None else place
        lengths = lengths_of_rows(codes, self.domains[place], length)
        series = series_of_codes(self._codec, place, codes)
        series = [values[:count] for values, count in zip(series, lengths, strict=True)]
        return series[0] if is_one else series

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """Turn the ids of several series into a list of series, or of strings; see decode."""
        if hasattr(sequences, "__len__") and not len(sequences):
            return []
        if clean_up_tokenization_spaces is not None:
            kwargs["clean_up_tokenization_spaces"] = clean_up_tokenization_spaces
        decoded = self.decode(sequences, skip_special_tokens, **kwargs)
        return decoded if isinstance(decoded, list) else [decoded]

    def evaluate(self, series: Any, domain: str | int | None = None) -> dict[str, float | int]:
        """Measure how well the tokens stand for series, batch by batch.

        Args:
            series: Series as __call__ takes them, or a dataset with a column `series`.
            domain: Name or place of the domain; None where there is only one.

        Returns:
            mse, mae: Errors of the reconstruction over the observed values, in the units of the series.
            normalised_mse: The mean squared error of series scaled as for training, so that 1 is about what the mean
                of every channel gives.
            codebook_use: Share of the domain's codes that occur.
            codebook_perplexity: How many codes would be used as often if evenly.
            num_series, num_values, num_tokens: What was seen; num_missing_tokens of the tokens are [MASK].

        Raises:
            ValueError: The series are refused (see __call__), no value is observed, or a split must be chosen.
        """
        if is_text(series):
            raise ValueError(
                f"evaluate takes series or a dataset with a column `series`, not text such as {str(series)[:40]!r}; "
                "read the corpus first, such as hf_tsrep.load_corpus(name)['test']."
            )
        place = self._codec.domain_index(domain)
        quality = ReconstructionQuality(self._codec, place)
        for _, values in self._batches(series_column(series), place):
            quality.add(values)
        return quality.report()


CrossTimeNetTokenizer.register_for_auto_class()
