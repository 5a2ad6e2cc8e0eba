"""What values the fields of a record of settings may have: rules, how values are stored, and their help texts."""

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np


@dataclass(frozen=True)
class Setting:
    """The rule of one field of :class:`PadimConfig`, and its help text for the commands.

    Attributes:
      is_valid: whether a value, in the form in which it is stored, is allowed.
      rule: the rule in words, as an error states it.
      help: one sentence.
      normalise: brings a value to the form in which it is stored; leaves what has no such form as it is.
      default: the default in words, for the help text, where its value says too little.
    """

    is_valid: Callable[[Any], bool]
    rule: str
    help: str
    normalise: Callable[[Any], Any]
    default: str | None


def setting(
    default: Any,
    is_valid: Callable[[Any], bool],
    rule: str,
    help_text: str,
    default_in_words: str | None = None,
    normalise: Callable[[Any], Any] | None = None,
) -> Any:
    """A field of a record with the rule of its values."""
    rules = Setting(is_valid, rule, help_text, normalise or _to_plain, default_in_words)
    return dataclasses.field(default=default, metadata={"setting": rules})


def choice(default: str, kind: Any, help_text: str) -> Any:
    """A field whose value is one of the names of a ``Literal``."""
    names = get_args(kind)
    return setting(default, lambda v: isinstance(v, str) and v in names, f"one of {', '.join(names)}", help_text)


def is_int(value: Any) -> bool:
    """Whether a value is an integer, of Python or NumPy."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, of Python or NumPy."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return number and math.isfinite(value)


def is_size(value: Any) -> bool:
    """Whether a value is a positive integer, or two."""
    sides = pair(value)
    return len(sides) == 2 and all(is_int(side) and side > 0 for side in sides)


def is_range(value: Any) -> bool:
    """Whether a value is two numbers, the lower one first."""
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(is_number, value)) and value[0] < value[1]


def pair(size: Any) -> tuple[Any, ...]:
    """A size as (height, width)."""
    return tuple(size) if isinstance(size, tuple | list) else (size, size)


def _to_plain(value: Any) -> Any:
    """``value`` with tuples for lists, which can't be hashed, and Python's numbers for NumPy's."""
    if isinstance(value, tuple | list):
        return tuple(map(_to_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def to_float(value: Any) -> Any:
    """A number as a float; anything else as it is."""
    return float(value) if is_number(value) else value


def to_size(value: Any) -> Any:
    """A size as it is stored: a square as its side."""
    square = is_size(value) and len(set(pair(value))) == 1
    return _to_plain(pair(value)[0] if square else value)


def to_range(value: Any) -> Any:
    """A range as two floats; anything else as it is."""
    return tuple(map(float, value)) if is_range(value) else value


def percent_of(value: Any) -> float | None:
    """P of "top-P%"; None of anything else."""
    try:
        percent = float(re.fullmatch(r"top-([\d.e-]+)%", value)[1])  # type: ignore[index]
    except (TypeError, ValueError):
        return None
    return percent if 0 < percent <= 100 else None


def to_image_score(value: Any) -> Any:
    """The share of an image score in one spelling; anything else as it is."""
    percent = percent_of(value)
    return value if percent is None else f"top-{repr(percent).removesuffix('.0')}%"
