"""Scoring with a fitted model, and what it depends on: solver, region of interest, calibration."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from padim_jax.method import calibration, programs
from padim_jax.method.aligned import View
from padim_jax.method.anomaly_map import image_score
from padim_jax.method.calibration import FALSE_ALARM_RATE, PIXEL_RATE, Histogram
from padim_jax.method.checks import check_images, pad_batches, run_exclusively
from padim_jax.method.map_sample import MapSample
from padim_jax.method.records import Padim, Scores
from padim_jax.method.standard import MapStandard
from padim_jax.method.variants import with_solver, with_standard


class NoLeaveOneOut(ValueError):
    """Images can't be left out of this model; the message says why.

    Attributes:
      index: of the image that can't be, among those given; None where it is all of them.
    """

    index: int | None = None


def not_fitted(call: str, image: object, model: Padim) -> NoLeaveOneOut:
    """The error of an image that has no leave-one-out score, which ``image`` names."""
    return NoLeaveOneOut(
        f"{call}: {image} is not among the {float(model.count):g} images the model was fitted on, or too few are left "
        f"without it{'; pass held_out=True for other good images' if call == 'calibrate' else ''}"
    )


def score(
    model: Padim,
    images: UInt8[Array | np.ndarray, "n height width 3"] | Float32[Array | np.ndarray, "n height width 3"],
) -> Scores:
    """Score images: for each a map of Mahalanobis distances, and one score.

    ``M(x_p) = sqrt((x_p - μ_p)ᵀ Σ_p⁻¹ (x_p - μ_p))`` at each position p (PaDiM equation 2), upsampled to
    the crop and blurred by ``config.sigma``. The score is the map's maximum, or the mean of its highest pixels
    (``config.image_score``).

    A calibrated model (:func:`calibrate`) gives a p-value and a verdict too. With ``anomaly_map="standardised"`` its
    maps are (M - m) / s, in standard deviations, and with "combined" the higher of both
    (:mod:`padim_jax.method.standard`).

    Scores and maps of float images have gradients with respect to the images. Where a patch lies exactly at its mean,
    the distance has a kink, and its gradient is given as 0.

    Args:
      model: from :func:`fit`, :func:`finalize` or :func:`load`.
      images: RGB of ``config.crop_size``, uint8 from 0 to 255 or float32 from 0 to 1; any n, 0 too.

    Raises:
      TypeError: images that are neither uint8 nor float32.
      ValueError: another shape; float values outside [0, 1] (values are not looked at inside ``jit``, ``grad`` or
        ``vmap``); a model of standardised maps that is not calibrated.
    """
    check_images("score", images, model.config, floats=True)
    check_standard("score", model)
    if len(images) == 0:
        p_value, anomalous = (None, None) if model.calibration is None else (jnp.zeros(0), jnp.zeros(0, bool))
        return Scores(jnp.zeros(0), jnp.zeros((0, *model.config.crop)), p_value, anomalous)
    return _run(model, jnp.asarray(images))


def check_standard(call: str, model: Padim) -> None:
    """Raise ``ValueError`` naming ``call`` where maps are to be standardised, and nothing is known to do it by."""
    if model.config.is_standardised and model.standard is None:
        raise ValueError(
            f"{call}: the model's maps are to be standardised by those of good images (anomaly_map="
            f"{model.config.anomaly_map!r}), and it is not calibrated; calibrate it first"
        )


def calibrate(
    model: Padim,
    batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]],
    *,
    held_out: bool = False,
    partial: bool = False,
    weights: Iterable[float] | None = None,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    pixel_rate: float = PIXEL_RATE,
) -> Padim:
    """Calibrate on good images alone, so that scores come with p-values and verdicts.

    The images it was fitted on are each scored by the model of all the others, exactly and without refits
    (:func:`padim_jax.gaussians.leave_one_out.leave_one_out`), map and score included; works for n ≤ d. With a
    Ledoit-Wolf covariance the coefficient ρ stays that of all images. :mod:`padim_jax.method.calibration` says what
    each way guarantees. With ``anomaly_map="standardised"`` or "combined" these maps are what others are standardised
    by, and each is standardised itself by all the others (:mod:`padim_jax.method.standard`).

    Args:
      model: as :func:`fit` or :func:`finalize` gives it, or loaded.
      batches: the good images it was fitted on, in any order and batches, read once; memory stays flat.
      held_out: the images are other good ones instead, which the model was not fitted on.
      partial: the images are only some of those it was fitted on.
      weights: the weights of the images in order, where they were not fitted with weight 1; an image that was fitted
        twice is left out twice by weight 2. Implies ``partial``.
      false_alarm_rate: share of good images that may be called anomalous, in (0, 1).
      pixel_rate: share of good images' pixels that may be marked, in (0, 1).

    Raises:
      TypeError, ValueError: images as :func:`score`; a rate outside (0, 1); leave-one-out of other images than the
        model was fitted on, of fewer than 3, or from a model that can't tell (compacted to low rank); standardised maps
        of fewer than 3.
      FloatingPointError: a score that is not finite.
    """
    good = _score_good("calibrate", model, batches, weights, held_out, partial)
    method = "held-out" if held_out else "leave-one-out"
    rates = false_alarm_rate, pixel_rate
    calibrated = calibration.calibration(good.scores, good.pixels, method, *rates, least_match=good.least_match)
    return replace(model, calibration=calibrated, standard=good.standard)


def calibration_scores(
    model: Padim, batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]]
) -> Float[np.ndarray, " n"]:
    """Image scores that :func:`calibrate` calibrates on, in the order of the images; errors as there."""
    return _score_good("calibration_scores", model, batches).scores


@dataclass(frozen=True)
class _Good:
    """What good images give: scores in order, the histogram of their pixels, the standard, and the least match."""

    scores: Float[np.ndarray, " n"]
    pixels: Float[np.ndarray, " bins"]
    standard: MapStandard | None
    least_match: float | None


def _score_good(
    call: str,
    model: Padim,
    batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]],
    weights: Iterable[float] | None = None,
    held_out: bool = False,
    partial: bool = False,
) -> _Good:
    left_out_model = None if held_out else for_leave_one_out(call, model)
    sample = MapSample(model.config, model.roi) if model.config.is_standardised else None
    histogram, scores, matches = Histogram(), list[np.ndarray](), [np.zeros(0)]
    roi = None if model.roi is None else np.asarray(model.roi)

    def count(scores_of_maps: np.ndarray, maps: np.ndarray) -> None:
        scores.extend(scores_of_maps)
        histogram.add(judged_pixels(model, maps))

    total, shift_sum = 0.0, np.zeros(model.gaussian.mean.shape, np.float64)
    scored = _score_batches(call, with_standard(model, None), left_out_model, batches, weights)
    for batch_scores, grid, n, weight, shift in scored:
        if sample is None:
            count(np.asarray(batch_scores.image_score)[:n], np.asarray(batch_scores.anomaly_map)[:n])
        else:
            sample.add(np.asarray(grid)[:n])
        if batch_scores.match is not None:
            matches.append(np.asarray(batch_scores.match)[:n])
        total += weight
        shift_sum = shift_sum if shift is None else shift_sum + np.asarray(shift, np.float64)
    if left_out_model is not None:
        _check_fitted(left_out_model, total, shift_sum, partial or weights is not None)
    standard = None
    if sample is not None:
        good = sample.good_maps()
        standard = sample.standard(call, good)
        for maps in sample.left_out(good):
            count(np.asarray(image_score(maps, model.config.top_share, roi)), maps)
    return _Good(np.asarray(scores), histogram.counts, standard, calibration.least_match(np.concatenate(matches)))


def judged_pixels(model: Padim, maps: Float[np.ndarray, "n height width"]) -> np.ndarray:
    """The pixels of good images' maps that are counted: of which the pixel rate is a share."""
    if model.alignment is not None and model.config.anomaly_map == "distance":  # brought back to where the images lie
        return maps[maps > 0]
    return maps if model.roi is None else maps[:, np.asarray(model.roi)]


