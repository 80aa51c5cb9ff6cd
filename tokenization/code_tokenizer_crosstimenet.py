"""A tokenizer of transformers whose tokens are the codes of a codec: vocabulary, files, pickling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer

from .codec_crosstimenet import CrossTimeNetCodec
from .codec_files_crosstimenet import codec_from_bytes, codec_to_bytes, save_codec
from .configuration_crosstimenet_codec import CodecDomain
from .vocabulary_crosstimenet import CodeVocabulary, split_tokens

CODEC_FILE = "codec.safetensors"


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
