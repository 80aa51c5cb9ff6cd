"""The factorised ridge path and the search for a penalty that leaves most of them out."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from hf_tsrep.evaluation.forecasting import ALPHAS
from hf_tsrep.evaluation.ridge import RegressionMoments, RidgePath, choose_alpha


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
def test_search_is_exact_and_leaves_most_penalties_out(seed):
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


def test_no_samples_is_an_error():
    empty = RegressionMoments(np.zeros(3), 2)
    with pytest.raises(ValueError, match="at least one training sample"):
        RidgePath.fit(empty)
    path = RidgePath.fit(moments_of(*samples(0, 20, 3, 2)))
    with pytest.raises(ValueError, match="at least one validation sample"):
        choose_alpha(path, ALPHAS, empty, list)
    with pytest.raises(ValueError, match="alphas is empty"):
        choose_alpha(path, (), empty, list)
