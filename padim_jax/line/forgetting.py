"""Images that are not good, taken out of a model by the same exact ``forget`` as ``padim forget``.

What becomes of the calibration depends on whether the images are part of it:

- Parts that were learned while it was kept as it was, and all images where other ones calibrated the model, are not.
  It stays as it is.
- Images that it was fitted and calibrated on are. Their scores go, and the threshold follows from those of the others
  (:mod:`padim_jax.runs.taken_out`). Where it is not known which scores these are, as the model has changed since it
  was calibrated, and where maps are standardised by these very images, other good images have to calibrate it anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from padim_jax.artifact import Updatable, load_updatable
from padim_jax.artifact.manifest import manifest_checksum, read_manifest
from padim_jax.images import UnreadableImage
from padim_jax.line.changes import Kind
from padim_jax.line.proposal import Judging, Kept, Proposal, by_name, calibration_digest, effect_on
from padim_jax.line.records import Verdict
from padim_jax.line.verdict import Rates
from padim_jax.method.calibration import Calibration
from padim_jax.runs.forget import REFERENCE_STAYS, forget_files
from padim_jax.runs.score import score_files
from padim_jax.runs.taken_out import UnknownScores, calibration_without
from padim_jax.runs.watch import Watch, ignore_note


class CannotForget(ValueError):
    """An image that the model was not fitted on, or a model that can't be without it; the message says which."""


@dataclass(frozen=True)
class Named:
    """An image to take out.

    Attributes:
      name: for messages and people.
      digest: of its file, as :class:`padim_jax.images.Batch` has it.
      path: of its file.
    """

    name: str
    digest: str
    path: Path


@dataclass(frozen=True)
class Without:
    """What an image is to a model that does not know it any more.

    Attributes:
      name, digest: of the image.
      score: by the model that knows it.
      score_after: by the one that does not.
      verdict_after: of that one.
      is_calibrating: whether a score of it leaves the calibration.
    """

    name: str
    digest: str
    score: float
    score_after: float
    verdict_after: Verdict
    is_calibrating: bool


@dataclass(frozen=True)
class Removal(Proposal):
    """Images are to be taken out of a model.

    Attributes:
      removed: the images, in the order in which they were named.
    """

    kind: ClassVar[Kind] = "forget"
    removed: tuple[Without, ...]

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return super().record() | {"removed": [vars(one) for one in self.removed]}


def propose(
    path: Path,
    gone: Sequence[Named],
    recent: Sequence[Kept],
    rates: Rates,
    *,
    learned: Callable[[str, str], Mapping[str, Path | None]] = lambda calibration, state: {},
    batch_size: int = 16,
) -> Removal:
    """What a model would be without some images, and what it would say of them and of recent decisions.

    Args:
      path: of the model, in the form that can be updated.
      gone: the images; one that is named twice is taken out once, and with all its weight.
      recent: decisions to judge again.
      rates: of the verdicts.
      learned: gives, for the digests of the model's calibration and of the model itself, digests of images that became
        part of it while it had that calibration, which therefore does not know them, with their files; None for a file
        that is not kept.
      batch_size: images computed at once.

    Raises:
      CannotForget: an image that the model was not fitted on, or whose score in the calibration is not known; a model
        that is not calibrated, or that is standardised by these images; an image that has faded.
      NoVerdicts: it would give no verdicts without them.
      ArtifactError: no model that can be updated, or an image that can't be read.
      ValueError, FloatingPointError: as :func:`padim_jax.runs.forget.forget_files`.
    """
    based_on = manifest_checksum(read_manifest(path))
    stored = load_updatable(path)
    named = list({one.digest: one for one in gone}.values())
    before = _check(path, stored, named)
    later = learned(calibration_digest(before), based_on)
    calibrating = [] if before.method == "held-out" else [one for one in named if one.digest not in later]
    if calibrating and stored.standard is not None:
        raise _standardised(path, calibrating)
    options: dict[str, Any] = {"batch_size": batch_size, "note": ignore_note}
    now = Judging.of("forget", stored, rates)
    files = [one.path for one in named]
    unreadable = by_name("forget", {one.path: one.name for one in named})
    known = {item.path: item.score for item in score_files(now.model, files, unreadable=unreadable, **options)}
    remarks = list[str]()
    calibration = _calibration(stored, before, calibrating, later, batch_size, remarks)
    repeated = [one.path for one in named for _ in range(max(1, int(stored.images[one.digest])))]
    watch = Watch(note=ignore_note, remark=remarks.append)
    changed = forget_files(stored, repeated, batch_size=batch_size, watch=watch)
    changed = replace(changed, calibration=calibration, standard=stored.standard)
    if stored.moments.alignment is not None and any(one.digest not in later for one in named):
        remarks.append(REFERENCE_STAYS)
    then = Judging.of("forget", changed, rates)
    removed = list[Without]()
    for one, item in zip(named, score_files(then.model, files, **options), strict=True):
        verdict = then.decider.verdict_on_file(item)
        removed.append(Without(one.name, one.digest, known[one.path], item.score, verdict, one in calibrating))
    effect = effect_on("forget", now, then, recent, batch_size)
    if effect.ratio is not None and stored.standard is None:
        remarks.append(
            f"the photos that were judged again score {effect.ratio:.3g} times as high without the "
            f"{_images(len(named))} (median)"
        )
    return Removal(
        path,
        based_on,
        changed,
        tuple(one.digest for one in named),
        calibration_digest(before),
        float(before.threshold),
        float(calibration.threshold),
        effect,
        tuple(remarks),
        tuple(removed),
    )


