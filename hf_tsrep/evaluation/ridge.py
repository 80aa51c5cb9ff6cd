"""Ridge regression for many penalties and many outputs from one factorisation.

`sklearn.linear_model.Ridge(alpha).fit(X, Y)` solves `(Xc^T Xc + alpha I) B = Xc^T Yc` on centred data. With the
eigendecomposition `Xc^T Xc = V diag(eigenvalues) V^T` every penalty has the solution
`B_alpha = V diag(1 / (eigenvalues + alpha)) Z`, `Z = V^T Xc^T Yc`, so that the data are read once, whatever the number
of penalties. Squared errors of every penalty follow from second moments of the validation data (no predictions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Chunks = Iterable[tuple[np.ndarray, np.ndarray]]


class RegressionMoments:
    """Sums over samples that determine every ridge solution and every squared error.

    Rows arrive in chunks, in any order. The features are shifted by a constant before they are squared, so that a
    large mean does not eat the precision of the centred matrix. All sums are float64.

    Args:
        feature_shift: (num_features,) subtracted from every feature row; close to the mean.
        num_outputs: Number of regression outputs.
    """

    def __init__(self, feature_shift: np.ndarray, num_outputs: int) -> None:
        num_features = len(feature_shift)
        self.feature_shift = np.asarray(feature_shift, dtype=np.float64)
        self.count = 0
        self.gram = np.zeros((num_features, num_features))
        self.cross = np.zeros((num_features, num_outputs))
        self.feature_sum = np.zeros(num_features)
        self.target_sum = np.zeros(num_outputs)
        self.target_square_sum = np.zeros(num_outputs)

    def add(self, chunks: Chunks) -> None:
        """Add samples; targets with fewer outputs than `num_outputs` go to the leading ones.

        Args:
            chunks: Pairs of features (rows, num_features) and targets (rows, outputs).
        """
        for features, targets in chunks:
            shifted = features.astype(np.float64)
            shifted -= self.feature_shift
            targets = np.ascontiguousarray(targets, dtype=np.float64)
            leading = slice(0, targets.shape[1])
            self.count += len(shifted)
            self.gram += shifted.T @ shifted
            self.cross[:, leading] += shifted.T @ targets
            self.feature_sum += shifted.sum(axis=0)
            self.target_sum[leading] += targets.sum(axis=0)
            self.target_square_sum[leading] += np.einsum("ij,ij->j", targets, targets)

    def leading(self, num_outputs: int) -> RegressionMoments:
        """Return a view of the moments of the first `num_outputs` outputs."""
        view = object.__new__(RegressionMoments)
        view.feature_shift, view.count = self.feature_shift, self.count
        view.gram, view.feature_sum = self.gram, self.feature_sum
        view.cross = self.cross[:, :num_outputs]
        view.target_sum = self.target_sum[:num_outputs]
        view.target_square_sum = self.target_square_sum[:num_outputs]
        return view

    def about(self, feature_point: np.ndarray, target_point: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the second moments about a point.

        Args:
            feature_point: (num_features,) in the units of the features.
            target_point: (num_outputs,) in the units of the targets.

        Returns:
            `sum (x - p)(x - p)^T`, `sum (x - p)(y - q)^T` and `sum |y - q|^2`.
        """
        point = feature_point - self.feature_shift
        feature_product = np.outer(self.feature_sum, point)
        gram = self.gram - feature_product - feature_product.T + self.count * np.outer(point, point)
        remainder = self.feature_sum - self.count * point
        cross = self.cross - np.outer(point, self.target_sum) - np.outer(remainder, target_point)
        squares = self.target_square_sum - 2 * target_point * self.target_sum + self.count * target_point**2
        return gram, cross, float(squares.sum())


