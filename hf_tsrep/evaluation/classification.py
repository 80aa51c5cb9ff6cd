"""Classification of frozen representations, the protocol of TS2Vec (Yue et al., AAAI 2022, and official code)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ..data import get_labels, get_series
from .checks import check_channels, check_finite, choose_domain, preparation_arguments, require_names, require_splits
from .metrics import classification_scores

# sklearn's SVC takes an infinite C as it is (no misclassified training sample is tolerated).
SVM_PENALTIES = (*(10.0**exponent for exponent in range(-4, 5)), np.inf)
MAX_SVM_SAMPLES = 10_000
MAX_SVM_ITERATIONS = 10_000_000
CLASSIFIERS = ("svm", "logistic_regression", "nearest_neighbour")


@dataclass(frozen=True)
class FittedClassifier:
    """A classifier of embeddings.

    Attributes:
        classes: (num_classes,) class ids seen in training, sorted.
        predict: (n, embedding_size) -> (n,) class ids.
        decision: (n, embedding_size) -> (n, num_classes) scores, larger = more likely.
        settings: What was chosen, such as the penalty.
    """

    classes: np.ndarray
    predict: Callable[[np.ndarray], np.ndarray]
    decision: Callable[[np.ndarray], np.ndarray]
    settings: dict[str, Any]


def fit_svm(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> FittedClassifier:
    """Fit an RBF support vector machine by the published rules.

    `gamma = 1 / (num_features * variance of all feature values)`, features not scaled. With fewer than 5 samples a
    class (integer division) or fewer than 50 samples, C is infinite; else C is chosen from 10^-4 .. 10^4 and infinity
    by 5-fold cross-validated accuracy (the smallest of equally good ones). More than 10000 samples are subsampled for
    that, stratified.

    Args:
        features: (n, embedding_size).
        labels: (n,) class ids.
        seed: Of the subsampling; 0 in the official code.

    Returns:
        The classifier; `settings` holds `C` and, after a search, `cross_validated_accuracy`.

    Raises:
        ValueError: Missing or infinite features, fewer than two classes.
    """
    features, labels = _training_arrays(features, labels)
    settings: dict[str, Any] = {"C": np.inf}
    if len(features) // len(np.unique(labels)) >= 5 and len(features) >= 50:
        if len(features) > MAX_SVM_SAMPLES:
            features, _, labels, _ = train_test_split(
                features, labels, train_size=MAX_SVM_SAMPLES, random_state=seed, stratify=labels
            )
        scores = svm_cross_validation(features, labels)
        best = int(np.argmax(scores))
        settings = {"C": SVM_PENALTIES[best], "cross_validated_accuracy": float(scores[best])}
    machine = SVC(C=settings["C"], kernel="rbf", gamma="scale", max_iter=MAX_SVM_ITERATIONS).fit(features, labels)
    return FittedClassifier(
        machine.classes_,
        machine.predict,
        lambda rows: _two_columns(machine.decision_function(rows)),
        {**settings, "C": "inf" if np.isinf(settings["C"]) else settings["C"]},
    )


def svm_cross_validation(
    features: np.ndarray, labels: np.ndarray, penalties: Sequence[float] = SVM_PENALTIES, num_folds: int = 5
) -> np.ndarray:
    """Return the mean accuracy of each penalty over stratified folds, in order, as sklearn's `GridSearchCV`.

    The kernel matrix of a fold is computed once for all penalties. A fold with one class only is left out.

    Args:
        features: (n, embedding_size) float64.
        labels: (n,) class ids.
        penalties: Values of C.
        num_folds: Number of folds.

    Returns:
        (len(penalties),) float64.
    """
    scores: list[list[float]] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        folds = list(StratifiedKFold(num_folds).split(features, labels))
    for train, held_out in folds:
        if len(np.unique(labels[train])) < 2:
            continue
        gamma = _scale_gamma(features[train])
        train_kernel = _rbf_kernel(features[train], features[train], gamma)
        held_out_kernel = _rbf_kernel(features[held_out], features[train], gamma)
        scores.append([])
        for penalty in penalties:
            machine = SVC(C=penalty, kernel="precomputed", max_iter=MAX_SVM_ITERATIONS)
            predicted = machine.fit(train_kernel, labels[train]).predict(held_out_kernel)
            scores[-1].append(float(np.mean(predicted == labels[held_out])))
    if not scores:
        raise ValueError("Every fold holds one class only: too few samples of the other classes to choose C.")
    return np.mean(np.asarray(scores), axis=0)


def fit_logistic_regression(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> FittedClassifier:
    """Fit one-vs-rest logistic regression (C = 1, L2) on standardised features.

    Args:
        features: (n, embedding_size).
        labels: (n,) class ids.
        seed: Random state (lbfgs draws nothing; kept for the record).
    """
    features, labels = _training_arrays(features, labels)
    regression = LogisticRegression(max_iter=1_000_000, random_state=seed)
    pipeline = make_pipeline(StandardScaler(), OneVsRestClassifier(regression)).fit(features, labels)
    return FittedClassifier(pipeline.classes_, pipeline.predict, pipeline.predict_proba, {})


def fit_nearest_neighbour(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> FittedClassifier:
    """Fit a 1-nearest-neighbour classifier on standardised features.

    The decision value of a class is minus the distance to its nearest training sample.

    Args:
        features: (n, embedding_size).
        labels: (n,) class ids.
        seed: Not used; every classifier of this file takes one.
    """
    features, labels = _training_arrays(features, labels)
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    neighbours = KNeighborsClassifier(n_neighbors=1).fit(scaled, labels)

    def decision(rows: np.ndarray) -> np.ndarray:
        rows = scaler.transform(rows)
        columns = [pairwise_distances_argmin_min(rows, scaled[labels == name])[1] for name in neighbours.classes_]
        return -np.stack(columns, axis=1)

    return FittedClassifier(neighbours.classes_, lambda rows: neighbours.predict(scaler.transform(rows)), decision, {})


FITS = {"svm": fit_svm, "logistic_regression": fit_logistic_regression, "nearest_neighbour": fit_nearest_neighbour}


def classification_metrics(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    classifier: str = "svm",
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Fit a classifier on training embeddings and score it on test embeddings.

    Args:
        train_features: (n, embedding_size).
        train_labels: (n,) class ids from 0.
        test_features: (m, embedding_size); nothing is chosen on them.
        test_labels: (m,).
        classifier: One of `CLASSIFIERS`.
        seed: See the classifier.

    Returns:
        `accuracy`, `macro_f1`, `kappa` and `auprc`; and the chosen settings.
    """
    require_names([classifier], CLASSIFIERS, "classifier")
    check_finite([np.asarray(test_features)], "test feature")
    test_features = np.asarray(test_features, dtype=np.float64)
    fitted = FITS[classifier](train_features, train_labels, seed)
    predicted = fitted.predict(test_features)
    num_classes = int(max(np.max(train_labels), np.max(test_labels))) + 1
    scores = _all_columns(fitted.decision(test_features), fitted.classes, num_classes)
    return classification_scores(np.asarray(test_labels), predicted, scores), fitted.settings


