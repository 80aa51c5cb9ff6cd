"""Classification and clustering of embeddings, against scikit-learn and with a tiny model."""

import numpy as np
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from hf_tsrep.evaluation.classification import (
    SVM_PENALTIES,
    classification_metrics,
    evaluate_classification,
    fit_svm,
    svm_cross_validation,
)
from hf_tsrep.evaluation.clustering import clustering_metrics, evaluate_clustering


def blobs(num_samples, num_classes, seed, spread=1.0, size=8):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, num_samples)
    centres = np.random.default_rng(99).standard_normal((num_classes, size)) * 1.5
    return (centres[labels] + spread * generator.standard_normal((num_samples, size))).astype(np.float32), labels


@pytest.mark.parametrize(("num_classes", "seed", "spread"), [(2, 0, 2.5), (3, 1, 2.0), (5, 2, 1.5)])
def test_the_search_of_the_svm_equals_a_grid_search(num_classes, seed, spread):
    features, labels = blobs(120, num_classes, seed, spread)
    search = GridSearchCV(SVC(gamma="scale", max_iter=10_000_000), {"C": list(SVM_PENALTIES)}, cv=5)
    search.fit(features.astype(np.float64), labels)
    ours = svm_cross_validation(features.astype(np.float64), labels)
    np.testing.assert_allclose(ours, search.cv_results_["mean_test_score"], atol=1e-12)
    fitted = fit_svm(features, labels)
    assert float(fitted.settings["C"]) == search.best_params_["C"]
    test_features, _ = blobs(50, num_classes, seed + 10, spread)
    assert (fitted.predict(test_features) == search.predict(test_features)).all()


def test_few_samples_take_an_infinite_penalty():
    features, labels = blobs(49, 2, 0)
    assert fit_svm(features, labels).settings == {"C": "inf"}
    features, labels = blobs(60, 13, 0)  # 60 // 13 = 4
    assert fit_svm(features, labels).settings == {"C": "inf"}
    features, labels = blobs(60, 3, 0)
    assert "cross_validated_accuracy" in fit_svm(features, labels).settings


def test_other_classifiers_equal_their_sklearn_pipelines():
    train, train_labels = blobs(80, 3, 0, 2.0)
    test, test_labels = blobs(60, 3, 1, 2.0)
    pipelines = {
        "logistic_regression": OneVsRestClassifier(LogisticRegression(max_iter=1_000_000)),
        "nearest_neighbour": KNeighborsClassifier(1),
    }
    for name, estimator in pipelines.items():
        metrics, _ = classification_metrics(train, train_labels, test, test_labels, name)
        expected = make_pipeline(StandardScaler(), estimator).fit(train, train_labels).score(test, test_labels)
        assert metrics["accuracy"] == pytest.approx(expected)
        assert 0.5 < metrics["auprc"] <= 1


def test_a_class_absent_from_training_counts_and_does_not_fail():
    train, train_labels = blobs(60, 3, 0)
    test, test_labels = blobs(40, 4, 1)
    metrics, _ = classification_metrics(train, train_labels, test, test_labels, "svm")
    assert metrics["accuracy"] <= (test_labels != 3).mean()


def test_bad_features_labels_and_classifiers_are_named():
    features, labels = blobs(60, 2, 0)
    features[7, 3] = np.nan
    with pytest.raises(ValueError, match="step 7, column 3: feature is nan"):
        fit_svm(features, labels)
    with pytest.raises(ValueError, match="at least two"):
        fit_svm(features[:5], np.zeros(5))
    with pytest.raises(ValueError, match="Did you mean 'nearest_neighbour'"):
        classification_metrics(features, labels, features, labels, "nearest_neighbor")


class MeanModel:
    """Embeds a series as the mean and deviation of its channels."""

    def __init__(self):
        self.calls = []

    def encode(self, series, **settings):
        self.calls.append(settings)
        return np.stack([np.r_[one.mean(axis=0), one.std(axis=0)] for one in series]).astype(np.float32)


def labelled_corpus():
    features = Features({"series": Array2D((None, 2), "float32"), "label": ClassLabel(names=["low", "high"])})
    generator = np.random.default_rng(0)

    def split(num_series):
        labels = generator.integers(0, 2, num_series)
        series = [generator.standard_normal((generator.integers(5, 12), 2)) + 4 * label for label in labels]
        rows = {"series": [one.astype(np.float32) for one in series], "label": labels.tolist()}
        return Dataset.from_dict(rows, features=features)

    return DatasetDict(train=split(60), test=split(30))


def test_classification_and_clustering_run_on_a_corpus():
    model, corpus = MeanModel(), labelled_corpus()
    result = evaluate_classification(model, corpus, pooling="mean", batch_size=4)
    assert result["metrics"]["svm_accuracy"] > 0.9
    assert set(result["timings"]) == {"encode", "svm", "logistic_regression", "nearest_neighbour"}
    assert {f"nearest_neighbour_{name}" for name in ("accuracy", "macro_f1", "kappa", "auprc")} <= set(
        result["metrics"]
    )
    assert model.calls[0]["level"] == "instance"
    assert model.calls[0]["pooling"] == "mean"
    clusters = evaluate_clustering(model, corpus, splits=("train", "test"), seed=3)
    assert clusters["metrics"]["ari"] > 0.8
    assert clusters["details"] == {"num_clusters": 2, "num_series": 90}
    with pytest.raises(ValueError, match="needs splits train, test; the corpus has train"):
        evaluate_classification(model, DatasetDict(train=corpus["train"]))


def test_clustering_finds_blobs_and_needs_enough_series():
    features, labels = blobs(90, 3, 0, 0.1)
    assert clustering_metrics(features, labels) == pytest.approx({"ari": 1.0, "nmi": 1.0})
    with pytest.raises(ValueError, match="4 clusters need"):
        clustering_metrics(features[:3], labels[:3], num_clusters=4)
