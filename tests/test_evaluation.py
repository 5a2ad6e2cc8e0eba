"""``padim evaluate`` on generated data sets: the numbers, the files, going on after an interruption."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from sklearn.metrics import roc_auc_score

import padim_jax as padim
from padim_jax import cli
from padim_jax.commands import overview
from padim_jax.data.catalogue import Category, find_categories, prepare
from padim_jax.data.protocol import STANDARD, Protocol, place_mask
from padim_jax.evaluation import detector, results
from padim_jax.evaluation import evaluate as evaluation
from padim_jax.evaluation import run as run_module
from padim_jax.evaluation.evaluate import evaluate
from padim_jax.evaluation.metrics import PixelScores
from padim_jax.evaluation.published import published
from padim_jax.evaluation.run import Run, finished
from padim_jax.images import read_image
from padim_jax.images.image import resize_mask
from padim_jax.presets import preset
from tests.datasets import write_image, write_mvtec

SIZES = ("--image-size", "64", "--crop-size", "56")
SETTINGS = {"image_size": 64, "crop_size": 56}
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def padim_command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def bottle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category of its own: 8 good to fit, 4 good and 5 defective to score."""
    return write_mvtec(tmp_path_factory.mktemp("data"), "bottle", (8, 4, 5), size=96)


def only_run(out: Path, preset: str = "lite0") -> dict[str, Any]:
    (path,) = out.glob(f"runs/*/*/{preset}/*/*/run.json")
    return json.loads(path.read_text())


def prepared(category: Category) -> Any:
    builder = category.build()
    prepare(builder)
    return builder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_one_command(bottle: Path, tmp_path: Path, padim_command: Command, lite0: padim.Backbone) -> None:
    out = tmp_path / "out"
    code, printed, _ = padim_command("evaluate", bottle, "--out", out, *SIZES)
    assert code == 0, printed
    run = only_run(out)

    # the same by hand, from the files
    config = padim.PadimConfig(image_size=64, crop_size=56)
    tests = sorted((bottle / "test").rglob("*.png"))
    fitted = np.stack([read_image(path, config) for path in sorted((bottle / "train" / "good").iterdir())])
    images = np.stack([read_image(path, config) for path in tests])
    by_hand = padim.score(padim.fit(lite0, [fitted], config), images)
    scores = np.asarray(by_hand.image_score)
    defective = [path.parent.name != "good" for path in tests]
    assert run["metrics"]["image"]["auroc"] == pytest.approx(roc_auc_score(defective, scores))
    assert [row["file"] for row in run["files"]["test"]] == [path.relative_to(bottle).as_posix() for path in tests]
    np.testing.assert_allclose([row["score"] for row in run["files"]["test"]], scores, rtol=1e-3)
    assert run["files"]["fit"] == [f"train/good/{index:03}.png" for index in range(8)]
    assert run["metrics"]["pixel"]["n_regions"] == 5
    pixels = PixelScores()
    for path, anomaly_map in zip(tests, np.asarray(by_hand.anomaly_map), strict=True):
        masks = bottle / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        whole = Image.open(masks) if masks.exists() else Image.new("L", (96, 96))
        pixels.add(anomaly_map, np.asarray(place_mask(resize_mask(whole, config), None, config)) > 0)
    assert run["metrics"]["pixel"]["pro"] == pytest.approx(pixels.metrics().pro, rel=1e-3)
    assert run["metrics"]["pixel"]["auroc"] == pytest.approx(pixels.metrics().auroc, rel=1e-3)
    assert (run["settings"]["members"][0]["crop_size"], run["seed"]) == (56, 0)
    assert run["settings"]["weights_digest"] == lite0.weights_digest

    assert f"{100 * run['metrics']['image']['auroc']:.1f}" in printed
    written = json.loads((out / "results.json").read_text())
    assert [line["category"] for line in written["summary"]] == ["bottle"]
    assert written["runs"][0]["files"] == run["files"]
    (row,) = read_csv(out / "results.csv")
    assert float(row["image_auroc"]) == run["metrics"]["image"]["auroc"]
    assert (row["preset"], row["config.crop_size"], row["fit_images"], row["test_images"]) == ("lite0", "56", "8", "9")
    files = read_csv(out / "files.csv")
    assert [line["file"] for line in files if line["role"] == "fit"] == run["files"]["fit"]
    assert [float(line["score"]) for line in files if line["role"] == "test"] == [
        r["score"] for r in run["files"]["test"]
    ]
    (path,) = out.glob("runs/image_folder_ad/standard/lite0/bottle-*/seed-0/report.html")
    page = path.read_text()
    assert "test/broken_large/000.png" in page
    assert len(run["pictures"]) == 9


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on(
    tmp_path: Path, padim_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        write_mvtec(tmp_path / "sets" / name, "bottle", (4, 2, 2), size=64).rename(tmp_path / "sets" / f"{name}-part")
        (tmp_path / "sets" / name).rmdir()
    evaluated: list[str] = []
    real = evaluation.evaluate

    def counted(run: Run, *arguments: Any, **options: Any) -> dict[str, Any]:
        evaluated.append(run.category.name)
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return real(run, *arguments, **options)

    monkeypatch.setattr(evaluation, "evaluate", counted)
    arguments = ("evaluate", tmp_path / "sets", "--out", tmp_path / "out", *SIZES)
    code, _, told = padim_command(*arguments)
    assert code == 1
    assert f"interrupted; 1 of 2 runs are in {tmp_path / 'out'}, and the same command goes on" in told
    (path,) = (tmp_path / "out" / "runs/image_folder_ad/standard/lite0").iterdir()
    assert path.name.startswith("first-part-")
    code, printed, told = padim_command(*arguments)
    assert (code, evaluated) == (0, ["first-part", "second-part", "second-part"])
    assert "1/2 first-part lite0 seed 0: image AUROC" in told
    assert "there already" in told
    assert "mean" in printed
    # other settings, or other files, are another run, and the first ones stay
    padim_command(*arguments[:-1], "48", "--category", "first-part")
    assert evaluated[3:] == ["first-part"]
    write_image(tmp_path / "sets/first-part/train/good/100.png", np.zeros((64, 64, 3), np.uint8))
    padim_command(*arguments)
    assert evaluated[4:] == ["first-part"]
    assert len(list((tmp_path / "out").rglob("run.json"))) == 4
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["runs"]) == 2


