"""hf_tsrep: pretrained time-series encoders on the Hugging Face stack.

Importing it registers every method with transformers' Auto classes; classes are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .registry import METHODS, Method, Paper, get_method, list_methods, list_models, register_methods

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .auto import AutoModelForTimeSeriesClassification
    from .data import load_corpus
    from .evaluation import evaluate
    from .hub import build_model_card, convert_checkpoint, push_to_hub
    from .modeling.configuration_crosstimenet import CrossTimeNetConfig
    from .modeling.configuration_simmtm import SimMTMConfig
    from .modeling.configuration_timedrl import TimeDRLConfig
    from .modeling.configuration_ts2vec import TS2VecConfig
    from .modeling.modeling_crosstimenet import (
        CrossTimeNetForPreTraining,
        CrossTimeNetForTimeSeriesClassification,
        CrossTimeNetForTimeSeriesPrediction,
        CrossTimeNetModel,
    )
    from .modeling.modeling_simmtm import (
        SimMTMForPreTraining,
        SimMTMForTimeSeriesClassification,
        SimMTMForTimeSeriesPrediction,
        SimMTMModel,
    )
    from .modeling.modeling_timedrl import (
        TimeDRLForPreTraining,
        TimeDRLForTimeSeriesClassification,
        TimeDRLForTimeSeriesPrediction,
        TimeDRLModel,
    )
    from .modeling.modeling_ts2vec import (
        TS2VecForPreTraining,
        TS2VecForTimeSeriesClassification,
        TS2VecForTimeSeriesPrediction,
        TS2VecModel,
    )
    from .tokenization.codec_crosstimenet import CrossTimeNetCodec
    from .tokenization.configuration_crosstimenet_codec import CrossTimeNetCodecConfig
    from .tokenization.feature_extraction_time_series import TimeSeriesFeatureExtractor
    from .tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer
    from .training import finetune, pretrain

_LAZY = {
    "AutoModelForTimeSeriesClassification": "auto",
    "CrossTimeNetCodec": "tokenization.codec_crosstimenet",
    "CrossTimeNetCodecConfig": "tokenization.configuration_crosstimenet_codec",
    "CrossTimeNetConfig": "modeling.configuration_crosstimenet",
    "CrossTimeNetForPreTraining": "modeling.modeling_crosstimenet",
    "CrossTimeNetForTimeSeriesClassification": "modeling.modeling_crosstimenet",
    "CrossTimeNetForTimeSeriesPrediction": "modeling.modeling_crosstimenet",
    "CrossTimeNetModel": "modeling.modeling_crosstimenet",
    "CrossTimeNetTokenizer": "tokenization.tokenization_crosstimenet",
    "SimMTMConfig": "modeling.configuration_simmtm",
    "SimMTMForPreTraining": "modeling.modeling_simmtm",
    "SimMTMForTimeSeriesClassification": "modeling.modeling_simmtm",
    "SimMTMForTimeSeriesPrediction": "modeling.modeling_simmtm",
    "SimMTMModel": "modeling.modeling_simmtm",
    "TS2VecConfig": "modeling.configuration_ts2vec",
    "TS2VecForPreTraining": "modeling.modeling_ts2vec",
    "TS2VecForTimeSeriesClassification": "modeling.modeling_ts2vec",
    "TS2VecForTimeSeriesPrediction": "modeling.modeling_ts2vec",
    "TS2VecModel": "modeling.modeling_ts2vec",
    "TimeDRLConfig": "modeling.configuration_timedrl",
    "TimeDRLForPreTraining": "modeling.modeling_timedrl",
    "TimeDRLForTimeSeriesClassification": "modeling.modeling_timedrl",
    "TimeDRLForTimeSeriesPrediction": "modeling.modeling_timedrl",
    "TimeDRLModel": "modeling.modeling_timedrl",
    "TimeSeriesFeatureExtractor": "tokenization.feature_extraction_time_series",
    "build_model_card": "hub",
    "convert_checkpoint": "hub",
    "evaluate": "evaluation",
    "finetune": "training",
    "load_corpus": "data",
    "pretrain": "training",
    "push_to_hub": "hub",
}

_SUBPACKAGES = ("data", "evaluation", "hub", "modeling", "tokenization", "training")

__all__ = [
    "METHODS",
    "AutoModelForTimeSeriesClassification",
    "CrossTimeNetCodec",
    "CrossTimeNetCodecConfig",
    "CrossTimeNetConfig",
    "CrossTimeNetForPreTraining",
    "CrossTimeNetForTimeSeriesClassification",
    "CrossTimeNetForTimeSeriesPrediction",
    "CrossTimeNetModel",
    "CrossTimeNetTokenizer",
    "Method",
    "Paper",
    "SimMTMConfig",
    "SimMTMForPreTraining",
    "SimMTMForTimeSeriesClassification",
    "SimMTMForTimeSeriesPrediction",
    "SimMTMModel",
    "TS2VecConfig",
    "TS2VecForPreTraining",
    "TS2VecForTimeSeriesClassification",
    "TS2VecForTimeSeriesPrediction",
    "TS2VecModel",
    "TimeDRLConfig",
    "TimeDRLForPreTraining",
    "TimeDRLForTimeSeriesClassification",
    "TimeDRLForTimeSeriesPrediction",
    "TimeDRLModel",
    "TimeSeriesFeatureExtractor",
    "__version__",
    "build_model_card",
    "convert_checkpoint",
    "evaluate",
    "finetune",
    "get_method",
    "list_methods",
    "list_models",
    "load_corpus",
    "pretrain",
    "push_to_hub",
]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _LAZY:
        raise AttributeError(f"module 'hf_tsrep' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBPACKAGES])


register_methods()
