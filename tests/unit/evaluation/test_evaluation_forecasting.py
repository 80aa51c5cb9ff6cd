"""The ridge protocol against scikit-learn used literally: forecasts, the factorised path, the search for a penalty."""

import numpy as np
import pytest
from datasets import Array2D, Dataset, DatasetDict, Features
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split

from hf_tsrep.evaluation.forecasting import (
    ALPHAS,
    HOURLY_HORIZONS,
    OTHER_HORIZONS,
    default_horizons,
    evaluate_forecasting,
    ridge_forecast,
)
from hf_tsrep.evaluation.ridge import RegressionMoments, RidgePath, choose_alpha


def literal_samples(representations, targets, bounds, horizon, skip):
    """The samples of one split, of all series one after the other, with every target window copied."""
    start, stop = bounds
    features, labels = [], []
    for series, values in zip(representations, targets, strict=True):
        length, stretch = stop - start, values[start:stop]
        windows = [stretch[step + 1 : step + 1 + horizon].ravel() for step in range(skip, length - horizon)]
        features.append(series[start:stop][skip : length - horizon])
        labels.append(np.array(windows).reshape(-1, horizon * values.shape[1]))
    return np.concatenate(features).astype(np.float64), np.concatenate(labels).astype(np.float64)


def reference_ridge_forecast(representations, targets, bounds, horizons, alphas, skip, max_samples=100_000):
    """Returns horizon -> (alpha, mse, mae, validation scores) by 13 + 1 calls of sklearn's Ridge."""
    results = {}
    for horizon in horizons:
        train = literal_samples(representations, targets, bounds["train"], horizon, skip)
        validation = literal_samples(representations, targets, bounds["validation"], horizon, 0)
        test_features, test_labels = literal_samples(representations, targets, bounds["test"], horizon, 0)
        if len(train[0]) > max_samples:
            train = train_test_split(*train, train_size=max_samples, random_state=0)[::2]
        if len(validation[0]) > max_samples:
            validation = train_test_split(*validation, train_size=max_samples, random_state=0)[::2]
        scores = []
        for alpha in alphas:
            error = Ridge(alpha=alpha).fit(*train).predict(validation[0]).reshape(validation[1].shape) - validation[1]
            scores.append(np.sqrt((error**2).mean()) + np.abs(error).mean())
        alpha = alphas[int(np.argmin(scores))]
        error = Ridge(alpha=alpha).fit(*train).predict(test_features).reshape(test_labels.shape) - test_labels
        results[horizon] = (alpha, (error**2).mean(), np.abs(error).mean(), scores)
    return results


def problem(seed, num_series=1, steps=240, size=12, num_channels=2, noise=0.5, dtype=np.float64):
    generator = np.random.default_rng(seed)
    targets = generator.standard_normal((num_series, steps, num_channels)).cumsum(axis=1) * 0.2
    mixing = generator.standard_normal((num_channels * 2, size))
    history = np.concatenate([targets, np.roll(targets, 3, axis=1)], axis=2)
    representations = np.tanh(history @ mixing) + noise * generator.standard_normal((num_series, steps, size))
    return representations.astype(dtype), targets.astype(dtype)


BOUNDS = {"train": (0, 130), "validation": (130, 180), "test": (180, 235)}


@given(
    seed=st.integers(0, 10_000),
    num_series=st.integers(1, 3),
    size=st.sampled_from([1, 3, 12, 150]),  # 150 > number of training samples
    num_channels=st.integers(1, 3),
    horizons=st.sampled_from([(1,), (5, 2), (3, 17, 4)]),
    noise=st.sampled_from([0.05, 0.5, 5.0]),
    skip=st.sampled_from([0, 20]),
)
@settings(max_examples=20, deadline=None)
def test_the_ridge_protocol_equals_sklearn_used_literally(seed, num_series, size, num_channels, horizons, noise, skip):
    representations, targets = problem(seed, num_series, size=size, num_channels=num_channels, noise=noise)
    ours = ridge_forecast(representations, targets, BOUNDS, horizons, history_to_skip=skip)
    expected = reference_ridge_forecast(representations, targets, BOUNDS, horizons, ALPHAS, skip)
    assert tuple(ours) == horizons
    for horizon, (alpha, mse, mae, scores) in expected.items():
        result = ours[horizon]
        assert result.validation_score == pytest.approx(min(scores), rel=1e-9)
        assert scores[ALPHAS.index(result.alpha)] <= min(scores) * (1 + 1e-9)
        assert result.alpha == alpha
        assert (result.mse, result.mae) == pytest.approx((mse, mae), rel=1e-7)


