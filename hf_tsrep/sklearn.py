"""Encoders as scikit-learn's estimators: clone, set_params, Pipeline, GridSearchCV, pickle.

What they take as X: a table (series, time) of one channel, as an array, a frame or nested lists; an array
(series, time, channel), or (series, channel, time) with layout="nct", as aeon has it; lists of arrays of any lengths
(time,), (time, channel) or (channel, time); lists of frames (time, channel); frames indexed by item and time; sktime's
nested frames. NaN = missing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import assert_all_finite, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from .data import load_corpus
from .modeling.encoding_time_series import as_series_list
from .modeling.reading_time_series import is_frame, is_one_series, separate_series
from .opening import is_method_name, load_encoder
from .training.pretraining import run_pretraining
from .training.resolve import pretraining_fields, resolve_settings
from .training.stages import list_stages

LARGEST_SEED = np.iinfo(np.int32).max


class TimeSeriesEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Series in, vectors out: a method that `fit` pre-trains without labels, or a pretrained model as it is.

    Args:
        model: Name of a method, which `fit` pre-trains on its series; or folder or Hub id of a pretrained model, or a
            model, which `fit` leaves as it is.
        layout: "ntc" for (series, time, channel), "nct" for (series, channel, time), as in aeon, sktime and tsai.
            None: "ntc", but refused where both readings fit.
        pooling: "max", "mean" or "last" over the observed timestamps; None for the embedding of the method.
        normalize: Whether embeddings have length 1.
        scaler: How the pre-training scales: "standard" (by channel), "global" or None; a method whose tokenizer scales
            the series has no use for it.
        max_steps: Number of steps of the pre-training; None for the method's recipe.
        pretraining: Further fields of `hf_tsrep.pretrain`, such as {"hidden_size": 32, "learning_rate": 0.001}.
        encoding: Further arguments of the method's `encode`, such as {"domain": "har"}.
        batch_size: Number of series in one forward pass of `transform`.
        random_state: Seed of the pre-training, or a NumPy generator that draws one; None for NumPy's global one.
        verbose: 0 for no progress bars, 1 for those of the pre-training and of `transform`.

    Attributes:
        model_: The encoder, with the preparation of its series.
        num_channels_: Number of channels of a series.
        n_features_in_: Number of steps; only where X was a table (series, time). A table then has as many again;
            series of other lengths go into `transform` as an array (series, time, 1) or a list.
        feature_names_in_: Names of the steps; only where X was a frame (series, time) with text as names.
    """

    def __init__(
        self,
        model: Any,
        *,
        layout: str | None = None,
        pooling: str | None = None,
        normalize: bool = False,
        scaler: str | None = "standard",
        max_steps: int | None = None,
        pretraining: dict[str, Any] | None = None,
        encoding: dict[str, Any] | None = None,
        batch_size: int = 32,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.layout = layout
        self.pooling = pooling
        self.normalize = normalize
        self.scaler = scaler
        self.max_steps = max_steps
        self.pretraining = pretraining
        self.encoding = encoding
        self.batch_size = batch_size
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> TimeSeriesEncoder:
        """Pre-train the method on the series, or open the model.

        Args:
            X: Series; see the module.
            y: Nothing reads it: pre-trainings need no labels.

        Returns:
            The estimator.

        Raises:
            SettingsError: A field of `pretraining` is unknown or out of its range.
            ValueError: These are no series, or they do not fit the model.
        """
        series, layout = self._read(X, reset=True)
        if is_method_name(self.model):
            self.model_ = self._pretrain(_corpus(series, layout))
        else:
            self.model_ = load_encoder(self.model)
        arguments = self.model_.encode_arguments(**(self.encoding or {}))
        self.num_channels_ = self.model_.num_channels_of(**arguments)
        preparation = self.model_.preparation_for(**arguments)
        if preparation is None:
            as_series_list(series, self.num_channels_, layout)
        elif not preparation.time_features:
            preparation.transform(series, None, layout)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embed series.

        Args:
            X: Series of any lengths; see the module.

        Returns:
            (series, embedding_size) float32.

        Raises:
            ValueError: These are no series, or they have other channels than those of `fit`.
        """
        check_is_fitted(self)
        series, layout = self._read(X, reset=False)
        return self.model_.encode(
            series,
            pooling=self.pooling,
            batch_size=self.batch_size,
            normalize=self.normalize,
            show_progress_bar=bool(self.verbose),
            layout=layout,
            **(self.encoding or {}),
        )

    @property
    def _n_features_out(self) -> int:
        return self.model_.config.embedding_size

    def __sklearn_tags__(self) -> Any:
        return _tags_of_series(super().__sklearn_tags__())

    def _read(self, X: Any, reset: bool) -> tuple[Any, str | None]:
        """Return a list of series, and their layout."""
        if _is_table(X):
            table = validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan")
            return [row[:, None] for row in table], "ntc"
        if reset:
            for name in ("n_features_in_", "feature_names_in_"):
                if hasattr(self, name):
                    delattr(self, name)
        series = [one for _, one in separate_series(X, is_one=False)]
        if not series:
            raise ValueError("X has no series: found 0 sample(s), but a minimum of 1 is required.")
        return series, self.layout

    def _pretrain(self, corpus: Any) -> Any:
        """Return the encoder of a method, all of whose stages are trained; the last one's model has it."""
        seed = self.random_state
        if not isinstance(seed, (int, np.integer)):
            seed = check_random_state(seed).randint(LARGEST_SEED)
        said = {"scaler": self.scaler, "max_steps": self.max_steps, "seed": int(seed), "save_strategy": "no"}
        given = dict(self.pretraining or {})
        stages = list_stages(self.model)
        known = {stage: pretraining_fields(self.model, stage) for stage in stages}
        with TemporaryDirectory(prefix="hf_tsrep-") as folder, _unchanged_random_states():
            for stage in stages:
                # What only another stage knows is not this one's; what none knows is the last one's, which refuses it.
                others = {name for one in stages for name in known[one]} - set(known[stage])
                own = {name: value for name, value in said.items() if value is not None and name in known[stage]}
                own |= {name: value for name, value in given.items() if name not in others}
                output_dir = str(Path(folder) / stage)
                overrides = {"method": self.model, "stage": stage, "corpus": corpus, "output_dir": output_dir, **own}
                settings = resolve_settings(overrides, place="arguments")
                result = run_pretraining(settings, shows_progress=bool(self.verbose))
                given[stage] = output_dir  # a later stage calls what it needs of an earlier one by that one's name
            return result.model.base_model.eval()


class TimeSeriesClassifier(ClassifierMixin, BaseEstimator):
    """An encoder, and a classifier of its embeddings.

    Args:
        encoder: A TimeSeriesEncoder, or what it takes as `model`.
        classifier: scikit-learn's classifier of vectors; None for logistic regression on scaled embeddings.
        layout: See TimeSeriesEncoder; None for the encoder's own.
        random_state: Seed of what has none of its own, encoder and classifier.
        verbose: See TimeSeriesEncoder.

    Attributes:
        encoder_: The fitted encoder.
        classifier_: The fitted classifier.
        classes_: (num_classes,) the classes, sorted.
        n_features_in_: See TimeSeriesEncoder.
        feature_names_in_: See TimeSeriesEncoder.
    """

    def __init__(
        self,
        encoder: Any,
        classifier: Any = None,
        *,
        layout: str | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.encoder = encoder
        self.classifier = classifier
        self.layout = layout
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> TimeSeriesClassifier:
        """Fit the encoder on the series, without their labels, and the classifier on the embeddings.

        Args:
            X: Series; see the module.
            y: (series,) classes.

        Returns:
            The estimator.

        Raises:
            ValueError: See TimeSeriesEncoder.fit; or the labels are no classes, or not one a series.
        """
        labels = _checked_labels(y, type(self).__name__)
        encoder = self.encoder if isinstance(self.encoder, BaseEstimator) else TimeSeriesEncoder(self.encoder)
        self.encoder_ = _with_defaults(clone(encoder), self, ("layout", "random_state", "verbose"))
        embeddings = self.encoder_.fit_transform(X)
        check_consistent_length(embeddings, labels)
        classifier = self.classifier
        if classifier is None:
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
        self.classifier_ = _with_defaults(clone(classifier), self, ("random_state",)).fit(embeddings, labels)
        self.classes_ = self.classifier_.classes_
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of every series, (series,)."""
        return self._answer("predict", X)

    @available_if(lambda self: _has_method(self, "predict_proba"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of every class, (series, num_classes) in the order of `classes_`."""
        return self._answer("predict_proba", X)

    @available_if(lambda self: _has_method(self, "decision_function"))
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the classifier's scores, (series,) for two classes, else (series, num_classes)."""
        return self._answer("decision_function", X)

    @property
    def n_features_in_(self) -> int:
        """Number of steps of a table; see TimeSeriesEncoder."""
        return self.encoder_.n_features_in_

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Names of the steps of a frame; see TimeSeriesEncoder."""
        return self.encoder_.feature_names_in_

    def _answer(self, method: str, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return getattr(self.classifier_, method)(self.encoder_.transform(X))

    def __sklearn_tags__(self) -> Any:
        return _tags_of_series(super().__sklearn_tags__())


def _is_table(X: Any) -> bool:
    """Whether these are series of one channel and one length, a row each; and what scikit-learn refuses by itself."""
    if is_frame(X):
        return is_one_series(X)
    if isinstance(X, (list, tuple)):
        flat = bool(X) and all(isinstance(one, (list, tuple)) for one in X) and len({len(one) for one in X}) == 1
        return flat and all(np.ndim(value) == 0 for value in X[0])
    if isinstance(X, np.ndarray) and X.dtype == object:
        return X.ndim == 2 or not X.size or np.ndim(X.flat[0]) == 0
    # Sparse matrices and what only has an interface of arrays are scikit-learn's to judge.
    return getattr(X, "ndim", 2) < 3


def _corpus(series: list[Any], layout: str | None) -> Any:
    """Return the corpus of series; frames keep the names of their channels and their dates."""
    if not all(map(is_frame, series)):
        return load_corpus(series, layout=layout)
    import pandas as pd

    frames = [one if hasattr(one, "index") else one.to_pandas() for one in series]
    return load_corpus(pd.concat(frames, keys=range(len(frames)), names=["item", "time"]))


def _checked_labels(y: Any, name: str) -> np.ndarray:
    if y is None:
        raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
    labels = column_or_1d(y, warn=True)
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    return labels


def _with_defaults(estimator: Any, owner: Any, names: tuple[str, ...]) -> Any:
    """Set what an owner says where the estimator, or a step of it, says nothing."""
    for path, value in estimator.get_params().items():
        name = path.rpartition("__")[2]
        given = getattr(owner, name) if name in names else None
        is_unsaid = value is None or (name == "verbose" and not value)
        if given is not None and is_unsaid:
            estimator.set_params(**{path: given})
    return estimator


def _has_method(estimator: TimeSeriesClassifier, name: str) -> bool:
    """Whether the classifier of vectors has a method; scikit-learn wants the reason as an AttributeError."""
    default = estimator.classifier is None and not hasattr(estimator, "classifier_")
    return default or bool(getattr(getattr(estimator, "classifier_", estimator.classifier), name))


def _tags_of_series(tags: Any) -> Any:
    tags.input_tags.three_d_array = True
    tags.input_tags.allow_nan = True
    if tags.transformer_tags is not None:
        tags.transformer_tags.preserves_dtype = []  # embeddings are float32 whatever the series are
    return tags


@contextmanager
def _unchanged_random_states() -> Iterator[None]:
    """Keep a training, which seeds every global generator, from being seen in those of the caller."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one is what is kept
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 - as above
