"""What one request, one client and all of them together may take."""

from dataclasses import dataclass

FORM_COPIES = 3  # of a form's bytes, while its files are copied out of it


@dataclass(frozen=True)
class ServiceLimits:
    """Limits of a service; a request beyond one is refused in words.

    Attributes:
      body: bytes of one request.
      pixels: of one image, as its header announces them.
      images: in one request.
      receive: seconds within which a request has to arrive whole, and its answer has to be taken.
      in_hand: bytes of all requests that are being received or wait; a form counts thrice while it is taken apart.
      queue: most images that wait to be computed, and most requests in hand.
      rate: requests a second of one client, over some seconds; None for any.

    Raises:
      ValueError: a limit that lets nothing through, or all requests together less than one of them.
    """

    body: int = 64 * 10**6
    pixels: int = 50 * 10**6
    images: int = 64
    receive: float = 30.0
    in_hand: int = 10**9
    queue: int = 256
    rate: float | None = None

    def __post_init__(self) -> None:
        for name in ("body", "pixels", "images", "receive", "in_hand", "queue", "rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"ServiceLimits: {name}={value!r}, wanted more than 0")
        if self.in_hand < FORM_COPIES * self.body:
            raise ValueError(
                f"ServiceLimits: in_hand={self.in_hand!r} bytes of all requests together, wanted at least "
                f"{FORM_COPIES * self.body}, {FORM_COPIES} times the largest one: a form takes as much while its files "
                "are copied out of it"
            )
