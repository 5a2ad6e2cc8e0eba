"""How an image came into a model and out of it: what people did by the service, and that something else was done, too.

Commands change models as well, of which the store knows nothing but what follows: an image that was taken out, and is
taken out again, has come in between.
"""

from collections.abc import Sequence
from typing import Any

from padim_jax.line.changes import Change, Way


def history(digest: str, changes: Sequence[Change], is_in_model: bool | None) -> list[dict[str, Any]]:
    """The changes that an image came in or went out by, as JSON has them, each with the way that the image went.

    Where it must have gone the other way in between, by a change that is not noted, there is one of the kind
    "elsewhere", with no time and nobody's name.

    Args:
      digest: of the image.
      changes: that were about it, in their order.
      is_in_model: whether it is part of the model now; None where that is not known.
    """
    told, last = list[dict[str, Any]](), None
    for change in changes:
        way = change.way_of(digest)
        if way is not None and way == last:
            told.append(_elsewhere("out" if way == "in" else "in"))
        told.append(change.record() | {"way": way})
        last = way
    if last is not None and is_in_model is not None and is_in_model != (last == "in"):
        told.append(_elsewhere("in" if is_in_model else "out"))
    return told


def _elsewhere(way: Way) -> dict[str, Any]:
    """A change that nobody noted."""
    return {"number": None, "time": None, "who": "", "kind": "elsewhere", "before": "", "after": "", "way": way}