@dataclass(frozen=True)
class RidgePath:
    """The ridge solutions of all penalties, in the eigenvectors of the centred Gram matrix.

    Attributes:
        eigenvalues: (num_features,) of the centred Gram matrix, not negative.
        eigenvectors: (num_features, num_features), one a column.
        rotated_cross: (num_features, num_outputs), `V^T Xc^T Yc`.
        feature_mean: (num_features,).
        target_mean: (num_outputs,).
    """

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    rotated_cross: np.ndarray
    feature_mean: np.ndarray
    target_mean: np.ndarray

    @classmethod
    def fit(cls, moments: RegressionMoments) -> RidgePath:
        """Factorise the moments of the training samples.

        Raises:
            ValueError: No samples.
        """
        if moments.count == 0:
            raise ValueError("Ridge regression needs at least one training sample.")
        feature_mean = moments.feature_shift + moments.feature_sum / moments.count
        target_mean = moments.target_sum / moments.count
        gram, cross, _ = moments.about(feature_mean, target_mean)
        eigenvalues, eigenvectors = _eigendecomposition(gram)
        # Rank-deficient features give eigenvalues that are 0 up to rounding of either sign.
        return cls(np.maximum(eigenvalues, 0.0), eigenvectors, eigenvectors.T @ cross, feature_mean, target_mean)

    def shrinkage(self, alpha: float) -> np.ndarray:
        """Return `1 / (eigenvalues + alpha)`, (num_features,)."""
        return 1.0 / (self.eigenvalues + alpha)

    def coefficients(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights (num_features, num_outputs) and the intercepts (num_outputs,) of a penalty."""
        weights = self.eigenvectors @ (self.shrinkage(alpha)[:, None] * self.rotated_cross)
        return weights, self.target_mean - self.feature_mean @ weights

    def root_mean_squared_errors(self, alphas: Sequence[float], validation: RegressionMoments) -> np.ndarray:
        """Return the root mean squared error of every penalty over all validation samples and outputs.

        Args:
            alphas: Penalties.
            validation: Moments of the validation samples.

        Returns:
            (len(alphas),) float64.
        """
        gram, cross, squares = validation.about(self.feature_mean, self.target_mean)
        quadratic = (self.eigenvectors.T @ gram @ self.eigenvectors) * (self.rotated_cross @ self.rotated_cross.T)
        linear = np.einsum("ij,ij->i", self.rotated_cross, self.eigenvectors.T @ cross)
        shrinkages = np.stack([self.shrinkage(alpha) for alpha in alphas])
        totals = squares - 2 * shrinkages @ linear + np.einsum("ai,ij,aj->a", shrinkages, quadratic, shrinkages)
        return np.sqrt(np.maximum(totals, 0.0) / (validation.count * len(self.target_mean)))


@dataclass(frozen=True)
class AlphaChoice:
    """The penalty chosen on validation data.

    Attributes:
        alpha: The penalty.
        score: Its root mean squared error + mean absolute error on validation data.
        num_evaluated: For how many penalties predictions were made; the others were excluded by a bound.
    """

    alpha: float
    score: float
    num_evaluated: int


def choose_alpha(
    path: RidgePath,
    alphas: Sequence[float],
    validation: RegressionMoments,
    validation_chunks: Callable[[], Chunks],
) -> AlphaChoice:
    """Choose the penalty with the smallest RMSE + MAE over all validation samples and outputs (TS2Vec's rule).

    The exact RMSE of every penalty comes from moments. The mean absolute error is convex in the predictions P, so for
    an evaluated penalty b with residuals `R = Y - P_b` every other penalty a has
    `MAE_a >= MAE_b - mean(sign(R) * (P_a - P_b))`, which needs one product of the features with the signs. Only
    penalties whose bound is below the best score found are evaluated: the choice is that of the full search.

    Args:
        path: Solutions fitted on training samples.
        alphas: Penalties to choose from.
        validation: Moments of the validation samples.
        validation_chunks: Returns the validation samples again, for predictions.

    Returns:
        The choice.

    Raises:
        ValueError: No penalties, or one that is not positive; no validation samples.
    """
    check_alphas(alphas)
    if validation.count == 0:
        raise ValueError("Choosing alpha needs at least one validation sample.")
    squared_part = path.root_mean_squared_errors(alphas, validation)
    shrinkages = np.stack([path.shrinkage(alpha) for alpha in alphas])
    bounds = squared_part.copy()  # a mean absolute error is at least 0
    scores = np.full(len(alphas), np.inf)
    candidate = int(np.argmin(squared_part))
    while True:
        absolute, slope = _absolute_error(path, alphas[candidate], validation_chunks())
        scores[candidate] = squared_part[candidate] + absolute
        bounds = np.maximum(bounds, squared_part + absolute - (shrinkages - shrinkages[candidate]) @ slope)
        open_bounds = np.where(np.isinf(scores), bounds, np.inf)
        candidate = int(np.argmin(open_bounds))
        if not open_bounds[candidate] < scores.min():
            break
    best = int(np.argmin(scores))
    return AlphaChoice(float(alphas[best]), float(scores[best]), int(np.isfinite(scores).sum()))


def _eigendecomposition(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decompose a symmetric matrix on one thread.

    It is a chain of small products: on a busy machine threads that wait for each other make it 50 times slower, and on
    a free one they gain little. threadpoolctl comes with scikit-learn.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return np.linalg.eigh(gram)


def check_alphas(alphas: Sequence[float]) -> None:
    """Raise ValueError unless there is a penalty and all are positive and finite."""
    if len(alphas) == 0:
        raise ValueError("alphas is empty; give at least one penalty, for example (0.1, 1, 10).")
    wrong = [alpha for alpha in alphas if not (np.isfinite(alpha) and alpha > 0)]
    if wrong:
        raise ValueError(f"alphas must be positive and finite, got {wrong[0]!r}.")


def residual_chunks(path: RidgePath, alpha: float, chunks: Chunks) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Yield features less their mean and `targets - predictions` for each chunk, in the features' precision.

    The residual array is reused: copy it to keep it.
    """
    weights, _ = path.coefficients(alpha)
    weights_in_precision: np.ndarray | None = None
    buffer = np.empty((0, 0))
    for features, targets in chunks:
        dtype = features.dtype
        if weights_in_precision is None or weights_in_precision.dtype != dtype:
            weights_in_precision = weights.astype(dtype)
            feature_mean, target_mean = path.feature_mean.astype(dtype), path.target_mean.astype(dtype)
        centred = features - feature_mean
        if buffer.shape != targets.shape or buffer.dtype != dtype:
            buffer = np.empty(targets.shape, dtype=dtype)
        np.matmul(centred, weights_in_precision, out=buffer)
        buffer += target_mean
        np.subtract(targets, buffer, out=buffer)
        yield centred, buffer


def _absolute_error(path: RidgePath, alpha: float, chunks: Chunks) -> tuple[float, np.ndarray]:
    """Return the mean absolute error and, for each eigenvector, how fast it falls as its shrinkage factor grows."""
    total, count = 0.0, 0
    signs_by_feature = np.zeros_like(path.rotated_cross)
    for centred, residual in residual_chunks(path, alpha, chunks):
        count += residual.size
        absolute = np.abs(residual)
        total += float(absolute.sum(axis=0).sum(dtype=np.float64))
        np.copysign(np.asarray(1, dtype=residual.dtype), residual, out=absolute)
        signs_by_feature += centred.T @ absolute
    slope = np.einsum("ij,ij->i", path.rotated_cross, path.eigenvectors.T @ signs_by_feature)
    return total / count, slope / count
