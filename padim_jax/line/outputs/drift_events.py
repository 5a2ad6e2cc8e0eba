"""Drift as an event to a web address or a broker, each at least once."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from padim_jax.line.alarms import Alarms
from padim_jax.line.outputs.output import Picture
from padim_jax.line.records import Decision, Verdict

EVENT = "drift"


class Messenger(Protocol):
    """Sends JSON.

    Attributes:
      name: of what and where to.
    """

    name: str

    def send(self, message: Mapping[str, Any], id: str, attempt: int, event: str = "") -> None:
        """Send one message, whose ``id`` stays the same whenever it is sent again; ``event`` says of what kind it is.

        Raises:
          Refused: this one is not taken.
          OSError: none is at the moment.
        """

    def close(self) -> None:
        """Let go of connections."""


class DriftEvents:
    """Hands drift on that a store has recorded, in the way of another output; takes no decisions as such.

    What waits for it is the decision by which an alarm was recorded (:mod:`padim_jax.line.alarms`), and what is sent is
    the alarm.

    Args:
      alarms: of the store.
      messenger: sends it; nobody else uses it.
    """

    is_far: ClassVar[bool] = True
    verdicts: frozenset[Verdict] = frozenset()

    def __init__(self, alarms: Alarms, messenger: Messenger) -> None:
        self.name, self._alarms, self._messenger = f"{EVENT} {messenger.name}", alarms, messenger

    def deliver(self, decision: Decision, attempt: int, picture: Picture | None = None) -> None:
        """Send the alarm that was recorded by a decision."""
        event = self._alarms.event(decision.sequence)
        if event is not None:
            self._messenger.send(event, event["id"], attempt, EVENT)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Let go of connections."""
        self._messenger.close()
