"""Whether good parts lie alike in their images: from embeddings alone, at some positions and of some channels."""

import math

import numpy as np
from jaxtyping import Float

TWO_PEAKED_RATIO = 0.8  # that of two equal normal peaks whose centres are 4 standard deviations apart
SMALLER_SHARE = 0.1  # of the images: fewer are outliers, not a peak
FEWEST = 20  # images from which anything can be concluded
_LARGEST_EXCESS = 2.0  # parts that lie alike have up to 1.5 (pills, figures, cookies, solar cells); turned plates 3.2
_LEAST_EXPLAINED = 0.3  # the same parts have 0.36 to 0.74; parts turned at random, 0.20 to 0.26
_TWO_KINDS = 0.5  # share of two-peaked positions; every part with an edge that moves has a few


def remarks(x: Float[np.ndarray, "q n k"], ridge: float) -> list[str]:
    """What a user should know about how good parts lie, in sentences; none where they lie alike or are too few.

    Args:
      x: embeddings of n images at q positions, k of their channels.
      ridge: ε of the covariances.
    """
    n = x.shape[1]
    if n < FEWEST:
        return []
    sentences, reasons, ratio, share = [], [], excess(x, ridge), explained_variance(x)
    if ratio > _LARGEST_EXCESS:
        reasons.append(
            f"a typical good image, when left out, is somewhere {ratio:.1f} times as far from the others as chance "
            f"would have it (parts that lie still: less than {_LARGEST_EXCESS:g} times)"
        )
    if share < _LEAST_EXPLAINED:
        reasons.append(
            f"the place in the image explains {share:.0%} of what the network sees there (parts that lie still: "
            f"{_LEAST_EXPLAINED:.0%} or more; a texture that fills the image has less, which does no harm)"
        )
    if reasons:
        sentences.append(
            f"the parts do not lie alike: {'; '.join(reasons)}. Weak defects may be missed: place or align the parts "
            "before the camera, crop the images around them, or try --align rigid, which moves and turns them back, or "
            "--preset lite0-plus, which forgives much of it"
        )
    split_share = float(np.mean(split_in_two(_leading_projections(x))[0] >= two_peaked_limit(n)))
    if split_share > _TWO_KINDS:
        sentences.append(
            f"the images fall into two groups at {split_share:.0%} of the positions: if these are two kinds of parts, "
            "or two ways to lie, fit a model for each (padim inspect MODEL --images GOOD_DIR lists these images)"
        )
    return sentences


def excess(x: Float[np.ndarray, "q n k"], ridge: float) -> float:
    """How far the median image, left out, is from the others at its farthest position, relative to what chance gives.

    The leave-one-out Mahalanobis distance of m + 1 normal vectors in k dimensions follows
    ``D² ~ k (m² - 1) / (m (m - k)) F(k, m - k)``; the largest of q positions is about the quantile 1 - 1/q. Only some
    channels are used, k ≤ n / 4, because with n ≤ k distances say more about the ridge than about the images.

    Args:
      x: as for :func:`remarks`; evenly spaced channels of it are taken.
      ridge: ε of the covariances.
    """
    from scipy.special import fdtri  # scipy.stats takes a second to import

    q, n, n_channels = x.shape
    k = max(1, min(n_channels, n // 4))
    z = x[..., np.linspace(0, n_channels - 1, k).astype(int)].astype(np.float64)
    z = z - z.mean(axis=1, keepdims=True)
    sigma = z.swapaxes(1, 2) @ z / (n - 2) + ridge * np.eye(k)
    squared = np.sum(np.linalg.solve(np.linalg.cholesky(sigma), z.swapaxes(1, 2)) ** 2, axis=1)
    denominator = 1 - squared * n / ((n - 1) * (n - 2))
    squared = (n / (n - 1)) ** 2 * squared / np.maximum(denominator, 1e-6)
    m = n - 1
    limit = k * (m**2 - 1) / (m * (m - k)) * fdtri(k, m - k, 1 - 1 / max(2, q))
    return float(np.sqrt(np.median(squared.max(axis=0)) / limit))


def explained_variance(x: Float[np.ndarray, "q n k"]) -> float:
    """Share of the variance of all patches' embeddings that their positions' means explain, in [0, 1].

    ``B / (B + W)``: B the variance of the means μ_p over positions, less the W / n that chance adds, and W the mean
    over positions of the variance about them, both summed over channels.

    Args:
      x: as for :func:`remarks`.
    """
    within = float(x.var(axis=1, ddof=1).mean(axis=0).sum())
    between = max(0.0, float(x.mean(axis=1).var(axis=0).sum()) - within / x.shape[1])
    return between / max(between + within, np.finfo(np.float64).tiny)


def two_peaked_limit(n: int) -> float:
    """Ratio of :func:`split_in_two` from which n numbers look two-peaked: ``max(0.8, 2/π + 1.2/√n)``."""
    return max(TWO_PEAKED_RATIO, 2 / math.pi + 1.2 / math.sqrt(n))


def split_in_two(t: Float[np.ndarray, "p n"]) -> tuple[Float[np.ndarray, " p"], np.ndarray]:
    """Best split of each row's sorted numbers: variance between the parts over the whole, size of the lower part.

    Of the k lowest of n numbers about their mean, with sum c: ``c² n / (k (n - k)) / Σ t²``. Neither part is smaller
    than a tenth. Rows without variance have 0.
    """
    n = t.shape[1]
    centred = np.sort(t, axis=1)
    centred = centred - centred.mean(axis=1, keepdims=True)
    smallest = max(1, math.ceil(SMALLER_SHARE * n))
    k = np.arange(smallest, n - smallest + 1)
    sums = np.cumsum(centred, axis=1)[:, k - 1]
    total = (centred**2).sum(axis=1)
    between = sums**2 * (n / (k * (n - k)))[None]
    best = between.argmax(axis=1)
    ratio = between[np.arange(len(t)), best] / np.where(total > 0, total, np.inf)
    return ratio, k[best]


def _leading_projections(x: Float[np.ndarray, "q n k"]) -> Float[np.ndarray, "q n"]:
    """Each position's images along the direction in which they vary most."""
    z = x.astype(np.float64) - x.mean(axis=1, keepdims=True)
    _, directions = np.linalg.eigh(z.swapaxes(1, 2) @ z)
    return np.einsum("qnk,qk->qn", z, directions[..., -1])
