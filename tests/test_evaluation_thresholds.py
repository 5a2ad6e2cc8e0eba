"""``padim evaluate`` at thresholds from good training images alone: what it counts, writes and says."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import padim_jax as padim
from padim_jax import cli
from padim_jax.data.catalogue import Category, find_categories, prepare
from padim_jax.data.protocol import STANDARD, Protocol
from padim_jax.evaluation.evaluate import evaluate
from padim_jax.evaluation.run import Run, earlier, finished, place
from padim_jax.images import read_image
from padim_jax.presets import preset
from padim_jax.runs.score import Advance
from tests.datasets import write_mvtec

SIZES = ("--image-size", "64", "--crop-size", "56")
SETTINGS = {"image_size": 64, "crop_size": 56}


@pytest.fixture(scope="module")
def bottle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("data"), "bottle", (8, 4, 5), size=96)


@pytest.fixture(scope="module")
def out(bottle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``padim evaluate`` wrote of it."""
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    assert cli.main(["evaluate", str(bottle), "--out", str(folder), *SIZES]) == 0
    return folder


def only_run(out: Path) -> dict[str, Any]:
    (path,) = out.rglob("run.json")
    return json.loads(path.read_text())


def planned(bottle: Path, tmp_path: Path, protocol: Protocol = STANDARD) -> tuple[Run, Any]:
    (category,) = find_categories(bottle, tmp_path / "prepared")
    return Run(category, preset("lite0"), 0, protocol, SETTINGS), prepared(category)


def prepared(category: Category) -> Any:
    builder = category.build()
    prepare(builder)
    return builder


@pytest.mark.slow
def test_thresholds_and_what_is_found_at_them(bottle: Path, out: Path, lite0: padim.Backbone) -> None:
    run = only_run(out)
    config = padim.PadimConfig(image_size=64, crop_size=56)
    fitted = np.stack([read_image(path, config) for path in sorted((bottle / "train" / "good").iterdir())])
    model = padim.fit(lite0, [fitted], config)
    rows = run["files"]["test"]
    for rate, told in zip((0.01, 0.05), run["calibration"]["thresholds"], strict=True):
        model = padim.calibrate(model, [fitted], false_alarm_rate=rate)
        known = model.calibration
        assert known is not None
        assert told["threshold"] == pytest.approx(float(known.threshold), rel=1e-4)
        assert told["expected_false_alarms"] == pytest.approx(1 / 9)
        for name, label in (("recall", 1), ("false_alarms", 0)):
            above = [row["score"] > told["threshold"] for row in rows if row["label"] == label]
            assert run["metrics"]["calibrated"][f"{name}_at_{100 * rate:g}_percent"] == np.mean(above)
        assert run["colour_scale"] == pytest.approx(np.asarray(known.colour_scale).tolist(), rel=2**-8)
        tests = np.stack([read_image(bottle / row["file"], config) for row in rows])
        p_values = padim.score(model, tests).p_value
        assert p_values is not None
        assert [row["p_value"] for row in rows] == pytest.approx(np.asarray(p_values).tolist())
    assert (run["schema"], run["calibration"]["images"], run["calibration"]["impossible"]) == (2, 8, None)


def test_tables_hold_them(out: Path) -> None:
    run = only_run(out)
    written = json.loads((out / "results.json").read_text())
    with (out / "results.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    for name, value in run["metrics"]["calibrated"].items():
        assert written["summary"][0]["mean"][name] == float(row[name]) == value
    assert float(row["threshold_at_1_percent"]) == run["calibration"]["thresholds"][0]["threshold"]
    assert float(row["expected_false_alarms_at_5_percent"]) == pytest.approx(1 / 9)
    assert (row["calibration_images"], "the threshold is their highest" in row["calibration_note"]) == ("8", True)
    with (out / "files.csv").open(newline="") as stream:
        tested = [line for line in csv.DictReader(stream) if line["role"] == "test"]
    assert [float(line["p_value"]) for line in tested] == [test["p_value"] for test in run["files"]["test"]]


def test_the_terminal_says_them(bottle: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(bottle), "--out", str(out), *SIZES]) == 0
    printed, told = capsys.readouterr()
    found = only_run(out)["metrics"]["calibrated"]
    table = printed[printed.index("thresholds for 1 % and 5 %") :]
    assert f"{100 * found['recall_at_1_percent']:.1f}" in table
    assert f"{100 * found['false_alarms_at_5_percent']:.1f}" in table
    assert "bottle: 8 good images are too few for a false-alarm rate of 1%" in told


def test_two_images_give_no_threshold_but_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_mvtec(tmp_path, "bottle", (2, 2, 2), size=64)
    assert cli.main(["evaluate", str(folder), "--out", str(tmp_path / "out"), *SIZES]) == 0
    printed, told = capsys.readouterr()
    run = only_run(tmp_path / "out")
    said = "no thresholds from good images: 2 images are too few to leave one out"
    assert run["metrics"]["calibrated"] is None
    assert run["calibration"]["thresholds"] == []
    assert all(row["p_value"] is None for row in run["files"]["test"])
    assert f"bottle: {said}" in told
    assert "false alarms" not in printed
    with (tmp_path / "out" / "results.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["recall_at_1_percent"] == row["threshold_at_5_percent"] == ""
    assert said in row["calibration_note"]
    (page,) = (tmp_path / "out").rglob("report.html")
    assert said in page.read_text(encoding="utf-8")
    assert run["colour_scale"][1] == max(row["score"] for row in run["files"]["test"])


def test_the_second_reading_counts_and_sees_the_images_as_they_were_fitted(
    bottle: Path, tmp_path: Path, lite0: padim.Backbone
) -> None:
    run, builder = planned(bottle, tmp_path, Protocol("rotated", 0))
    stages: dict[str, list[int]] = {}

    def progress(stage: str, total: int) -> Advance:
        stages[stage] = [total, 0]

        def advance(count: int) -> None:
            stages[stage][1] += count

        return advance

    found = [evaluate(run, lite0, builder, tmp_path / "out", progress=progress)["calibration"] for _ in range(2)]
    assert stages == {"fit": [8, 8], "calibrate": [8, 8], "score": [9, 9]}
    assert found[0] == found[1]


def test_a_run_of_an_earlier_version_is_run_again_and_stays(
    bottle: Path, tmp_path: Path, lite0: padim.Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run, builder = planned(bottle, out)
    record: dict[str, Any] = evaluate(run, lite0, builder, out)
    new = out / place(run, lite0, builder)
    parts = {key: record[key] for key in ("prepared", "settings")}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
    old = new.parents[1] / f"bottle-{digest}" / "seed-0"  # where the earlier version put it, as it wrote it
    assert earlier(run, lite0, builder, out) is None
    old.parent.mkdir()
    new.rename(old)
    (old / ".written-by-padim").unlink(missing_ok=True)
    record = {key: value for key, value in record.items() if key != "calibration"} | {"schema": 1}
    record["metrics"] = {key: value for key, value in record["metrics"].items() if key != "calibrated"}
    (old / "run.json").write_text(json.dumps(record))
    assert finished(run, lite0, builder, out) is None
    assert earlier(run, lite0, builder, out) == old
    assert cli.main(["report", str(out)]) == 0
    assert "earlier version, which did not calibrate" in (old / "report.html").read_text(encoding="utf-8")
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert cli.main(["evaluate", str(bottle), "--out", str(out), "--no-report", *SIZES]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert f"run again; {old} is of an earlier version, which did not calibrate, and stays" in told
    assert "1 other runs in" in told
    assert (new / "run.json").exists()
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
