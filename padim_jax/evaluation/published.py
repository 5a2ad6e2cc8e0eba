"""What has been published of presets and methods, with its source."""

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Published:
    """A published figure and where it stands.

    Attributes:
      value: a rate in [0, 1], or of costs seconds an image or 10⁹ bytes.
      source: where it stands.
      decimals: of a rate in percent, how many have been published.
    """

    value: float
    source: str
    decimals: int = 1


def published(name: str, data: str, protocol: str, category: str, backbone: str | None = None) -> dict[str, Published]:
    """What has been published for a preset or a method on a category, by metric; empty where nothing has.

    Args:
      name: of the preset or the method, or of one that is not here, as ``published.json`` calls it.
      data: name of the data set's builder.
      protocol: "standard" or "rotated".
      category: the category's name, or that of a mean.
      backbone: the network in use; figures of a method with another one are left out.
    """
    key = {"preset": name, "data": data, "protocol": protocol}
    return {
        row["metric"]: Published(row["values"][category], row["source"], row.get("decimals", 1))
        for row in _published_rows()
        if key.items() <= row.items() and category in row["values"] and row.get("backbone") in (None, backbone)
    }


@functools.cache
def _published_rows() -> list[dict[str, Any]]:
    return json.loads(files("padim_jax.evaluation").joinpath("published.json").read_text(encoding="utf-8"))
