"""Whether good parts lie alike in their images: from embeddings alone, at some positions and of some channels."""

import math

import numpy as np
from jaxtyping import Float

TWO_PEAKED_RATIO = 0.8  # two equal normal peaks have it when their centres are 4 standard deviations apart
SMALLER_SHARE = 0.1  # of the images: fewer are outliers, not a peak
FEWEST = 20  # images of which anything can be said
_LARGEST_EXCESS = (
    2.0  # of parts that lie alike: up to 1.5 on pills, figures, cookies, solar cells; 3.2 on turned plates
)
_LEAST_EXPLAINED = 0.3  # the same reach 0.36 to 0.74; turned at random, 0.20 to 0.26
_TWO_KINDS = 0.5  # of the positions two-peaked: single ones are on every part with an edge that moves


def remarks(x: Float[np.ndarray, "q n k"], ridge: float) -> list[str]:
    """What a user should know of how good parts lie, in sentences; nothing where they lie alike, or are too few.

    Args:
      x: embeddings of n images at q positions, k channels of them.
      ridge: ε of the covariances.
    """
    n = x.shape[1]
    if n < FEWEST:
        return []
    found, why, ratio, share = [], [], excess(x, ridge), explained(x)
    if ratio > _LARGEST_EXCESS:
        why.append(
            f"a typical good image, left out, is somewhere {ratio:.1f} times as far from the others as chance would "
            f"have it (parts that lie still: less than {_LARGEST_EXCESS:g} times)"
        )
    if share < _LEAST_EXPLAINED:
        why.append(
            f"the place in the image explains {share:.0%} of what the network sees there (parts that lie still: "
            f"{_LEAST_EXPLAINED:.0%} or more; a texture that fills the image has little, and no harm in it)"
        )
    if why:
        found.append(
            f"the parts do not lie alike: {'; '.join(why)}. Weak defects may be missed: place or align the parts "
            "before the camera, crop the images around them, or try --preset lite0-plus, which forgives small shifts"
        )
    two = float(np.mean(split_in_two(_leading(x))[0] >= two_peaked_limit(n)))
    if two > _TWO_KINDS:
        found.append(
            f"the images fall into two groups at {two:.0%} of the positions: if these are two kinds of parts, or two "
            "ways to lie, fit a model for each (padim inspect MODEL --images GOOD_DIR tells which images they are)"
        )
    return found


def excess(x: Float[np.ndarray, "q n k"], ridge: float) -> float:
    """How far the median image, left out, is from the others at its farthest position, over what chance gives.

    The leave-one-out Mahalanobis distance of m + 1 normal vectors in k dimensions follows
    ``D² ~ k (m² - 1) / (m (m - k)) F(k, m - k)``; of q positions the largest is about the quantile 1 - 1/q. Only some
    channels are looked at, k ≤ n / 4, because with n ≤ k distances say more of the ridge than of the images.

    Args:
      x: as of :func:`remarks`; of its channels an even choice is taken.
      ridge: ε of the covariances.
    """
    from scipy.special import fdtri  # scipy.stats takes a second to import

    q, n, every = x.shape
    k = max(1, min(every, n // 4))
    z = x[..., np.linspace(0, every - 1, k).astype(int)].astype(np.float64)
    z = z - z.mean(axis=1, keepdims=True)
    sigma = z.swapaxes(1, 2) @ z / (n - 2) + ridge * np.eye(k)
    squared = np.sum(np.linalg.solve(np.linalg.cholesky(sigma), z.swapaxes(1, 2)) ** 2, axis=1)
    left = 1 - squared * n / ((n - 1) * (n - 2))
    squared = (n / (n - 1)) ** 2 * squared / np.maximum(left, 1e-6)
    m = n - 1
    limit = k * (m**2 - 1) / (m * (m - k)) * fdtri(k, m - k, 1 - 1 / max(2, q))
    return float(np.sqrt(np.median(squared.max(axis=0)) / limit))


def explained(x: Float[np.ndarray, "q n k"]) -> float:
    """Share of the variance of all patches' embeddings that their positions' means explain, in [0, 1].

    ``B / (B + W)``: B the variance of the means μ_p over positions, less W / n that chance gives it, and W the mean
    over positions of the variance about them, both summed over channels.

    Args:
      x: as of :func:`remarks`.
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
    least = max(1, math.ceil(SMALLER_SHARE * n))
    k = np.arange(least, n - least + 1)
    sums = np.cumsum(centred, axis=1)[:, k - 1]
    total = (centred**2).sum(axis=1)
    between = sums**2 * (n / (k * (n - k)))[None]
    best = between.argmax(axis=1)
    ratio = between[np.arange(len(t)), best] / np.where(total > 0, total, np.inf)
    return ratio, k[best]


def _leading(x: Float[np.ndarray, "q n k"]) -> Float[np.ndarray, "q n"]:
    """Each position's images along the direction in which they vary most."""
    z = x.astype(np.float64) - x.mean(axis=1, keepdims=True)
    _, directions = np.linalg.eigh(z.swapaxes(1, 2) @ z)
    return np.einsum("qnk,qk->qn", z, directions[..., -1])