def _check(path: Path, stored: Updatable, named: Sequence[Named]) -> Calibration:
    """Refuse what can't be taken out; gives the model's calibration."""
    if not named:
        raise CannotForget("forget: no image was named")
    if not stored.images:
        raise CannotForget(f"forget: {path.name} does not list the images that it was fitted on; fit it on files anew")
    unknown = [one for one in named if one.digest not in stored.images]
    if unknown:
        raise CannotForget(
            f"forget: {_names(unknown)} {'is' if len(unknown) == 1 else 'are'} not among the "
            f"{len(stored.images)} images that {path.name} was fitted on; it knows them by the content of their files, "
            "so give the very files, not copies in another format or size"
        )
    if faded := [one for one in named if _has_faded(stored, one.digest)]:
        raise CannotForget(
            f"forget: {_names(faded)} {'has' if len(faded) == 1 else 'have'} faded by a half-life in {path.name} and "
            "can't be taken out; fit anew on the good images"
        )
    if stored.calibration is None:
        raise CannotForget(f"forget: {path.name} is not calibrated, so it gives no verdicts; run padim calibrate on it")
    return stored.calibration


def _standardised(path: Path, calibrating: Sequence[Named]) -> CannotForget:
    """Why images can't be taken out whose own maps a model's maps are standardised by."""
    return CannotForget(
        f"forget: the maps of {path.name} are standardised by the images that it was calibrated on, and what "
        f"{_names(calibrating)} {'adds' if len(calibrating) == 1 else 'add'} to that is not known by itself; run padim "
        "forget, then padim calibrate on good images"
    )


def _calibration(
    stored: Updatable,
    before: Calibration,
    calibrating: Sequence[Named],
    later: Mapping[str, Path | None],
    batch_size: int,
    remarks: list[str],
) -> Calibration:
    """The calibration without the images that are part of it."""
    if not calibrating:
        remarks.append("the calibration stays as it is: these images were not part of it")
        return before
    since = {digest: path for digest, path in later.items() if digest in stored.images}
    if any(_has_faded(stored, digest) for digest in since):  # so have those that it was calibrated on
        raise _unknown(calibrating, "images have faded since it was calibrated")
    files = [path for path in since.values() if path is not None]
    quiet = Watch(note=ignore_note)
    try:
        as_calibrated = forget_files(stored, files, batch_size=batch_size, watch=quiet) if files else stored
    except UnreadableImage as error:  # a photo of what was learned since is as good as lost
        raise _unknown(calibrating, "a photo of what was learned since can't be read") from error
    as_calibrated = replace(as_calibrated, calibration=before)
    try:
        calibration = calibration_without(as_calibrated, [one.path for one in calibrating], batch_size=batch_size)
    except UnknownScores as error:
        why = "none is surely what they score now, as where the model has changed after it was calibrated"
        raise _unknown([calibrating[place] for place in error.places], why) from error
    remarks.append(
        f"the threshold follows from the {len(calibration.scores)} other scores of the calibration; they come from a "
        f"model that knew the {_images(len(calibrating))}, so they are rather too low, and somewhat more good parts "
        "than asked for may be called bad; padim calibrate on good images makes it exact"
    )
    if calibration.least_match is not None:
        remarks.append(
            f"how well a part has to match the reference stays at {float(calibration.least_match):.2f}: how well each "
            f"image of the calibration did is not kept. If the {_images(len(calibrating))} matched worst, poor matches "
            "pass that should not; padim calibrate on good images makes it exact"
        )
    return calibration


def _unknown(calibrating: Sequence[Named], why: str) -> CannotForget:
    """Why images can't be taken out whose scores in the calibration can't be told from those of others."""
    return CannotForget(
        f"forget: which scores of the calibration are those of {_names(calibrating)} is not known: {why}; take images "
        "of the fit out together, or run padim forget, then padim calibrate on good images"
    )


def _has_faded(stored: Updatable, digest: str) -> bool:
    """Whether an image of the fit counts for less than it did, by a half-life."""
    return stored.images[digest] != int(stored.images[digest])


def _names(images: Sequence[Named]) -> str:
    return ", ".join(one.name for one in images)[:500]


def _images(count: int) -> str:
    return "image" if count == 1 else f"{count} images"
