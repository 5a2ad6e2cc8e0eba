"""Drift in words: what has changed, where and since when, and what somebody may then do."""

import shlex
from collections.abc import Sequence
from typing import Any

from padim_jax.line.appearance import GRID
from padim_jax.line.drift import Alarm, Drift, Kind

# of a quantity that has become lower, and of one that has become higher
_CHANGES: dict[Kind, tuple[str, str]] = {
    "score": ("the images score lower", "the images score higher"),
    "brightness": ("the images are darker", "the images are brighter"),
    "contrast": ("the images have less contrast", "the images have more contrast"),
    "sharpness": ("the images are less sharp", "the images are sharper, or noisier"),
    "row": ("the parts lie higher up in the picture", "the parts lie lower down in the picture"),
    "column": ("the parts lie further left", "the parts lie further right"),
    "turn": ("the parts are turned clockwise", "the parts are turned counter-clockwise"),
}
_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "middle", "right")
MODELS = "MODELS"
CAUSES = "look at what has changed: camera, lens, light, fixture, material"


def place_name(place: tuple[int, int]) -> str:
    """Where a place lies in the picture.

    >>> place_name((0, 0)), place_name((1, 3)), place_name((2, 1))
    ('upper left', 'middle right', 'middle')
    """
    row, column = (names[int(3 * (index + 0.5) / GRID)] for names, index in zip((_ROWS, _COLUMNS), place, strict=True))
    return "middle" if row == column else f"{row} {column}"


def sentences(alarms: Sequence[Alarm]) -> list[str]:
    """What has drifted, a sentence for each kind and direction, without a full stop; places of one direction together.

    Args:
      alarms: in their order. First changes of places, second ones and so on are told apart.
    """
    found = [f"{_CHANGES[one.quantity.kind][one.is_higher]} {_since([one])}" for one in alarms if not _at(one)]
    together = dict[tuple[int, bool], list[Alarm]]()
    for one in alarms:
        if _at(one):
            together.setdefault((one.number, not one.is_higher), []).append(one)
    for (_, is_lower), places in sorted(together.items()):
        names = list(dict.fromkeys(place_name(place) for one in places if (place := _at(one))))
        listed = ", ".join(names[:-1]) + (" and " if names[1:] else "") + names[-1]
        found.append(f"the {listed} of the picture score{'' if names[1:] else 's'} {_way(is_lower)} {_since(places)}")
    return found


def offer(drift: Drift) -> dict[str, str]:
    """Commands by which a model gets used to what comes now, if that is good; none is ever run by itself.

    A store knows the name of a model and not where it lies, so MODELS stands for the folder that it lies in.
    """
    model = shlex.quote(f"{MODELS}/{drift.model}")
    return {"calibrate": f"padim calibrate {model} GOOD_IMAGES", "update": f"padim update {model} GOOD_IMAGES"}


def record(drift: Drift) -> dict[str, Any]:
    """Drift as JSON has it, with its words, and its source as it is shown where ``source`` may be None."""
    words = {"words": sentences(drift.alarms), "offer": offer(drift) if drift.alarms else {}}
    return drift.record() | {"source_name": drift.source_name} | words


def _at(alarm: Alarm) -> tuple[int, int] | None:
    return alarm.quantity.place


def _way(is_lower: bool) -> str:
    return "lower" if is_lower else "higher"


def _since(alarms: Sequence[Alarm]) -> str:
    """Since when, of the earliest of some."""
    since = min((one.since for one in alarms), key=lambda one: one.sequence)
    at = min((one.at for one in alarms), key=lambda one: one.sequence)
    return f"since about {since.time} (decision {since.sequence}), seen at {at.time} (decision {at.sequence})"
