"""What undo does to a model: which state comes back, and who made the change that lies between the two.

A model is changed by commands too, of which the store knows nothing. So what undo does is read from the two states that
the model keeps, never from the order of what is noted.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.folder import read_states
from padim_jax.artifact.loading import load_calibration
from padim_jax.artifact.manifest import manifest_checksum
from padim_jax.line.changes import Change


@dataclass(frozen=True)
class Undoing:
    """What undo would do to a model.

    Attributes:
      based_on: digest of the model as it is.
      change: that lies between the two states; None where it was not made by the service.
      brings_back: whether the change is made again, for it was undone; else it is taken back.
      came: digests of images that would come in.
      went: of those that would go out.
    """

    based_on: str
    change: Change | None
    brings_back: bool
    came: tuple[str, ...]
    went: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        change = None if self.change is None else self.change.record() | {"images": len(self.change.images)}
        counts = {"came": len(self.came), "went": len(self.went)}
        return {"based_on": self.based_on, "change": change, "brings_back": self.brings_back} | counts


def undoing(path: Path, between: Callable[[str, str], Sequence[Change]]) -> Undoing:
    """What undo would do to a model now.

    Args:
      path: of the model.
      between: gives the changes between two states by their digests, as of
        :meth:`padim_jax.line.changes.Changes.between`.

    Raises:
      ArtifactError: no model, or no earlier state is kept.
    """
    current, previous = read_states(path)
    if previous is None:
        raise _nothing_kept(path)
    now, then = set(current.get("images") or ()), set(previous.get("images") or ())
    came, went = tuple(sorted(then - now)), tuple(sorted(now - then))
    based_on, other = manifest_checksum(current), manifest_checksum(previous)
    for change in sorted(between(based_on, other), key=lambda one: not one.after):  # those that were made come first
        is_back = change.before == based_on
        # of one whose end was not noted, what it was about tells whether it is this one
        if change.after or _fits(change, came if is_back else went, went if is_back else came):
            return Undoing(based_on, change, is_back, came, went)
    return Undoing(based_on, None, False, came, went)


def thresholds(path: Path) -> tuple[float | None, float | None]:
    """The threshold of a model as it is, and of the state that undo would bring back; None where one has none.

    Raises:
      ArtifactError: no model, no earlier state, or that is damaged, so that it is better not brought back.
    """
    current, previous = read_states(path)
    if previous is None:
        raise _nothing_kept(path)
    then, now = load_calibration(path, previous), None
    with suppress(ArtifactError):  # a damaged model is to be undone all the more
        now = load_calibration(path, current)
    before, after = (None if one is None else float(one.threshold) for one in (now, then))
    return before, after


def _nothing_kept(path: Path) -> ArtifactError:
    return ArtifactError(f"undo: {path.name} keeps no earlier state")


def _fits(change: Change, came: Sequence[str], went: Sequence[str]) -> bool:
    """Whether a change was about the very images that came in or went out."""
    expected = (came, went) if change.kind == "learn" else (went, came)
    return not expected[1] and set(expected[0]) == set(change.images)
