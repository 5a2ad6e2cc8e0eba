"""The smallest form of a model that keeps every distance within a stated error."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from padim_jax.artifact.layouts import form_bytes
from padim_jax.gaussians import packing
from padim_jax.gaussians.error_bound import worst_error
from padim_jax.gaussians.factors import WhitenedGaussian
from padim_jax.gaussians.low_rank import LowRankGaussian, low_rank
from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.quantised import Quantised, dequantise, dequantise_basis, quantise_basis, quantise_whitening
from padim_jax.gaussians.worst_case import WorstCase, worst_case
from padim_jax.method.checks import run_exclusively
from padim_jax.method.records import Padim
from padim_jax.method.variants import with_solver

DeployedForm = Literal["triangle", "triangle-16bit", "low-rank", "low-rank-16bit"]
_CHUNK_BYTES = 128 * 2**20  # of square matrices, of the positions that are compared at once


@dataclass(frozen=True)
class Compacted:
    """A deployed model in one of the forms.

    Attributes:
      form: the form.
      model: the model as it scores from this form.
      quantised: its 16-bit numbers; None for the 32-bit forms.
      max_error: bound of the relative error of every distance, compared with the uncompacted model, over all images.
      tried: the forms that were tried, with their bytes on disk and their bounds.
      worst: the embedding whose distance changes most at the position of that bound; None for an exact form.
    """

    form: DeployedForm
    model: Padim
    quantised: Quantised | None
    max_error: float
    tried: tuple[tuple[DeployedForm, int, float], ...]
    worst: WorstCase | None = None


def compact(
    model: Padim,
    max_error: float,
    *,
    moments: Moments | None = None,
    rank: int | None = None,
    note: Callable[[str], None] = lambda form: None,
) -> Compacted:
    """The smallest deployed form in which no distance, of any possible image, is off by more than ``max_error``.

    The bound is that of :func:`padim_jax.gaussians.error_bound.worst_error`, at the worst position: it covers all
    x, not a sample.

    Args:
      model: fitted, scoring by factors.
      max_error: relative, such as 0.001; 0 allows only the exact triangle.
      moments: the model's moments, without which there is no low rank.
      rank: the rank of their scatter, n - 1 for n images; a low rank is tried where it is below d.
      note: called with each form that is tried.

    Raises:
      ValueError: a ``max_error`` outside [0, 1), or a model that was compacted to low rank before.
    """
    if not 0 <= max_error < 1:
        raise ValueError(f"compact: max_error={max_error!r}, wanted a relative error from 0 to below 1")
    if isinstance(model.gaussian, LowRankGaussian):
        raise ValueError("compact: the model is of low rank already")
    exact = model if isinstance(model.gaussian, WhitenedGaussian) else with_solver(model, "inverse-factor")
    assert isinstance(exact.gaussian, WhitenedGaussian)
    p, d = exact.gaussian.mean.shape
    full_rank = model.config.has_full_rank
    ranked = moments is not None and rank is not None and 1 <= rank < d and not full_rank
    # the likeliest component depends on determinants too, which the bound says nothing of; they take little anyway
    is_exact = exact.gaussian.components is not None
    rounded: list[DeployedForm] = [] if is_exact else ["triangle-16bit"]
    low_forms: list[DeployedForm] = ["low-rank", "low-rank-16bit"] if ranked else []
    names: list[DeployedForm] = ["triangle", *rounded, *low_forms]
    tried: list[tuple[DeployedForm, int, float]] = []
    low: LowRankGaussian | None = None
    for form in sorted(names, key=lambda name: form_bytes(name, p, d, rank or 1)):
        size = form_bytes(form, p, d, rank or 1)
        if form == "triangle":
            return Compacted(form, model, None, 0.0, (*tried, (form, size, 0.0)))
        note(form)
        if form == "triangle-16bit":
            quantised, gaussian = _quantise(exact.gaussian)
        else:
            assert moments is not None
            assert rank is not None
            low = (
                run_exclusively(_low_rank, moments, rank, model.config.regularisation("compact")[0])
                if low is None
                else low
            )
            quantised, gaussian = _round_basis(low, form == "low-rank-16bit")
        error, position = _largest_error(exact.gaussian, gaussian)
        tried.append((form, size, error))
        if error <= max_error:
            worst = worst_case(exact.gaussian, gaussian, position)
            return Compacted(form, replace(model, gaussian=gaussian), quantised, error, tuple(tried), worst)
    raise AssertionError("the exact triangle is always there")


_low_rank = jax.jit(low_rank, static_argnames=("rank", "ridge"))
_worst_error = jax.jit(worst_error)


def _quantise(exact: WhitenedGaussian) -> tuple[Quantised, WhitenedGaussian]:
    quantised = quantise_whitening(exact.whitening)
    panels = packing.unpack_panels([dequantise(quantised, lower=False)], len(exact.mean), lower=False)
    return quantised, replace(exact, whitening=panels)


def _round_basis(gaussian: LowRankGaussian, in_16_bits: bool) -> tuple[Quantised | None, LowRankGaussian]:
    if not in_16_bits:
        return None, gaussian
    quantised = quantise_basis(np.asarray(gaussian.basis))
    return quantised, replace(gaussian, basis=jnp.asarray(dequantise_basis(quantised)))


def _largest_error(exact: WhitenedGaussian, other: WhitenedGaussian | LowRankGaussian) -> tuple[float, int]:
    """The largest bound of any position, and which position it is."""
    largest, place = -1.0, 0
    for part in _parts(*exact.mean.shape):
        pieces = [jax.tree.map(lambda array: array[part], gaussian) for gaussian in (exact, other)]  # noqa: B023 - used at once
        errors = np.asarray(run_exclusively(_worst_error, *pieces))
        if errors.max() > largest:
            largest, place = float(errors.max()), part.start + int(errors.argmax())
    return largest, place


def _parts(p: int, d: int) -> Iterator[slice]:
    size = max(1, _CHUNK_BYTES // (4 * d * d))
    return (slice(start, start + size) for start in range(0, p, size))
