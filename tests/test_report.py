"""The report as a file: what goes into it, what is refused, what is left out."""

import importlib.resources
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, roc_auc_score, roc_curve

from padim_jax.evaluation.report import _thin, write_report
from tests.runs import rewrite, start, tally, write_run

PNG = b"\x89PNG\r\n\x1a\n"


def page_data(html: Path) -> dict[str, Any]:
    """What the page carries, read as a browser would: up to the first end of a script element."""
    return json.loads(raw_data(html))


def raw_data(html: Path) -> str:
    text = html.read_text(encoding="utf-8")
    return text.split('<script type="application/json" id="data">')[1].split("</script>")[0]


def written(folder: Path) -> dict[str, Any]:
    write_report(folder, folder / "report.html")
    return page_data(folder / "report.html")


def test_holds_the_run_and_its_pictures(tmp_path: Path) -> None:
    record = write_run(tmp_path, pictured=25)
    data = written(tmp_path)
    for key in ("category", "preset", "data", "seed", "protocol", "settings", "versions", "metrics", "published"):
        assert data[key] == record[key]
    assert data["files"] == record["files"]
    assert (sorted(map(int, data["pictures"])), data["left_out"]) == (list(range(25)), 0)
    assert [sorted(data["pictures"][i]) for i in ("0", "24")] == [
        ["image", "map", "mask", "overlay"],
        ["image", "map", "overlay"],
    ]
    assert data["pictures"]["0"]["image"].startswith("data:image/jpeg;base64,")
    assert data["pictures"]["0"]["mask"].startswith("data:image/png;base64,")
    assert (data["ramp"][0], data["ramp"][-1]) == ("#000004", "#fcffa4")


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name)
        write_report(tmp_path / name, tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.html", "b", "b.html"]  # no leftovers


def test_asks_nothing_of_a_network(tmp_path: Path) -> None:
    write_run(tmp_path)
    written(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    policy = text.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'")
    assert "http" not in policy
    links = [
        word
        for word in text.replace(raw_data(tmp_path / "report.html"), "").split('"')
        if "//" in word and "http" in word
    ]
    assert links == ["http://www.w3.org/2000/svg"]  # a name, not an address
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch("):
        assert word not in text


def test_the_page_says_when_an_image_is_flagged() -> None:
    page = " ".join(
        importlib.resources.files("padim_jax.evaluation").joinpath("report.html").read_text(encoding="utf-8").split()
    )
    assert "flagged when its score lies above a threshold from good images, or reaches one that is set by the" in page


def test_names_stay_data(tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>&amp;<!--\u2028\u2029\udcff@DATA@.png"
    record = write_run(tmp_path, names={0: hostile})
    rewrite(tmp_path, record | {"category": hostile, "settings": {hostile: [hostile]}})
    data = written(tmp_path)
    assert data["files"]["test"][0]["file"] == data["category"] == data["settings"][hostile][0] == hostile
    raw = raw_data(tmp_path / "report.html")
    assert not set("<>&\u2028\u2029") & set(raw)
    assert raw.isascii()


@pytest.mark.parametrize(
    "name", ["/etc/hosts", "../outside.png", "pictures/../../outside.png", "link.png", "C:\\x.png", "..\\x.png", ""]
)
def test_paths_outside_are_refused(tmp_path: Path, name: str) -> None:
    record = write_run(tmp_path / "run", good=2, defective=2)
    (tmp_path / "outside.png").write_bytes(PNG)
    (tmp_path / "run" / "link.png").symlink_to(tmp_path / "outside.png")
    record["pictures"][2]["overlay"] = name
    rewrite(tmp_path / "run", record)
    with pytest.raises(ValueError, match=r"pictures\[2\]\.overlay is .*, wanted a path inside the run's folder"):
        write_report(tmp_path / "run", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["pictures/none.png", "pictures", "n" * 5000, "a\0b.png"])
def test_missing_pictures_are_named(tmp_path: Path, name: str) -> None:
    record = write_run(tmp_path, good=2, defective=2)
    record["pictures"][1]["map"] = name
    rewrite(tmp_path, record)
    with pytest.raises(FileNotFoundError, match=r"pictures\[1\]\.map names '.*not there; score the run again"):
        write_report(tmp_path, tmp_path / "report.html")


def test_kind_is_read_from_content(tmp_path: Path) -> None:
    record = write_run(tmp_path, good=2, defective=2)
    (tmp_path / "a.png").write_bytes(b"RIFF\x10\0\0\0WEBPVP8 ")
    (tmp_path / "b.png").write_text("<svg onload='alert(1)'/>")
    record["pictures"][0]["map"] = "a.png"
    rewrite(tmp_path, record)
    assert written(tmp_path)["pictures"]["0"]["map"].startswith("data:image/webp;base64,")
    record["pictures"][0]["map"] = "b.png"
    rewrite(tmp_path, record)
    with pytest.raises(ValueError, match=r"pictures\[0\]\.map is 'b\.png', wanted a PNG, JPEG or WebP picture"):
        write_report(tmp_path, tmp_path / "report.html")


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no run\.json in .*; wanted the folder of a scored run"):
        write_report(tmp_path, tmp_path / "report.html")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\udcff", "is not JSON"),
        ("[]", "has format None, wanted 'padim_jax run'"),
        ('{"format": "padim_jax model"}', "has format 'padim_jax model', wanted 'padim_jax run'"),
        ('{"format": "padim_jax run", "schema": 3}', "has schema 3, this version reads 1 to 2; .* update padim-jax"),
    ],
    ids=["empty", "cut", "deep", "no text", "no object", "other kind", "newer"],
)
def test_damaged_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=said):
        write_report(tmp_path, tmp_path / "report.html")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("category",), None, "category is None, wanted a text"),
        (("colour_scale",), [1], r"colour_scale is \[1\], wanted the distances"),
        (("files", "fit"), "a.png", "files.fit is 'a.png', wanted a list"),
        (("files", "test"), [], r"files.test is \[\], wanted at least one scored image"),
        (("files", "test", 1, "score"), None, r"files.test\[1\].score is None, wanted a finite number"),
        (("files", "test", 1, "score"), float("nan"), r"files.test\[1\].score is nan, wanted a finite number"),
        (("files", "test", 1, "score"), 10**400, r"files.test\[1\].score is 10+…, wanted a finite number"),
        (("files", "test", 1, "label"), 2, r"files.test\[1\].label is 2, wanted 0 \(good\) or 1"),
        (("files", "test", 1), "a.png", r"files.test\[1\] is 'a.png', wanted an object"),
        (("metrics", "image"), None, "metrics.image is None, wanted an object"),
        (("metrics", "pixel", "pro"), "0.9", "metrics.pixel.pro is '0.9', wanted a finite number"),
        (("metrics", "calibrated"), [1], r"metrics.calibrated is \[1\], wanted an object"),
        (("metrics", "calibrated", "recall_at_1_percent"), "1", "recall_at_1_percent is '1', wanted a finite number"),
        (("calibration",), [], r"calibration is \[\], wanted an object"),
        (("calibration", "impossible"), 3, "calibration.impossible is 3, wanted a text"),
        (("calibration", "thresholds"), {}, "calibration.thresholds is {}, wanted a list"),
        (("calibration", "thresholds", 1, "threshold"), None, r"thresholds\[1\].threshold is None, wanted a finite"),
        (("calibration", "images"), None, "calibration.images is None, wanted a finite number"),
        (("published", "pro", "source"), None, "published.pro.source is None, wanted a text"),
        (("published", "pro", "value"), None, "published.pro.value is None, wanted a finite number"),
        (("published", "pro"), 0.9, "published.pro is 0.9, wanted an object"),
        (("seconds", "fit"), float("inf"), "a value of settings, versions, seconds or metrics is .*, wanted finite"),
        (("pictures", 1, "test"), 4, r"pictures\[1\].test is 4, wanted another index from 0 to 3"),
        (("pictures", 1, "test"), 0, r"pictures\[1\].test is 0, wanted another index"),
        (("pictures", 1, "image"), None, r"pictures\[1\].image is None, wanted a text"),
    ],
)
def test_damaged_values_are_named(tmp_path: Path, place: tuple[str | int, ...], value: Any, said: str) -> None:
    record = write_run(tmp_path, good=2, defective=2)
    record = json.loads(json.dumps(record))  # PIXEL and PUBLISHED are shared
    at: Any = record
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    rewrite(tmp_path, record)
    with pytest.raises(ValueError, match=said):
        write_report(tmp_path, tmp_path / "report.html")


