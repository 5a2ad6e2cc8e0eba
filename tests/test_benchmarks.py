"""What the benchmarks draw is named for readers."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import linregress

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


def test_slopes_of_growth_are_those_of_powers_with_the_error_of_a_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    growth: Any = importlib.import_module("growth")
    n = [50, 100, 200, 400]
    assert growth.slope(n, [3 * x**1.5 for x in n]) == pytest.approx((1.5, 0))
    noisy = [1.0, 2.1, 3.7, 9.0]
    fitted: Any = linregress(np.log(n), np.log(noisy))
    assert growth.slope(n, noisy) == pytest.approx((fitted.slope, fitted.stderr))
    rows = [{"method": "a", "n": x, "fit_cpu_s": x, "score_cpu_ms": 2, "mb": x**2, "file_mb": 1 / x} for x in n]
    (line,) = growth.slopes(rows)
    assert [line[name] for name in growth.MEASURED] == [
        "1.00 ± 0.00",
        "0.00 ± 0.00",
        "2.00 ± 0.00",
        "-1.00 ± 0.00",
    ]
    assert (line["from"], line["to"]) == (50, 400)
