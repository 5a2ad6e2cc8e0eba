"""Compact forms of the fitted Gaussians: packed triangles, 16-bit factors, exact low rank; and what a form costs.

16-bit storage is host side, NumPy, position chunk by position chunk (:mod:`padim_jax.gaussians.packing`), so that it
makes no second copy of a state of 2.3 GB. The low-rank form and the bound on its error are pure JAX, chunked as
:mod:`padim_jax.gaussians.gaussian` is.
"""

from dataclasses import dataclass
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int16

from padim_jax.gaussians import gaussian, packing
from padim_jax.gaussians.gaussian import Gaussian, Moments, WhitenedGaussian
from padim_jax.gaussians.triangle import Triangle

LEVELS = 32767  # of int16 on either side of 0; -32768 is not used
FEEDBACK_LEVELS = 32000  # up to here before feedback: what makes up for other rounding may need a few more
OVERSAMPLING = 8  # directions sketched beyond the rank: a square random matrix can be badly conditioned
BASES_BYTES = 4 * 2**20  # of a low rank, what stays in a CPU's cache
SQUARINGS = 4  # the bound of a spectral norm then exceeds it by d^(1/32) at most: 15 % at d = 100, 22 % at d = 550
MARGIN = 1.01  # over that bound, for the rounding of its own float32 arithmetic
_HIGHEST = lax.Precision.HIGHEST


@no_type_check
@dataclass(frozen=True)
class Quantised:
    """Numbers of 16 bits and the steps they count: ``values · scale``.

    Attributes:
      values: int16 in [-32767, 32767], (p, d(d+1)/2) of a packed triangle or (p, r, d) of a basis.
      scale: float32, one step of each row, (p, d) of a triangle or (p, r) of a basis.
    """

    values: Int16[np.ndarray, "p ..."]
    scale: Float[np.ndarray, "p k"]


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRankGaussian:
    """N(μ, Σ) per position with ``Σ = noise · I + Bᵀ diag(spread) B``: the whole of it where n - 1 ≤ r.

    Attributes:
      mean: float32 (p, d).
      basis: float32 (p, r, d), B with orthonormal rows, by falling spread.
      spread: float32 (p, r), the eigenvalues of the covariance's sample part, 0 or more.
      noise: float32 (p,), the variance in every direction, which the ridge and shrinkage give.
      strength: float32 (p,), Ledoit-Wolf's ρ in Σ; None where it is not shrunk.
    """

    mean: Float[Array, "p d"]
    basis: Float[Array, "p r d"]
    spread: Float[Array, "p r"]
    noise: Float[Array, " p"]
    strength: Float[Array, " p"] | None = None


Form = Gaussian | WhitenedGaussian | LowRankGaussian


def quantise(packed: Float[np.ndarray, "p m"], *, lower: bool) -> Quantised:
    """A packed triangle in 16 bits, ``values = round(triangle / scale)``, ``scale = max|row| / 32767``.

    Raises:
      ValueError: numbers that are not finite, naming positions; or m is no d(d+1)/2.
    """
    d = packing.side("quantise", packed.shape[1])
    values, scale = np.empty(packed.shape, np.int16), np.empty((len(packed), d), np.float32)
    for row, (_, place) in enumerate(packing.rows_of(d, lower)):
        scale[:, row] = np.abs(packed[:, place]).max(axis=1) / LEVELS
    _check_finite("quantise", scale)
    for chunk in packing.host_chunks(len(packed), d):
        for row, (_, place) in enumerate(packing.rows_of(d, lower)):
            values[chunk, place] = _steps(packed[chunk, place], scale[chunk, row, None])
    return Quantised(values, scale)


