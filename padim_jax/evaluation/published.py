"""What has been published of the presets, with its source."""

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Published:
    """A published figure, in [0, 1], and where it stands."""

    value: float
    source: str


def published(name: str, data: str, protocol: str, category: str) -> dict[str, Published]:
    """What has been published for a preset on a category, by metric (``pixel_auroc``, …); empty where nothing has."""
    key = {"preset": name, "data": data, "protocol": protocol}
    return {
        row["metric"]: Published(row["values"][category], row["source"])
        for row in _published_rows()
        if key.items() <= row.items() and category in row["values"]
    }


@functools.cache
def _published_rows() -> list[dict[str, Any]]:
    return json.loads(files("padim_jax.evaluation").joinpath("published.json").read_text(encoding="utf-8"))
