"""The same model with another solver, region of interest, threshold, or standard of its maps."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from padim_jax.gaussians.factors import Solver
from padim_jax.method import calibration, programs
from padim_jax.method.checks import check_solver, run_exclusively
from padim_jax.method.records import Padim
from padim_jax.method.standard import MapStandard


def with_solver(model: Padim, solver: Solver) -> Padim:
    """The same model, scoring by ``solver``; the two paths agree to rounding.

    "triangular-solve" keeps L and solves ``L z = x - μ``, vmapped over positions; "inverse-factor"
    keeps L⁻ᵀ and multiplies.

    Raises:
      ValueError: unknown solver, or a model of low rank.

    >>> other = padim.with_solver(model, "triangular-solve")
    >>> np.allclose(padim.score(other, test_images).image_score, padim.score(model, test_images).image_score, rtol=1e-3)
    True
    """
    check_solver("with_solver", solver)
    return replace(model, gaussian=run_exclusively(programs.with_solver, model.gaussian, solver))


def with_roi(model: Padim, roi: Bool[Array | np.ndarray, "height width"] | None) -> Padim:
    """The same model looking only inside a region of interest: its maps are 0 elsewhere.

    Cells of the grid that lie wholly outside are 0 before the blur too, so that they don't shine in. Standardised maps
    are, elsewhere, the lowest value inside, or 0 where that is lower: the maximum lies inside.

    Args:
      model: any; one that is calibrated loses its calibration, which was made with another region.
      roi: True where to look, at crop size; None for everywhere.

    Raises:
      ValueError: another shape or type, or nothing to look at.

    >>> roi = np.zeros((32, 48), bool)
    >>> roi[:16] = True  # the upper half
    >>> float(padim.score(padim.with_roi(model, roi), test_images).anomaly_map[:, 16:].max())
    0.0
    """
    if roi is not None:
        if roi.shape != model.config.crop or roi.dtype != bool:
            raise ValueError(
                f"with_roi: roi is {roi.dtype} {tuple(roi.shape)}, wanted bool {model.config.crop}, the crop's size"
            )
        if not np.asarray(roi).any():
            raise ValueError("with_roi: the region of interest is empty; mark where to look")
        roi = jnp.asarray(roi)
    return replace(model, roi=roi, calibration=None, standard=None)


def with_threshold(model: Padim, threshold: float) -> Padim:
    """The same model with a given threshold, such as one from labelled images; its p-values stay as they are.

    Args:
      model: calibrated.
      threshold: images that score more are anomalous; in units of the scores, positive.

    Raises:
      ValueError: a model that is not calibrated, or a threshold that is not a positive finite number.

    >>> float(padim.with_threshold(model, 30).calibration.threshold)
    30.0
    """
    if model.calibration is None:
        raise ValueError("with_threshold: the model is not calibrated; calibrate it first, for p-values and colours")
    return replace(model, calibration=calibration.at_threshold(model.calibration, threshold))


def with_smaller_roi(model: Padim, roi: Bool[Array | np.ndarray, "height width"]) -> Padim:
    """The same model looking only where its region of interest and ``roi`` both are, its calibration kept.

    The maximum over a part is no larger than over the whole, so p-values err to the high side: fewer false alarms. The
    mean of the highest pixels may be larger, for they are fewer.

    Raises:
      ValueError: as :func:`with_roi`, also where the two have nothing in common; a model that is calibrated for such
        means, and a region that is smaller indeed.
    """
    common = roi if model.roi is None else np.asarray(roi) & np.asarray(model.roi)
    is_smaller = (common != (True if model.roi is None else model.roi)).any()
    if is_smaller and model.calibration is not None and model.config.top_share is not None:
        raise ValueError(
            f"with_smaller_roi: image_score={model.config.image_score!r}: the mean may be larger over a part than over "
            "what the model is calibrated for, so its threshold and p-values don't hold there; calibrate it for the "
            "region (padim fit --roi, or with_roi and then calibrate)"
        )
    return replace(with_roi(model, common), calibration=model.calibration, standard=model.standard)


def with_standard(model: Padim, standard: MapStandard | None) -> Padim:
    """The same model, not calibrated, with maps by ``standard``; of distances where it is None."""
    config = replace(model.config, anomaly_map="distance" if standard is None else standard.anomaly_map)
    return replace(model, config=config, calibration=None, standard=standard)