def quantise_whitening(whitening: Triangle) -> Quantised:
    """W in 16 bits, packed (upper), rounded so that distances change least: ``scale = max|row| / 32000``.

    Each distance sees the error E of W as ``Eᵀ L``, ``L = W⁻ᵀ``. Its terms of row k are
    ``L_kk E_k + Σ_{j>k} L_jk E_j``: from the last row up, each is rounded to make up for those already rounded
    (Babai 1986, the nearest plane), which makes :func:`worst_error` several times smaller than :func:`quantise` does.

    Raises:
      ValueError: numbers that are not finite, naming positions.
    """
    p, d = len(whitening), whitening.side
    values, scale = np.empty((p, d * (d + 1) // 2), np.int16), np.empty((p, d), np.float32)
    for chunk in packing.host_chunks(p, d):
        steps, scale[chunk] = map(np.asarray, _feedback_steps(whitening[chunk].square()))
        values[chunk] = packing.pack_triangle(steps, lower=False)
    _check_finite("quantise_whitening", scale)
    return Quantised(values, scale)


def dequantise(quantised: Quantised, *, lower: bool) -> Float[np.ndarray, "p m"]:
    """The packed triangle as float32, ``values · scale``."""
    values, scale = quantised.values, quantised.scale
    packed = np.empty(values.shape, np.float32)
    for chunk in packing.host_chunks(*scale.shape):
        for row, (_, place) in enumerate(packing.rows_of(scale.shape[1], lower)):
            np.multiply(values[chunk, place], scale[chunk, row, None], out=packed[chunk, place])
    return packed


def quantise_basis(basis: Float[np.ndarray, "p r d"]) -> Quantised:
    """Rows in 16 bits, ``values = round(basis / scale)``, ``scale = max|row| / 32767``.

    Raises:
      ValueError: numbers that are not finite, naming positions.
    """
    values, scale = np.empty(basis.shape, np.int16), np.empty(basis.shape[:2], np.float32)
    chunks = list(packing.host_chunks(len(basis), basis.shape[2]))
    for chunk in chunks:
        scale[chunk] = np.abs(basis[chunk]).max(axis=-1) / LEVELS
    _check_finite("quantise_basis", scale)
    for chunk in chunks:
        values[chunk] = _steps(basis[chunk], scale[chunk][..., None])
    return Quantised(values, scale)


def dequantise_basis(quantised: Quantised) -> Float[np.ndarray, "p r d"]:
    """The basis as float32, ``values · scale``; its rows are not quite orthonormal."""
    return np.multiply(quantised.values, quantised.scale[..., None], dtype=np.float32)


def low_rank(moments: Moments, rank: int, ridge: float) -> LowRankGaussian:
    """``Σ = S + ridge · I``, ``S = C / (n - 1)``, as its ``rank`` leading eigenvectors and the noise beyond them.

    Exact, to rounding, where ``rank`` is not below the scatter's own: n images give n - 1 at most, duplicates less.
    Below it the eigenvectors left out count as noise alone; :func:`worst_error` says what that changes. Where the
    higher moments were kept, Ledoit-Wolf shrinkage takes S to ``(1 - ρ) S + ρ (tr S / d) I``: its second term is noise.
    The range of C comes from ``C Ω``, Ω a fixed random matrix, by subspace iteration (Halko, Martinsson & Tropp 2011,
    algorithm 4.4). Non-finite spread and noise mean failure, as of fewer than two images.

    Args:
      moments: of n images in d channels.
      rank: r in [1, d]; static.
      ridge: the variance added in every direction.

    Raises:
      ValueError: a rank outside [1, d].
    """
    d = moments.mean.shape[1]
    if not 1 <= rank <= d:
        raise ValueError(f"low_rank: rank={rank}, wanted 1 to {d}, the channels; n - 1 is exact for n images")
    width = min(d, rank + OVERSAMPLING)
    omega = jax.random.normal(jax.random.key(0), (d, width), moments.mean.dtype)
    divisor = jnp.where(moments.count > 1, moments.count - 1, jnp.nan)

    def decompose(triangle: Triangle, *strength: Array) -> tuple[Array, Array, Array]:
        scatter = triangle.symmetric()
        # orthonormal whatever the sketch: Householder reflections make it so even of zeros
        q = jnp.linalg.qr(jnp.einsum("pij,jk->pik", scatter, omega, precision=_HIGHEST))[0]
        # once more: where Ω is badly conditioned on the range, small eigenvectors drown in the rounding of large ones
        q = jnp.linalg.qr(jnp.einsum("pij,pjk->pik", scatter, q, precision=_HIGHEST))[0]
        small = jnp.einsum(
            "pik,pil->pkl", q, jnp.einsum("pij,pjl->pil", scatter, q, precision=_HIGHEST), precision=_HIGHEST
        )
        eigenvalues, vectors = jnp.linalg.eigh(small)
        leading = vectors[:, :, ::-1][:, :, :rank]
        basis = jnp.einsum("pkr,pik->pri", leading, q, precision=_HIGHEST)
        spread = jnp.maximum(eigenvalues[:, ::-1][:, :rank], 0) / divisor
        noise = jnp.full(len(scatter), ridge, scatter.dtype) + 0 * divisor
        if strength:
            noise = noise + strength[0] * jnp.trace(scatter, axis1=1, axis2=2) / (d * divisor)
            spread = (1 - strength[0])[:, None] * spread
        return basis, spread, noise

    strength = gaussian.shrinkage_strength(moments)
    shrinking = () if strength is None else (strength,)
    return LowRankGaussian(moments.mean, *gaussian.map_chunks(decompose, moments.scatter, *shrinking), strength)


def mahalanobis_low_rank(low: LowRankGaussian, x: Float[Array, "p n d"]) -> Float[Array, "p n"]:
    """Mahalanobis distance, not squared: ``M² = ‖δ - Bᵀy‖² / noise + Σ y² / (spread + noise)``.

    With ``δ = x - μ`` and ``y = B δ``; a sum of squares, so that nothing cancels. On CPU in chunks of positions whose
    bases stay in its cache between the two products: at d = 550 and rank 59 one image in 29 instead of 57 ms, 16 in
    95 instead of 304.
    """

    def distances(x: Array, low: LowRankGaussian) -> Array:
        centred = x - low.mean[:, None]
        y = jnp.einsum("pnd,prd->pnr", centred, low.basis, precision=_HIGHEST)
        rest = centred - jnp.einsum("pnr,prd->pnd", y, low.basis, precision=_HIGHEST)
        within = jnp.sum(y**2 / (low.spread + low.noise[:, None])[:, None], axis=-1)
        return jnp.sqrt(jnp.sum(rest**2, axis=-1) / low.noise[:, None] + within)

    most = BASES_BYTES // max(1, low.basis[0].size * low.basis.dtype.itemsize)
    return gaussian.in_cache(distances, gaussian.divisor(len(x), most), x, low)


def mahalanobis(form: Form, x: Float[Array, "p n d"]) -> Float[Array, "p n"]:
    """Mahalanobis distance, not squared, ``M = sqrt((x - μ)ᵀ Σ⁻¹ (x - μ))``, by whatever form Σ has."""
    return mahalanobis_low_rank(form, x) if isinstance(form, LowRankGaussian) else gaussian.mahalanobis(form, x)


def is_finite(form: Form) -> Bool[Array, " p"]:
    """Per position, whether the form holds finite numbers only."""
    if not isinstance(form, LowRankGaussian):
        return gaussian.is_finite(form)
    rows = jnp.isfinite(form.mean).all(axis=-1) & jnp.isfinite(form.basis).all(axis=(-2, -1))
    return rows & jnp.isfinite(form.spread).all(axis=-1) & jnp.isfinite(form.noise)


def worst_error(exact: WhitenedGaussian, other: WhitenedGaussian | LowRankGaussian) -> Float[Array, " p"]:
    """Per position, a bound of ``|M' - M| / M`` over every x there is, M by ``exact`` and M' by ``other``.

    With ``x - μ = L z``, ``L = W⁻ᵀ``: ``M = ‖z‖`` and ``M'² = zᵀ(I + A) z``, A symmetric, so that
    ``s = ‖A‖₂ ≤ ‖A^(2^k)‖_F^(1/2^k)`` bounds ``|(M'/M)² - 1|``. Of a whitening ``W' = W + E``:
    ``A = G + Gᵀ + GᵀG`` with ``G = Eᵀ L``, nothing cancelling; of a low rank: ``A = Lᵀ P' L - I`` with P' the
    precision that its distances use, whose basis need not be orthonormal; that difference rounds at about 1e-7
    times ``‖L‖₂ / sqrt(noise)``. Covered is what the numbers stored in the two forms differ by, not the rounding of
    a score's own arithmetic. Infinite where the means differ, or a number is not finite.

    Returns:
      float32 (p,), 0 or more; 0.001 says that no distance changes by more than a thousandth of itself.
    """
    if isinstance(other, LowRankGaussian):
        bound = gaussian.map_chunks(_low_rank_bound, exact.whitening, other.basis, other.spread, other.noise)
    else:
        bound = gaussian.map_chunks(_whitening_bound, exact.whitening, other.whitening)
    comparable = (exact.mean == other.mean).all(axis=-1) & jnp.isfinite(bound)
    return jnp.where(comparable, bound, jnp.inf)


def _whitening_bound(whitening: Triangle, other: Triangle) -> Float[Array, " p"]:
    square = whitening.square()
    factor = gaussian.inverse_transpose(square, lower=False)
    g = jnp.einsum("pki,pkj->pij", other.square() - square, factor, precision=_HIGHEST)
    return _relative(g + g.mT + jnp.einsum("pki,pkj->pij", g, g, precision=_HIGHEST))


def _low_rank_bound(
    whitening: Triangle,
    basis: Float[Array, "p r d"],
    spread: Float[Array, "p r"],
    noise: Float[Array, " p"],
) -> Float[Array, " p"]:
    factor = gaussian.inverse_transpose(whitening.square(), lower=False)
    y = jnp.einsum("prd,pdi->pri", basis, factor, precision=_HIGHEST)
    rest = factor - jnp.einsum("prd,pri->pdi", basis, y, precision=_HIGHEST)
    y = y / jnp.sqrt(spread + noise[:, None])[..., None]
    rows = jnp.concatenate([rest / jnp.sqrt(noise)[:, None, None], y], axis=1)
    product = jnp.einsum("pki,pkj->pij", rows, rows, precision=_HIGHEST)
    return _relative(product - jnp.eye(product.shape[-1], dtype=product.dtype)[None])


def _relative(a: Float[Array, "p d d"]) -> Float[Array, " p"]:
    """Bound of ``|sqrt(1 + t) - 1|`` for every ``|t| ≤ ‖A‖₂``, from below ``t = -s``: ``1 - sqrt(1 - s)``."""
    s = MARGIN * spectral_bound(a)
    below = s / (1 + jnp.sqrt(jnp.maximum(1 - s, 0)))  # not 1 - sqrt(1 - s), which cancels
    return jnp.where(s < 1, below, jnp.maximum(1, s / (1 + jnp.sqrt(1 + s))))


def spectral_bound(symmetric: Float[Array, "p d d"]) -> Float[Array, " p"]:
    """Bound of the spectral norm of symmetric matrices, ``‖A^(2^k)‖_F^(1/2^k)``, at most ``d^(1/2^(k+1))`` times it.

    Every power is brought to norm 1 before it is squared, so that none leaves the range of float32.
    """
    largest = jnp.max(jnp.abs(symmetric), axis=(1, 2))
    power = symmetric / jnp.where(largest > 0, largest, 1)[:, None, None]
    bound = largest
    for halvings in range(SQUARINGS + 1):
        if halvings:
            power = jnp.einsum("pij,pjk->pik", power, power, precision=_HIGHEST)
        norm = jnp.sqrt(jnp.sum(power**2, axis=(1, 2)))
        bound = bound * norm ** (0.5**halvings)
        power = power / jnp.where(norm > 0, norm, 1)[:, None, None]
    return bound


@jax.jit
def _feedback_steps(whitening: Float[Array, "p d d"]) -> tuple[Int16[Array, "p d d"], Float[Array, "p d"]]:
    """Steps and scales of :func:`quantise_whitening`; scales that are not finite where W is not."""
    d = whitening.shape[-1]
    factor = gaussian.inverse_transpose(whitening, lower=False)
    scale = jnp.max(jnp.abs(whitening), axis=2) / FEEDBACK_LEVELS

    def round_row(index: Array, error: Array) -> Array:
        row = d - 1 - index
        wanted, column, step = (
            lax.dynamic_index_in_dim(array, row, axis, keepdims=False)
            for array, axis in ((whitening, 1), (factor, 2), (scale, 1))
        )
        own = lax.dynamic_index_in_dim(column, row, 1)
        # rows not yet rounded have no error so far
        carried = jnp.einsum("pj,pji->pi", column, error, precision=_HIGHEST) / own
        steps = jnp.clip(jnp.rint((wanted + carried) / step[:, None]), -LEVELS, LEVELS)
        rounded = jnp.where(jnp.arange(d) >= row, wanted - steps * step[:, None], 0)
        return lax.dynamic_update_index_in_dim(error, rounded, row, axis=1)

    error = lax.fori_loop(0, d, round_row, jnp.zeros_like(whitening))
    return jnp.rint((whitening - error) / scale[..., None]).astype(jnp.int16), scale


def _steps(numbers: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Whole steps, 0 where the step is."""
    steps = np.rint(numbers / np.where(scale > 0, scale, 1))
    return np.clip(steps, -LEVELS, LEVELS)  # a step too small for float32's full precision would overshoot


def _check_finite(call: str, scale: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(scale).all(axis=1))
    if len(bad):
        named = ", ".join(map(str, bad[:5]))
        raise ValueError(
            f"{call}: numbers that are not finite at {len(bad)} of {len(scale)} positions, {named}; "
            "finite ones wanted, such as finalize gives with a large enough ridge"
        )
