"""What images and models look like from outside: scores that stand out, covariances, positions with two peaks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from padim_jax.method.aligned import embed_aligned
from padim_jax.method.alignment import FEWEST, split_in_two, two_peaked_limit
from padim_jax.method.calibration import conformal_p_values
from padim_jax.method.checks import pad_batches
from padim_jax.method.positions import n_gaussians
from padim_jax.method.records import Padim

OUTLIER_RANGES = 1.5  # interquartile ranges beyond the upper quartile: Tukey's fence
MOST_FOR_PEAKS = 1024
SHARED = "all positions share Gaussians; two peaks are looked for where each has its own"
_NARROWEST_RANGE = 0.01  # of log scores: rounding must not make outliers among equal images
_EIGENVALUE_BUDGET = 3e10  # operations on eigenvalues worth waiting for, about half a minute of two CPU cores


@dataclass(frozen=True)
class Conditions:
    """Condition numbers λ_max / λ_min of the covariances Σ.

    Attributes:
      positions: row by row, those looked at: all, or an even draw where that would take minutes.
      numbers: float64, of each.
      n_positions: how many there are.
    """

    positions: np.ndarray
    numbers: Float[np.ndarray, " k"]
    n_positions: int

    @property
    def sampled(self) -> bool:
        """Whether some positions were not looked at."""
        return len(self.positions) < self.n_positions


@dataclass(frozen=True)
class Peaks:
    """How well two clusters describe each position's images along its leading eigenvector.

    Attributes:
      ratio: (rows, columns), in [0, 1]: variance between the clusters over the whole, of the best split in two.
      limit: ratio from which a position looks two-peaked.
      strongest: indices of the images in the smaller cluster at the position of the highest ratio.
      count: images looked at.
    """

    ratio: Float[np.ndarray, "rows columns"]
    limit: float
    strongest: tuple[int, ...]
    count: int

    @property
    def found(self) -> list[tuple[int, int]]:
        """(row, column) of the positions that look two-peaked, the clearest first."""
        order = np.argsort(-self.ratio, axis=None, kind="stable")
        rows, columns = np.unravel_index(order[: np.count_nonzero(self.ratio >= self.limit)], self.ratio.shape)
        return list(zip(rows.tolist(), columns.tolist(), strict=True))


def outlier_limit(scores: Sequence[float]) -> float:
    """Score above which one of a set stands out: ``log s > Q3 + 1.5 (Q3 - Q1)``, quartiles of the log scores.

    Quartiles don't move for a few bad images, as mean and deviation would, and a p-value among n images can't fall
    below 1/n. Of normal log scores 1 in 290 is above by chance. Quartiles less than 0.01 apart count as 0.01 apart.
    """
    logs = np.log(np.maximum(np.asarray(scores, np.float64), np.finfo(np.float32).tiny))
    low, high = np.quantile(logs, [0.25, 0.75])
    return float(np.exp(high + OUTLIER_RANGES * max(high - low, _NARROWEST_RANGE)))


def rank_p_values(scores: Sequence[float]) -> Float[np.ndarray, " n"]:
    """``p_i = #{j: s_j ≥ s_i} / n``, in [1/n, 1]: the conformal p-value of each by all the others."""
    values = np.asarray(scores, np.float64)
    return np.asarray(conformal_p_values(np.sort(values), values, among=True))


def find_conditions(model: Padim) -> Conditions:
    """Condition numbers ``λ_max / λ_min`` of Σ, in float64 and chunk by chunk."""
    p = n_gaussians(model.config, model.embedding)
    count = int(min(p, max(1, _EIGENVALUE_BUDGET // model.gaussian.condition_cost)))
    positions = np.sort(np.random.default_rng(0).permutation(p)[:count])
    return Conditions(positions, model.gaussian.condition_numbers(positions), p)


def log_determinants(model: Padim) -> Float[np.ndarray, "rows columns"]:
    """``log det Σ`` over the grid: where good images vary much, and where little."""
    return _on_grid(model, model.gaussian.log_determinants())


def mean_lengths(model: Padim) -> Float[np.ndarray, "rows columns"]:
    """``‖μ‖`` over the grid: how strongly the network responds there."""
    return _on_grid(model, np.linalg.norm(np.asarray(model.gaussian.mean, np.float64), axis=1))


def _on_grid(model: Padim, values: Float[np.ndarray, " g"]) -> Float[np.ndarray, "rows columns"]:
    """The value of each cell's own Gaussian, on the grid; of those that all cells share, in one row."""
    return values.reshape(model.embedding.grid if model.config.positions == "own" else (1, -1))


def find_peaks(model: Padim, batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]]) -> Peaks:
    """Look for positions whose images fall into two clusters, which one Gaussian describes badly.

    Each embedding is projected, ``t = vᵀ (x - μ)`` with v the leading eigenvector of Σ at its position, and the t are
    split in two where that explains the most of their variance, the smaller part a tenth or more. A position looks
    two-peaked where the share explained is ``max(0.8, 2/π + 1.2/√n)`` or more: a normal distribution has 2/π, a uniform
    one 3/4, and n normal numbers are above by chance at one position in 10⁴ or fewer.

    Args:
      model: any; one that scores by "triangular-solve" has the factors at hand that take part.
      batches: good images, 20 to 1024; p numbers are kept of each.

    Raises:
      ValueError: fewer images, or more; positions that share a Gaussian, whose patches are of many kinds anyway.
    """
    if model.config.positions == "shared":
        raise ValueError(f"find_peaks: {SHARED}")
    directions = model.gaussian.leading_directions()
    projections, count = [], 0
    for images, valid in pad_batches("find_peaks", batches, model.config):
        t = np.asarray(_project(model, directions, images))[:, : int(valid.sum())]
        projections.append(t)
        count += t.shape[1]
        if count > MOST_FOR_PEAKS:
            raise ValueError(f"find_peaks: more than {MOST_FOR_PEAKS} images; give an even choice of them")
    if count < FEWEST:
        raise ValueError(f"find_peaks: {count} images, wanted {FEWEST} or more: fewer look two-peaked by chance")
    t = np.concatenate(projections, axis=1).astype(np.float64)
    ratio, at = split_in_two(t)
    strongest = int(ratio.argmax())
    order = np.argsort(t[strongest], kind="stable")
    lower, upper = order[: at[strongest]], order[at[strongest] :]
    smaller = lower if len(lower) <= len(upper) else upper
    limit = two_peaked_limit(count)
    return Peaks(ratio.reshape(model.embedding.grid), limit, tuple(sorted(smaller.tolist())), count)


@jax.jit
def _project(model: Padim, directions: Array, images: Array) -> Float[Array, "p n"]:
    patches = embed_aligned(model.backbone, model.embedding, images, model.projection, model.alignment)
    deviations = patches.x - model.gaussian.mean[:, None]
    t = jnp.einsum("pnd,pd->pn", deviations, directions, precision=lax.Precision.HIGHEST)
    return t if patches.inside is None else jnp.where(patches.inside, t, 0)  # what is not there is like the mean