def test_float32_features_and_subsampling_equal_sklearn():
    representations, targets = problem(3, 2, size=40, dtype=np.float32)
    ours = ridge_forecast(representations, targets, BOUNDS, (4, 9), history_to_skip=10, max_samples=90)
    expected = reference_ridge_forecast(representations, targets, BOUNDS, (4, 9), ALPHAS, 10, max_samples=90)
    for horizon, (alpha, mse, mae, _) in expected.items():
        assert ours[horizon].alpha == alpha
        assert (ours[horizon].mse, ours[horizon].mae) == pytest.approx((mse, mae), rel=1e-5)


def test_rank_deficient_constant_and_offset_features_equal_sklearn():
    representations, targets = problem(5, size=6)
    one = representations[0]
    features = np.concatenate([one, one[:, :3] + 1e4, np.full((len(one), 2), 7.0), np.zeros((len(one), 1))], axis=1)
    ours = ridge_forecast(features, targets[0] + 300, BOUNDS, (6,), history_to_skip=0)[6]
    alpha, mse, mae, _ = reference_ridge_forecast([features], targets + 300, BOUNDS, (6,), ALPHAS, 0)[6]
    assert (ours.alpha, ours.mse, ours.mae) == pytest.approx((alpha, mse, mae), rel=1e-6)


def test_raw_errors_are_those_of_the_unscaled_data():
    representations, targets = problem(7, 1)
    scale = np.array([3.0, 0.5])
    result = ridge_forecast(representations, targets, BOUNDS, (4,), history_to_skip=0, target_scale=scale)[4]
    raw = {}
    for channel in range(2):
        only = np.ones((1, 2)) * 0
        only[0, channel] = 1
        part = ridge_forecast(representations, targets, BOUNDS, (4,), history_to_skip=0, target_scale=only)[4]
        raw[channel] = (part.raw_mse, part.raw_mae)
    assert result.mse == pytest.approx(raw[0][0] + raw[1][0])
    assert result.raw_mse == pytest.approx(9 * raw[0][0] + 0.25 * raw[1][0])
    assert result.raw_mae == pytest.approx(3 * raw[0][1] + 0.5 * raw[1][1])


def test_bad_input_is_named():
    representations, targets = problem(0)
    missing = representations.copy()
    missing[0, 17, 4] = np.nan
    with pytest.raises(ValueError, match="Series 0, step 17, column 4: representation is nan"):
        ridge_forecast(missing, targets, BOUNDS, (4,), history_to_skip=0)
    with pytest.raises(ValueError, match=r"Horizon 60 is too long for the validation split.*below 50"):
        ridge_forecast(representations, targets, BOUNDS, (60,), history_to_skip=0)
    with pytest.raises(ValueError, match="Horizon 4 is too long for the train split"):
        ridge_forecast(representations, targets, BOUNDS, (4,), history_to_skip=200)
    with pytest.raises(ValueError, match=r"alphas must be positive and finite, got 0.0"):
        ridge_forecast(representations, targets, BOUNDS, (4,), alphas=(0.0, 1.0))
    with pytest.raises(ValueError, match="needs exactly train, validation, test"):
        ridge_forecast(representations, targets, {"train": (0, 5)}, (4,))
    with pytest.raises(ValueError, match="one representation a step"):
        ridge_forecast(representations[:, :-1], targets, BOUNDS, (4,))


def test_the_default_horizons_follow_the_frequency():
    assert default_horizons("ett/ETTh2") == HOURLY_HORIZONS == (24, 48, 168, 336, 720)
    assert default_horizons("electricity") == HOURLY_HORIZONS
    assert default_horizons("ett/ETTm1") == OTHER_HORIZONS == (24, 48, 96, 288, 672)
    assert default_horizons("exchange_rate", "D") == OTHER_HORIZONS
    assert default_horizons("mine", "h") == HOURLY_HORIZONS


class LagModel:
    """Represents a step by the last values of all channels, scaled by the window's length."""

    def encode(self, series, **settings):
        self.settings = settings
        return [np.concatenate([one, np.roll(one, 1, axis=0)], axis=1) for one in series]


def forecasting_corpus(num_series=2, num_features=1):
    from hf_tsrep.data.corpus import CorpusMetadata, attach_metadata

    _, targets = problem(1, num_series, num_channels=2 + num_features)
    features = Features({"series": Array2D((None, 2 + num_features), "float32")})
    corpus = DatasetDict(
        {
            name: Dataset.from_dict({"series": list(targets[:, start:stop].astype(np.float32))}, features=features)
            for name, (start, stop) in BOUNDS.items()
        }
    )
    scaler = {"kind": "standard", "mean": [0.0, 0.0], "scale": [2.0, 2.0]}
    metadata = CorpusMetadata(name="toy", task="forecasting", num_time_features=num_features, scaler=scaler)
    return attach_metadata(corpus, metadata), targets.astype(np.float32)


