"""What the benchmarks draw is named for readers."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT


def test_the_picture_of_speed_names_models_sides_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    latency: Any = importlib.import_module("latency")
    drawn: list[Any] = []
    monkeypatch.setattr(latency, "plot_bars", lambda *given, **options: drawn.append((*given, options)))
    sides = {"r18": ("ours", "anomavision", "compiled"), "lite0": ("ours", "compiled")}
    latency.draw(
        Path("speed.png"),
        [
            {"model": model, "batch": 16, "side": side, "images_per_s": 9.0}
            for model, own in sides.items()
            for side in own
        ],
    )
    ((path, rows, group, options),) = drawn
    assert path == Path("speed.png")
    assert {row[group[0]] for row in rows} == {"ResNet18,\nbatch of 16", "Lite0,\nbatch of 16"}
    assert {row["side"] for row in rows} == {"padim_jax", "AnomaVision (ResNet18 only)", "torch.compile"}
    assert options["label"].startswith("images per second, ")
