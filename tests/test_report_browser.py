"""The report as its readers meet it: opened from disk in a real browser, which may say nothing and ask for nothing."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from padim_jax import cli
from padim_jax.evaluation.report import write_report
from tests.browser import Open, eventually, launched, mistakes_first, names, sync_api, verdicts, visiting
from tests.datasets import write_mvtec
from tests.runs import rewrite, start, tally, write_run

HOSTILE = "</script><img src=x onerror=alert(1)>.png"
LONG = f"test/good/{'n' * 240}.png"
# Text of every visible element with the opaque colour behind it.
TEXTS = """() => [...document.querySelectorAll('body *')].flatMap((node) => {
  if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()) || !node.checkVisibility()) return [];
  if (node.closest('script, style, option, :disabled, .hush')) return [];
  let behind = node;
  while (behind && /(, 0\\)|transparent)$/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
  const style = getComputedStyle(node);
  return [[node.textContent.slice(0, 40), node.closest('svg') ? style.fill : style.color,
    getComputedStyle(behind ?? document.body).backgroundColor]];
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    yield from visiting(browser)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A run of 40 test images, 34 with pictures, and its report."""
    folder = tmp_path_factory.mktemp("run")
    record = write_run(folder, good=16, defective=24, pictured=34, seed=3, names={1: HOSTILE, 30: LONG})
    write_report(folder, folder / "report.html")
    return record, folder / "report.html"


def test_headline(visit: Open, run: tuple[dict[str, Any], Path]) -> None:
    record, html = run
    page = visit(html)
    assert page.title() == "bottle – PaDiM report"
    cards = dict(text.split("\n", 1) for text in page.locator("#headline > div").all_inner_texts())
    image, calibrated = record["metrics"]["image"], record["metrics"]["calibrated"]

    def share(name: str) -> str:
        return f"{100 * calibrated[f'{name}_percent'] + 1e-9:.1f}\xa0%"  # JavaScript rounds halves up

    assert cards == {
        "image AUROC": f"{image['auroc']:.3f}",
        "image average precision": f"{image['average_precision']:.3f}",
        "best F1 (oracle threshold)": f"{image['best_f1']:.3f}",
        "found at 1\xa0% false alarms": share("recall_at_1")
        + f"\n{share('false_alarms_at_1')} of the good ones flagged",
        "pixel AUROC": "0.981\npublished 0.983",
        "pixel average precision": "0.773",
        "PRO": "0.947\npublished 0.948",
        "found at 5\xa0% false alarms": share("recall_at_5")
        + f"\n{share('false_alarms_at_5')} of the good ones flagged",
    }
    assert page.inner_text("#source") == "Published: PaDiM, arXiv 2011.08785."
    assert "Fitted on 120 good images; tested on 16 good and 24 defective." in page.inner_text("#counts")
    assert page.locator("#roc .curve, #pr .curve").count() == 2
    assert page.locator("#types tbody tr").count() == 3


def test_mistakes_come_first(visit: Open, run: tuple[dict[str, Any], Path]) -> None:
    record, html = run
    page = visit(html)
    tests, threshold = record["files"]["test"], start(record)
    assert names(page) == mistakes_first(tests, threshold)
    assert verdicts(page) == tally(tests, threshold)
    assert verdicts(page)["missed"] + verdicts(page)["alarm"] >= 2  # else the order is not tried
    for order, wanted in {
        "falling": [test["file"] for test in sorted(tests, key=lambda test: -test["score"])],
        "rising": [test["file"] for test in sorted(tests, key=lambda test: test["score"])],
        "name": sorted(test["file"] for test in tests),
    }.items():
        page.select_option("#order", order)
        assert names(page) == wanted


def test_filters(visit: Open, run: tuple[dict[str, Any], Path]) -> None:
    record, html = run
    page = visit(html)
    counts = tally(record["files"]["test"], start(record))
    rest = " of 40; pictures are kept for 34 of the 40 test images"
    assert page.inner_text("#shown") == f"40{rest}"
    for name, count in counts.items():
        page.check(f"#verdicts input[value={name}]")
        for cards in (".card", f".{name}-card"):
            sync_api.expect(page.locator(cards)).to_have_count(count)
        sync_api.expect(page.locator("#shown")).to_have_text(f"{count}{rest}")
    page.check("#verdicts input[value=all]")
    page.select_option("#kind", label="contamination (8)")
    sync_api.expect(page.locator(".card")).to_have_count(8)
    page.fill("#search", "016")
    assert names(page) == ["test/contamination/016.png"]
    page.select_option("#kind", label="all")
    page.fill("#search", "TEST/BROKEN_SMALL")
    sync_api.expect(page.locator(".card")).to_have_count(8)
    page.fill("#search", "no such file")
    sync_api.expect(page.locator(".card")).to_have_count(0)
    sync_api.expect(page.locator("#shown")).to_have_text(f"0{rest}")


def test_what_a_card_shows(visit: Open, run: tuple[dict[str, Any], Path]) -> None:
    page = visit(run[1])
    page.fill("#search", "test/broken_large/000")
    card = page.locator(".card")
    said = lambda: card.locator("img").evaluate_all("images => images.map((image) => image.alt.split(' of ')[0])")  # noqa: E731
    eventually(lambda: said() == ["image", "overlay", "mask"])
    page.check("#views input[value=map]")
    page.uncheck("#views input[value=mask]")
    eventually(lambda: said() == ["image", "overlay", "heat map"])
    assert card.locator("img").evaluate_all("images => images.every((image) => image.loading === 'lazy')")
    sync_api.expect(card.locator("img").first).to_have_js_property("naturalWidth", 48)
    page.fill("#search", "039")
    sync_api.expect(card).to_contain_text("no picture kept")


def test_threshold(visit: Open, run: tuple[dict[str, Any], Path]) -> None:
    record, html = run
    page = visit(html)
    tests, started, best = record["files"]["test"], start(record), record["metrics"]["image"]["best_f1_threshold"]
    assert float(page.input_value("#slide")) == pytest.approx(started)
    assert verdicts(page) == tally(tests, started)
    assert (
        "starts at the threshold for 1\xa0% false alarms. It comes from the 120 good training images alone"
        in page.inner_text("#honesty")
    )
    assert "oracle threshold was chosen on the labels of these very test images" in page.inner_text("#honesty")
    scores = sorted({test["score"] for test in tests})
    page.click("#choices tr:last-child button")
    assert float(page.input_value("#slide")) == best
    page.focus("#slide")
    for key, move in {"ArrowRight": 1, "ArrowUp": 2, "ArrowLeft": 1, "ArrowDown": 0}.items():
        page.keyboard.press(key)
        threshold = scores[scores.index(best) + move]
        assert float(page.input_value("#slide")) == threshold
        assert verdicts(page) == tally(tests, threshold)
    for value in ("7.5", "12.25", "16"):
        page.locator("#slide").fill(value)
        counts = tally(tests, float(value))
        assert verdicts(page) == counts
        found, alarm, flagged = counts["found"], counts["alarm"], counts["found"] + counts["alarm"]
        rates = page.locator("#rates dd").all_inner_texts()
        wanted = [100 * part / whole for part, whole in ((found, 24), (found, flagged), (alarm, 16))]
        assert [float(rate.removesuffix("\xa0%")) for rate in rates[:3]] == pytest.approx(wanted, abs=0.051)
        missed = page.locator("#types tbody tr td:last-child").all_inner_texts()
        assert sum(int(text.strip("✕ ")) for text in missed) == counts["missed"]
        sync_api.expect(page.locator("#verdicts label", has_text="missed").locator("small")).to_have_text(
            str(counts["missed"])
        )
        assert names(page) == mistakes_first(tests, float(value))
    box = page.locator("#roc").bounding_box()
    point = page.locator("#roc .point").evaluate("point => [+point.getAttribute('cx'), +point.getAttribute('cy')]")
    x, y = (point[0] - 44) / (box["width"] - 56), 1 - (point[1] - 10) / (320 - 50)  # inside the axes' margins
    assert (x, y) == pytest.approx((counts["alarm"] / 16, counts["found"] / 24), abs=0.01)
    page.mouse.click(box["x"] + 44, box["y"] + 10)  # the perfect corner
    assert float(page.input_value("#slide")) != 16
    page.click("#reset")
    assert float(page.input_value("#slide")) == pytest.approx(started)
    for end, wanted in (("min", (24, 0, 16, 0)), ("max", (0, 24, 0, 16))):
        page.locator("#slide").fill(page.get_attribute("#slide", end))
        assert tuple(verdicts(page).values()) == wanted


def test_table_sorts(visit: Open, run: tuple[dict[str, Any], Path]) -> None:
    page = visit(run[1])
    column = lambda: page.locator("#types tbody tr > :nth-child(4)").all_inner_texts()  # noqa: E731
    page.click("#types th[data-key=median] button")
    rising = column()
    assert [float(text) for text in rising] == sorted(map(float, rising))
    assert page.get_attribute("#types th[data-key=median]", "aria-sort") == "ascending"
    page.click("#types th[data-key=median] button")
    assert (column(), page.get_attribute("#types th[data-key=median]", "aria-sort")) == (rising[::-1], "descending")


def test_large_view(visit: Open, run: tuple[dict[str, Any], Path]) -> None:
    page = visit(run[1])
    order = names(page)
    viewer, name = page.locator("#viewer"), page.locator("#viewer-name")
    page.locator(".card").first.click()
    sync_api.expect(name).to_have_text(order[0])
    sync_api.expect(page.locator("#large img")).to_have_count(4)
    sync_api.expect(page.locator("#previous")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    sync_api.expect(name).to_have_text(order[2])
    page.keyboard.press("ArrowLeft")
    page.click("#next")
    page.click("#previous")
    sync_api.expect(name).to_have_text(order[1])
    page.keyboard.press("Escape")
    sync_api.expect(viewer).not_to_be_visible()
    eventually(lambda: (page.evaluate("document.activeElement.getAttribute('aria-label')") or "").startswith(order[1]))
    page.keyboard.press("Enter")
    sync_api.expect(viewer).to_be_visible()
    page.click("#close")
    sync_api.expect(viewer).not_to_be_visible()


def test_files_and_settings(visit: Open, run: tuple[dict[str, Any], Path]) -> None:
    record, html = run
    page = visit(html)
    page.click("#settings summary")
    table = dict(row.split("\t") for row in page.locator("#settings tr").all_inner_texts())
    assert table["settings · weights digest"] == record["settings"]["weights_digest"]
    assert (table["settings · members · 1 · ridge"], table["protocol · name"], table["seed"]) == (
        "0.01",
        "standard",
        "0",
    )
    page.click("#files summary")
    with page.expect_download() as download:
        page.click("#csv")
    assert download.value.suggested_filename == "bottle-scores.csv"
    with Path(download.value.path()).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows if row["role"] == "fit"] == record["files"]["fit"]
    tested = [
        (row["file"], row["defect_type"], int(row["label"]), float(row["score"]))
        for row in rows
        if row["role"] == "test"
    ]
    assert tested == [
        (test["file"], test["defect_type"], test["label"], test["score"]) for test in record["files"]["test"]
    ]


def test_what_evaluate_writes(visit: Open, tmp_path: Path) -> None:
    folder = write_mvtec(tmp_path, "bottle", (6, 3, 6), size=96)
    arguments = ["evaluate", folder, "--out", tmp_path / "out", "--image-size", 64, "--crop-size", 56]
    assert cli.main([str(argument) for argument in arguments]) == 0
    (html,) = (tmp_path / "out").rglob("report.html")
    page = visit(html)
    assert page.inner_text("h1") == "bottle"
    sync_api.expect(page.locator(".card")).to_have_count(9)
    page.select_option("#kind", label="contamination (2)")
    sync_api.expect(page.locator(".card")).to_have_count(2)
    assert all("contamination" in text for text in page.locator(".card").all_inner_texts())
    page.locator(".card").first.click()
    shown = page.locator("#large img")
    sync_api.expect(shown).to_have_count(4)
    for index in range(4):  # pictures are pictures: each has its pixels
        sync_api.expect(shown.nth(index)).to_have_js_property("naturalWidth", 56)


def test_names_run_nothing(visit: Open, tmp_path: Path) -> None:
    record = write_run(tmp_path, good=3, defective=3, names={0: HOSTILE})
    for test in record["files"]["test"][:3]:
        test["defect_type"] = HOSTILE
    hostile = {HOSTILE: HOSTILE, "__proto__": {"polluted": 1}}
    changes = {"category": HOSTILE, "preset": HOSTILE, "data": HOSTILE, "settings": hostile, "versions": hostile}
    rewrite(tmp_path, record | changes | {"published": {"pro": {"value": 0.5, "source": HOSTILE}}})
    write_report(tmp_path, tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    page.click("#settings summary")
    page.click("#files summary")
    page.locator(".card", has_text=HOSTILE).first.click()
    assert page.inner_text("h1") == HOSTILE
    assert HOSTILE in page.inner_text("#types")
    assert page.locator("img[onerror], img[src='x']").count() == 0
    assert page.evaluate("({}).polluted ?? null") is None


@pytest.mark.parametrize(("good", "defective"), [(4, 0), (0, 4), (1, 0), (2, 2)])
def test_few_images(visit: Open, tmp_path: Path, good: int, defective: int) -> None:
    record = write_run(tmp_path, good=good, defective=defective)
    rewrite(tmp_path, record | {"published": {}})
    write_report(tmp_path, tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    sync_api.expect(page.locator(".card")).to_have_count(good + defective)
    assert "NaN" not in page.inner_text("body")
    page.click("#higher")
    page.click("#lower")
    if not (good and defective):
        assert page.locator("#headline dd:first-of-type").all_inner_texts()[:3] == ["–", "–", "–"]
        assert page.locator("svg", has_text="needs good and defective images").count() == 2
        assert "starts at the threshold for 1\xa0% false alarms" in page.inner_text("#honesty")
        assert page.locator("#choices tbody tr").count() == 2


def test_many_images_come_in_chunks(visit: Open, tmp_path: Path) -> None:
    write_run(tmp_path, good=150, defective=250, pictured=0)
    write_report(tmp_path, tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    sync_api.expect(page.locator(".card")).to_have_count(60)
    page.locator("#more").scroll_into_view_if_needed()
    sync_api.expect(page.locator(".card").nth(119)).to_be_attached()
    page.fill("#search", "test/good")
    assert page.locator(".card").count() <= 120
    assert page.inner_text("#shown").startswith("150 of 400; pictures are kept for 0 of the 400")


def test_phone(visit: Open, run: tuple[dict[str, Any], Path]) -> None:
    page = visit(run[1], 360, 740, has_touch=True, is_mobile=True)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= 360
    page.click("#settings summary")
    page.click("#files summary")
    page.fill("#search", "nnnn")
    page.locator(".card").first.click()
    assert page.inner_text("#viewer-name") == LONG
    assert page.evaluate(width) <= 360
    box = page.locator("#viewer").bounding_box()
    assert (box["x"] >= 0, box["x"] + box["width"] <= 360) == (True, True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(visit: Open, run: tuple[dict[str, Any], Path], scheme: str) -> None:
    page = visit(run[1], color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert luminance(ground) < 0.05 if scheme == "dark" else luminance(ground) > 0.8
    page.click("#settings summary")
    page.locator(".card").first.click()
    texts = page.evaluate(TEXTS)
    assert len(texts) > 100
    assert [item for item in texts if contrast(item[1], item[2]) < 4.5] == []


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` as WCAG 2 has it."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)
