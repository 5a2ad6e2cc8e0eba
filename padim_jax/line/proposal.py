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
class Judging:
    """A model and what gives its verdicts."""

    model: Padim
    decider: Decider

    @classmethod
    def of(cls, call: Kind, stored: Updatable, rates: Rates) -> "Judging":
        """Of a model as it can be updated.

        Raises:
          NoVerdicts: as :meth:`padim_jax.line.verdict.Decider.of`: it would give no verdicts.
        """
        fitted_on = FittedOn(frozenset(stored.images), tuple(stored.image_sizes))
        return cls(stored.model(), Decider.of(call, stored.calibration, rates, fitted_on))


@dataclass(frozen=True)
class Effect:
    """What a changed model says of decisions that were taken already, compared with the model as it is.

    Both judge them again. What a decision said when it was taken may be of an earlier state of the model, and how
    that differs is not what this change does.

    Attributes:
      changes: how many go from one verdict to another.
      judged: how many were judged again.
      ratio: median of their scores by the changed model over those by the model as it is; None where there are none.
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


def effect_on(call: Kind, before: Judging, after: Judging, kept: Sequence[Kept], batch_size: int) -> Effect:
    """What a change of a model changes in decisions; photos that are not kept any more are left out.

    Args:
      call: for messages.
      before: the model that the change starts from.
      after: the changed model.
      kept: the decisions and their photos.
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

    def judged_by(one: Judging) -> dict[Path, tuple[Verdict, float]]:
        found = score_files(one.model, paths, **options)
        return {item.path: (one.decider.verdict_on_file(item), item.score) for item in found}

    now, then = judged_by(before), judged_by(after)
    again = [one.path for one in kept if one.path in now and one.path in then]
    pairs: list[tuple[Verdict, Verdict]] = [(now[path][0], then[path][0]) for path in again]
    ratios = [then[path][1] / now[path][1] for path in again if now[path][1]]
    return Effect(
        Counter(pair for pair in pairs if pair[0] != pair[1]), len(again), float(np.median(ratios)) if ratios else None
    )


def by_name(call: Kind, names: Mapping[Path, str]) -> Callable[[UnreadableImage], None]:
    """What refuses a file that can't be read: by the name that people know it by, for its own may be a digest.

    Args:
      call: for messages.
      names: of the images, by their files.
    """

    def refuse(error: UnreadableImage) -> None:
        raise ArtifactError(f"{call}: the photo of {names[error.path]} can't be read ({error.reason})") from error

    return refuse
