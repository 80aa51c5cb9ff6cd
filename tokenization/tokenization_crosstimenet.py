"""CrossTimeNet's tokenizer: series to tokens of one shared vocabulary and back (arXiv 2403.12372, section 3.2).

The ids 0 to 3 are [PAD], [MASK], [CLS] and [SEP]; then come the codes of one domain after the other, `<har_0>`,
`<har_1>`, ... A token stands for patch_length timestamps. A model learns on these ids as on those of words.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from .code_tokenizer_crosstimenet import CODEC_FILE, CodeTokenizer
from .codec_crosstimenet import CrossTimeNetCodec
from .codec_files_crosstimenet import fresh_codec, joined_codec, load_codec
from .configuration_crosstimenet_codec import CodecDomain
from .reading_time_series import is_one_series, is_text, read_batches, series_column
from .reconstruction_crosstimenet import ReconstructionQuality
from .series_codes_crosstimenet import codes_of_values, series_of_codes
from .token_batches_crosstimenet import finished_batch
from .token_rows_crosstimenet import as_id_rows, codes_of_rows, lengths_of_rows
from .vocabulary_crosstimenet import CodeVocabulary

# What transformers' tools pass to any tokenizer: of no use for series, and no harm while it is not set.
_TEXT_ARGUMENTS = frozenset(inspect.signature(PreTrainedTokenizerBase.__call__).parameters)


class CrossTimeNetTokenizer(CodeTokenizer):
    """Turns series into ids and ids into series; strings of tokens such as "<har_17> [MASK]" too.

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

    def add_domain(self, codec_or_domain: CrossTimeNetCodec | CodecDomain | Mapping[str, Any]) -> None:
        """Add domains behind all others. No id moves, and what the others' ids decode to stays the same.

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
            # Behind tokens that were added by hand, which have ids of their own.
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
            text_pair: For strings only: what comes behind.
            domain: Name or place of the domain; None where there is only one. Not for strings, whose tokens name it.
            add_special_tokens: Whether to put [CLS] before and [SEP] behind.
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
        patch inside a series without an observed value is [MASK]; what lies behind the last observed timestamp is
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
        lengths = lengths_of_rows(codes, self.domains[place].patch_length, length)
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