def test_evaluate_forecasting_encodes_once_and_leaves_time_features_out_of_the_targets():
    corpus, targets = forecasting_corpus()
    model = LagModel()
    result = evaluate_forecasting(model, corpus, horizons=(3, 6), context_length=11, seed=0)
    assert (model.settings["window_length"], model.settings["stride"], model.settings["causal"]) == (11, 1, True)
    series = [one[:235] for one in targets]
    expected = reference_ridge_forecast(
        model.encode(series), [one[:, 1:] for one in series], BOUNDS, (3, 6), ALPHAS, skip=10
    )
    for horizon, (alpha, mse, mae, _) in expected.items():
        assert result["metrics"][f"mse_{horizon}"] == pytest.approx(mse, rel=1e-5)
        assert result["metrics"][f"mae_{horizon}"] == pytest.approx(mae, rel=1e-5)
        assert result["metrics"][f"raw_mse_{horizon}"] == pytest.approx(4 * mse, rel=1e-5)
        assert [one["alpha"] for one in result["details"] if one["horizon"] == horizon] == [alpha]
    assert result["metrics"]["mse"] == pytest.approx(np.mean([result["metrics"][f"mse_{h}"] for h in (3, 6)]))
    assert result["settings"]["setting"] == "multivariate"
    with pytest.raises(ValueError, match="needs splits train, validation, test; the corpus has train"):
        evaluate_forecasting(model, DatasetDict(train=corpus["train"]))


def samples(seed, rows, size=30, outputs=20):
    generator = np.random.default_rng(seed)
    weights = np.random.default_rng(99).standard_normal((size, outputs))
    features = generator.standard_normal((rows, size)) * np.linspace(0.05, 2, size) + 3
    return features, features @ weights + 8 * generator.standard_normal((rows, outputs)) - 5


def moments_of(features, targets, chunk=17):
    moments = RegressionMoments(features.mean(axis=0) + 0.1, targets.shape[1])
    moments.add((features[i : i + chunk], targets[i : i + chunk]) for i in range(0, len(features), chunk))
    return moments


def test_coefficients_and_errors_equal_sklearn_for_every_penalty():
    train, validation = samples(0, 120), samples(1, 80)
    path = RidgePath.fit(moments_of(*train))
    errors = path.root_mean_squared_errors(ALPHAS, moments_of(*validation))
    for alpha, error in zip(ALPHAS, errors, strict=True):
        expected = Ridge(alpha=alpha).fit(*train)
        weights, intercepts = path.coefficients(alpha)
        np.testing.assert_allclose(weights.T, expected.coef_, atol=1e-9)
        np.testing.assert_allclose(intercepts, expected.intercept_, atol=1e-8)
        residual = expected.predict(validation[0]) - validation[1]
        assert error == pytest.approx(np.sqrt((residual**2).mean()), rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_the_search_for_a_penalty_is_exact_and_leaves_most_out(seed):
    train, validation = samples(seed, 60), samples(seed + 50, 90)
    scores = []
    for alpha in ALPHAS:
        residual = Ridge(alpha=alpha).fit(*train).predict(validation[0]) - validation[1]
        scores.append(np.sqrt((residual**2).mean()) + np.abs(residual).mean())
    path, moments = RidgePath.fit(moments_of(*train)), moments_of(*validation)
    choice = choose_alpha(path, ALPHAS, moments, lambda: [validation])
    assert choice.alpha == ALPHAS[int(np.argmin(scores))]
    assert choice.score == pytest.approx(min(scores), rel=1e-12)
    assert choice.num_evaluated <= 4


def test_leading_outputs_are_a_problem_of_their_own():
    features, targets = samples(2, 50)
    whole, part = moments_of(features, targets).leading(7), moments_of(features, targets[:, :7])
    np.testing.assert_allclose(RidgePath.fit(whole).coefficients(5.0)[0], RidgePath.fit(part).coefficients(5.0)[0])


def test_a_regression_without_samples_is_refused():
    empty = RegressionMoments(np.zeros(3), 2)
    with pytest.raises(ValueError, match="at least one training sample"):
        RidgePath.fit(empty)
    path = RidgePath.fit(moments_of(*samples(0, 20, 3, 2)))
    with pytest.raises(ValueError, match="at least one validation sample"):
        choose_alpha(path, ALPHAS, empty, list)
    with pytest.raises(ValueError, match="alphas is empty"):
        choose_alpha(path, (), empty, list)
