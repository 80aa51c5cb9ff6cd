"""A tokenizer of transformers whose tokens are the codes of a codec: vocabulary, files, pickling."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedTokenizer

from .codec_crosstimenet import CrossTimeNetCodec
from .codec_files_crosstimenet import check_codec, codec_from_bytes, codec_to_bytes, save_codec
from .configuration_crosstimenet_codec import CodecDomain
from .vocabulary_crosstimenet import CodeVocabulary, split_tokens

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
        digest = hashlib.sha256(f"{network.domain.num_input_channels} {network.domain.patch_length}\n".encode())
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


def _check_settings(path: Path) -> None:
    """Refuse a file of settings that is missing or no JSON: ids and padding would silently be the default ones."""
    again = "Save the tokenizer again with tokenizer.save_pretrained, or download the file again."
    if not path.is_file():
        raise ValueError(f"{path.parent} holds {CODEC_FILE}, but no {CONFIG_FILE}, the tokenizer's settings. {again}")
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); it is damaged or was cut off. {again}") from error