def leave_one_out_scores(
    model: Padim,
    batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]],
    weights: Iterable[float] | None = None,
) -> Iterator[Scores]:
    """Score images a model was fitted on, each by the model of all the others, exactly and without refits.

    These are the scores that :func:`calibrate` calibrates on, or, where maps are standardised, the distances before.

    Args:
      model: as :func:`calibrate` takes it.
      batches: images it was fitted on, all or some, in any order; memory stays flat.
      weights: of the images in order, where they were not fitted with weight 1.

    Yields:
      Scores of each batch that is not empty, in order; without p-values and verdicts.

    Raises:
      TypeError, ValueError: as :func:`calibrate`; NoLeaveOneOut where the model has no such scores. An image the model
        was not fitted on is noticed only where it has no such score at all.
    """
    left_out_model = for_leave_one_out("leave_one_out_scores", model)
    for batch_scores, _, n, *_ in _score_batches("leave_one_out_scores", model, left_out_model, batches, weights):
        yield jax.tree.map(lambda array, n=n: array[:n], batch_scores)


def _score_batches(
    call: str,
    model: Padim,
    left_out_model: Padim | None,
    batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]],
    weights: Iterable[float] | None,
) -> Iterator[tuple[Scores, Array, int, float, Array | None]]:
    """For each batch: scores, the grid of distances, how many of them count, the sum of the weights, and Σ w (x - μ).

    Images are left out of ``left_out_model``; where it is None, ``model`` scores them and the last value is None.
    """
    weight_iterator = iter(weights) if weights is not None else None
    count = 0
    for images, valid in pad_batches(call, batches, model.config):
        n = int(valid.sum())
        batch_weights = np.zeros(len(images), np.float32)
        batch_weights[:n] = 1 if weight_iterator is None else [next(weight_iterator) for _ in range(n)]
        if left_out_model is None:
            (batch_scores, grid), shift = score_with_grid(model, images), None
        else:
            batch_scores, shift, _, grid = score_left_out(left_out_model, images, batch_weights)
        image_scores = np.asarray(batch_scores.image_score)[:n]
        check_scores(call, image_scores, model, range(count, count + n), held_out=left_out_model is None)
        count += n
        yield batch_scores, grid, n, float(batch_weights.sum(dtype=np.float64)), shift


