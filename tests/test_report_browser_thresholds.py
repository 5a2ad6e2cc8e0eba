"""Thresholds from good images in the report, in a real browser: marked, told, and where the page starts."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from padim_jax.evaluation.report import write_report
from tests.browser import Open, launched, verdicts, visiting
from tests.runs import rewrite, start, tally, write_run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    yield from visiting(browser)


def test_calibrated_thresholds_are_marked_and_can_be_set(visit: Open, tmp_path: Path) -> None:
    record = write_run(tmp_path, good=16, defective=24, pictured=3, seed=3)
    write_report(tmp_path, tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    tests, known = record["files"]["test"], record["calibration"]["thresholds"]
    assert page.locator("#histogram .mark-name").all_text_contents() == ["1\xa0% false alarms", "5\xa0% false alarms"]
    assert page.locator("#histogram .oracle-name").all_text_contents() == ["best F1 (oracle)"]
    rows = page.locator("#choices tbody tr")
    assert rows.count() == 3
    assert page.get_attribute("#choices tr >> nth=1", "aria-current") == "true"
    for index, one in enumerate(known):
        rows.nth(index).locator("button").click()
        assert rows.nth(index).locator("button").evaluate("button => button === document.activeElement")
        counts = tally(tests, float(np.nextafter(one["threshold"], np.inf)))
        assert verdicts(page) == counts
        at, cut = (
            float(page.get_attribute(f"#histogram .{kind}", "x1") or 0) for kind in (f"mark >> nth={index}", "cut")
        )
        assert at == pytest.approx(cut)
        cells = rows.nth(index).locator("td").all_inner_texts()
        assert cells[1] == f"{100 * one['expected_false_alarms'] + 1e-9:.1f}\xa0%"
        assert cells[2].startswith(f"{counts['found']} of 24, ")
        assert cells[3].startswith(f"{counts['alarm']} of 16, ")
    at = page.locator(".scale b").first.evaluate("mark => mark.style.left")
    page.click("#reset")
    assert page.locator(".scale b").first.evaluate("mark => parseFloat(mark.style.left)") == pytest.approx(50, abs=0.01)
    assert at != "50%"


def test_names_of_thresholds_do_not_lie_on_each_other(visit: Open, tmp_path: Path) -> None:
    record = write_run(tmp_path, good=16, defective=24, pictured=3, seed=3)
    scores = [test["score"] for test in record["files"]["test"]]
    for one, share in zip(record["calibration"]["thresholds"], (0.25, 0.15), strict=True):
        one["threshold"] = min(scores) + share * (max(scores) - min(scores))
    rewrite(tmp_path, record)
    write_report(tmp_path, tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    names = page.locator("#histogram .mark-name, #histogram .oracle-name, #histogram .cut + .name")
    boxes = [names.nth(index).bounding_box() or {} for index in range(names.count())]
    assert len(boxes) == 4
    for a, b in itertools.combinations(boxes, 2):
        apart = a["x"] + a["width"] <= b["x"] or b["x"] + b["width"] <= a["x"]
        assert apart or abs(a["y"] - b["y"]) >= 12


def test_a_score_that_equals_a_calibrated_threshold_is_not_flagged(visit: Open, tmp_path: Path) -> None:
    record = write_run(tmp_path, good=3, defective=3)
    record["files"]["test"][0]["score"] = record["calibration"]["thresholds"][0]["threshold"]
    rewrite(tmp_path, record)
    write_report(tmp_path, tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    assert verdicts(page) == tally(record["files"]["test"], start(record))


@pytest.mark.parametrize("fit", [2, 8])
def test_few_good_images_are_said(visit: Open, tmp_path: Path, fit: int) -> None:
    record = write_run(tmp_path, fit=fit)
    if fit == 2:
        record["calibration"] |= {"images": 0, "impossible": "2 images are too few to leave one out", "thresholds": []}
        record["metrics"]["calibrated"] = None
        rewrite(tmp_path, record)
    write_report(tmp_path, tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    honesty, marks = page.inner_text("#honesty"), page.locator("#histogram .mark-name").all_text_contents()
    if fit == 8:
        assert marks == ["1\xa0% and 5\xa0% false alarms"]
        assert "8 good images are too few for a false-alarm rate of 1% (which takes 99) and 5%" in honesty
    else:
        assert marks == []
        assert "No thresholds from good images: 2 images are too few to leave one out." in honesty
        assert float(page.input_value("#slide")) == record["metrics"]["image"]["best_f1_threshold"]


def test_a_run_of_an_earlier_version_starts_at_the_oracles(visit: Open, tmp_path: Path) -> None:
    record = write_run(tmp_path, calibrated=False)
    write_report(tmp_path, tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    assert float(page.input_value("#slide")) == record["metrics"]["image"]["best_f1_threshold"]
    assert page.locator("#choices tbody tr").count() == 1
    assert "earlier version, which did not calibrate" in page.inner_text("#honesty")
    assert "–\nno threshold from good images" in page.inner_text("#headline")
    page.click("#reset")
    assert float(page.input_value("#slide")) == record["metrics"]["image"]["best_f1_threshold"]
