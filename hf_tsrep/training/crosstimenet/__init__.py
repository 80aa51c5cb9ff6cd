"""The stages of CrossTimeNet's pre-training: the codecs that become a tokenizer, and the model of its tokens."""

from ..stages import PretrainingStage
from .codec_stage import CodecStage
from .tokens_stage import TokensStage

STAGES: dict[str, type[PretrainingStage]] = {"tokenizer": CodecStage, "model": TokensStage}
