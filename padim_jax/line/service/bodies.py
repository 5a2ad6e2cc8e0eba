"""The bytes that requests in hand take together, within a budget: a large one that would not fit has to come again."""

from collections.abc import Iterator
from contextlib import contextmanager

from padim_jax.line.service.uploads import Refusal

_AGAIN = {"retry-after": "1"}  # seconds


class Held:
    """What one request takes.

    Args:
      bodies: of all requests.
    """

    def __init__(self, bodies: "Bodies") -> None:
        self._bodies, self._size = bodies, 0

    def take(self, size: int) -> None:
        """Take ``size`` bytes in all, in the place of those that were taken before.

        Raises:
          Refusal: others hold so many that these do not fit.
        """
        held = self._bodies.held + size - self._size
        if size > self._size and held > self._bodies.most:
            text = f"requests in hand hold {self._bodies.held} bytes already, of {self._bodies.most}; try again later"
            raise Refusal(503, "memory", text, _AGAIN)
        self._bodies.held, self._size = held, size


class Bodies:
    """A budget of bytes, which one thread keeps.

    Args:
      most: bytes that all requests may take together.

    Attributes:
      most: as given.
      held: bytes that they take.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    @contextmanager
    def holding(self) -> Iterator[Held]:
        """What a request takes, which is free at the end."""
        held = Held(self)
        try:
            yield held
        finally:
            held.take(0)