def test_pictures_stay_within_the_budget(tmp_path: Path) -> None:
    record = write_run(tmp_path, good=24, defective=36, seed=3)
    padding = np.random.default_rng(0).bytes(120_000)
    for path in (tmp_path / "pictures").iterdir():
        path.write_bytes(path.read_bytes() + padding)  # 60 × 4 × 160 kB in all
    data = written(tmp_path)
    assert 13_000_000 < (tmp_path / "report.html").stat().st_size <= 14_000_000
    assert data["left_out"] == 60 - len(data["pictures"]) > 30
    tests, threshold = record["files"]["test"], start(record)
    wrong = {i for i, test in enumerate(tests) if (test["score"] >= threshold) != test["label"]}
    kept = set(map(int, data["pictures"]))
    assert len(wrong) == sum(tally(tests, threshold)[name] for name in ("missed", "alarm"))
    assert wrong < kept
    ranking = sorted(range(60), key=lambda i: tests[i]["score"])
    lost = [place for place, i in enumerate(ranking) if i not in kept]
    assert {ranking[0], ranking[-1]} <= kept
    assert all(
        ranking[place] not in kept - wrong for place in range(min(lost) + 1, max(lost))
    )  # one gap, in the middle


def test_a_picture_too_large_alone_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, good=2, defective=2)
    (tmp_path / "pictures" / "000000-map.jpg").write_bytes(b"\xff\xd8\xff" + bytes(11_000_000))
    data = written(tmp_path)
    assert (sorted(data["pictures"]), data["left_out"]) == (["1", "2", "3"], 1)


