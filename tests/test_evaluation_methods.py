"""``padim evaluate --method``: other methods through the same evaluation, with thresholds from folds of good images."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import padim_jax as padim
from padim_jax import baselines, cli
from padim_jax.baselines.features import TooFewImages
from padim_jax.baselines.registry import parse_method
from padim_jax.data.catalogue import find_categories
from padim_jax.data.protocol import STANDARD
from padim_jax.evaluation.operating_points import points_of_folds
from padim_jax.evaluation.published import published
from padim_jax.evaluation.report import write_report
from padim_jax.evaluation.run import MethodRun
from padim_jax.images import read_image
from padim_jax.presets import preset
from padim_jax.runs.copies import pixels_digest
from padim_jax.runs.fit_method import training_remarks
from padim_jax.runs.folds import deal, deal_alike, score_folds
from padim_jax.runs.scorer import Scorer
from tests.datasets import write_mvtec

SIZES = ("--image-size", "64", "--crop-size", "56")
CONFIG = padim.PadimConfig(image_size=64, crop_size=56)
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def padim_command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return run


@pytest.fixture(scope="module")
def bottle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("data"), "bottle", (8, 4, 5), size=96)


def run_of(out: Path, method: str) -> Path:
    (path,) = out.glob(f"runs/*/*/{method}/*/*/run.json")
    return path.parent


def pixels(folder: Path) -> np.ndarray:
    return np.stack([read_image(path, CONFIG) for path in sorted(folder.rglob("*.png"))])


@pytest.mark.slow
def test_methods_stand_beside_presets_in_one_table(
    bottle: Path, tmp_path: Path, padim_command: Command, lite0: padim.Backbone
) -> None:
    out = tmp_path / "out"
    words = ("evaluate", bottle, "--out", out, *SIZES, "--preset", "lite0", "--folds", 4)
    methods = ("--method", "dn2", "--method", "patchcore:share=0.2,n_neighbours=3")
    code, _, told = padim_command(*words, *methods, "--table-format", "csv")
    assert code == 0, told
    records = {run["preset"]: run for run in json.loads((out / "results.json").read_text())["runs"]}
    assert list(records) == ["lite0", "dn2", "patchcore:n_neighbours=3,share=0.2"]
    assert [run["method"] for run in records.values()] == ["padim", "dn2", "patchcore"]
    assert (out / "table.csv").read_text().startswith("data,method,category")

    # the same by hand
    good, tests = pixels(bottle / "train" / "good"), pixels(bottle / "test")
    is_defective = [path.parent.name != "good" for path in sorted((bottle / "test").rglob("*.png"))]
    for name, method, own in (("dn2", "dn2", {}), ([*records][2], "patchcore", {"share": 0.2, "n_neighbours": 3})):
        found, record = baselines.method(method), records[name]
        settings = found.settings(config=CONFIG, **own)
        by_hand: Any = found.score(found.fit(lite0, [good], settings), tests)
        np.testing.assert_allclose([row["score"] for row in record["files"]["test"]], by_hand.image_score, rtol=1e-3)
        assert record["metrics"]["image"]["auroc"] == pytest.approx(roc_auc_score(is_defective, by_hand.image_score))
        left_out = []
        folds, counted = deal_alike([pixels_digest(image) for image in good], 4, seed=0)
        for fold in folds:
            others = [place for place in range(8) if place not in fold]
            shown = good[[place for place in fold if place in counted]]
            left_out += np.asarray(found.score(found.fit(lite0, [good[others]], settings), shown).image_score).tolist()
        calibration = record["calibration"]
        assert (calibration["method"], calibration["images"]) == ("4 folds", 4)  # each image is there twice
        assert calibration["thresholds"][1]["threshold"] == pytest.approx(max(left_out), rel=1e-3)
        assert record["settings"]["own"] == {key: value for key, value in vars(settings).items() if key != "config"}
        assert record["settings"]["folds"] == 4
        assert record["model_bytes"] > 0
    assert records["dn2"]["metrics"]["pixel"] is None
    assert records[[*records][2]]["metrics"]["pixel"]["auroc"] > 0.5

    # whole images have pictures, but no maps; its page says so and can be written again
    whole = json.loads((run_of(out, "dn2") / "run.json").read_text())
    assert {entry["map"] for entry in whole["pictures"]} == {entry["overlay"] for entry in whole["pictures"]} == {None}
    assert not list(run_of(out, "dn2").rglob("*map*"))
    page = (run_of(out, "dn2") / "report.html").read_text(encoding="utf-8")
    assert "mean distance to the nearest images" in page
    write_report(run_of(out, "dn2"), tmp_path / "again.html")

    code, _, told = padim_command(*words, *methods)
    assert told.count("there already") == 3
    code, _, told = padim_command(*words[:-1], 2, "--method", "dn2")
    assert told.count("there already") == 1  # other folds are another run, of the method alone


@pytest.mark.slow
def test_methods_alone_leave_presets_out(bottle: Path, tmp_path: Path, padim_command: Command) -> None:
    out = tmp_path / "out"
    code, _, told = padim_command("evaluate", bottle, "--out", out, *SIZES, "--method", "mahalanobis-ad", "--no-report")
    assert code == 0, told
    (run,) = json.loads((out / "results.json").read_text())["runs"]
    assert run["preset"] == "mahalanobis-ad"
    assert run["settings"]["backbone"] == "efficientnet_lite0"


@pytest.mark.slow
def test_trained_methods_stand_in_the_same_table(bottle: Path, tmp_path: Path, padim_command: Command) -> None:
    out = tmp_path / "out"
    words = ("--image-size", "64", "--crop-size", "64", "--folds", 2, "--no-report")
    method = "ae:width=4,steps=4,look_every=2,batch_size=4"
    code, _, told = padim_command("evaluate", bottle, "--out", out, *words, "--method", method)
    assert code == 0, told
    assert re.search(r"ae:.* seed 0: ae: step 4 of 4, loss [\d.e-]+, \d+ images/s", told)
    assert told.count("step 4 of 4") == 1  # not of the folds
    (run,) = json.loads((out / "results.json").read_text())["runs"]
    assert run["settings"]["own"]["steps"] == 4
    assert run["network_bytes"] == 0  # its own network is the model
    assert run["metrics"]["pixel"] is not None
    assert run["calibration"]["method"] == "2 folds"


def test_a_training_remarks_on_loss_and_speed_ten_times_and_others_on_nothing() -> None:
    told: list[str] = []
    host = training_remarks(baselines.method("vae"), told.append)
    assert host is not None
    for step in range(10, 310, 10):
        host.advance(step, 300, 0.5 / step, 64.4)
    assert len(told) == 10
    assert told[0] == "vae: step 30 of 300, loss 0.01667, 64 images/s"
    assert training_remarks(baselines.method("spade"), told.append) is None


def test_trained_methods_see_the_whole_image_at_a_size_that_can_be_learnt() -> None:
    method = baselines.method("ae")
    plain = preset("lite0").members[0]
    assert method.shared(plain, {}).crop == (128, 128)
    assert method.shared(plain, {"image_size": 64, "crop_size": 64}).crop == (64, 64)
    with pytest.raises(ValueError, match="a setting of PaDiM that ae does not have"):
        method.shared(plain, {"taps": ("block2",)})
    own = parse_method("ae:published,steps=50,epochs=none")[1]
    assert (own["steps"], "epochs" in own) == (50, False)
    assert method.settings(**own).width == method.settings.published().width  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "patchcor"), "unknown method 'patchcor'; choose one of spade, dn2"),
        (("--method", "dn2:images=3"), "--method dn2:images=3: dn2 has no setting 'images'; it has n_images"),
        (("--method", "dn2:n_images=0"), "--method dn2:n_images=0: n_images=0: wanted a positive integer"),
        (("--method", "mahalanobis-ad:x=1"), "mahalanobis-ad has no setting 'x'; it has none of its own"),
        (("--method", "dn2", "--ridge", "0.1"), "--ridge 0.1, a setting of PaDiM that dn2 does not have"),
        (("--method", "dn2", "--devices", "1"), "--devices is of PaDiM"),
        (("--method", "dn2", "--tap", "layer9"), "unknown tap 'layer9'"),
        (("--method", "dn2", "--folds", "1"), "1 is not in the range x>=2"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_run(
    bottle: Path, tmp_path: Path, padim_command: Command, words: tuple[str, ...], message: str
) -> None:
    code, _, told = padim_command("evaluate", bottle, "--out", tmp_path / "out", *words)
    assert code == 2
    assert message in told
    assert not (tmp_path / "out" / "runs").exists()


def test_a_setting_of_a_method_keeps_its_kind() -> None:
    method, own = parse_method("patchcore:share=0.25,patch_size=5")
    assert (method.name, own) == ("patchcore", {"share": 0.25, "patch_size": 5})
    assert parse_method("spade:n_images=none,n_patches=2")[1] == {"n_patches": 2}
    assert parse_method("dn2:n_images=2")[1] == {}  # the default, by another spelling
    assert parse_method("ae:steps=7,published,epochs=none")[1]["steps"] == 7


@pytest.mark.parametrize(("n_images", "n_folds"), [(2, 5), (8, 4), (23, 5)])
def test_folds_share_all_images_out_evenly_and_by_the_seed(n_images: int, n_folds: int) -> None:
    folds = deal(n_images, n_folds, seed=3)
    assert sorted(place for fold in folds for place in fold) == list(range(n_images))
    sizes = [len(fold) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    assert deal(n_images, n_folds, seed=3) == folds
    assert n_images == 2 or deal(n_images, n_folds, seed=4) != folds


def test_copies_share_a_fold_and_count_once() -> None:
    folds, counted = deal_alike(["a", "b", "a", "c", "b", "d"], 2, seed=1)
    fold_of = {place: number for number, fold in enumerate(folds) for place in fold}
    assert (fold_of[0], fold_of[1]) == (fold_of[2], fold_of[4])
    assert sorted(fold_of) == list(range(6))
    assert counted == {0, 1, 3, 5}


def test_too_few_images_in_the_other_folds_leave_thresholds_out() -> None:
    def refuse(batches: Any) -> Scorer:
        raise TooFewImages("dn2.fit: 1 image, wanted 2 or more good ones")

    points = points_of_folds(deal(2, 2, 0), lambda among: iter([np.zeros((len(among), 4, 4, 3), np.uint8)]), refuse)
    assert points.calibrations == ()
    assert points.impossible == "2 folds leave 1 image to fit on: dn2.fit: 1 image, wanted 2 or more good ones"


def test_a_score_that_is_not_finite_is_refused() -> None:
    scorer = Scorer(lambda images: (np.full(len(images), np.nan, np.float32), None), 4)  # type: ignore[arg-type]
    with pytest.raises(FloatingPointError, match="got a score that is not finite by a model of the others"):
        score_folds(deal(4, 2, 0), lambda among: iter([np.zeros((len(among), 4, 4, 3), np.uint8)]), lambda _: scorer)


def test_published_figures_stand_beside_a_method_only_with_its_network_and_settings(tmp_path: Path) -> None:
    figures = published("patchcore", "mvtec_ad", "standard", "mean", "wide_resnet50_2")
    assert {name: figure.value for name, figure in figures.items()} == {
        "image_auroc": 0.992,
        "pixel_auroc": 0.981,
        "pro": 0.944,
    }
    assert not published("patchcore", "mvtec_ad", "standard", "mean", "efficientnet_lite0")
    (category,) = find_categories(write_mvtec(tmp_path, "bottle", (2, 1, 1), size=32), tmp_path / "prepared")

    def run(**changes: Any) -> MethodRun:
        return MethodRun(category, baselines.method("patchcore"), preset("wr50-rd550"), 0, STANDARD, **changes)

    assert run().as_published
    changes = ({"own": {"share": 0.5}}, {"settings": {"sigma": 2.0}}, {"weights": "random"})
    assert not any(run(**change).as_published for change in changes)
