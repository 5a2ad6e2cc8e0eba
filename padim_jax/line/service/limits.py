"""What one request, one client and all of them together may take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServiceLimits:
    """Limits of a service; a request beyond one is refused in words.

    Attributes:
      body: bytes of one request.
      pixels: of one image, as its header announces them.
      images: in one request.
      receive: seconds within which a request has to arrive whole, and its answer has to be taken.
      queue: most images that wait to be computed, and most requests in hand.
      rate: requests a second of one client, over some seconds; None for any.

    Raises:
      ValueError: a limit that lets nothing through.
    """

    body: int = 64 * 10**6
    pixels: int = 50 * 10**6
    images: int = 64
    receive: float = 30.0
    queue: int = 256
    rate: float | None = None

    def __post_init__(self) -> None:
        for name in ("body", "pixels", "images", "receive", "queue", "rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"ServiceLimits: {name}={value!r}, wanted more than 0")
