"""``padim inspect``: mistakes among good images are found, and a model's numbers are those of its definition."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.commands.inspect_folder import folder_lines
from padim_jax.gaussians.low_rank import low_rank
from padim_jax.images import read_image, stop_at_unreadable
from padim_jax.images.geometry import place_in_original, to_original
from padim_jax.images.survey import find_duplicates, find_equal_pixels, find_oddities, survey
from padim_jax.inspection.positions import (
    find_conditions,
    find_peaks,
    log_determinants,
    outlier_limit,
    rank_p_values,
    split_in_two,
)
from padim_jax.method.scoring import leave_one_out_scores
from padim_jax.method.variants import with_solver
from tests.conftest import SMALL, images
from tests.hostile_files import write_bad, write_good
from tests.image_files import png, tiff
from tests.test_cli import SIZES, rows, run

N = 40
OPTIONS = (*SIZES, "--n-channels", "30", "--sigma", "1.5")


def parts(folder: Path, count: int = N, spoilt: int | None = None, size: tuple[int, int] = (56, 40)) -> list[Path]:
    """Files of one pattern with noise; in the ``spoilt`` one a square is magenta."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(3)
    pattern = rng.integers(60, 200, (5, 7, 3)).repeat(8, axis=0).repeat(8, axis=1)
    paths = []
    for index in range(count):
        pixels = np.clip(pattern + rng.normal(0, 12, pattern.shape), 0, 255).astype(np.uint8)
        if index == spoilt:
            pixels[8:24, 32:48] = (255, 0, 255)
        paths.append(folder / f"{index:02}.png")
        Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(paths[-1])
    return paths