@pytest.mark.slow
def test_seeds_and_presets(bottle: Path, tmp_path: Path, padim_command: Command) -> None:
    out = tmp_path / "out"
    names = ("--preset", "lite0", "--preset", "lite0-pca100", "--preset", "lite0-sum")
    code, printed, told = padim_command("evaluate", bottle, "--out", out, *names, "--seeds", 2, "--no-report", *SIZES)
    assert code == 0, printed
    found = json.loads((out / "results.json").read_text())
    lines = {line["preset"]: line for line in found["summary"]}
    assert lines["lite0"]["seeds"] == [0, 1]
    assert lines["lite0"]["spread"]["pixel_auroc"] > 0
    # nothing is drawn at random, and a spread of 0 would look like stability
    assert lines["lite0-sum"]["seeds"] == lines["lite0-pca100"]["seeds"] == [0]
    assert "lite0-sum draws nothing at random" in told
    assert "±" in printed
    # principal components read the images twice, but name them once
    assert all(len(run["files"]["fit"]) == 8 for run in found["runs"])
    rows = read_csv(out / "results.csv")
    assert rows[-1]["config.taps"] == '["block2"] | ["block4"] | ["block7"] | ["block10"]'
    assert not list(out.rglob("report.html"))


@pytest.mark.slow
def test_a_sum_of_maps_is_the_sum(bottle: Path, tmp_path: Path, lite0: padim.Backbone) -> None:
    (category,) = find_categories(bottle, tmp_path / "prepared")
    run = Run(category, preset("lite0-sum"), 0, STANDARD, SETTINGS)
    record = evaluate(run, lite0, prepared(category), tmp_path / "out", batch_size=4)

    # the same by hand, from the files
    maps = []
    for member in run.members:
        fitted, tests = (
            np.stack([read_image(path, member) for path in sorted((bottle / part).rglob("*.png"))])
            for part in ("train", "test")
        )
        maps.append(np.asarray(padim.score(padim.fit(lite0, [fitted], member), tests).anomaly_map))
    scores = [row["score"] for row in record["files"]["test"]]
    np.testing.assert_allclose(scores, np.sum(maps, axis=0).max(axis=(1, 2)), rtol=1e-3)
    taps = ("block2", "block4", "block7", "block10")
    assert [member.taps for member in run.members] == [(tap,) for tap in taps]
    assert preset("lite0-sum").members == tuple(preset(f"lite0-{tap}").members[0] for tap in taps)


def test_results_do_not_depend_on_the_batch_size(bottle: Path, tmp_path: Path, lite0: padim.Backbone) -> None:
    (category,) = find_categories(bottle, tmp_path / "prepared")
    builder = prepared(category)
    run = Run(category, preset("lite0"), 0, STANDARD, SETTINGS)
    found = [evaluate(run, lite0, builder, tmp_path / f"out{n}", batch_size=n) for n in (2, 16)]
    scores = [[row["score"] for row in record["files"]["test"]] for record in found]
    np.testing.assert_allclose(*scores, rtol=2e-3)


