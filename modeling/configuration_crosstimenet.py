"""CrossTimeNet's configuration (Cheng et al., WSDM 2025, arXiv 2403.12372)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .configuration_time_series import TaskShape, TimeSeriesConfig, near_match_hint

# Ids that CrossTimeNetTokenizer gives its special tokens; the codes of the first domain come next.
PAD_TOKEN_ID, MASK_TOKEN_ID, CLS_TOKEN_ID, SEP_TOKEN_ID = range(4)
SPECIAL_TOKEN_IDS = (PAD_TOKEN_ID, MASK_TOKEN_ID, CLS_TOKEN_ID, SEP_TOKEN_ID)
CLASSIFIERS = ("pooled", "flatten")
EMBEDDING_INITIALIZATIONS = ("random", "word_sample", "word_centroids")
_DOMAIN_NUMBERS = ("num_input_channels", "patch_length", "codebook_size")
_DOMAIN_OPTIONS = ("num_labels", "num_tokens")


class CrossTimeNetConfig(TimeSeriesConfig):
    """Domains of the vocabulary, the transformer that reads the tokens, and settings of the pretext task.

    Supports bf16, gradient checkpointing and torch.export (from token ids to embeddings: the search for the nearest
    code is the tokenizer's, outside of the model).

    Args:
        domains: One mapping a domain, in the order of the tokens' ids: `name`, `num_input_channels`, `patch_length`,
            `codebook_size`; optionally `num_labels` (the domain has a classification head of its own) and `num_tokens`
            (for classifier="flatten"). `tokenizer_fingerprint` says which tokenizer the model was made for; a model
            writes it when its tokenizer is set. `first_id`, the id of the domain's first code, follows from the order
            unless the tokenizer had tokens added in between.
        backbone_config: Configuration of the transformer, as an object or as a mapping with its model_type: any
            encoder or decoder of transformers' AutoModel that takes token ids. None is BERT. Its vocabulary and its
            special ids become ours.
        vocab_size: Number of tokens; None: four special ones and the codes of all domains.
        num_input_channels: Number of channels of a series of the first domain, which it follows; None without domains
            is 1.
        embedding_size: Width of the backbone, which it follows.
        pooling: How token embeddings become one vector per series: "mean", "max" or "last".
        mask_ratio: Probability that the pretext task masks a token (paper, section 3.3: 0.3).
        never_predicted_ids: Ids that the pretext task gives no probability. The default leaves the codes alone; a
            converted official checkpoint may predict its mask token, as its softmax does.
        classifier: "pooled", a linear layer on the pooled embedding of a series of any length; or "flatten", the
            published head on all tokens beside each other, for one number of tokens.
        num_tokens: Number of tokens of a series, for classifier="flatten"; a domain may have its own.
        target_mean: Mean of every predicted channel, with target_scale; None: nothing is scaled.
        target_scale: Deviation of every predicted channel: the prediction head learns in these units and predicts in
            those of the series, since tokens do not tell how large the values are.
        backbone_name: Name of the language model that the transformer's layers come from; None: they were not
            pre-trained.
        embedding_initialization: Where the codes' embeddings started: "random", "word_sample" (distinct words of the
            language model) or "word_centroids" (k-means centroids of its word table).

    Raises:
        ValueError: A field is out of its range, or fields contradict each other.
    """

    model_type = "crosstimenet"
    stages: ClassVar[tuple[str, ...]] = ("tokenizer", "model")
    reads_tokens: ClassVar[bool] = True
    scales_targets: ClassVar[bool] = True
    reconstructs: ClassVar[bool] = True
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012 - transformers declares it as an instance's variable

    domains: list[dict[str, Any]] | None = None
    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    vocab_size: int | None = None
    num_input_channels: int | None = None  # type: ignore[assignment]  # None stands for the first domain's
    embedding_size: int | None = None  # type: ignore[assignment]  # None stands for the backbone's width
    pooling: str = "mean"
    pad_token_id: int = PAD_TOKEN_ID
    mask_token_id: int = MASK_TOKEN_ID
    cls_token_id: int = CLS_TOKEN_ID
    sep_token_id: int = SEP_TOKEN_ID
    mask_ratio: float = 0.3
    never_predicted_ids: list[int] | tuple[int, ...] = SPECIAL_TOKEN_IDS
    classifier: str = "pooled"
    num_tokens: int | None = None
    target_mean: list[float] | None = None
    target_scale: list[float] | None = None
    backbone_name: str | None = None
    embedding_initialization: str = "random"

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in what follows from the domains and the backbone, and check the ranges."""
        self.domains = _checked_domains(self.domains or [])
        smallest = max([len(SPECIAL_TOKEN_IDS), *(one["first_id"] + one["codebook_size"] for one in self.domains)])
        if self.vocab_size is None:
            self.vocab_size = smallest
        if self.vocab_size < smallest:
            raise ValueError(
                f"CrossTimeNetConfig.vocab_size is {self.vocab_size}, but the special tokens and the domains' codes "
                f"are {smallest}; leave it out."
            )
        self._fill_channels()
        self.backbone_config = self._own_backbone(self.backbone_config)
        width = int(self.backbone_config.hidden_size)
        if self.embedding_size is None:
            self.embedding_size = width
        if self.embedding_size != width:
            raise ValueError(
                f"CrossTimeNetConfig.embedding_size is {self.embedding_size}, but the backbone's width is {width}; "
                "leave it out, or set the backbone's hidden_size."
            )
        self.never_predicted_ids = sorted(set(self.never_predicted_ids))
        super().__post_init__(**kwargs)

    def _fill_channels(self) -> None:
        described = self.domains[0] if self.domains else {}
        first = described.get("num_input_channels")
        if self.num_input_channels is None:
            self.num_input_channels = first or 1
        elif first is not None and self.num_input_channels not in (0, first):
            raise ValueError(
                f"CrossTimeNetConfig.num_input_channels is {self.num_input_channels}, but domain "
                f"{described['name']!r} has {first}; leave it out."
            )

    def _own_backbone(self, given: Mapping[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig:
        """Return the backbone's configuration with our vocabulary; what was given stays as it is."""
        own = {"vocab_size": self.vocab_size, "pad_token_id": self.pad_token_id, "mask_token_id": self.mask_token_id}
        own |= {"cls_token_id": self.cls_token_id, "sep_token_id": self.sep_token_id}
        own |= {"bos_token_id": self.cls_token_id, "eos_token_id": self.sep_token_id}
        if isinstance(given, PreTrainedConfig):
            backbone = copy.deepcopy(given)
            for name, value in _used_by(own, backbone).items():
                setattr(backbone, name, value)
        else:
            fields = dict(given or {})
            backbone_class = CONFIG_MAPPING[_known_type(fields.pop("model_type", "bert"))]
            try:
                backbone = backbone_class(**{**fields, **_used_by(own, backbone_class)})
            except Exception as error:  # each class of transformers checks in its own way, over several lines
                words = " ".join(str(error).split())
                name = backbone_class.__name__
                raise ValueError(f"CrossTimeNetConfig.backbone_config is no {name}: {words}") from error
        if backbone.is_encoder_decoder or not isinstance(getattr(backbone, "hidden_size", None), int):
            raise ValueError(
                f"A backbone of type {backbone.model_type!r} does not fit: it must be one encoder or one decoder with "
                "a hidden_size, such as 'bert', 'gpt2' or 'modernbert'."
            )
        if getattr(backbone, "use_cache", False):
            backbone.use_cache = False
        # What is true of the language model's own checkpoint only.
        backbone._name_or_path, backbone.dtype, backbone.architectures = "", None, None
        return backbone

    @property
    def domain_entries(self) -> list[dict[str, Any]]:
        """The domains of the vocabulary."""
        return self.domains or []

    @property
    def target_deviations(self) -> list[float] | None:
        """Deviation of every predicted channel, or None where nothing is scaled."""
        return self.target_scale

    def classifier_length(self, domain: str | None = None) -> int | None:
        """Return the number of timestamps that the head on all tokens is for; None for the pooled one."""
        if self.classifier != "flatten":
            return None
        described = self.domain_entries[self.served_domain_index(domain)]
        num_tokens = described.get("num_tokens") or self.num_tokens
        return num_tokens * described["patch_length"] if num_tokens else None

    def fit_to_task(self, task: TaskShape, **given: Any) -> None:
        """Take over a task: the model then has one head, which is this task's and of its domain alone."""
        super().fit_to_task(task, **given)
        place = self.domain_index(task.domain)
        described = self.domain_entries[place]
        if described["num_input_channels"] != task.num_input_channels:
            raise ValueError(
                f"Domain {task.domain!r} of the model has {described['num_input_channels']} channels, but the corpus "
                f"has {task.num_input_channels}. Choose another domain, or the corpus's channels with target."
            )
        self.domains = [
            {name: value for name, value in one.items() if name not in _DOMAIN_OPTIONS} for one in self.domain_entries
        ]
        if task.class_names:
            self.domains[place]["num_labels"] = len(task.class_names)
        if self.classifier == "flatten":
            self.num_tokens = -(-task.sequence_length // described["patch_length"])

    def fields_of_task(self, task: TaskShape) -> dict[str, Any]:
        """Return the fields that follow from a task; the domain says how many channels there are."""
        fields = super().fields_of_task(task)
        del fields["num_input_channels"]
        if task.class_names:
            return fields
        return {**fields, "target_mean": task.target_mean, "target_scale": task.target_scale}

    def check_ranges(self) -> None:
        """Raise ValueError for a field outside its range."""
        super().check_ranges()
        self.require_probability("mask_ratio")
        self.require_one_of("classifier", CLASSIFIERS)
        self.require_one_of("embedding_initialization", EMBEDDING_INITIALIZATIONS)
        if self.num_tokens is not None:
            self.require_at_least(1, "num_tokens")
        self._check_targets()
        wrong = [one for one in self.never_predicted_ids if not 0 <= one < int(self.vocab_size or 0)]
        if wrong:
            raise ValueError(
                f"CrossTimeNetConfig.never_predicted_ids has {wrong[0]}; ids are 0 to {int(self.vocab_size or 0) - 1}."
            )

    def _check_targets(self) -> None:
        if self.target_mean is None and self.target_scale is None:
            return
        expected = self.num_output_channels or self.num_input_channels
        for name in ("target_mean", "target_scale"):
            values = getattr(self, name)
            if values is None or len(values) != expected or not all(math.isfinite(one) for one in values):
                raise ValueError(
                    f"CrossTimeNetConfig.{name} is {values}; target_mean and target_scale are both None, or have one "
                    f"finite number for each of the {expected} predicted channels."
                )
        if min(self.target_scale or [0.0]) <= 0:
            raise ValueError(f"CrossTimeNetConfig.target_scale is {self.target_scale}; every one must be above 0.")

    def domain_index(self, domain: str | int | torch.Tensor | np.ndarray | np.generic | None) -> int:
        """Return the place of a domain; None will do where there is only one.

        Args:
            domain: Its name or place; a tensor or array of whole numbers that are all the same place will do, as
                transformers' Trainer collates one number a row.

        Raises:
            ValueError: There is no such domain, or None is not enough. The message names the near matches.
        """
        names = [one["name"] for one in self.domains or []]
        if isinstance(domain, (torch.Tensor, np.ndarray, np.generic)):
            domain = _common_place(domain, names)
        if domain is None and len(names) == 1:
            return 0
        if domain is None:
            choices = " or ".join(map(repr, names)) or "there is none yet"
            raise ValueError(f"The model has {len(names)} domains; name one: domain={choices}.")
        if isinstance(domain, int) and not isinstance(domain, bool) and 0 <= domain < len(names):
            return domain
        if isinstance(domain, str) and domain in names:
            return names.index(domain)
        hint = near_match_hint(str(domain), names)
        raise ValueError(f"Unknown domain {domain!r}.{hint} Domains: {', '.join(names) or 'none'}.")

    def served_domain_index(self, domain: str | int | torch.Tensor | None) -> int:
        """Return the place of the domain that a model reads; None will also do where one domain alone has num_labels.

        Raises:
            ValueError: See domain_index.
        """
        with_head = [place for place, one in enumerate(self.domains or []) if one.get("num_labels")]
        return with_head[0] if domain is None and len(with_head) == 1 else self.domain_index(domain)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, **fields: Any) -> CrossTimeNetConfig:
        """Build the configuration of a model that reads a tokenizer's tokens.

        Args:
            tokenizer: A CrossTimeNetTokenizer.
            fields: Further fields of the configuration.

        Returns:
            The configuration.
        """
        # Tokens that were added by hand have ids too.
        return cls(**{"domains": domains_of_tokenizer(tokenizer), "vocab_size": len(tokenizer), **fields})


def domains_of_tokenizer(tokenizer: Any) -> list[dict[str, Any]]:
    """Return the entries of `CrossTimeNetConfig.domains` for a CrossTimeNetTokenizer."""
    return [
        {
            "name": domain.name,
            **{field: getattr(domain, field) for field in _DOMAIN_NUMBERS},
            "first_id": tokenizer.first_id(domain.name),
            "tokenizer_fingerprint": tokenizer.fingerprint(domain.name),
        }
        for domain in tokenizer.domains
    ]


def _common_place(domain: torch.Tensor | np.ndarray | np.generic, names: list[str]) -> int:
    """Return the place that all rows of a batch have.

    Raises:
        ValueError: These are no whole numbers, or several places. The message names the domains.
    """
    places = np.unique(domain.detach().cpu().numpy() if isinstance(domain, torch.Tensor) else np.asarray(domain))
    if places.dtype.kind not in "iu" or not places.size:
        raise ValueError(f"domain holds {places.dtype}; it must be a name, a place, or a place a row (whole numbers).")
    if len(places) > 1:
        shown = ", ".join(repr(names[one]) if 0 <= one < len(names) else str(one) for one in places.tolist())
        raise ValueError(f"The batch has rows of the domains {shown}; give rows of one domain in one call.")
    return int(places[0])


def _known_type(model_type: str) -> str:
    if model_type in CONFIG_MAPPING:
        return model_type
    hint = near_match_hint(str(model_type), list(CONFIG_MAPPING.keys()))
    raise ValueError(f"transformers knows no backbone of type {model_type!r}.{hint}")


def _used_by(own: dict[str, Any], backbone: Any) -> dict[str, Any]:
    """Return those of our vocabulary's numbers that this configuration has; every one has the first two."""
    always = ("vocab_size", "pad_token_id")
    return {
        name: value for name, value in own.items() if name in always or isinstance(getattr(backbone, name, None), int)
    }


def _checked_domains(domains: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the domains with their first ids, checked."""
    checked: list[dict[str, Any]] = []
    next_id = len(SPECIAL_TOKEN_IDS)
    for given in domains:
        domain = _checked_domain(dict(given))
        if domain["name"] in {one["name"] for one in checked}:
            raise ValueError(f"Several domains are called {domain['name']!r}; every domain needs its own name.")
        if domain.setdefault("first_id", next_id) < next_id:
            raise ValueError(
                f"Domain {domain['name']!r} has first_id={domain['first_id']}, but the tokens before it end at "
                f"{next_id - 1}; leave first_id out."
            )
        next_id = domain["first_id"] + domain["codebook_size"]
        checked.append(domain)
    return checked


def _checked_domain(domain: dict[str, Any]) -> dict[str, Any]:
    name = domain.get("name")
    missing = [field for field in ("name", *_DOMAIN_NUMBERS) if field not in domain]
    if missing:
        raise ValueError(f"Domain {name!r} lacks {', '.join(missing)}.")
    known = ("name", "first_id", "tokenizer_fingerprint", *_DOMAIN_NUMBERS, *_DOMAIN_OPTIONS)
    for field in domain:
        if field not in known:
            hint = near_match_hint(str(field), known)
            raise ValueError(f"Domain {name!r} has no field {field!r} in the model's configuration.{hint}")
    fingerprint = domain.get("tokenizer_fingerprint")
    if not isinstance(fingerprint, str | None):
        raise ValueError(f"Domain {name!r}: tokenizer_fingerprint is {fingerprint!r}; it must be a text, or left out.")
    for field in (*_DOMAIN_NUMBERS, *_DOMAIN_OPTIONS):
        value = domain.get(field, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"Domain {name!r}: {field} is {value!r}; it must be a whole number of at least 1.")
    return domain
