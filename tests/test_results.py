"""Means over seeds and categories, by hand."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from padim_jax.evaluation import results
from padim_jax.evaluation.results import METRICS, OBJECTS, TEXTURES, metrics_of, summarise


def run(
    category: str, seed: int, auroc: float | None, pro: float | None = None, preset: str = "r18-rd100"
) -> dict[str, Any]:
    return {
        "data": "mvtec_ad",
        "protocol": {"name": "standard", "seed": 0},
        "preset": preset,
        "category": category,
        "seed": seed,
        "as_published": True,
        "metrics": {"image": {"auroc": auroc}, "pixel": None if pro is None else {"pro": pro}},
    }


def test_seeds_give_mean_and_spread() -> None:
    (line,) = summarise([run("tile", seed, auroc) for seed, auroc in enumerate((0.7, 0.8, 0.9))])
    assert (line.category, line.seeds) == ("tile", (0, 1, 2))
    assert line.mean["image_auroc"] == pytest.approx(0.8)
    assert line.spread["image_auroc"] == pytest.approx(0.1)  # divisor n - 1
    assert line.mean["pro"] is line.spread["pro"] is None
    assert set(line.mean) == set(METRICS)
    assert line.published["pixel_auroc"].value == 0.912


def test_what_an_earlier_version_did_not_measure_is_undefined() -> None:
    old, new = run("tile", 0, 0.6), run("tile", 1, 0.8)
    new["metrics"]["calibrated"] = {"recall_at_1_percent": 0.5}
    assert metrics_of(old)["recall_at_1_percent"] is None
    assert metrics_of(new)["recall_at_1_percent"] == 0.5
    (line,) = summarise([old, new])
    assert line.mean["recall_at_1_percent"] is line.spread["recall_at_1_percent"] is None


def test_mean_of_categories_weighs_them_alike() -> None:
    lines = summarise([run("tile", 0, 0.6, 0.4), run("cable", 0, 1.0, 0.6)])
    assert [line.category for line in lines] == ["tile", "cable", "mean"]
    assert (lines[2].mean["image_auroc"], lines[2].mean["pro"]) == pytest.approx((0.8, 0.5))
    assert lines[2].spread["image_auroc"] is None


def test_groups_of_the_paper_when_complete() -> None:
    lines = summarise([run(name, 0, 0.9 if name in TEXTURES else 0.6) for name in (*TEXTURES, *OBJECTS)])
    means = {line.category: line.mean["image_auroc"] for line in lines[-3:]}
    assert means == pytest.approx({"textures": 0.9, "objects": 0.6, "mean": 0.7})
    assert lines[-3].published["pixel_auroc"].value == 0.956


def test_a_mean_takes_only_seeds_that_every_category_has() -> None:
    lines = summarise([run("tile", 0, 0.6), run("tile", 1, 0.8), run("cable", 0, 1.0)])
    assert (lines[2].seeds, lines[2].mean["image_auroc"]) == ((0,), 0.8)


def test_undefined_stays_undefined() -> None:
    lines = summarise([run("tile", 0, None), run("cable", 0, 1.0)])
    assert [line.mean["image_auroc"] for line in lines] == [None, 1.0, None]


def test_presets_are_apart() -> None:
    lines = summarise([run("tile", 0, 0.6), run("tile", 0, 0.9, preset="lite0")])
    assert [(line.preset, line.mean["image_auroc"]) for line in lines] == [("r18-rd100", 0.6), ("lite0", 0.9)]


def test_a_published_mean_stands_only_beside_the_same_mean() -> None:
    two = summarise([run("tile", 0, 0.6), run("cable", 0, 1.0)])
    assert (two[0].published["pixel_auroc"].value, two[2].published) == (0.912, {})
    every = summarise([run(name, 0, 0.9) for name in (*TEXTURES, *OBJECTS)])
    assert every[-1].published["pixel_auroc"].value == 0.967
    changed = summarise([run("tile", 0, 0.6) | {"as_published": False}])
    assert changed[0].published == {}


def test_all_scenes_are_no_part_of_their_mean() -> None:
    lines = summarise([run(name, 0, 0.5) for name in ("all", "01", "02")])
    assert [line.category for line in lines] == ["all", "01", "02", "mean"]
    assert lines[-1].seeds == (0,)


def test_tables_are_written_as_all_tables_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, list[dict[str, Any]]] = {}

    def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        written[path.name] = [dict(zip(columns, row, strict=True)) for row in rows]

    monkeypatch.setattr(results, "write_table", write_table)
    whole = run("tile", 0, 0.6) | {"published": {}, "seconds": {}, "versions": {}}
    whole["settings"] = {"backbone": "resnet18", "weights_digest": "", "members": [{"ridge": 0.01}]}
    whole["files"] = {"fit": ["=1+1.png"], "test": [{"file": "a\rb.png", "label": 1, "score": 2.0}]}
    results.write_results(tmp_path, [whole])
    assert [row["preset"] for row in written["results.csv"]] == ["r18-rd100"]
    assert [(row["file"], row.get("score")) for row in written["files.csv"]] == [("=1+1.png", ""), ("a\rb.png", 2.0)]
