"""The values that images of more than 8 bits a channel take, so that a fit can fix their range."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from padim_jax.images.ahead import CORES, map_ahead
from padim_jax.images.decode import (
    DeepImage,
    FilePath,
    UnreadableImage,
    check_file,
    is_deep,
    open_header,
    open_image,
    reasons,
)

_MARGIN = 0.1  # of the span of floats, on both sides
_FEWEST_BITS = 8
_KINDS = {"8 bits": "of 8 bits a channel", "integers": "of integers of more bits", "floats": "of floats"}


def find_value_range(
    paths: Sequence[FilePath],
    unreadable: Callable[[UnreadableImage], None] = lambda error: None,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[float, float] | None:
    """The range to fix for a fit on these files, for ``PadimConfig.value_range``.

    * All of 8 bits a channel, as their headers say: None.
    * Integers: ``(0, 2**b - 1)`` with the smallest b from 8 that holds the largest value, so that a camera of 12 bits
      gives 4095 whatever its files could hold; where some are negative, ``(-2**(b - 1), 2**(b - 1) - 1)``.
    * Floats: ``(low - span / 10, high + span / 10)`` of their lowest and highest value; for a constant, which has no
      span, its absolute value or 1, whichever is larger, takes the span's place.

    Wholly transparent pixels don't count. Memory does not grow with the number of files.

    Args:
      paths: files to look at; those of more than 8 bits are decoded.
      unreadable: called with files that can't be read, in order; by default the pass that uses them reports them.
      advance: called with 1 after every file.

    Raises:
      ValueError: files of several kinds, naming one of each.
    """
    kinds: dict[str, _Kind] = {}
    for path, future in map_ahead(_look, map(Path, paths), 4 * CORES, name="values"):
        try:
            values = future.result()
        except UnreadableImage as error:
            unreadable(error)
        else:
            if values is not None:
                kinds.setdefault(values.kind, _Kind(path)).add(values)
        advance(1)
    if len(kinds) > 1:
        each = "; ".join(f"{files.count} {_KINDS[kind]} ({files.example})" for kind, files in sorted(kinds.items()))
        raise ValueError(
            f"the images are of several kinds: {each}; a model is for one: leave out or convert the others"
        )
    if not kinds or "8 bits" in kinds:
        return None
    ((kind, files),) = kinds.items()
    if kind == "floats":
        return _range_of_floats(files.low, files.high)
    return _range_of_integers(int(files.low), int(files.high))


@dataclass(frozen=True)
class _Values:
    kind: str
    low: float
    high: float


class _Kind:
    """The range and number of the files of one kind."""

    def __init__(self, example: Path) -> None:
        self.example = example
        self.count = 0
        self.low, self.high = float("inf"), float("-inf")

    def add(self, values: _Values) -> None:
        self.count += 1
        self.low, self.high = min(self.low, values.low), max(self.high, values.high)


def _look(path: Path) -> _Values | None:
    """The values of a file; None where nothing is visible."""
    with reasons(path):
        check_file(path)
        with path.open("rb") as stream:
            if not is_deep(open_header(path, stream)):
                return _Values("8 bits", 0, 255)
    image = open_image(path, note=lambda path, text: None)  # the pass that uses the file reports
    if not isinstance(image, DeepImage) or not image.visible().size:
        return None
    values = image.visible()
    return _Values("floats" if values.dtype.kind == "f" else "integers", float(values.min()), float(values.max()))


def _range_of_integers(low: int, high: int) -> tuple[float, float]:
    if low < 0:
        bits = max(_FEWEST_BITS, 1 + high.bit_length(), 1 + (-low - 1).bit_length())
        return -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    return 0.0, 2.0 ** max(_FEWEST_BITS, high.bit_length()) - 1


def _range_of_floats(low: float, high: float) -> tuple[float, float]:
    span = high - low or max(abs(high), 1.0)
    return low - _MARGIN * span, high + _MARGIN * span
