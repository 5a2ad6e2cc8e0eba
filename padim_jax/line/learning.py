"""From corrections to the model: parts that people called good are folded in, by the same update as ``padim update``.

The calibration stays as it is. These parts were chosen because they scored high; among the scores that thresholds
follow from, they would push thresholds up beyond the rates that were asked for, and let defects pass.

A change is proposed first: computed in full, in memory, with what it does to the threshold and to the verdicts on
photos that are kept. It is written only if somebody then says so, and the model is still the one that it started from.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padim_jax.artifact import Updatable, load_updatable, save_updatable
from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.manifest import manifest_checksum, read_manifest
from padim_jax.artifact.ownership import locked
from padim_jax.images import UnreadableImage
from padim_jax.line.records import Decision, Verdict
from padim_jax.line.verdict import Decider, Rates
from padim_jax.runs.score import FittedOn, score_files
from padim_jax.runs.update import update_files
from padim_jax.runs.watch import Watch, ignore_note


class NothingToLearn(ValueError):
    """No correction that the model does not know of already, or whose photo is not kept."""


class Changed(RuntimeError):
    """The model on disk is another one than the one that a change was proposed for."""


@dataclass(frozen=True)
class Kept:
    """A decision and the file of its photo."""

    decision: Decision
    path: Path


@dataclass(frozen=True)
class Proposal:
    """A change of a model that is not made yet.

    Attributes:
      path: of the model.
      based_on: digest of the model that it starts from.
      changed: the model with the change.
      added: ids of the decisions whose photos are folded in.
      contradicted: ids of decisions that people called bad, on images that the model was fitted on.
      threshold: of the model, which stays, in units of the maps.
      changes: of decisions judged again by the changed model, how many go from one verdict to another.
      judged: how many were judged again.
      remarks: what is worth knowing.
    """

    path: Path
    based_on: str
    changed: Updatable
    added: tuple[str, ...]
    contradicted: tuple[str, ...]
    threshold: float
    changes: Counter[tuple[Verdict, Verdict]]
    judged: int
    remarks: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "based_on": self.based_on,
            "added": list(self.added),
            "contradicted": list(self.contradicted),
            "threshold": self.threshold,
            "judged": self.judged,
            "changed": self.changes.total(),
            "changes": [{"from": a, "to": b, "count": count} for (a, b), count in sorted(self.changes.items())],
            "remarks": list(self.remarks),
        }


def propose(
    path: Path, corrected: Sequence[Kept], recent: Sequence[Kept], rates: Rates, *, batch_size: int = 16
) -> Proposal:
    """What a model would be with the parts that people called good, and what it would say of recent ones.

    Args:
      path: of the model, in the form that can be updated.
      corrected: decisions that people corrected.
      recent: decisions to judge again; those that are folded in are left out, as the model then knows them.
      rates: of the verdicts.
      batch_size: images computed at once.

    Raises:
      NothingToLearn: none of them is new.
      ArtifactError: no model that can be updated.
      ValueError: as :func:`padim_jax.runs.update.update_files`.
    """
    based_on = manifest_checksum(read_manifest(path))
    stored = load_updatable(path)
    before, known = stored.calibration, set(stored.images)
    said, disputed = _last_words(corrected)
    new = {
        digest: one
        for digest, (one, verdict) in said.items()
        if verdict == "good" and one.decision.verdict in ("bad", "look") and digest not in known
    }
    contradicted = tuple(
        one.decision.id for digest, (one, verdict) in said.items() if verdict == "bad" and digest in known
    )
    remarks = list[str]()
    if disputed:
        remarks.append(f"{disputed} photos are called good in one decision and bad in another; the last word counts")
    if contradicted:
        remarks.append(
            f"{len(contradicted)} images that the model was fitted on are called bad by people; padim undo or padim "
            "forget takes them out"
        )
    if before is None or not new:
        told = "".join(f"; {remark}" for remark in remarks)
        raise NothingToLearn(
            f"learn: {len(corrected)} corrections of {path.name}, of which none is of a part that was called bad or to "
            "be looked at, that people called good, whose photo is kept and which the model does not know "
            f"already{told}"
        )
    watch = Watch(note=ignore_note, remark=remarks.append)
    files = [one.path for one in new.values()]
    changed = update_files(stored, files, keep_calibration=True, batch_size=batch_size, watch=watch).model
    fitted_on = FittedOn(frozenset(changed.images), tuple(changed.image_sizes))
    decider = Decider.of("learn", before, rates, fitted_on)
    others = [one for one in recent if one.decision.image_digest not in new]
    judged = _judge(changed, others, decider, fitted_on, batch_size)
    return Proposal(
        path,
        based_on,
        changed,
        tuple(one.decision.id for one in new.values()),
        contradicted,
        float(before.threshold),
        Counter(pair for pair in judged if pair[0] != pair[1]),
        len(judged),
        tuple(remarks),
    )


def _last_words(corrected: Sequence[Kept]) -> tuple[dict[str, tuple[Kept, Verdict]], int]:
    """Each photo by its digest with what was said of it last, in any decision; and how many are called both."""
    said: dict[str, tuple[Kept, Verdict]] = {}
    numbers, verdicts = dict[str, int](), dict[str, set[str]]()
    for one in corrected:
        correction, digest = one.decision.correction, one.decision.image_digest
        if correction is None:
            continue
        verdicts.setdefault(digest, set()).add(correction.verdict)
        if correction.number > numbers.get(digest, -1):
            numbers[digest], said[digest] = correction.number, (one, correction.verdict)
    return said, sum({"good", "bad"} <= found for found in verdicts.values())


def apply(proposal: Proposal) -> None:
    """Put the changed model in the place of the one that it started from, which ``padim undo`` brings back.

    Raises:
      Changed: another model is there by now.
      ArtifactError, FolderInUse, OSError: it can't be written; the model is as it was.
    """
    with locked(proposal.path, "learn"):
        if manifest_checksum(read_manifest(proposal.path)) != proposal.based_on:
            raise Changed(f"learn: {proposal.path.name} was replaced since this change was proposed; propose it again")
        save_updatable(proposal.changed, proposal.path, keep_previous=True)


def _judge(
    changed: Updatable, others: Sequence[Kept], decider: Decider, fitted_on: FittedOn, batch_size: int
) -> list[tuple[Verdict, Verdict]]:
    """The verdict on each as it is and as it would be; photos that are not kept any more are left out."""

    def unreadable(error: UnreadableImage) -> None:
        if error.path.exists():
            raise ArtifactError(f"learn: the photo {error.path.name} is damaged ({error.reason})") from error

    paths = list(dict.fromkeys(one.path for one in others))
    options: dict[str, Any] = {"batch_size": batch_size, "unreadable": unreadable, "note": ignore_note}
    verdicts: dict[Path, Verdict] = {
        item.path: decider.verdict(fitted_on.annotate(item))[0]
        for item in score_files(changed.model(), paths, **options)
    }
    return [(one.decision.verdict, verdicts[one.path]) for one in others if one.path in verdicts]