def evaluate_classification(
    model: Any,
    corpus: Any,
    *,
    classifiers: Sequence[str] = CLASSIFIERS,
    pooling: Any = None,
    batch_size: int = 32,
    domain: str | None = None,
    seed: int = 0,
    device: Any = None,
    show_progress_bar: bool | None = None,
) -> dict[str, Any]:
    """Evaluate one embedding a series with classifiers fitted on the train split and scored on the test split.

    Args:
        model: Anything with `encode`.
        corpus: DatasetDict with splits `train` and `test` and a `label` column.
        classifiers: Some of `svm` (the published protocol), `logistic_regression`, `nearest_neighbour`.
        pooling: Passed to `encode`; None is the model's own (for TS2Vec the maximum over time, as published).
        batch_size: Series encoded at once.
        domain: Which of the model's domains the corpus is (methods with domains); None for the one of its name.
        seed: Of the classifiers.
        device: Where the model runs.
        show_progress_bar: Passed to `encode`.

    Returns:
        `metrics`: `svm_accuracy`, `svm_macro_f1`, `svm_kappa`, `svm_auprc` and the same for the other classifiers;
        `details`: what each classifier chose; `timings`: seconds; `settings`.

    Raises:
        ValueError: Unknown classifier or domain, or missing split; the message names them.
    """
    require_names(classifiers, CLASSIFIERS, "classifier")
    splits = require_splits(corpus, ("train", "test"), "classification")
    labels = {name: np.asarray(get_labels(splits[name])) for name in ("train", "test")}
    told, recorded = choose_domain(model, corpus, domain)
    check_channels(model, corpus, told)
    begin = time.perf_counter()
    features = {
        name: model.encode(
            get_series(splits[name]),
            level="instance",
            pooling=pooling,
            batch_size=batch_size,
            device=device,
            show_progress_bar=show_progress_bar,
            **told,
            **preparation_arguments(model, corpus),
        )
        for name in ("train", "test")
    }
    timings = {"encode": time.perf_counter() - begin}
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    for classifier in classifiers:
        begin = time.perf_counter()
        values, details[classifier] = classification_metrics(
            features["train"], labels["train"], features["test"], labels["test"], classifier, seed
        )
        metrics.update({f"{classifier}_{name}": value for name, value in values.items()})
        timings[classifier] = time.perf_counter() - begin
    settings = {"classifiers": list(classifiers), "pooling": pooling, **recorded}
    return {"metrics": metrics, "details": details, "timings": timings, "settings": settings}


def _training_arrays(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features {features.shape} and labels {labels.shape}: expected (n, embedding_size) and (n,)."
        )
    check_finite([features], "feature")
    if len(np.unique(labels)) < 2:
        raise ValueError(f"The training labels hold {len(np.unique(labels))} class; a classifier needs at least two.")
    return features, labels


def _scale_gamma(features: np.ndarray) -> float:
    variance = features.var()
    return 1.0 / (features.shape[1] * variance) if variance != 0 else 1.0


def _rbf_kernel(rows: np.ndarray, columns: np.ndarray, gamma: float) -> np.ndarray:
    """Return `exp(-gamma * |row - column|^2)`, (rows, columns) float64, built in one array."""
    kernel = rows @ columns.T
    kernel *= -2
    kernel += np.einsum("ij,ij->i", rows, rows)[:, None]
    kernel += np.einsum("ij,ij->i", columns, columns)
    np.maximum(kernel, 0, out=kernel)
    kernel *= -gamma
    return np.exp(kernel, out=kernel)


def _two_columns(decision: np.ndarray) -> np.ndarray:
    return np.stack([-decision, decision], axis=1) if decision.ndim == 1 else decision


def _all_columns(scores: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Give classes that training did not see a column below every score."""
    if len(classes) == num_classes:
        return scores
    columns = np.full((len(scores), num_classes), scores.min() - 1.0)
    columns[:, classes] = scores
    return columns