@pytest.mark.parametrize(("good", "defective"), [(5, 0), (0, 5), (1, 0), (0, 1)])
def test_one_class(tmp_path: Path, good: int, defective: int) -> None:
    write_run(tmp_path, good=good, defective=defective)
    data = written(tmp_path)
    assert data["curves"] == {"roc": None, "precision_recall": None}
    assert all(row["auroc"] is None for row in data["types"])
    assert bool(data["types"]) == bool(defective)


def test_without_masks_or_reference(tmp_path: Path) -> None:
    record = write_run(tmp_path)
    record["metrics"]["pixel"], record["published"] = None, {}
    rewrite(tmp_path, record)
    data = written(tmp_path)
    assert (data["metrics"]["pixel"], data["published"]) == (None, {})


def test_curves_are_scikit_learns(tmp_path: Path) -> None:
    record = write_run(tmp_path, good=150, defective=250, pictured=0, seed=5)
    tests = record["files"]["test"]
    labels, scores = [test["label"] for test in tests], [test["score"] for test in tests]
    curves = written(tmp_path)["curves"]
    roc, pr = np.array(curves["roc"]), np.array(curves["precision_recall"])
    np.testing.assert_array_equal(roc[[0, -1]], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(pr[[0, -1]], [[1, 250 / 400], [0, 1]])
    assert auc(*roc.T) == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    area = -(np.diff(pr[:, 0]) * pr[1:, 1]).sum()
    assert area == pytest.approx(average_precision_score(labels, scores), abs=1e-3)
    assert max(len(roc), len(pr)) <= 400


def test_thinning_does_not_move_the_curve() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 20_000)
    alarms, found, _ = roc_curve(labels, rng.standard_normal(20_000) + labels)
    whole = np.stack([alarms, found], axis=1)
    thin = _thin(whole)
    assert len(whole) > 4000
    assert len(thin) == 400
    np.testing.assert_array_equal(thin[[0, -1]], whole[[0, -1]])
    assert np.abs(np.interp(alarms, *thin.T) - found).max() < 0.005
    np.testing.assert_array_equal(_thin(np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])), [[0, 0], [1, 1]])


def test_a_run_of_the_first_schema_is_shown_without_thresholds(tmp_path: Path) -> None:
    record = write_run(tmp_path, calibrated=False)
    assert record["schema"] == 1
    data = written(tmp_path)
    assert data["calibration"]["thresholds"] == []
    assert "earlier version, which did not calibrate" in data["calibration"]["remarks"][0]


def test_defect_types(tmp_path: Path) -> None:
    record = write_run(tmp_path)
    tests = record["files"]["test"]
    good = [test["score"] for test in tests if not test["label"]]
    rows = written(tmp_path)["types"]
    assert [row["type"] for row in rows] == ["broken_large", "broken_small", "contamination"]
    for row in rows:
        bad = [test["score"] for test in tests if test["defect_type"] == row["type"]]
        wins = np.mean([(b > g) + (b == g) / 2 for b in bad for g in good])
        assert row["images"] == len(bad)
        assert row["median"] == np.median(bad)
        assert row["auroc"] == pytest.approx(wins)
