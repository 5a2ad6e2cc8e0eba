"""What an output is, and how what waits for it in a store is handed on."""

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from jaxtyping import UInt8

from padim_jax.config import PadimConfig
from padim_jax.line.judge import Loaded
from padim_jax.line.outputs.turns import turn
from padim_jax.line.records import Decision, Verdict
from padim_jax.line.store import Store
from padim_jax.runs.score import ScoredImage

MOST_REFUSALS = 20  # of one decision, within about an hour
_TOGETHER = 64  # decisions handed on at a time
_TOLD = (0, 5)  # after how many attempts in vain it is said, so not at every one
_PATIENCE = 5.0  # seconds to wait for another process that hands on to an output close by
_BUSY = 1.0  # seconds until it is looked whether another process has done it


@dataclass(frozen=True)
class Picture:
    """What a picture of a decision is drawn of.

    Attributes:
      result: with its map.
      scale: values at the ends of the colours.
      threshold: outlined.
      config: what the image was read with.
      pixels: of a frame, RGB, which lies in no file; None for a file.
    """

    result: ScoredImage
    scale: tuple[float, float]
    threshold: float
    config: PadimConfig
    pixels: UInt8[np.ndarray, "height width 3"] | None = None

    @classmethod
    def of(
        cls, state: Loaded, result: ScoredImage, pixels: UInt8[np.ndarray, "height width 3"] | None = None
    ) -> "Picture":
        """What a result of this state of a model is drawn of."""
        calibration = state.model.calibration
        assert calibration is not None  # a model without one gives no verdicts
        low, high = calibration.colour_scale
        return cls(result, (float(low), float(high)), float(calibration.threshold), state.model.config, pixels)


class Refused(OSError):
    """An output will not take this one decision; others may still be taken."""


class Output(Protocol):
    """Takes decisions, each at least once.

    Attributes:
      name: of what and where to, by which decisions wait for it in a store; text that is UTF-8 throughout.
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
    """Hand on all that is due for an output, unless another process is just doing that.

    Args:
      store: in which it waits.
      output: that takes it.
      pictures: by the ids of decisions.
      remark: told what is not taken.

    Returns:
      Seconds to wait before it is offered anything again, 0 where it took what was due.
    """
    while store.outbox.pending(output.name, limit=1):
        with turn(store.path, output.name, 0.0 if output.is_far else _PATIENCE) as is_ours:
            wait = _hand_on_some(store, output, pictures, remark) if is_ours else _BUSY
        if wait:
            return wait
    return 0.0


def _hand_on_some(
    store: Store, output: Output, pictures: Mapping[str, Picture], remark: Callable[[str], None]
) -> float:
    give_up = f"to give up what waits: {shlex.join(('padim', 'results', str(store.path), '--abandon', output.name))}"
    due = store.outbox.pending(output.name, limit=_TOGETHER)  # anew: another process may have handed it on meanwhile
    if not due:
        return 0.0
    taken, failure = list[Decision](), None
    for decision, tried in due:
        try:
            output.deliver(decision, tried + 1, pictures.get(decision.id))
            taken.append(decision)
        except Refused as error:
            if tried + 1 >= MOST_REFUSALS:
                store.outbox.delivered(output.name, [decision])
                remark(f"{output.name} refuses {decision.item} ({error}), {tried + 1} times by now; it is given up")
                continue
            wait = store.outbox.postpone(output.name, decision, str(error))
            if tried in _TOLD:
                again = f"it is offered again in {wait:.0f} s, {MOST_REFUSALS} times at most"
                remark(f"{output.name} refuses {decision.item} ({error}); {again}; {give_up}")
        except Exception as error:  # whatever it is, what was taken before it is noted, and the others wait
            failure = decision, tried, error
            break
    try:
        output.flush()
    except OSError as error:
        failure, taken = (*due[0], error), []
    store.outbox.delivered(output.name, taken)
    if failure is None:
        return 0.0
    decision, tried, error = failure
    why = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    wait = store.outbox.postpone(output.name, decision, why, others_too=True)
    if tried in _TOLD:
        remark(f"{output.name}: {why}; decisions wait in {store.path}, and are handed on once it goes again; {give_up}")
    return wait


def refuse_twins(outputs: Sequence[Output]) -> None:
    """Refuse two outputs of one name, for which decisions would wait as for one.

    Raises:
      ValueError: naming them.
    """
    for name, count in Counter(output.name for output in outputs).items():
        if count > 1:
            raise ValueError(f"watch: {name} is named {count} times as an output; name each once")


def names_for(outputs: Sequence[Output]) -> Callable[[Decision], list[str]]:
    """Which of ``outputs`` get a decision."""
    return lambda decision: [output.name for output in outputs if decision.verdict in output.verdicts]
