"""The one list of methods, and their registration with transformers' Auto classes.

Model classes are named here and imported when they are first used: transformers' modeling code takes over a second to
import, which a program that only lists methods or reads a config should not pay.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paper:
    """Where a method was published."""

    title: str
    authors: str
    venue: str
    year: int
    url: str
    bibtex: str


class LazyClass:
    """A class that is imported when it is first used; the Auto classes hold it in the class's place.

    Args:
        module: Module of the class, below hf_tsrep.
        name: Name of the class.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def resolve(self) -> type:
        """Import and return the class."""
        return getattr(importlib.import_module(f"hf_tsrep.{self._module}"), self._name)

    @property
    def __name__(self) -> str:
        return self._name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") or attribute in ("_module", "_name"):
            raise AttributeError(attribute)
        return getattr(self.resolve(), attribute)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Build an instance of the class."""
        return self.resolve()(*args, **kwargs)

    def __repr__(self) -> str:
        return f"LazyClass({self._module}.{self._name})"


@dataclass(frozen=True)
class Method:
    """One self-supervised method.

    Args:
        name: Its model_type, in lower case.
        title: Its name as the paper writes it; the prefix of its classes.
        paper: Where it was published.
        default_recipe: Recipe of training/recipes/NAME that serves an unknown corpus.
        tiny_config: Config fields of a model small enough for tests of every promise.
        tiny_tokenizer: For a method that reads tokens: the domains of the tokenizer that goes with tiny_config, each a
            mapping of its fields. Empty for a method that reads values.
    """

    name: str
    title: str
    paper: Paper
    default_recipe: str
    tiny_config: dict[str, Any]
    tiny_tokenizer: tuple[dict[str, Any], ...] = ()

    def _class(self, suffix: str) -> type:
        module = "configuration" if suffix == "Config" else "modeling"
        return LazyClass(f"modeling.{module}_{self.name}", f"{self.title}{suffix}").resolve()

    @property
    def config_class(self) -> type:
        """The PreTrainedConfig."""
        return self._class("Config")

    @property
    def model_class(self) -> type:
        """The encoder."""
        return self._class("Model")

    @property
    def pretraining_class(self) -> type:
        """The encoder with its pretext task."""
        return self._class("ForPreTraining")

    @property
    def classification_class(self) -> type:
        """The encoder with class scores."""
        return self._class("ForTimeSeriesClassification")

    @property
    def prediction_class(self) -> type:
        """The encoder with a prediction of the future."""
        return self._class("ForTimeSeriesPrediction")

    @property
    def tokenizer_class(self) -> Any:
        """The PreTrainedTokenizer that turns series into tokens; None for a method that reads values."""
        tokenizer_class = self._lazy_tokenizer_class()
        return None if tokenizer_class is None else tokenizer_class.resolve()

    def _lazy_tokenizer_class(self) -> LazyClass | None:
        if not self.tiny_tokenizer:
            return None
        return LazyClass(f"tokenization.tokenization_{self.name}", f"{self.title}Tokenizer")

    @property
    def model_classes(self) -> dict[str, type]:
        """All model classes by what they are for."""
        return {
            "model": self.model_class,
            "pretraining": self.pretraining_class,
            "classification": self.classification_class,
            "prediction": self.prediction_class,
        }


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="ts2vec",
            title="TS2Vec",
            paper=Paper(
                title="TS2Vec: Towards Universal Representation of Time Series",
                authors=(
                    "Zhihan Yue, Yujing Wang, Juanyong Duan, Tianmeng Yang, Congrui Huang, Yunhai Tong, Bixiong Xu"
                ),
                venue="AAAI",
                year=2022,
                url="https://arxiv.org/abs/2106.10466",
                bibtex=(
                    "@inproceedings{yue2022ts2vec,\n"
                    "  title = {TS2Vec: Towards Universal Representation of Time Series},\n"
                    "  author = {Yue, Zhihan and Wang, Yujing and Duan, Juanyong and Yang, Tianmeng and "
                    "Huang, Congrui and Tong, Yunhai and Xu, Bixiong},\n"
                    "  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},\n"
                    "  volume = {36},\n"
                    "  number = {8},\n"
                    "  pages = {8980--8987},\n"
                    "  year = {2022}\n"
                    "}"
                ),
            ),
            default_recipe="default",
            tiny_config={"num_input_channels": 3, "hidden_size": 8, "embedding_size": 12, "num_hidden_layers": 4},
        ),
        Method(
            name="crosstimenet",
            title="CrossTimeNet",
            paper=Paper(
                title="Cross-Domain Pre-training with Language Models for Transferable Time Series Representations",
                authors="Mingyue Cheng, Xiaoyu Tao, Qi Liu, Hao Zhang, Yiheng Chen, Defu Lian",
                venue="WSDM",
                year=2025,
                url="https://arxiv.org/abs/2403.12372",
                bibtex=(
                    "@inproceedings{cheng2025crosstimenet,\n"
                    "  title = {Cross-Domain Pre-training with Language Models for Transferable Time Series "
                    "Representations},\n"
                    "  author = {Cheng, Mingyue and Tao, Xiaoyu and Liu, Qi and Zhang, Hao and Chen, Yiheng and "
                    "Lian, Defu},\n"
                    "  booktitle = {Proceedings of the Eighteenth ACM International Conference on Web Search and Data "
                    "Mining},\n"
                    "  year = {2025}\n"
                    "}"
                ),
            ),
            default_recipe="default",
            tiny_config={
                "domains": [{"name": "tiny", "num_input_channels": 3, "patch_length": 4, "codebook_size": 24}],
                "backbone_config": {
                    "model_type": "bert",
                    "hidden_size": 16,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "intermediate_size": 32,
                    "max_position_embeddings": 4096,
                },
            },
            tiny_tokenizer=(
                {
                    "name": "tiny",
                    "num_input_channels": 3,
                    "patch_length": 4,
                    "codebook_size": 24,
                    "hidden_size": 8,
                    "num_blocks": 1,
                },
            ),
        ),
        Method(
            name="simmtm",
            title="SimMTM",
            paper=Paper(
                title="SimMTM: A Simple Pre-Training Framework for Masked Time-Series Modeling",
                authors="Jiaxiang Dong, Haixu Wu, Haoran Zhang, Li Zhang, Jianmin Wang, Mingsheng Long",
                venue="NeurIPS",
                year=2023,
                url="https://arxiv.org/abs/2302.00861",
                bibtex=(
                    "@inproceedings{dong2023simmtm,\n"
                    "  title = {SimMTM: A Simple Pre-Training Framework for Masked Time-Series Modeling},\n"
                    "  author = {Dong, Jiaxiang and Wu, Haixu and Zhang, Haoran and Zhang, Li and Wang, Jianmin and "
                    "Long, Mingsheng},\n"
                    "  booktitle = {Advances in Neural Information Processing Systems},\n"
                    "  volume = {36},\n"
                    "  year = {2023}\n"
                    "}"
                ),
            ),
            default_recipe="default",
            tiny_config={
                "num_input_channels": 3,
                "context_length": 28,
                "hidden_size": 8,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "projection_size": 12,
            },
        ),
        Method(
            name="timedrl",
            title="TimeDRL",
            paper=Paper(
                title="TimeDRL: Disentangled Representation Learning for Multivariate Time-Series",
                authors="Ching Chang, Chiao-Tung Chan, Wei-Yao Wang, Wen-Chih Peng, Tien-Fu Chen",
                venue="ICDE",
                year=2024,
                url="https://arxiv.org/abs/2312.04142",
                bibtex=(
                    "@inproceedings{chang2024timedrl,\n"
                    "  title = {TimeDRL: Disentangled Representation Learning for Multivariate Time-Series},\n"
                    "  author = {Chang, Ching and Chan, Chiao-Tung and Wang, Wei-Yao and Peng, Wen-Chih and "
                    "Chen, Tien-Fu},\n"
                    "  booktitle = {IEEE International Conference on Data Engineering (ICDE)},\n"
                    "  year = {2024}\n"
                    "}"
                ),
            ),
            default_recipe="default",
            tiny_config={
                "num_input_channels": 3,
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "patch_length": 4,
                "patch_stride": 2,
                "context_length": 24,
                "position_embedding": "learned",
                "max_position_embeddings": 2100,
            },
        ),
    )
}


def list_methods() -> list[str]:
    """Return the names of all methods."""
    return sorted(METHODS)


def get_method(name: str) -> Method:
    """Return the method of this name.

    Raises:
        ValueError: There is none; the message names the near matches.
    """
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name.lower(), METHODS, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"Unknown method {name!r}.{hint} Methods: {', '.join(list_methods())}.")


def list_models(pattern: str = "*") -> list[str]:
    """Return the model classes whose method or class name fits a pattern, such as "ts*" or "*Classification".

    Args:
        pattern: Compared with the method's name and with the class's, without regard to case.

    Returns:
        Class names, which are attributes of hf_tsrep.
    """
    suffixes = ("Model", "ForPreTraining", "ForTimeSeriesClassification", "ForTimeSeriesPrediction")
    found = [
        f"{method.title}{suffix}"
        for method in METHODS.values()
        for suffix in suffixes
        if any(fnmatch.fnmatch(name.lower(), pattern.lower()) for name in (method.name, f"{method.title}{suffix}"))
    ]
    return sorted(found)


def register_methods() -> None:
    """Register every method with transformers' Auto classes, so that from_pretrained needs no trust in remote code."""
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModel,
        AutoModelForPreTraining,
        AutoModelForSequenceClassification,
        AutoModelForTimeSeriesPrediction,
        AutoTokenizer,
    )

    heads: dict[Any, str] = {
        AutoModel: "Model",
        AutoModelForPreTraining: "ForPreTraining",
        AutoModelForSequenceClassification: "ForTimeSeriesClassification",
        AutoModelForTimeSeriesPrediction: "ForTimeSeriesPrediction",
    }
    for method in METHODS.values():
        config_class: Any = method.config_class
        AutoConfig.register(method.name, config_class, exist_ok=True)
        for auto_class, suffix in heads.items():
            model_class: Any = LazyClass(f"modeling.modeling_{method.name}", f"{method.title}{suffix}")
            auto_class._model_mapping.register(config_class, model_class, exist_ok=True)
        AutoFeatureExtractor.register(
            config_class,
            LazyClass("tokenization.feature_extraction_time_series", "TimeSeriesFeatureExtractor"),
            exist_ok=True,
        )
        tokenizer_class = method._lazy_tokenizer_class()
        if tokenizer_class is not None:
            AutoTokenizer.register(config_class, tokenizer_class=tokenizer_class, exist_ok=True)
    _register_codec()


def _register_codec() -> None:
    """Register the network of CrossTimeNet's tokenizer, which is a model of its own with that tokenizer."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from .tokenization.configuration_crosstimenet_codec import CrossTimeNetCodecConfig

    codec: Any = LazyClass("tokenization.codec_crosstimenet", "CrossTimeNetCodec")
    AutoConfig.register(CrossTimeNetCodecConfig.model_type, CrossTimeNetCodecConfig, exist_ok=True)
    AutoModel._model_mapping.register(CrossTimeNetCodecConfig, codec, exist_ok=True)
    tokenizer_class: Any = METHODS["crosstimenet"]._lazy_tokenizer_class()
    AutoTokenizer.register(CrossTimeNetCodecConfig, tokenizer_class=tokenizer_class, exist_ok=True)
