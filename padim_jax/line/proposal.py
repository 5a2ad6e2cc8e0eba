"""A change of a model that is computed in full, in memory, and looked at before somebody says that it is to be made.

It is written only if the model on disk is still the one that it started from, and can be undone.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from padim_jax.artifact import Updatable, save_updatable
from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.manifest import manifest_checksum, read_manifest
from padim_jax.artifact.ownership import locked
from padim_jax.images import UnreadableImage
from padim_jax.line.changes import Kind
from padim_jax.line.records import Decision, Verdict
from padim_jax.line.verdict import Decider, Rates
from padim_jax.method.calibration import Calibration
from padim_jax.method.records import Padim
from padim_jax.runs.score import FittedOn, score_files
from padim_jax.runs.watch import ignore_note


class Changed(RuntimeError):
    """The model on disk is another one than the one that a change was proposed for."""


@dataclass(frozen=True)
class Kept:
    """A decision and the file of its photo."""

    decision: Decision
    path: Path


@dataclass(frozen=True)
class Effect:
    """What a changed model says of decisions that were taken already.

    Attributes:
      changes: how many go from one verdict to another.
      judged: how many were judged again.
      ratio: median of their scores by the changed model over those that they were decided by, of decisions by the
        model as it is now; None where there are none.
    """

    changes: Counter[tuple[Verdict, Verdict]] = field(default_factory=Counter)
    judged: int = 0
    ratio: float | None = None


@dataclass(frozen=True)
class Proposal:
    """A change of a model that is not made yet.

    Attributes:
      path: of the model.
      based_on: digest of the model that it starts from.
      changed: the model with the change.
      images: digests of the images that come in or go out.
      calibration: digest of the calibration of the model that it starts from.
      threshold: of that model, in units of the maps.
      threshold_after: of the changed model.
      effect: on decisions that were taken already.
      remarks: what is worth knowing.
    """

    kind: ClassVar[Kind]
    path: Path
    based_on: str
    changed: Updatable
    images: tuple[str, ...]
    calibration: str
    threshold: float
    threshold_after: float
    effect: Effect
    remarks: tuple[str, ...]

    @property
    def about(self) -> dict[str, Any]:
        """What is noted of it before it is made, as of :meth:`padim_jax.line.changes.Changes.begin`."""
        return {"before": self.based_on, "calibration": self.calibration, "images": self.images}

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        changes = self.effect.changes
        return {
            "kind": self.kind,
            "based_on": self.based_on,
            "threshold": self.threshold,
            "threshold_after": self.threshold_after,
            "judged": self.effect.judged,
            "changed": changes.total(),
            "changes": [{"from": a, "to": b, "count": count} for (a, b), count in sorted(changes.items())],
            "remarks": list(self.remarks),
        }


def calibration_digest(calibration: Calibration) -> str:
    """The first 32 hexadecimal digits of SHA-256 of a calibration's scores, which tell it from others."""
    return sha256(np.asarray(calibration.scores).tobytes()).hexdigest()[:32]


def apply(proposal: Proposal) -> str:
    """Put the changed model in the place of the one that it started from, which ``padim undo`` brings back.

    Returns:
      Digest of the model that is there now.

    Raises:
      Changed: another model is there by now.
      ArtifactError, FolderInUse, OSError: it can't be written; the model is as it was.
    """
    call = proposal.kind
    with locked(proposal.path, call):
        if manifest_checksum(read_manifest(proposal.path)) != proposal.based_on:
            raise Changed(f"{call}: {proposal.path.name} was replaced since this change was proposed; propose it again")
        save_updatable(proposal.changed, proposal.path, keep_previous=True)
        return manifest_checksum(read_manifest(proposal.path))


def effect_on(
    call: Kind, changed: Padim, kept: Sequence[Kept], decider: Decider, based_on: str, batch_size: int
) -> Effect:
    """What a changed model says of decisions; photos that are not kept any more are left out.

    Args:
      call: for messages.
      changed: the model.
      kept: the decisions and their photos.
      decider: of the changed model's verdicts.
      based_on: digest of the model that it starts from.
      batch_size: images computed at once.

    Raises:
      ArtifactError: a photo that is kept can't be read.
      FloatingPointError: as :func:`padim_jax.runs.score.score_files`.
    """
    refuse = by_name(call, {one.path: one.decision.item for one in kept})

    def unreadable(error: UnreadableImage) -> None:
        if error.path.exists():
            refuse(error)

    paths = list(dict.fromkeys(one.path for one in kept))
    options: dict[str, Any] = {"batch_size": batch_size, "unreadable": unreadable, "note": ignore_note}
    found: dict[Path, tuple[Verdict, float]] = {
        item.path: (decider.verdict_on_file(item), item.score) for item in score_files(changed, paths, **options)
    }
    pairs: list[tuple[Verdict, Verdict]] = [
        (one.decision.verdict, found[one.path][0]) for one in kept if one.path in found
    ]
    ratios = [
        found[one.path][1] / one.decision.score
        for one in kept
        if one.path in found and one.decision.model_digest == based_on and one.decision.score
    ]
    ratio = float(np.median(ratios)) if ratios else None
    return Effect(Counter(pair for pair in pairs if pair[0] != pair[1]), len(pairs), ratio)


def by_name(call: Kind, names: Mapping[Path, str]) -> Callable[[UnreadableImage], None]:
    """What refuses a file that can't be read: by the name that people know it by, for its own may be a digest.

    Args:
      call: for messages.
      names: of the images, by their files.
    """

    def refuse(error: UnreadableImage) -> None:
        raise ArtifactError(f"{call}: the photo of {names[error.path]} can't be read ({error.reason})") from error

    return refuse


def decider_of(call: Kind, changed: Updatable, rates: Rates) -> Decider:
    """The decider of a changed model.

    Raises:
      NoVerdicts: as :meth:`padim_jax.line.verdict.Decider.of`: it would give no verdicts.
    """
    fitted_on = FittedOn(frozenset(changed.images), tuple(changed.image_sizes))
    return Decider.of(call, changed.calibration, rates, fitted_on)