@pytest.mark.slow
def test_rotated_protocol(bottle: Path, tmp_path: Path, lite0: padim.Backbone) -> None:
    (category,) = find_categories(bottle, tmp_path / "prepared")
    builder = prepared(category)
    runs = [Run(category, preset("lite0"), seed, Protocol("rotated", seed), SETTINGS) for seed in (0, 0, 1)]
    rows = [evaluate(run, lite0, builder, tmp_path / "out")["files"]["test"] for run in runs]
    assert rows[0] == rows[1]
    assert all(abs(row["placement"]["angle"]) <= 10 and 0 <= row["placement"]["top"] <= 8 for row in rows[0])
    assert len({row["placement"]["angle"] for row in rows[0]}) == len(rows[0])
    assert rows[0][0]["placement"] != rows[2][0]["placement"]
    assert len(list((tmp_path / "out/runs/image_folder_ad/rotated/lite0").glob("bottle-*/seed-*/run.json"))) == 2


def test_rotated_takes_five_draws(bottle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[tuple[int, Protocol]] = []

    def note(run: Run, *_: Any) -> dict[str, Any]:
        planned.append((run.seed, run.protocol))
        return {"metrics": {"image": {}, "pixel": None}}

    monkeypatch.setattr(run_module, "finished", note)
    monkeypatch.setattr(results, "write_results", lambda *_: [])
    monkeypatch.setattr(overview, "tables", lambda lines: "")
    cli.main(["evaluate", str(bottle), "--out", str(tmp_path / "out"), "--protocol", "rotated", "--no-report", *SIZES])
    assert planned == [(seed, Protocol("rotated", seed)) for seed in range(5)]


@pytest.mark.slow
def test_a_plain_pair_is_split_and_has_no_pixel_metrics(tmp_path: Path, padim_command: Command) -> None:
    parts = write_mvtec(tmp_path / "made", "bottle", (10, 1, 3), size=64)
    (parts / "train" / "good").rename(tmp_path / "made" / "good")
    bad = tmp_path / "made" / "bad"
    bad.mkdir()
    for path in (parts / "test").glob("broken*/*.png"):
        path.rename(bad / f"{path.parent.name}-{path.name}")
    code, printed, _ = padim_command(
        "evaluate", tmp_path / "made", "--category", "made", "--out", tmp_path / "out", *SIZES
    )
    assert code == 0, printed
    run = only_run(tmp_path / "out")
    fitted, tested = run["files"]["fit"], [row["file"] for row in run["files"]["test"]]
    assert (len(fitted), len([name for name in tested if name.startswith("good/")])) == (6, 4)
    assert not set(fitted) & set(tested)
    assert {name for name in tested if name.startswith("bad/")} == {f"bad/{path.name}" for path in bad.iterdir()}
    assert run["metrics"]["pixel"] is None
    assert "PRO" not in printed


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--preset", "r50"), 2, "unknown preset 'r50'"),
        (("--category", "cable"), 2, "has no category 'cable'; it has bottle"),
        (("--image-size", "32"), 2, "--image-size (32, 32) is smaller than --crop-size (224, 224)"),
        (("--preset", "lite0", "--preset", "r18-all", "--weights", "random"), 2, "the presets have several"),
        ((), 1, "train/good/000.png: it has 96×96 pixels, smaller than the crop of 224×224"),
    ],
    ids=str,
)
def test_wrong_use(bottle: Path, tmp_path: Path, padim_command: Command, arguments, code: int, said: str) -> None:
    found, _, told = padim_command("evaluate", bottle, "--out", tmp_path / "out", *arguments)
    assert found == code
    assert said in told.splitlines()[-1]


