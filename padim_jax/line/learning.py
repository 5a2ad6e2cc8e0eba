"""From corrections to the model: parts that people called good are folded in, by the same update as ``padim update``.

The calibration stays as it is. These parts were chosen because they scored high; among the scores that thresholds
follow from, they would push thresholds up beyond the rates that were asked for, and let defects pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from padim_jax.artifact import load_updatable
from padim_jax.artifact.manifest import manifest_checksum, read_manifest
from padim_jax.line.changes import Kind
from padim_jax.line.proposal import Judging, Kept, Proposal, by_name, calibration_digest, effect_on
from padim_jax.line.records import Verdict
from padim_jax.line.verdict import Rates
from padim_jax.runs.update import update_files
from padim_jax.runs.watch import Watch, ignore_note


class NothingToLearn(ValueError):
    """No correction that the model does not know of already, or whose photo is kept; or a model without verdicts."""


@dataclass(frozen=True)
class Lesson(Proposal):
    """Parts that people called good are to become part of a model.

    Attributes:
      added: ids of the decisions whose photos are folded in.
      contradicted: ids of decisions that people called bad, on images that the model was fitted on.
    """

    kind: ClassVar[Kind] = "learn"
    added: tuple[str, ...]
    contradicted: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return super().record() | {"added": list(self.added), "contradicted": list(self.contradicted)}


def propose(
    path: Path,
    corrected: Sequence[Kept],
    recent: Sequence[Kept],
    rates: Rates,
    *,
    taken_out: Mapping[str, str] | None = None,
    batch_size: int = 16,
) -> Lesson:
    """What a model would be with the parts that people called good, and what it would say of recent ones.

    Args:
      path: of the model, in the form that can be updated.
      corrected: decisions that people corrected.
      recent: decisions to judge again; those that are folded in are left out, as the model then knows them.
      rates: of the verdicts.
      taken_out: digests of images that people took out of the model, and when; they are learned again only where
        somebody has called them good since.
      batch_size: images computed at once.

    Raises:
      NothingToLearn: none of them is new, or the model is not calibrated.
      ArtifactError: no model that can be updated, or a photo that can't be read.
      ValueError: as :func:`padim_jax.runs.update.update_files`.
    """
    based_on = manifest_checksum(read_manifest(path))
    stored = load_updatable(path)
    before, known = stored.calibration, set(stored.images)
    if before is None:
        raise NothingToLearn(
            f"learn: {path.name} is not calibrated, so it gives no verdicts; run padim calibrate on it"
        )
    said, disputed = _last_words(corrected)
    new = {
        digest: one
        for digest, (one, verdict) in said.items()
        if verdict == "good" and one.decision.verdict in ("bad", "look") and digest not in known
    }
    out = [digest for digest in new if _is_older(new[digest], (taken_out or {}).get(digest, ""))]
    new = {digest: one for digest, one in new.items() if digest not in out}
    contradicted = tuple(
        one.decision.id for digest, (one, verdict) in said.items() if verdict == "bad" and digest in known
    )
    remarks = list[str]()
    if disputed:
        remarks.append(f"{disputed} photos are called good in one decision and bad in another; the last word counts")
    if contradicted:
        remarks.append(
            f"{len(contradicted)} images that the model was fitted on are called bad by people; they can be taken out "
            "of it, here or by padim forget"
        )
    if out:
        remarks.append(f"{len(out)} parts were called good, but taken out of the model since; they stay out")
    if not new:
        told = "".join(f"; {remark}" for remark in remarks)
        raise NothingToLearn(
            f"learn: {len(corrected)} corrections of {path.name}, of which none is of a part that was called bad or to "
            "be looked at, that people called good, whose photo is kept and which the model does not know "
            f"already{told}"
        )
    unreadable = by_name("learn", {one.path: one.decision.item for one in new.values()})
    watch = Watch(note=ignore_note, remark=remarks.append, unreadable=unreadable)
    files = [one.path for one in new.values()]
    now = Judging.of("learn", stored, rates)  # before the update, which takes the memory of what it starts from
    changed = update_files(stored, files, keep_calibration=True, batch_size=batch_size, watch=watch).model
    others = [one for one in recent if one.decision.image_digest not in new]
    threshold = float(before.threshold)
    return Lesson(
        path,
        based_on,
        changed,
        tuple(new),
        calibration_digest(before),
        threshold,
        threshold,
        effect_on("learn", now, Judging.of("learn", changed, rates), others, batch_size),
        tuple(remarks),
        tuple(one.decision.id for one in new.values()),
        contradicted,
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


def _is_older(one: Kept, time: str) -> bool:
    """Whether a correction was made before a time; empty for none."""
    return one.decision.correction is not None and one.decision.correction.time <= time
