"""How likely each image is under the Gaussian of all the others, in closed form: what regularisation is chosen by.

With n images of scatter C, ``Σ = (C + ν T) / m + ε I`` and ``m = n - 1 + ν``; an image of weight w at x = μ + δ is left
out again. With ``b = w n / (n - w)``, ``A = (C + ν T) / (m - w) + ε I`` and ``q = δᵀ A⁻¹ δ`` its own Gaussian has
``Σ' = A - b/(m - w) δ δᵀ``, so that ``D² = (n / (n - w))² q / (1 - b q / (m - w))`` and
``log det Σ' = log det A + log(1 - b q / (m - w))`` (Sherman & Morrison). T is held fixed.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

_LEAST = 1e-9  # of 1 - c q, which rounding can take below 0


def left_out_log_likelihoods(
    x: Float[np.ndarray, "q k d"],
    mean: Float[np.ndarray, "q d"],
    scatter: Float[np.ndarray, "q d d"],
    count: float,
    weights: Float[np.ndarray, " k"],
    pooled: Float[np.ndarray, "d d"],
    ridges: Sequence[float],
    prior_images: Sequence[float],
) -> Float[np.ndarray, "v e q"]:
    """Mean over images of ``log N(x; μ', Σ')``, each under the Gaussian of all the others, in natural units.

    One eigendecomposition of ``C + ν T`` serves every ridge. In float64, on the host.

    Args:
      x: embeddings of k of the images at q positions.
      mean: μ of all images at these positions.
      scatter: C of all images.
      count: n, the sum of all images' weights.
      weights: w of the k images, as they were fitted with; n - w must be above 1.
      pooled: T.
      ridges: values of ε.
      prior_images: values of ν.
    """
    result = np.empty((len(prior_images), len(ridges), len(x)))
    for position, (own, centre, matrix) in enumerate(zip(x, mean, scatter, strict=True)):
        delta = own.astype(np.float64) - centre
        for v, prior in enumerate(prior_images):
            eigenvalues, vectors = np.linalg.eigh(matrix.astype(np.float64) + prior * pooled)
            squares = (delta @ vectors) ** 2
            for e, ridge in enumerate(ridges):
                values = _log_likelihoods(squares, np.maximum(eigenvalues, 0), count, weights, ridge, prior)
                result[v, e, position] = values.mean()
    return result


def _log_likelihoods(
    squares: Float[np.ndarray, "k d"],
    eigenvalues: Float[np.ndarray, " d"],
    count: float,
    weights: Float[np.ndarray, " k"],
    ridge: float,
    prior: float,
) -> Float[np.ndarray, " k"]:
    divisor = (count - 1 + prior - weights)[:, None]
    variances = eigenvalues / divisor + ridge
    q = (squares / variances).sum(axis=1)
    b = weights * count / (count - weights)
    left = np.maximum(1 - b * q / divisor[:, 0], _LEAST)
    squared = (count / (count - weights)) ** 2 * q / left
    return -(squared + np.log(variances).sum(axis=1) + np.log(left) + squares.shape[1] * np.log(2 * np.pi)) / 2
