"""Calibrate on image files, on one device or on many: each image left out in turn, or other good images."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from padim_jax.config import RIDGE
from padim_jax.images.folder import digest_file
from padim_jax.mesh.processes import gather
from padim_jax.method.alignment import remarks
from padim_jax.method.anomaly_map import image_score
from padim_jax.method.calibration import (
    FALSE_ALARM_RATE,
    PIXEL_RATE,
    Calibration,
    Histogram,
    Method,
    calibration,
    images_wanted,
    least_match,
)
from padim_jax.method.map_sample import MapSample
from padim_jax.method.records import Padim
from padim_jax.method.scoring import NoLeaveOneOut, check_scores, judged_pixels
from padim_jax.method.standard import FEWEST, MapMoments, MapStandard
from padim_jax.runs.copies import Copies
from padim_jax.runs.engines import Engine, LeftOut
from padim_jax.runs.lone_image import lone_image
from padim_jax.runs.plausible import COMPARED, check_plausible, choose_evenly, one_image_counts
from padim_jax.runs.steps import File, Step, read_steps
from padim_jax.runs.watch import Advance, Interrupted, Watch, ignore_note, ignore_remark, no_progress

FEWEST_FITTED = 3  # different images, of which one can be left out


class TooFewImages(ValueError):
    """Too few different images to leave one out, or to standardise maps by."""


class MixedImages(ValueError):
    """Some of the images to calibrate on were fitted on, and some were not."""


@dataclass(frozen=True)
class Terms:
    """How a model is to be calibrated.

    Attributes:
      false_alarm_rate, pixel_rate: as of :func:`padim_jax.calibrate`.
      others: good images to calibrate on in place of those fitted on; None for these.
      trusted: believe ``others`` to be good, and not fitted on, even where they score much higher or lower than those
        that were.
    """

    false_alarm_rate: float = FALSE_ALARM_RATE
    pixel_rate: float = PIXEL_RATE
    others: Sequence[Path] | None = None
    trusted: bool = False


@dataclass(frozen=True)
class Reference:
    """What good images give a model.

    Attributes:
      calibration: their scores, and what follows.
      standard: what maps are standardised by; None for maps of distances.
    """

    calibration: Calibration
    standard: MapStandard | None = None


@dataclass(frozen=True)
class Earlier:
    """What a model's own images gave before.

    Attributes:
      scores: of its calibration.
      standard: what their maps were standardised by; None for distances.
      kept: scores are kept beside new ones, unless these suffice; then maps are standardised by the images of both.
      smaller: they are, at least in part, by a model of fewer images, which gives higher scores.
    """

    scores: Float[np.ndarray, " n"]
    standard: MapStandard | None = None
    kept: bool = False
    smaller: bool = False

    def kept_beside(self, new: int, false_alarm_rate: float) -> MapStandard | None:
        """The standard where it is kept beside so many new maps; else None."""
        is_kept = self.kept and not suffices(new, len(self.scores), false_alarm_rate, standardised=True)
        return self.standard if is_kept else None


def suffices(new: int, earlier: int, false_alarm_rate: float, *, standardised: bool) -> bool:
    """Whether new scores are as many as earlier ones or as the rate asks for: then no earlier ones have to be kept.

    Where maps are standardised, it takes three at least.
    """
    return new >= max(min(earlier, images_wanted(false_alarm_rate)), FEWEST if standardised else 0)


def calibrate_model(
    engine: Engine,
    held: Any,
    fitted: Sequence[Path],
    images: Mapping[str, float] | None,
    terms: Terms,
    batch_size: int,
    watch: Watch,
    *,
    own: Earlier | None = None,
) -> Reference:
    """Calibrate a model on its own images, or on the others that ``terms`` name.

    Others that it was not fitted on are compared with its own images, left out in turn, unless they are trusted; where
    maps are standardised, by what its own images give.

    Args:
      engine: where to compute.
      held: the model, as the engine holds it.
      fitted: files it was fitted on; empty where they are not available.
      images: digests of these with their weights; None where they are not known.
      terms: rates and other images.
      batch_size: images that each process computes at once.
      watch: is told of every file, of copies, and of parts that don't lie alike.
      own: of the model's own images, to compare others with; None computes it where that is possible.

    Raises:
      TooFewImages: images would be left out of a model of too few different ones; fewer than three would standardise
        maps.
      Implausible: others score so much higher that they may not be good, or so much lower that they may be known.
      UnreadableImage: the first file that can't be read.
      MixedImages: some of the others are among those fitted on, and some are not.
      ValueError: a file that has changed.
      Interrupted: one of the processes was asked to stop.
      ProcessFailed: another process stopped.
    """
    model = engine.model(held)
    paths, weights = _choose(model, fitted, images, terms.others)
    rates = (terms.false_alarm_rate, terms.pixel_rate)
    sample = _score_files(engine, held, paths, weights, batch_size, watch)
    result = sample.reference(weights is None, rates, own)
    # of a part of the images, as an update leaves them out, the scores may not be all that set the threshold
    if weights is not None and len(paths) >= max(len(weights), float(model.count)):
        for text in lone_image(sample.final_scores, sample.paths, float(result.calibration.threshold)):
            watch.remark(text)
    if weights is not None or terms.trusted:
        return result
    if own is None and fitted and images is not None and min(float(model.count), len(images)) >= FEWEST_FITTED:
        quiet = Watch(watch.progress, remark=ignore_remark, stopped=watch.stopped)
        with suppress(TooFewImages):  # where most of them are copies
            chosen = choose_evenly(fitted)
            reference = _score_files(engine, held, chosen, images, batch_size, quiet).reference(False, rates)
            own = Earlier(np.asarray(reference.calibration.scores), reference.standard)
    if own is not None:
        lower = own.smaller or one_image_counts(float(model.count), model.embedding.dimension)
        scores = sample.scores(own.standard)
        check_plausible("calibrate", scores, own.scores, may_be_lower=lower, remark=watch.remark)
    return result


def _score_files(
    engine: Engine,
    held: Any,
    paths: Sequence[Path],
    images: Mapping[str, float] | None,
    batch_size: int,
    watch: Watch,
) -> "_Sample":
    """Score image files by distances: those that ``images`` lists, each left out in turn, or, with None, others.

    Files with the same pixels are one image: it is left out with all its copies, and gives one score.

    Args:
      engine: where to compute.
      held: the model, as the engine holds it.
      paths: files to calibrate on.
      images: digests of the files it was fitted on with their weights, or None.
      batch_size: images that each process computes at once.
      watch: is told of every file, of copies, and of parts that don't lie alike (:mod:`padim_jax.method.alignment`).

    Raises:
      UnreadableImage: the first file that can't be read.
      TooFewImages: fewer than three different images to leave one out of.
      ValueError: a file that is not in ``images``; as :func:`padim_jax.calibrate`.
      Interrupted: one of the processes was asked to stop.
      ProcessFailed: another process stopped.
    """
    copies, model = Copies(images), engine.model(held)
    distances = engine.with_standard(held, None) if images is None else engine.for_leave_one_out("calibrate", held)
    try:
        with watch.progress("calibrate", len(paths)) as advance:
            sample = _Sample(model, len(paths))
            _score_all(engine, distances, paths, copies, images, batch_size, watch, advance, sample)
    except NoLeaveOneOut as error:  # nothing is left where all images are copies of one
        if copies.grew and copies.different < FEWEST_FITTED:
            raise _too_few(copies.different) from error
        raise
    if copies.grew:  # images were left out with less than the weight of all their copies
        if copies.different < FEWEST_FITTED:
            raise _too_few(copies.different)
        copies.start_again()
        with no_progress("calibrate", len(paths)) as advance:
            sample = _Sample(model, len(paths))
            _score_all(engine, distances, paths, copies, images, batch_size, watch, advance, sample)
    if copies.different < len(paths):
        watch.remark(
            f"note: {len(paths) - copies.different} of {len(paths)} images are copies of others (the same pixels); "
            f"calibrated on {copies.different} different ones"
        )
    if images is not None and model.roi is None and model.config.positions == "own" and model.alignment is None:
        for text in sample.alignment(RIDGE):
            watch.remark(f"note: {text}")
    return sample


def _choose(
    model: Padim, fitted: Sequence[Path], images: Mapping[str, float] | None, others: Sequence[Path] | None
) -> tuple[Sequence[Path], Mapping[str, float] | None]:
    """Files to calibrate on, and their weights, as :func:`_score_files` takes them."""
    if others is None:
        paths, weights = fitted, images
    elif images is None:
        paths, weights = others, None
    else:
        inside = [digest_file(path) in images for path in others]
        if any(inside) and not all(inside):
            raise MixedImages(
                f"{sum(inside)} of {len(others)} images were fitted on and the others ({others[inside.index(False)]}) "
                "were not; calibrate on one kind or the other"
            )
        paths, weights = others, images if all(inside) else None
    if weights is not None and model.count < FEWEST_FITTED <= len(weights):
        raise TooFewImages(
            f"leaving one image out takes a model that {FEWEST_FITTED} or more count in, and the {len(weights)} images "
            f"of this one count as {float(model.count):.1f}, since older ones have faded; calibrate on other good "
            "images (padim calibrate), or choose a longer half-life"
        )
    if weights is not None and (model.count < FEWEST_FITTED or len(weights) < FEWEST_FITTED):
        raise _too_few(len(weights) or int(model.count))
    return paths, weights


def _score_all(
    engine: Engine,
    held: Any,
    paths: Sequence[Path],
    copies: Copies,
    images: Mapping[str, float] | None,
    batch_size: int,
    watch: Watch,
    advance: Advance,
    sample: "_Sample",
) -> None:
    """Add all files to ``sample``."""
    size = engine.step_size(batch_size, len(paths))
    quiet = Watch(note=ignore_note, stopped=watch.stopped)
    for step in read_steps(paths, engine.model(held).config, batch_size, quiet, size=size, pixels=True):
        firsts = dict(zip([file.path for file in step.files], copies.first_ones(step.files), strict=True))
        sample.paths += [path for path, first in firsts.items() if first]
        is_first = np.array([firsts[file.path] for file in step.own], bool)
        if images is None:
            left_out = engine.score(held, step)
        else:
            check_fitted("calibrate", step.files, images)
            weights = np.zeros(len(step.images), np.float32)
            weights[: len(step.own)] = [copies.weight(file) for file in step.own]
            left_out = engine.leave_out(held, step, weights)
        paths_counted = [file.path for file, first in zip(step.own, is_first, strict=True) if first]
        check_scores(
            "calibrate", left_out.image_score[is_first], engine.model(held), paths_counted, held_out=images is None
        )
        sample.add(step, left_out, is_first, size)
        advance(len(step.files))
        if step.stop:
            raise Interrupted("interrupted while calibrating")


class _Sample:
    """What the steps of a calibration give: scores in order, a histogram of pixels, a few embeddings.

    Where the model's maps are to be standardised, the distances are kept, from which they can be made again.
    """

    def __init__(self, model: Padim, total: int) -> None:
        self._judged_pixels = partial(judged_pixels, model)
        self._roi = None if model.roi is None else np.asarray(model.roi)
        self._share = model.config.top_share
        self._maps = MapSample(model.config, model.roi) if model.config.is_standardised else None
        self._histogram, self._scores, self._matches = Histogram(), list[np.ndarray](), [np.zeros(0, np.float32)]
        self._embeddings, self._interval = list[np.ndarray](), max(1, -(-total // COMPARED))
        self.size, self.paths = 0, list[Path]()  # of all scores, in order
        self.final_scores = np.zeros(0, np.float32)  # those of the last reference, in order

    def add(self, step: Step, left_out: LeftOut, is_first: np.ndarray, size: int) -> None:
        """Take in what the own images of a step gave, those that ``is_first`` marks."""
        values = np.full(size, np.nan, np.float32)
        values[: len(is_first)] = np.where(is_first, left_out.image_score, np.nan)
        self._scores.append(values)
        self._matches.append(np.pad(left_out.match[is_first], (0, size - int(is_first.sum())), constant_values=np.nan))
        if self._maps is None:
            self._count_pixels(left_out.anomaly_map[is_first])
        else:
            self._maps.add(left_out.grid[is_first])
        places = {file.path: self.size + index for index, file in enumerate(step.files)}
        chosen = [
            index for index, file in enumerate(step.own) if is_first[index] and places[file.path] % self._interval == 0
        ]
        self._embeddings.append(left_out.embeddings[:, chosen])
        self.size += len(step.files)

    def reference(self, held_out: bool, rates: tuple[float, float], earlier: Earlier | None = None) -> Reference:
        """What the images of all processes give; each map standardised by all others, where they are standardised."""
        scores, standard = self._in_order(self._scores), None
        if self._maps is not None:
            before = None if earlier is None else earlier.kept_beside(len(scores), rates[0])
            images = len(scores) if before is None else len(scores) + float(before.count)
            if images < FEWEST:
                raise TooFewImages(
                    f"standardised maps take {FEWEST} or more different good images to calibrate on, and there "
                    f"{'is' if images == 1 else 'are'} {images:g}; calibrate on more (padim calibrate)"
                )
            good = self._maps.good_maps(_gather_moments, before)
            standard = self._maps.standard("calibrate", good)
            scores = self._in_order(self._rescored(self._maps.left_out(good), self._count_pixels))
        method: Method = "held-out" if held_out else "leave-one-out"
        pixels = gather(self._histogram.counts).sum(axis=0)
        self.final_scores = scores
        worst = least_match(gather(np.concatenate(self._matches)).reshape(-1))
        return Reference(calibration(scores, pixels, method, *rates, least_match=worst), standard)

    def scores(self, standard: MapStandard | None) -> Float[np.ndarray, " n"]:
        """Of all processes, in the order of the files, standardised by ``standard`` of other images."""
        scores = self._scores
        if self._maps is not None:
            scores = self._rescored(self._maps.by(standard))
        return self._in_order(scores)

    def _count_pixels(self, maps: np.ndarray) -> None:
        self._histogram.add(self._judged_pixels(maps))

    def _rescored(
        self, parts: Iterable[np.ndarray], count: Callable[[np.ndarray], None] = lambda maps: None
    ) -> Sequence[np.ndarray]:
        """The scores of each step anew, from the maps of all, in parts."""
        scores = [np.zeros(0, np.float32)]
        for maps in parts:
            count(maps)
            scores.append(np.asarray(image_score(maps, self._share, self._roi)))
        steps = np.stack(self._scores) if self._scores else np.zeros((0, 0), np.float32)
        steps[np.isfinite(steps)] = np.concatenate(scores)
        return list(steps)

    def _in_order(self, scores: Sequence[np.ndarray]) -> Float[np.ndarray, " n"]:
        steps = gather(np.stack(scores)) if scores else np.zeros((1, 0, 0), np.float32)
        in_order = steps.swapaxes(0, 1).reshape(-1)
        return in_order[np.isfinite(in_order)]

    def alignment(self, ridge: float) -> list[str]:
        """As of :func:`padim_jax.method.alignment.remarks`, from a few images of all processes."""
        local = np.concatenate(self._embeddings, axis=1) if self._embeddings else np.zeros((0, 0, 0), np.float32)
        counts = gather(np.array([local.shape[1]]))[:, 0]
        padded = np.zeros((local.shape[0], int(counts.max()), local.shape[2]), np.float32)
        padded[:, : local.shape[1]] = local
        parts = [part[:, :n] for part, n in zip(gather(padded), counts, strict=True)]
        embeddings = np.concatenate(parts, axis=1)
        is_position = embeddings.any(axis=(1, 2))  # a mesh fills positions up with zeros
        return remarks(embeddings[is_position], ridge) if embeddings.size else []


def _gather_moments(own: MapMoments) -> MapMoments:
    """Of the maps of all processes."""
    numbers = np.stack([np.broadcast_to(own.count, own.mean.shape), own.mean, own.variance])
    parts = gather(numbers.view(np.uint32)).view(np.float64)  # JAX would round float64
    return functools.reduce(MapMoments.merge, (MapMoments(*part) for part in parts))


def check_fitted(call: str, files: Sequence[File], images: Mapping[str, float]) -> None:
    """Raise ``ValueError`` naming ``call`` and the first file that is not in ``images``."""
    for file in files:
        if file.digest is not None and file.digest not in images:
            raise ValueError(f"{call}: {file.path} is not among the images the model was fitted on, or has changed")


def _too_few(different: int) -> TooFewImages:
    return TooFewImages(
        f"leaving one image out takes 3 or more different ones, and there {'is' if different == 1 else 'are'} "
        f"{different}; add good images, or calibrate on others (padim calibrate)"
    )