_OTHERS = ", or give other images with held_out=True"


def _run(model: Padim, images: Array) -> Scores:
    """Score by one program for all like models, and a small one for the calibration, whose length differs."""
    scores, _ = score_with_grid(model, images)
    return scores if model.calibration is None else programs.verdicts(model.calibration, scores)


def score_with_grid(model: Padim, images: Array | np.ndarray) -> tuple[Scores, Float[Array, "n h w"]]:
    """Scores without p-values and verdicts, and the distances on their grid, 0 outside of the region of interest."""
    program, images = _strip_settings(replace(model, calibration=None)), jnp.asarray(images)
    calls_lapack = program.gaussian.solver == "triangular-solve"
    return run_exclusively(programs.score, program, images) if calls_lapack else programs.score(program, images)


def _strip_settings(model: Padim) -> Padim:
    """The model without the settings that only matter for reading files, which would compile another program."""
    return replace(model, config=model.config.computed)


def score_left_out(
    model: Padim, images: UInt8[Array | np.ndarray, "n height width 3"], weights: Float[Array | np.ndarray, " n"]
) -> tuple[Scores, Float[Array, "p d"], Float[Array, "q n k"], Float[Array, "n h w"]]:
    """Score images a model was fitted on, each by the model of all the others.

    Args:
      model: of :func:`for_leave_one_out`.
      images: uint8 RGB of ``config.crop_size``.
      weights: the weight that each was fitted with; 0 for those that don't count.

    Returns:
      Scores, not finite where an image can't be left out; Σ w (x - μ), which is 0 over all images fitted on;
      embeddings at some positions and of some channels; and the distances on their grid.
    """
    regularisation = model.config.regularisation("leave_one_out_scores")
    weights = jnp.asarray(weights, jnp.float32)
    return programs.leave_one_out(_strip_settings(model), jnp.asarray(images), weights, *regularisation)


def scores_from_distances(
    model: Padim, distances: Float[Array, "p n"], view: View | None
) -> tuple[Scores, Float[Array, "n h w"]]:
    """Maps and image scores, with p-values and verdicts where the model is calibrated, and the distances on a grid."""
    scores, grid = programs.scores_of(model, distances, view)
    return (scores if model.calibration is None else programs.verdicts(model.calibration, scores)), grid


def for_leave_one_out(call: str, model: Padim) -> Padim:
    """The model as :func:`score_left_out` takes it, with maps of distances; ``NoLeaveOneOut`` where it can't be."""
    if model.gaussian.no_leave_one_out:
        raise NoLeaveOneOut(f"{call}: {model.gaussian.no_leave_one_out}{_OTHERS if call == 'calibrate' else ''}")
    if model.count < 3:
        raise NoLeaveOneOut(
            f"{call}: {float(model.count):g} images are too few to leave one out; fit on 3 or more"
            f"{_OTHERS if call == 'calibrate' else ''}"
        )
    if model.config.covariance == "ledoit-wolf" and model.gaussian.strength is None:
        raise NoLeaveOneOut(
            f"{call}: the model was saved without its shrinkage; fit it anew{_OTHERS if call == 'calibrate' else ''}"
        )
    # one that is already in this form must not go through jit, which would copy it
    fitted = model if model.gaussian.solver == "inverse-factor" else with_solver(model, "inverse-factor")
    return with_standard(fitted, None)


def check_scores(
    call: str, scores: Float[np.ndarray, " n"], model: Padim, images: Sequence[int | Path], *, held_out: bool
) -> None:
    """Raise where a score is not finite, saying why and naming the image: by ``images``, their indices or files.

    Raises:
      FloatingPointError: for ``held_out`` images.
      NoLeaveOneOut: for images that were left out of ``model`` in turn.
    """
    if np.isfinite(scores).all():
        return
    image = images[int(np.argmin(np.isfinite(scores)))]
    index = image if isinstance(image, int) else None
    name = image if index is None else f"the image at index {index}"
    if held_out:
        raise FloatingPointError(f"{call}: the score of {name} is not finite; the model is broken")
    error = not_fitted(call, name, model)
    error.index = index
    raise error


def _check_fitted(model: Padim, total: float, shift_sum: np.ndarray, partial: bool) -> None:
    """Raise unless the images can be those of the fit."""
    count = float(model.count)
    if partial:
        return
    if abs(total / count - 1) > 1e-5:
        raise ValueError(
            f"calibrate: {total:g} images, wanted the {count:g} the model was fitted on; pass partial=True for some of "
            "them, or held_out=True for others"
        )
    mean = np.asarray(model.gaussian.mean, np.float64)
    # deviations from a mean sum to 0, up to the rounding of means that were updated batch by batch
    if np.abs(shift_sum / count).max() > 1e-4 * max(np.abs(mean).max(), 1e-6):
        raise ValueError(
            "calibrate: these are not the images the model was fitted on (their mean differs); pass held_out=True "
            "for others"
        )
