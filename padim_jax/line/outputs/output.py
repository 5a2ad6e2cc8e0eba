"""What an output is, and how what waits for it in a store is handed on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from padim_jax.config import PadimConfig
from padim_jax.line.judge import Loaded
from padim_jax.line.records import Decision, Verdict
from padim_jax.line.store import Store
from padim_jax.runs.score import ScoredImage

_TOGETHER = 64  # decisions handed on at a time


@dataclass(frozen=True)
class Picture:
    """What a picture of a decision is drawn of.

    Attributes:
      result: with its map.
      scale: values at the ends of the colours.
      threshold: outlined.
      config: what the image was read with.
    """

    result: ScoredImage
    scale: tuple[float, float]
    threshold: float
    config: PadimConfig

    @classmethod
    def of(cls, state: Loaded, result: ScoredImage) -> "Picture":
        """What a result of this state of a model is drawn of."""
        calibration = state.model.calibration
        assert calibration is not None  # a model without one gives no verdicts
        low, high = calibration.colour_scale
        return cls(result, (float(low), float(high)), float(calibration.threshold), state.model.config)


class Refused(OSError):
    """An output will not take this one decision; others may still be taken."""


class Output(Protocol):
    """Takes decisions, each at least once.

    Attributes:
      name: of what and where to, by which decisions wait for it in a store.
      verdicts: those whose decisions it takes.
      is_far: whether the other end may be away or slow, so that a thread of its own waits for it.
    """

    name: str
    verdicts: frozenset[Verdict]
    is_far: ClassVar[bool]

    def deliver(self, decision: Decision, attempt: int, picture: Picture | None) -> None:
        """Hand on one decision; ``attempt`` counts from 1, and a picture is there only just after it was judged.

        Raises:
          Refused: this one is not taken.
          OSError: none is at the moment.
        """

    def flush(self) -> None:
        """Make sure that what was handed on stays; after it the store forgets that it waited."""

    def close(self) -> None:
        """Let go of files and connections."""


def hand_on(
    store: Store,
    output: Output,
    pictures: Mapping[str, Picture],
    remark: Callable[[str], None],
) -> float:
    """Hand on all that is due for an output.

    Args:
      store: in which it waits.
      output: that takes it.
      pictures: by the ids of decisions.
      remark: told what is not taken.

    Returns:
      Seconds to wait before it is offered anything again, 0 where it took what was due.
    """
    while due := store.outbox.pending(output.name, limit=_TOGETHER):
        taken, failure = list[Decision](), None
        for decision, tried in due:
            try:
                output.deliver(decision, tried + 1, pictures.get(decision.id))
                taken.append(decision)
            except Refused as error:
                wait = store.outbox.postpone(output.name, decision, str(error))
                remark(f"{output.name} refuses {decision.item} ({error}); it is offered again in {wait:.0f} s")
            except OSError as error:
                failure = decision, tried, error
                break
        try:
            output.flush()
        except OSError as error:
            failure, taken = (*due[0], error), []
        store.outbox.delivered(output.name, taken)
        if failure is not None:
            decision, tried, error = failure
            wait = store.outbox.postpone(output.name, decision, str(error), others_too=True)
            if tried in (0, 5):  # not at every attempt
                remark(f"{output.name}: {error}; decisions wait in {store.path}, and are handed on once it goes again")
            return wait
    return 0.0


def names_for(outputs: Sequence[Output]) -> Callable[[Decision], list[str]]:
    """Which of ``outputs`` get a decision."""
    return lambda decision: [output.name for output in outputs if decision.verdict in output.verdicts]