def inspect(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    found, out, err = run(capsys, "inspect", *arguments, "--json", "--batch-size", 8)
    assert found == code, err
    return json.loads(out)


@pytest.mark.slow
def test_mistakes_among_good_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = parts(tmp_path / "good", spoilt=5)
    model = tmp_path / "model"
    assert run(capsys, "fit", tmp_path / "good", "--out", model, *OPTIONS)[0] == 0
    folder = tmp_path / "good"
    (folder / "copy.png").write_bytes(paths[3].read_bytes())
    Image.open(paths[4]).save(folder / "same.bmp")
    Image.open(paths[6]).resize((80, 40)).save(folder / "wide.png")
    Image.open(paths[7]).convert("L").save(folder / "grey.png")
    (folder / "notes.txt").write_text("hello")
    found = inspect(capsys, folder, "--model", model, "--out", tmp_path / "out")
    assert found["counts"]["images"] == N + 4
    assert found["counts"]["sizes"] == {"56×40": N + 3, "80×40": 1}
    assert found["ignored"] == {".txt": 1}
    assert found["duplicates"] == [[str(paths[3]), str(folder / "copy.png")]]
    assert found["equal_pixels"] == [[str(paths[4]), str(folder / "same.bmp")]]
    odd = {one["what"]: {Path(path).name: value for path, value in one["images"].items()} for one in found["oddities"]}
    assert odd == {
        "size": {"wide.png": "80×40"},
        "aspect ratio": {"wide.png": "2"},
        "channels": {"grey.png": "grey"},
        "file format": {"same.bmp": "BMP"},
    }
    first, *others = [one for one in found["leave_one_out"]["images"] if one["left_out"]]
    assert (first["path"], first["stands_out"]) == (str(paths[5]), True)
    assert not any(one["stands_out"] for one in others)
    assert 4 <= first["row"] < 28
    assert 28 <= first["column"] < 52
    fresh = {Path(one["path"]).name for one in found["leave_one_out"]["images"] if not one["left_out"]}
    assert fresh == {"same.bmp", "wide.png", "grey.png"}
    table = {row["path"]: row for row in rows(tmp_path / "out" / "images.csv")}
    assert len(table) == N + 4
    assert float(table[first["path"]]["score"]) == first["score"]
    with Image.open(tmp_path / "out" / "suspects.png") as sheet:
        assert sheet.height > 4 * 5 * 32  # 12 pictures, five times as large, in 3 columns
        assert sheet.width > 3 * 2 * 5 * 48
        row, column = divmod(found["leave_one_out"]["images"].index(first), 3)
        top, left = row * sheet.height // 4 + 20, column * sheet.width // 3 + 5 * 48 + 6
        laid = np.asarray(sheet.crop((left, top, left + 5 * 48, top + 5 * 32)))  # its map
    corners = np.argwhere((laid == 255).all(axis=-1))  # around the highest place; the crop begins 4 pixels further in
    np.testing.assert_allclose(corners.mean(axis=0) / 5, [first["row"] - 3.5, first["column"] - 3.5], atol=1)
    code, out, _ = run(capsys, "inspect", folder, "--model", model)
    assert code == 0
    assert re.search(rf"stands out +{re.escape(str(paths[5]))}", out)
    assert re.search(
        r"\n\d stand out \(unusually high: above [\d.]+; half of all are below [\d.]+\); look at them", out
    )
    lines = folder_lines(found | {"leave_one_out": found["leave_one_out"] | {"images": [first]}})
    assert [line for line in lines if re.match(r"1 stands out \(.*\); look at it, and at the highest", line)]
    assert f"the same file 2 times: {paths[3]}, {folder / 'copy.png'}" in out
    assert f"differ from the usual 56×40: {folder / 'wide.png'} (80×40)" in out


@pytest.mark.slow
def test_without_a_model_one_is_fitted_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = parts(tmp_path / "good", count=8, spoilt=2, size=(280, 240))
    Image.open(paths[0]).resize((20, 20)).save(tmp_path / "good" / "small.png")
    (tmp_path / "good" / "deep.png").write_bytes(png(np.zeros((240, 280), np.uint16)))
    found = inspect(capsys, tmp_path / "good")["leave_one_out"]
    assert found["images"][0]["path"] == str(paths[2])
    assert len(found["images"]) == 8
    reasons = {Path(path).name: reason for path, reason in found["not_scored"].items()}
    assert reasons["deep.png"] == "another depth than most images"
    assert "smaller than the crop" in reasons["small.png"]


def test_too_small_for_the_preset_is_said(good_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "inspect", good_dir)
    assert code == 0
    assert "no leave-one-out scores" in out
    assert "224 pixels or more" in out


def test_quick_looks_at_headers_only(good_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (good_dir / "part0.png").read_bytes()
    (good_dir / "cut.png").write_bytes(whole[:-600])
    found = inspect(capsys, good_dir, "--quick")
    assert (found["counts"]["unreadable"], found["leave_one_out"], found["decoded"]) == (0, None, False)
    assert inspect(capsys, good_dir, code=1)["counts"]["unreadable"] == 1


def test_hostile_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "hostile\n"
    folder.mkdir()
    patterns, good = write_bad(folder), write_good(folder)
    os.mkfifo(folder / "pipe.png")
    readable = {"dot.png", "line.png", "deep.png", "deep.tif"}  # which a model does not take
    for quick in (["--quick"], []):
        found = inspect(capsys, folder, *quick, code=1)
        reasons = {str(Path(one["path"]).relative_to(folder)): one["reason"] for one in found["unreadable"]}
        if not quick:
            assert set(patterns) - readable - set(reasons) <= {"cyclic.tif"}
        assert not {name for name, reason in reasons.items() if not re.search(patterns[name], reason)}
        assert good <= {str(Path(one["path"]).relative_to(folder)) for one in found["images"]}
    code, out, err = run(capsys, "inspect", folder)
    assert code == 1
    assert "film.gif: first of 12 frames" in out
    assert not re.search(r"Warning|WARN|Traceback", out + err)
    assert f"{folder}" not in out  # the newline is escaped


def test_survey_tells_modes_and_depths(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    image = Image.fromarray(pixels)
    for name, mode in (("1.png", "1"), ("l.png", "L"), ("p.gif", "P"), ("a.png", "RGBA"), ("c.jpg", "CMYK")):
        image.convert(mode).save(tmp_path / name)
    (tmp_path / "deep.png").write_bytes(png(pixels.astype(np.uint16) * 200))
    (tmp_path / "grey16.png").write_bytes(png(pixels[..., 0].astype(np.uint16) * 200))
    (tmp_path / "float.tif").write_bytes(tiff(pixels[..., 0].astype(np.float32)))
    (tmp_path / "int.tif").write_bytes(tiff(pixels[..., 0].astype(np.int32)))
    found = {
        one.path.name: (one.mode, one.bits, one.depth) for one in survey(sorted(tmp_path.iterdir()), stop_at_unreadable)
    }
    assert found == {
        "1.png": ("black-and-white", 1, "8 bits"),
        "l.png": ("grey", 8, "8 bits"),
        "p.gif": ("palette", 8, "8 bits"),
        "a.png": ("RGB with alpha", 8, "8 bits"),
        "c.jpg": ("CMYK", 8, "8 bits"),
        "deep.png": ("RGB", 16, "integers"),
        "grey16.png": ("grey", 16, "integers"),
        "float.tif": ("grey", 32, "floats"),
        "int.tif": ("grey", 32, "integers"),
    }


def test_nothing_to_compare() -> None:
    assert find_oddities([]) == find_duplicates([]) == find_equal_pixels([]) == []


@pytest.mark.slow
def test_left_out_scores_are_those_of_a_refit(lite0: padim.Backbone) -> None:
    good = images(20, SMALL)
    model = padim.fit(lite0, [good], SMALL)
    found = np.concatenate([np.asarray(one.image_score) for one in leave_one_out_scores(model, [good[:7], good[7:]])])
    for index in (0, 13):
        refit = padim.fit(lite0, [np.delete(good, index, axis=0)], SMALL)
        wanted = padim.score(refit, good[index : index + 1]).image_score[0]
        assert found[index] == pytest.approx(float(wanted), rel=1e-3)
    known = padim.calibrate(model, [good]).calibration
    assert known is not None
    np.testing.assert_allclose(np.sort(found), known.scores, rtol=1e-5)


def test_rule_for_standing_out() -> None:
    scores = np.exp([0.0, 1, 2, 3, 4])  # quartiles of the logs at 1 and 3
    assert outlier_limit(scores.tolist()) == pytest.approx(np.exp(3 + 1.5 * 2))
    assert outlier_limit([7.0] * 9) > 7 * (1 + 1e-3)
    assert outlier_limit([0.0, 0.0, 1.0]) > 0
    np.testing.assert_allclose(rank_p_values([5, 1, 3, 3]), [0.25, 1, 0.75, 0.75])


@pytest.mark.slow
def test_conditions_and_determinants_are_those_of_the_covariances(lite0: padim.Backbone) -> None:
    config = replace(SMALL, taps=None)
    good = images(30, config)
    moments = padim.update(lite0, padim.init(lite0, config), good)
    model = with_solver(padim.finalize(lite0, moments), "triangular-solve")
    covariances = (
        np.asarray(moments.moments.scatter.square(), np.float64) / 29
        + config.regularisation("test")[0] * np.eye(12)[None]
    )
    found = find_conditions(model)
    assert not found.sampled
    np.testing.assert_allclose(found.numbers, np.linalg.cond(covariances), rtol=1e-3)
    wanted = np.linalg.slogdet(covariances)[1].reshape(model.embedding.grid)
    np.testing.assert_allclose(log_determinants(model), wanted, rtol=1e-4)
    few = padim.update(lite0, padim.init(lite0, config), good[:8])
    full = padim.finalize(lite0, few, solver="triangular-solve")
    low = replace(full, gaussian=low_rank(few.moments, 7, 0.01))
    np.testing.assert_allclose(find_conditions(low).numbers, find_conditions(full).numbers, rtol=1e-2)
    np.testing.assert_allclose(log_determinants(low), log_determinants(full), atol=2e-3)
    whitened = padim.finalize(lite0, moments)
    np.testing.assert_allclose(find_conditions(whitened).numbers, found.numbers, rtol=1e-3)
    np.testing.assert_allclose(log_determinants(whitened), wanted, rtol=1e-4)


def test_best_split_is_that_of_trying_all() -> None:
    t = np.random.default_rng(0).standard_normal((5, 23))
    t[4] = 0
    ratio, at = split_in_two(t)
    for row, found, k in zip(np.sort(t[:4], axis=1), ratio[:4], at[:4], strict=True):
        inside = {i: row[:i].var() * i + row[i:].var() * (23 - i) for i in range(3, 21)}
        best = min(inside, key=lambda i: inside[i])
        assert k == best
        assert found == pytest.approx(1 - inside[best] / (23 * row.var()))
    assert ratio[4] == 0


@pytest.mark.slow
def test_two_kinds_of_parts_show_where_they_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = parts(tmp_path / "good", 30)
    for path in paths[:12]:
        pixels = np.array(Image.open(path))
        pixels[4:20, 4:20] = 255 - pixels[4:20, 4:20]
        Image.fromarray(pixels).save(path)
    model = tmp_path / "model"
    assert run(capsys, "fit", tmp_path / "good", "--out", model, *SIZES)[0] == 0
    found = inspect(capsys, model, "--images", tmp_path / "good", "--out", tmp_path / "out")
    peaks = found["two_peaked"]
    assert {Path(path).name for path in peaks["strongest"]["smaller_group"]} == {path.name for path in paths[:12]}
    assert (peaks["strongest"]["row"], peaks["strongest"]["column"]) < (5, 5)
    assert 0 < len(peaks["positions"]) < 80
    written = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert written == {"mean.png", "log_determinant.png", "two_peaks.png"}
    assert found["n"] == 30
    assert len(found["images_listed"]) == 30
    assert found["calibration"]["method"] == "leave-one-out"
    assert found["calibration"]["images_wanted"] == 99
    assert found["bytes_on_disk"] == sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    code, out, _ = run(capsys, "inspect", model)
    assert code == 0
    assert "two peaks:    not looked for; --images" in out
    assert "which takes 99" in out
    deployed = padim.load(model)
    padim.save(deployed, tmp_path / "deployed")
    again = inspect(capsys, tmp_path / "deployed")
    assert again["images_listed"] is None
    assert again["condition_numbers"]["median"] == pytest.approx(found["condition_numbers"]["median"], rel=1e-3)
    code, _, err = run(capsys, "inspect", tmp_path / "good", "--model", tmp_path / "deployed")
    assert code == 2
    assert "does not list the images it was fitted on" in err


def test_one_kind_of_part_has_one_peak(lite0: padim.Backbone, tmp_path: Path) -> None:
    good = np.stack([read_image(path, SMALL) for path in parts(tmp_path / "good", 60)])
    model = padim.fit(lite0, [good], SMALL, solver="triangular-solve")
    assert find_peaks(model, [good[:32], good[32:]]).found == []
    with pytest.raises(ValueError, match="10 images, wanted 20 or more"):
        find_peaks(model, [good[:10]])


@pytest.mark.parametrize("resize", ["stretch", "shorter-side", "pad"])
def test_places_lead_back_to_the_original(resize: Any) -> None:
    config = padim.PadimConfig(image_size=(80, 120), crop_size=(64, 100), resize=resize)
    size = (333, 257)
    ground = np.zeros((64, 100), np.float32)
    rows_, columns = np.mgrid[0:64, 0:100]
    for row, column in ((20, 30), (50, 70)):
        bell = ground + np.exp(-((rows_ - row) ** 2 + (columns - column) ** 2) / 50).astype(np.float32)
        original = to_original(bell, size, config)
        wanted = np.unravel_index(int(np.nanargmax(original)), original.shape)
        found = place_in_original(row + 0.5, column + 0.5, size, config)
        assert np.abs(np.subtract(found, wanted)).max() <= 2
    assert place_in_original(-1e6, 1e6, size, config) == (0, 332)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{good}", "--images", "{good}"), "--images is not for a folder of images"),
        (("{good}", "--quick", "--model", "{good}"), "give one of the two"),
        (("{good}", "--out", "{good}"), "holds images ("),
        (("{good}/nothing",), "does not exist"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], said: str, good_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "inspect", *(argument.format(good=good_dir) for argument in arguments))
    assert code == 2
    assert said in err
