"""The ``padim`` command as a user meets it: what it writes, what it says, how it exits."""

import csv
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax import cli
from padim_jax.commands import score as commands_score
from padim_jax.images import read_image

SIZES = ("--image-size", "40x56", "--crop-size", "32x48", "--n-channels", "6", "--batch-size", "4")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def model_dir(good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    code, _, err = run(capsys, "fit", good_dir, "--out", tmp_path / "model", *SIZES)
    assert code == 0, err
    return tmp_path / "model"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_fit_then_score(model_dir: Path, good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "score", model_dir, good_dir, "--out", tmp_path / "out", "--batch-size", 4)
    assert code == 0
    found = rows(tmp_path / "out" / "scores.csv")
    files = sorted(good_dir.rglob("*.png"), key=lambda path: (path.parent != good_dir / "later", path))
    assert [row["path"] for row in found] == [str(path) for path in files]
    model = padim.load(model_dir)
    images = np.stack([read_image(path, model.config) for path in files])
    wanted = padim.score(model, images).image_score
    np.testing.assert_allclose([float(row["score"]) for row in found], wanted, rtol=1e-5)
    pictures = sorted(
        str(path.relative_to(tmp_path / "out" / "heatmaps")) for path in tmp_path.rglob("heatmaps/**/*.png")
    )
    assert pictures == sorted(f"{path.relative_to(good_dir)}.png" for path in files)
    assert "6 scored, 0 unreadable" in out
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == [".written-by-padim", "heatmaps", "scores.csv"]  # no leftovers


def test_fit_says_what_it_did(good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (good_dir / "notes.txt").write_text("hello")
    code, out, err = run(
        capsys, "fit", good_dir, "--out", tmp_path / "model", *SIZES, "--tap", "block2", "--tap", "block4"
    )
    assert code == 0
    assert re.search(r"efficientnet_lite0, block2, block4, d = 6; fitted on 6 images in [\d.]+ s\n", out)
    assert "ignored other files: 1 .txt" in err
    assert "images/s" in err
    assert padim.load(tmp_path / "model").embedding.taps == ("block2", "block4")


def test_batch_size_does_not_matter(
    model_dir: Path, good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = []
    for size in (1, 4, 100):
        assert (
            run(capsys, "score", model_dir, good_dir, "--out", tmp_path / "o", "--no-heatmaps", "--batch-size", size)[0]
            == 0
        )
        scores.append([float(row["score"]) for row in rows(tmp_path / "o" / "scores.csv")])
    np.testing.assert_allclose(scores[1:], [scores[0]] * 2, rtol=1e-5)
    assert not (tmp_path / "o" / "heatmaps").exists()


@pytest.mark.slow
@pytest.mark.optimised
def test_colour_scale_is_one_for_the_run(
    model_dir: Path, good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next(good_dir.glob("*.png"))

    def drawn(out: str, *paths: Path) -> bytes:
        assert run(capsys, "score", model_dir, *paths, "--out", tmp_path / out, "--colour-range", 1, 9)[0] == 0
        return next((tmp_path / out).rglob(f"{image.name}.png")).read_bytes()

    assert drawn("alone", image) == drawn("among", good_dir)


def test_heatmaps_of_an_earlier_run_are_replaced(
    model_dir: Path, good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "score", model_dir, good_dir, "--out", tmp_path / "out")[0] == 0
    assert run(capsys, "score", model_dir, good_dir / "part1.png", "--out", tmp_path / "out")[0] == 0
    assert [path.name for path in (tmp_path / "out" / "heatmaps").rglob("*.png")] == ["part1.png.png"]


def test_a_foreign_heatmaps_folder_is_left_alone(
    model_dir: Path, good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "out" / "heatmaps" / "precious.png"
    precious.parent.mkdir(parents=True)
    precious.write_bytes((good_dir / "part0.png").read_bytes())
    code, _, err = run(capsys, "score", model_dir, good_dir, "--out", tmp_path / "out")
    assert (code, "heatmaps already exists and was not written by padim" in err) == (2, True)
    code, _, err = run(capsys, "score", model_dir, precious.parent, "--out", tmp_path / "out")
    assert (code, "holds images (" in err) == (2, True)
    assert precious.exists()


def test_paths_with_dots_stay_inside(
    model_dir: Path, good_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    code, out, _ = run(capsys, "score", model_dir, "../../good", good_dir / ".." / "good", "--out", "res")
    assert (code, "6 scored" in out) == (0, True)
    assert len(list(Path("res").rglob("*.png"))) == len(list(tmp_path.rglob("*.png.png"))) == 6


def test_names_too_long_for_a_picture(
    model_dir: Path, good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (good_dir / "part0.png").rename(good_dir / f"{'n' * 248}.png")
    assert run(capsys, "score", model_dir, good_dir, "--out", tmp_path / "out")[0] == 0
    assert len(list((tmp_path / "out").rglob("*.png"))) == 6


def test_a_newline_in_a_name_stays_in_its_line(
    model_dir: Path, good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (good_dir / "two\nlines.png").write_text("no image")
    _, _, err = run(capsys, "score", model_dir, good_dir, "--out", tmp_path / "out")
    assert "two\\nlines.png: no image" in err
    code, _, err = run(capsys, "fit", good_dir, "--out", tmp_path / "m", *SIZES)
    assert (code, "two\\nlines.png: no image" in err) == (1, True)


def test_results_inside_the_images_folder_are_not_scored(
    model_dir: Path, good_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        code, out, _ = run(capsys, "score", model_dir, good_dir, "--out", good_dir / "results")
        assert (code, "6 scored" in out) == (0, True)


def test_unreadable_file_is_named_and_has_no_score(
    model_dir: Path, good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = good_dir / "part2b.png"
    bad.write_text("no image")
    code, out, err = run(capsys, "score", model_dir, good_dir, "--out", tmp_path / "out")
    assert code == 1
    assert f"not scored: {bad}: no image" in err
    assert "1 of 7 files could not be read and have no score" in err
    assert "6 scored, 1 unreadable" in out
    assert str(bad) not in [row["path"] for row in rows(tmp_path / "out" / "scores.csv")]


def test_unreadable_file_stops_a_fit_unless_skipped(
    good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = good_dir / "part2b.png"
    bad.write_text("no image")
    code, _, err = run(capsys, "fit", good_dir, "--out", tmp_path / "model", *SIZES)
    assert code == 1
    assert f"padim: error: can't read {bad}: no image" in err
    assert "--skip-unreadable" in err
    assert not (tmp_path / "model").exists()
    code, out, err = run(capsys, "fit", good_dir, "--out", tmp_path / "model", *SIZES, "--skip-unreadable")
    assert code == 0
    assert f"skipped {bad}: no image" in err
    assert "fitted on 6 images" in out
    assert "1 skipped" in out


def _one_good_image(t: Path) -> Path:
    (t / "one").mkdir()
    Image.new("RGB", (56, 40)).save(t / "one" / "a.png")
    return t / "one"


def _small_images(t: Path) -> Path:
    (t / "tiny").mkdir()
    Image.new("RGB", (20, 20)).save(t / "tiny" / "a.png")
    return t / "tiny"


def _folder(t: Path, *names: str) -> Path:
    (t / "folder").mkdir()
    for name in names:
        (t / "folder" / name).write_text("hello")
    return t / "folder"


def _lite0_file() -> str:
    from padim_jax.backbones.weights import packaged_file

    return str(packaged_file("efficientnet_lite0"))


@pytest.mark.parametrize(
    ("code", "arguments", "words"),
    [
        (1, lambda t, g: ["fit", _folder(t)], "found no images in .*: no files at all"),
        (1, lambda t, g: ["fit", _folder(t, "a.txt", "b.txt")], "found no images in .*: only 2 .txt"),
        (1, lambda t, g: ["fit", _one_good_image(t)], "1 images give no covariance"),
        (1, lambda t, g: ["fit", _small_images(t)], "20×20 pixels, smaller than the crop of 48×32"),
        (2, lambda t, g: ["fit", t / "nowhere"], "nowhere' does not exist"),
        (2, lambda t, g: ["fit", g, "--backbone", "vgg"], "'vgg' is not one of 'efficientnet_lite0', 'efficientnet_lite2', 'resnet18'"),
        (2, lambda t, g: ["fit", g, "--tap", "layer1"], "unknown tap 'layer1'; backbone 'efficientnet_lite0' has block0"),
        (2, lambda t, g: ["fit", g, "--n-channels", 257], r"n_channels=257 is more than the 256 channels"),
        (2, lambda t, g: ["fit", g, "--image-size", "30"], r"fit: --image-size \(30, 30\) is smaller than --crop-size \(32, 48\); raise --image-size or lower --crop-size"),
        (2, lambda t, g: ["fit", g, "--crop-size", "axb"], "'axb' is neither N nor HEIGHTxWIDTH"),
        (2, lambda t, g: ["fit", g, "--ridge", 0], "padim fit: --ridge 0.0: wanted a positive number .without it the covariance"),
        (1, lambda t, g: ["fit", g, "--backbone", "resnet18", "--weights", _lite0_file()], r"convert\('resnet18'\): the state dict does not fit.*missing"),
        (1, lambda t, g: ["fit", g, "--weights", next(g.glob("*.png"))], "neither a PyTorch file"),
        (1, lambda t, g: ["fit", g, "--out", g], r"holds other things \(later\); choose a new folder"),
        (1, lambda t, g: ["fit", g, "--weights", t / "no.pth"], r"No such file.*no\.pth"),
        (1, lambda t, g: ["score", t / "nothing", g], "there is no model at"),
        (1, lambda t, g: ["score", g, g], r"is no model: it has no model\.json"),
        (2, lambda t, g: ["score", t], "Missing argument 'PATHS...'"),
        (2, lambda t, g: ["score", t, g, "--colour-range", 5, 1], "LOW must be below HIGH"),
        (2, lambda t, g: ["paint"], "No such command 'paint'"),
        (2, lambda t, g: ["fit", g, "--unknown"], "No such option:? '?--unknown"),
    ],
)  # fmt: skip
def test_wrong_input_takes_one_line(
    tmp_path: Path, good_dir: Path, capsys: pytest.CaptureFixture[str], code: int, arguments, words: str
) -> None:
    given = arguments(tmp_path, good_dir)
    sizes = [] if given[0] != "fit" else [o for o in zip(SIZES[::2], SIZES[1::2], strict=True) if o[0] not in given]
    out = ["--out", tmp_path / "out"] if given[0] in ("fit", "score") and "--out" not in given else []
    found, _, err = run(capsys, *given, *out, *(word for option in sizes for word in option))
    errors = [line for line in err.splitlines() if not re.match(r"checking depths |fit |score ", line)]
    assert found == code, err
    assert len(errors) == 1, err
    assert re.match(r"padim: error: ", errors[0])
    assert re.search(words, errors[0]), err
    assert not (tmp_path / "out" / "model.json").exists()


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, plain = run(capsys, "score", tmp_path / "m", tmp_path, "--out", tmp_path / "o")
    _, _, debug = run(capsys, "score", tmp_path / "m", tmp_path, "--out", tmp_path / "o", "--debug")
    assert "Traceback" not in plain
    assert "Traceback" in debug


def test_a_defect_of_ours_takes_one_line_too(
    tmp_path: Path, good_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands_score, "load", lambda path: [][0])
    code, _, err = run(capsys, "score", tmp_path, good_dir, "--out", tmp_path / "o")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "internal error, IndexError: list index out of range" in err


def test_ctrl_c(
    tmp_path: Path, good_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands_score, "load", interrupt)
    code, _, err = run(capsys, "score", tmp_path, good_dir, "--out", tmp_path / "o")
    assert (code, err.strip()) == (1, "padim: error: interrupted")


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert re.match(r"padim, version \d+\.\d+\.\d+", out)
    code, bare, _ = run(capsys)
    code_of_help, out, _ = run(capsys, "--help")
    assert (code, code_of_help, bare) == (2, 0, out)
    assert "padim score MODEL PATH..." in out
    for command in ([], ["fit"], ["score"], ["demo"]):
        code, out, _ = run(capsys, *command, "--help")
        assert code == 0
        assert "Usage: padim" in out
        assert "--debug" in out


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None, reason="the demo's images: pip install 'padim-jax[demo]'"
)
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "demo", "--out", tmp_path)
    assert code == 0, err
    match = re.search(r"image AUROC (0\.\d{3})", out)
    assert match is not None
    assert float(match.group(1)) >= 0.93
    assert "fitted on 352 good cells; scored 236 good and 313 defective ones" in out
    for kind in ("best-finds", "missed", "false-alarms"):
        assert len(list((tmp_path / kind).glob("*.png"))) == 6
    padim.load(tmp_path / "model")


def test_fit_by_preset(good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--image-size", 40, "--crop-size", 32)
    code, _, _ = run(capsys, "fit", good_dir, "--out", tmp_path / "m", "--preset", "lite0-block4", "--seed", 3, *small)
    assert code == 0
    config = padim.load(tmp_path / "m").config
    assert (config.taps, config.n_channels, config.seed, config.crop_size) == (("block4",), 40, 3, 32)
    for arguments, said in (
        (("--preset", "r18-rd100", "--backbone", "resnet50"), "is not that of --preset r18-rd100, resnet18"),
        (("--preset", "lite0-sum"), "--preset lite0-sum sums the maps of 4 models"),
        (("--preset", "nope"), "unknown preset 'nope'"),
    ):
        code, _, told = run(capsys, "fit", good_dir, "--out", tmp_path / "n", *arguments)
        assert code == 2
        assert said in told


def test_overview_has_a_line_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    _, printed, _ = run(capsys, "--help")
    assert "\\b" not in printed
    lines = [re.split(r"  +", line.strip()) for line in printed.splitlines() if line.startswith("  padim ")]
    assert lines == [[command.usage, command.about] for command in cli.COMMANDS.values()]
    assert [usage.split()[1] for usage, _ in lines] == list(cli.COMMANDS)
