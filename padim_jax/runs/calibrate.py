"""Calibrate on image files, each image counted once however many copies there are."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from padim_jax.images import UnreadableImage, load_batches, stop_at_unreadable
from padim_jax.images.folder import Batch, digest_file
from padim_jax.method.alignment import remarks
from padim_jax.method.calibration import FALSE_ALARM_RATE, PIXEL_RATE, Calibration
from padim_jax.method.records import Padim
from padim_jax.method.scoring import calibrate, leave_one_out_scores
from padim_jax.runs.fold import Interrupted, Unreadable, ignore
from padim_jax.runs.score import Advance, ScoredImage, score_files

Tell = Callable[[str], None]  # told what is worth knowing, in a sentence

LEAST_P = 1e-3  # of good images that are to be believed
_FEWEST = 3  # different images, of which one can be left out
_COMPARED = 64  # of the model's own images, that others are compared with


class TooFewImages(ValueError):
    """Too few different images to leave one out."""


class MixedImages(ValueError):
    """Some of the images to calibrate on were fitted on, and some were not."""


class Implausible(ValueError):
    """The images score so much higher than those fitted on that they may not be good."""


def calibration_files(
    model: Padim, fitted: Sequence[Path], images: Mapping[str, float] | None, others: Sequence[Path] | None
) -> tuple[Sequence[Path], Mapping[str, float] | None]:
    """Files to calibrate on, and their weights, as :func:`calibrate_files` takes them: ``others`` where given.

    Raises:
      TooFewImages: images would be left out of a model of too few different ones.
      UnreadableImage: one of ``others`` can't be read.
      MixedImages: some of ``others`` are among the ``images`` fitted on, and some are not.
    """
    paths, known = (fitted, images) if others is None else (others, None)
    if others is not None and images is not None:
        inside = [digest_file(path) in images for path in others]
        if any(inside) and not all(inside):
            raise MixedImages(
                f"{sum(inside)} of {len(others)} images were fitted on and the others ({others[inside.index(False)]}) "
                "were not; calibrate on one kind or the other"
            )
        known = images if all(inside) else None
    if known is not None and (model.count < _FEWEST or len(known) < _FEWEST):
        raise _too_few(len(known) or int(model.count))
    return paths, known


def calibrate_files(
    model: Padim,
    paths: Sequence[Path],
    images: Mapping[str, float] | None,
    *,
    batch_size: int,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    pixel_rate: float = PIXEL_RATE,
    advance: Advance = lambda count: None,
    stopped: Callable[[], bool] = lambda: False,
    tell: Tell = lambda text: None,
    least: int = 0,
) -> Padim:
    """Calibrate on image files: those that ``images`` lists, each left out in turn, or, with None, others.

    Files with the same pixels are one image: it is left out with all its copies, and gives one score.

    Args:
      model: fitted.
      paths: files to calibrate on.
      images: digests of the files it was fitted on with their weights, or None.
      batch_size: images computed at once.
      false_alarm_rate: as of :func:`padim_jax.calibrate`.
      pixel_rate: as of :func:`padim_jax.calibrate`.
      advance: told of every file.
      stopped: asked after every batch.
      tell: told in a sentence of copies, and of parts that don't lie alike (:mod:`padim_jax.method.alignment`).
      least: as of :func:`padim_jax.calibrate`.

    Raises:
      UnreadableImage: the first file that can't be read.
      TooFewImages: fewer than three different images to leave one out of.
      ValueError: a file that is not in ``images``; as :func:`padim_jax.calibrate`.
      Interrupted: ``stopped`` has become true.
    """
    copies, sample = _Copies(images), _Sample(len(paths))
    weights: deque[float] = deque()

    def batches(move: Advance) -> Iterator[np.ndarray]:
        for batch in load_batches(paths, model.config, batch_size, note=ignore):
            fitted_weights("calibrate", batch.paths, batch.digests, images)
            kept = copies.first_ones(batch)
            weights.extend(copies.weight(batch.digests[index]) for index in kept)
            yield batch.images[kept]
            move(len(batch.paths))
            if stopped():
                raise Interrupted("interrupted while calibrating")

    def calibrated(move: Advance) -> Padim:
        return calibrate(
            model,
            batches(move),
            held_out=images is None,
            weights=iter(weights.popleft, None),
            false_alarm_rate=false_alarm_rate,
            pixel_rate=pixel_rate,
            least=least,
            told=sample.add if model.roi is None else None,
        )

    try:
        done = calibrated(advance)
    except ValueError as error:  # nothing is left where all images are copies of one
        if copies.found_more and copies.different < _FEWEST:
            raise _too_few(copies.different) from error
        raise
    if copies.found_more:  # of images that were left out already, with less than their copies' weight
        if copies.different < _FEWEST:
            raise _too_few(copies.different)
        copies.start_again()
        sample = _Sample(len(paths))
        done = calibrated(lambda count: None)
    if copies.different < len(paths):
        tell(
            f"{len(paths) - copies.different} of {len(paths)} images are copies of others (the same pixels); "
            f"calibrated on {copies.different} different ones"
        )
    for text in sample.remarks(model.config.ridge):
        tell(text)
    return done


class _Sample:
    """Embeddings of an even choice of at most 64 images, to see how the parts lie."""

    def __init__(self, total: int) -> None:
        self._step, self._met = max(1, -(-total // _COMPARED)), 0
        self._kept: list[np.ndarray] = []

    def add(self, embeddings: Float[np.ndarray, "q n k"]) -> None:
        """Take a batch in."""
        n = embeddings.shape[1]
        self._kept.append(embeddings[:, [i for i in range(n) if (self._met + i) % self._step == 0]])
        self._met += n

    def remarks(self, ridge: float) -> list[str]:
        """As of :func:`padim_jax.method.alignment.remarks`."""
        return remarks(np.concatenate(self._kept, axis=1), ridge) if self._kept else []


class _Copies:
    """Which images have the same pixels, as far as they have been met."""

    def __init__(self, images: Mapping[str, float] | None) -> None:
        self._images = images
        self._groups: dict[bytes, dict[str, None]] = {}  # digests of files, by that of their pixels
        self._of: dict[str, bytes] = {}
        self._met: set[bytes] = set()
        self.found_more = False

    @property
    def different(self) -> int:
        """How many different images there are."""
        return len(self._groups)

    def first_ones(self, batch: Batch) -> list[int]:
        """Which images of a batch have pixels that were not met before."""
        kept = []
        for index, (digest, image) in enumerate(zip(batch.digests, batch.images, strict=True)):
            key = hashlib.sha256(image.tobytes()).digest()[:16]
            group = self._groups.setdefault(key, {})
            self.found_more |= self._images is not None and bool(group) and digest not in group
            group[digest] = None
            self._of[digest] = key
            if key not in self._met:
                self._met.add(key)
                kept.append(index)
        return kept

    def weight(self, digest: str) -> float:
        """What an image was fitted with, all its copies together."""
        if self._images is None:
            return 1.0
        return sum(self._images[one] for one in self._groups[self._of[digest]])

    def start_again(self) -> None:
        """Meet the images anew, with what is known of copies."""
        self._met.clear()
        self.found_more = False


def compare(scores: Float[np.ndarray, " m"], own: Float[np.ndarray, " n"]) -> float:
    """p-value that images as good as a model's own score as high as ``scores``.

    The one-sided test of Mann and Whitney: the share of pairs in which a score is above one of ``own``, which does not
    depend on how scores are distributed.

    Args:
      scores: of other images.
      own: of the images fitted on, each left out in turn.
    """
    from scipy.stats import mannwhitneyu  # takes a second to import

    return float(mannwhitneyu(scores, own, alternative="greater").pvalue)


def check_plausible(call: str, scores: Float[np.ndarray, " m"], own: Float[np.ndarray, " n"]) -> None:
    """Refuse images as good ones that score far higher than a model's own.

    Raises:
      Implausible: naming ``call``, the medians and the p-value of :func:`compare`.
    """
    p = compare(scores, own)
    if p < LEAST_P:
        raise Implausible(
            f"{call}: the {len(scores)} images to calibrate on score much higher than the model's own good images do "
            f"when left out (median {np.median(scores):.4g} against {np.median(own):.4g}; p = {p:.2g} that good images "
            "would by chance): they may hold defects, or come from another camera, light or batch. Look at them "
            "(padim score); if they are good, pass --trust-calibration"
        )


def check_others(
    call: str,
    model: Padim,
    known: Calibration,
    own: Float[np.ndarray, " n"] | None,
    fitted: Sequence[Path],
    images: Mapping[str, float] | None,
    *,
    batch_size: int,
) -> None:
    """:func:`check_plausible` of a calibration on other images than a model was fitted on.

    Args:
      call: named in the error.
      model: fitted.
      known: the calibration.
      own: scores of the model's own images; None finds them, by :func:`own_scores`, where that can be done.
      fitted: files it was fitted on.
      images: digests of these with their weights; None where they are not known.
      batch_size: images computed at once.

    Raises:
      Implausible: as :func:`check_plausible`.
      UnreadableImage, ValueError: as :func:`own_scores`.
    """
    if own is None and fitted and can_leave_out(model, images):
        assert images is not None
        own = own_scores(model, fitted, images, batch_size=batch_size)
    if own is not None:
        check_plausible(call, np.asarray(known.scores), own)


def can_leave_out(model: Padim, images: Mapping[str, float] | None) -> bool:
    """Whether a model was fitted on enough different images, and knows them, so that one can be left out."""
    return images is not None and min(float(model.count), len(images)) >= _FEWEST


def own_scores(
    model: Padim, fitted: Sequence[Path], images: Mapping[str, float], *, batch_size: int
) -> Float[np.ndarray, " n"]:
    """Scores of an even choice of at most 64 files that a model was fitted on, each left out in turn.

    Raises:
      UnreadableImage, ValueError: as :func:`left_out_files`.
    """
    scored = left_out_files(model, few_of(fitted), images, batch_size=batch_size)
    return np.array([item.score for item in scored])


def few_of(paths: Sequence[Path]) -> Sequence[Path]:
    """An even choice of at most 64 files, which are enough to compare others with."""
    return paths[:: max(1, -(-len(paths) // _COMPARED))]


def held_out_scores(
    model: Padim,
    paths: Sequence[Path],
    *,
    batch_size: int,
    advance: Advance = lambda count: None,
    unreadable: Unreadable = stop_at_unreadable,
) -> Float[np.ndarray, " n"]:
    """Scores of files that a model was not fitted on.

    Raises:
      UnreadableImage: from ``unreadable``.
    """
    bare = replace(model, calibration=None)
    found = score_files(bare, paths, batch_size=batch_size, unreadable=unreadable, advance=advance, note=ignore)
    return np.array([item.score for item in found])


def _too_few(different: int) -> TooFewImages:
    return TooFewImages(
        f"leaving one image out takes 3 or more different ones, and there {'is' if different == 1 else 'are'} "
        f"{different}; add good images, or calibrate on others (padim calibrate)"
    )


def left_out_files(
    model: Padim,
    paths: Sequence[Path],
    images: Mapping[str, float],
    *,
    batch_size: int,
    unreadable: Unreadable = stop_at_unreadable,
    advance: Advance = lambda count: None,
) -> Iterator[ScoredImage]:
    """Score image files that a model was fitted on, each by the model of all the others, in order.

    As :func:`padim_jax.runs.score.score_files` does for others; ``images`` are those of the fit with their weights.

    Raises:
      UnreadableImage: from ``unreadable``.
      ValueError: a file that is not in ``images``; as :func:`padim_jax.method.scoring.leave_one_out_scores`.
    """
    pending: deque[Batch] = deque()
    weights: deque[float] = deque()

    def report(error: UnreadableImage) -> None:
        unreadable(error)
        advance(1)

    def batches() -> Iterator[np.ndarray]:
        for batch in load_batches(paths, model.config, batch_size, report, ignore):
            weights.extend(fitted_weights("left_out_files", batch.paths, batch.digests, images))
            pending.append(batch)
            yield batch.images

    for scores in leave_one_out_scores(model, batches(), iter(weights.popleft, None)):
        batch = pending.popleft()
        maps = np.asarray(scores.anomaly_map)
        for index, value in enumerate(np.asarray(scores.image_score)):
            path, image, size = batch.paths[index], batch.images[index], batch.sizes[index]
            yield ScoredImage(path, float(value), None, None, image, maps[index], size)
        advance(len(batch.paths))


def fitted_weights(
    call: str, paths: Sequence[Path], digests: Sequence[str], images: Mapping[str, float] | None
) -> list[float]:
    """What files were fitted with, by their digests; 1 of others, where ``images`` is None.

    Raises:
      ValueError: naming ``call`` and a file that is not in ``images``.
    """
    if images is None:
        return [1.0] * len(paths)
    for path, digest in zip(paths, digests, strict=True):
        if digest not in images:
            raise ValueError(f"{call}: {path} is not among the images the model was fitted on, or has changed")
    return [images[digest] for digest in digests]