@pytest.mark.slow
def test_an_unreadable_image_stops_and_leaves_no_run(tmp_path: Path, padim_command: Command) -> None:
    folder = write_mvtec(tmp_path, "bottle", (4, 2, 2), size=64)
    broken = folder / "test" / "good" / "001.png"
    content = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(content[: len(content) // 2])
    code, _, told = padim_command("evaluate", folder, "--out", tmp_path / "out", *SIZES)
    assert code == 1
    assert "test/good/001.png" in told
    assert not list((tmp_path / "out" / "runs").rglob("run.json"))


def test_counts_of_mvtec_ad_are_checked(bottle: Path, tmp_path: Path, padim_command: Command) -> None:
    code, _, told = padim_command("evaluate", bottle.parent, "--out", tmp_path / "out")
    assert code == 1
    assert "is not bottle as published: train/good: 209 published, 8 found" in told
    assert "to evaluate images of your own, name their folder itself" in told


def test_results_of_another_folder_of_the_same_name_are_apart(tmp_path: Path, padim_command: Command) -> None:
    for place, seed in (("x", 2), ("y", 3)):
        write_mvtec(tmp_path / place, "bottle", (4, 2, seed), size=64)
        padim_command("evaluate", tmp_path / place / "bottle", "--out", tmp_path / "out", "--no-report", *SIZES)
        told = padim_command("evaluate", tmp_path / place / "bottle", "--out", tmp_path / "out", "--no-report", *SIZES)[
            2
        ]
    assert "1 other runs in" in told
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [len(run["files"]["test"]) for run in written["runs"]] == [5]
    assert len(list((tmp_path / "out").rglob("run.json"))) == 2


def test_ignored_files_are_told(tmp_path: Path, padim_command: Command) -> None:
    folder = write_mvtec(tmp_path, "bottle", (4, 2, 2), size=64)
    (folder / "test" / "good" / "notes.heic").touch()
    _, _, told = padim_command("evaluate", folder, "--out", tmp_path / "out", "--no-report", *SIZES)
    assert "ignored other files in bottle: 1 .heic" in told


def test_a_run_killed_while_writing_leaves_the_old_one(
    bottle: Path, tmp_path: Path, lite0: padim.Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    (category,) = find_categories(bottle, tmp_path / "prepared")
    builder, run = prepared(category), Run(category, preset("lite0"), 0, STANDARD, SETTINGS)
    first = evaluate(run, lite0, builder, tmp_path / "out")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(run, lite0, builder, tmp_path / "out")
    stored = finished(run, lite0, builder, tmp_path / "out")
    assert stored is not None
    assert stored["files"] == json.loads(json.dumps(first["files"]))
    evaluate(run, lite0, builder, tmp_path / "out")
    (folder,) = (tmp_path / "out").rglob("seed-0")
    assert [path.name for path in folder.parent.iterdir()] == ["seed-0"]


def test_results_do_not_lie_among_the_images(bottle: Path, padim_command: Command) -> None:
    for folder in (bottle, bottle.parent):
        code, _, told = padim_command("evaluate", folder, "--out", bottle / "results")
        assert code == 2
        assert "which it would change; choose a folder outside" in told


def test_too_few_images_are_told_before_any_is_scored(tmp_path: Path, padim_command: Command) -> None:
    for name, count in (("enough", 5), ("few", 2)):
        for index in range(count):
            write_image(tmp_path / "sets" / name / "good" / f"{index}.png", np.zeros((64, 64, 3), np.uint8))
        write_image(tmp_path / "sets" / name / "bad" / "0.png", np.zeros((64, 64, 3), np.uint8))
    code, _, told = padim_command("evaluate", tmp_path / "sets", "--out", tmp_path / "out", *SIZES)
    assert code == 1
    assert f"{tmp_path / 'sets' / 'few'}: too few good images: 1 to fit on" in told
    assert not (tmp_path / "out" / "runs").exists()


def test_no_data_set(tmp_path: Path, padim_command: Command) -> None:
    code, _, told = padim_command("evaluate", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert "holds no data set: wanted train/good/ and test/" in told


def test_published_figures_stand_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    mean = dict.fromkeys(results.METRICS) | {"image_auroc": 0.9, "pixel_auroc": 0.98}
    reference = published("wr50-rd550", "mvtec_ad", "standard", "bottle")
    line = results.Summary("mvtec_ad", "standard", "wr50-rd550", "bottle", (0, 1), mean, mean, reference)
    Console(width=120).print(overview.tables([line]))
    printed = capsys.readouterr().out
    assert "in brackets, what has been published" in printed
    assert "98.0 ±98.0 (98.3)" in printed
    assert "PRO" not in printed


def test_presets_are_listed(padim_command: Command) -> None:
    code, printed, _ = padim_command("evaluate", "--list-presets")
    assert code == 0
    assert "wr50-rd550       the paper's PaDiM-WR50-Rd550" in printed


def test_reports_are_written_anew(bottle: Path, tmp_path: Path, padim_command: Command) -> None:
    out = tmp_path / "out"
    padim_command("evaluate", bottle, "--out", out, "--no-report", *SIZES)
    code, printed, _ = padim_command("report", out)
    (page,) = out.rglob("report.html")
    assert (code, printed.strip()) == (0, str(page))
    code, _, told = padim_command("report", tmp_path / "out" / "prepared")
    assert code == 2
    assert "holds no run" in told


def test_a_score_that_is_not_finite_names_the_image(
    bottle: Path, tmp_path: Path, lite0: padim.Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = detector.fit_batches
    monkeypatch.setattr(detector, "fit_batches", lambda *a: _broken(real(*a)))
    (category,) = find_categories(bottle, tmp_path / "prepared")
    run = Run(category, preset("lite0"), 0, STANDARD, SETTINGS)
    with pytest.raises(FloatingPointError, match=r"evaluate: test/broken_large/000\.png got nan"):
        evaluate(run, lite0, prepared(category), tmp_path / "out")


def _broken(model: padim.Padim) -> padim.Padim:
    return replace(model, gaussian=replace(model.gaussian, mean=model.gaussian.mean * np.nan))
