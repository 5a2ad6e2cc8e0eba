"""``padim evaluate`` over a grid: its runs, what is refused before the first, and the table with its settings."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from padim_jax import cli
from padim_jax.commands import overview
from padim_jax.commands.grid import expand_grid
from padim_jax.data.catalogue import Category
from padim_jax.data.protocol import Protocol
from padim_jax.evaluation import results
from padim_jax.evaluation import run as run_module
from padim_jax.evaluation.published import Published
from padim_jax.evaluation.results import METRICS, Summary, summarise
from padim_jax.evaluation.run import Run
from padim_jax.evaluation.table import write_tables
from padim_jax.presets import preset
from tests.datasets import write_mvtec

SIZES = ("--image-size", "64", "--crop-size", "56")
Padim = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def bottle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("data"), "bottle", (4, 2, 2), size=64)


@pytest.fixture
def padim(capsys: pytest.CaptureFixture[str]) -> Padim:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(Category, "build", touched)


@pytest.fixture
def planned(bottle: Path, tmp_path: Path, padim: Padim, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Run]]:
    """The runs of a command line, none of which is carried out."""

    def plan(*arguments: object) -> list[Run]:
        runs: list[Run] = []

        def note(run: Run, *_: Any) -> dict[str, Any]:
            runs.append(run)
            calibration = {"impossible": None, "images": 4, "thresholds": []}
            return {"category": "bottle", "metrics": {"image": {}, "pixel": None}, "calibration": calibration}

        with monkeypatch.context() as patch:
            patch.setattr(run_module, "finished", note)
            patch.setattr(results, "write_results", lambda *_: [])
            patch.setattr(overview, "tables", lambda lines: "")
            code, _, told = padim("evaluate", bottle, "--out", tmp_path / "out", "--no-report", *SIZES, *arguments)
        assert code == 0, told
        return runs

    return plan


def test_repeated_settings_make_a_grid_of_runs(planned: Callable[..., list[Run]]) -> None:
    runs = planned(
        *("--preset", "lite0", "--preset", "lite0-plus", "--ridge", "0.01", "--ridge", "0.1"),
        *("--n-channels", "5", "--n-channels", "7", "--sigma", "2", "--seeds", "2"),
    )
    assert [
        (run.preset.name, member.ridge, member.n_channels, member.seed) for run in runs for member in run.members
    ] == [
        (name, ridge, n_channels, seed)
        for name in ("lite0", "lite0-plus")
        for ridge in (0.01, 0.1)
        for n_channels in (5, 7)
        for seed in (0, 1)
    ]
    assert {(run.members[0].sigma, run.members[0].crop_size, run.members[0].taps) for run in runs} == {(2.0, 56, None)}
    assert {run.members[0].neighbourhood for run in runs if run.preset.name == "lite0-plus"} == {3}


def test_every_value_is_taken_once_and_only_settings_of_several_values_vary() -> None:
    grid = expand_grid({"sigma": (), "ridge": (0.1, 0.10), "image_size": (64, (64, 64), (64, 80)), "taps": ("a", "b")})
    assert grid.varying == ("image_size",)
    shared = {"ridge": 0.1, "taps": ("a", "b")}
    assert grid.settings == tuple({**shared, "image_size": size} for size in (64, (64, 80)))
    assert expand_grid({"sigma": ()}).settings == ({},)


def test_seeds_can_be_named_and_move_rotations_too(planned: Callable[..., list[Run]]) -> None:
    assert [run.seed for run in planned("--seed", "7", "--seed", "3")] == [7, 3]
    rotated = planned("--seed", "7", "--protocol", "rotated")
    assert [(run.seed, run.protocol) for run in rotated] == [(7, Protocol("rotated", 7))]


def test_settings_that_draw_nothing_take_one_seed_each(planned: Callable[..., list[Run]]) -> None:
    projections = ("--projection", "random-channels", "--projection", "principal-components")
    runs = planned(*projections, "--seeds", "2")
    assert [(run.settings["projection"], run.seed) for run in runs] == [
        ("random-channels", 0),
        ("random-channels", 1),
        ("principal-components", 0),
    ]


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    "arguments",
    [
        ("--ridge", "0"),
        ("--n-channels", "300"),
        ("--neighbourhood", "2"),
        ("--tap", "block99"),
        ("--image-size", "64", "--crop-size", "80"),
        ("--covariance", "shrunk"),
        ("--seed", "-1"),
    ],
    ids=" ".join,
)
def test_an_invalid_value_is_refused_before_any_run_in_the_words_of_fit(
    bottle: Path, tmp_path: Path, padim: Padim, arguments: tuple[str, ...]
) -> None:
    code, _, told = padim("fit", bottle / "train" / "good", "--out", tmp_path / "model", *arguments)
    assert code == 2
    reason = told.splitlines()[-1].removeprefix("padim: error: padim fit: ").removesuffix(" (see padim fit --help)")
    valid = {"--ridge": "0.1", "--n-channels": "50", "--neighbourhood": "3", "--covariance": "ridge", "--seed": "1"}
    grid = (arguments[0], valid[arguments[0]]) if arguments[0] in valid else ()
    code, _, told = padim("evaluate", bottle, "--out", tmp_path / "out", *grid, *arguments)
    assert code == 2
    assert told.splitlines()[-1] == f"padim: error: padim evaluate: {reason} (see padim evaluate --help)"


@pytest.mark.usefixtures("no_work")
def test_what_contradicts_itself_is_refused(bottle: Path, tmp_path: Path, padim: Padim) -> None:
    code, _, told = padim("evaluate", bottle, "--out", tmp_path / "out", "--seeds", "2", "--seed", "3")
    assert (code, "--seeds counts seeds from 0 and --seed names them; give one of the two" in told) == (2, True)
    code, _, told = padim("evaluate", bottle, "--out", tmp_path / "out", "--preset", "lite0-sum", "--tap", "block2")
    assert (code, "the preset lite0-sum sums the maps of its own taps, and takes no others" in told) == (2, True)


@pytest.mark.usefixtures("no_work")
def test_tables_of_others_are_not_replaced(bottle: Path, tmp_path: Path, padim: Padim) -> None:
    (tmp_path / "table.tex").write_text("mine")
    code, _, told = padim("evaluate", bottle, "--out", tmp_path, "--table-format", "latex")
    assert code == 1
    assert f"{tmp_path / 'table.tex'} already exists and was not written by padim" in told
    assert (tmp_path / "table.tex").read_text() == "mine"


def test_a_setting_of_the_presets_own_value_is_compared_with_what_is_published(tmp_path: Path) -> None:
    category = Category("mvtec_ad", "bottle", tmp_path, tmp_path)
    for settings, published in (({"n_channels": 100}, True), ({"n_channels": 99}, False)):
        assert Run(category, preset("r18-rd100"), 0, Protocol("standard"), settings).as_published is published


def record(ridge: float, seed: int, auroc: float) -> dict[str, Any]:
    return {
        "data": "image_folder_ad",
        "protocol": {"name": "standard", "seed": 0},
        "preset": "lite0",
        "category": "a_b",
        "seed": seed,
        "as_published": False,
        "metrics": {"image": {"auroc": auroc}, "pixel": None, "calibrated": {"recall_at_1_percent": 0.5}},
        "settings": {"members": [{"ridge": ridge, "crop_size": [56, 64]}]},
    }


def test_lines_of_other_settings_are_apart() -> None:
    runs = [record(ridge, seed, ridge + seed / 10) for ridge in (0.01, 0.1) for seed in (0, 1)]
    lines = summarise(runs, ["ridge", "crop_size"])
    assert [(line.settings["ridge"], line.seeds) for line in lines] == [(0.01, (0, 1)), (0.1, (0, 1))]
    assert [line.mean["image_auroc"] for line in lines] == pytest.approx([0.06, 0.15])


def test_the_terminal_has_a_column_for_each_setting_that_varies(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=120).print(
        overview.tables(summarise([record(0.01, 0, 0.5), record(0.1, 0, 0.75)], ["ridge", "crop_size"]))
    )
    printed = capsys.readouterr().out
    assert [line.split("│")[1:6] for line in printed.splitlines() if "│" in line][:2] == [
        [" lite0  ", " 0.01  ", " [56, 64]  ", " a_b      ", "        50.0 "],
        [" lite0  ", " 0.1   ", " [56, 64]  ", " a_b      ", "        75.0 "],
    ]


def test_tables_as_markdown_latex_and_csv(tmp_path: Path) -> None:
    lines = summarise([record(0.01, 0, 0.5), record(0.01, 1, 0.7), record(0.1, 0, 0.75)], ["ridge"])
    paths = write_tables(tmp_path, lines, ["markdown", "latex", "csv"])
    assert [path.name for path in paths] == ["table.md", "table.tex", "table.csv"]
    assert paths[0].read_text(encoding="utf-8") == (
        "image\\_folder\\_ad: percent, ± the standard deviation over seeds\n\n"
        "| preset | ridge | category | image AUROC | found, 1 % |\n"
        "| :-- | :-- | :-- | --: | --: |\n"
        "| lite0 | 0.01 | a\\_b | 60.0 ±14.1 | 50.0 ±0.0 |\n"
        "| lite0 | 0.1 | a\\_b | 75.0 | 50.0 |\n"
    )
    assert paths[1].read_text(encoding="utf-8").splitlines() == [
        "% image_folder_ad: percent, ± the standard deviation over seeds",
        r"\begin{tabular}{lllrr}",
        r"\hline",
        r"preset & ridge & category & image AUROC & found, 1 \% \\",
        r"\hline",
        r"lite0 & 0.01 & a\_b & 60.0 $\pm$14.1 & 50.0 $\pm$0.0 \\",
        r"lite0 & 0.1 & a\_b & 75.0 & 50.0 \\",
        r"\hline",
        r"\end{tabular}",
    ]
    with paths[2].open(newline="", encoding="utf-8") as stream:
        first, second = csv.DictReader(stream)
    assert (first["ridge"], first["seeds"], float(first["image_auroc"])) == ("0.01", "2", pytest.approx(0.6))
    assert float(first["image_auroc.spread"]) == pytest.approx(0.02**0.5)
    assert (second["data"], second["category"], second["image_auroc.spread"]) == ("image_folder_ad", "a_b", "")


def test_published_figures_and_several_data_stand_in_the_table_and_nothing_breaks_it(tmp_path: Path) -> None:
    mean = dict.fromkeys(METRICS) | {"image_auroc": 0.5}
    reference = {"image_auroc": Published(0.25, "")}
    lines = [
        Summary("mvtec_ad", "standard", "r18", "a|b\n&c", (0,), mean, dict.fromkeys(METRICS), reference),
        Summary("mvtec_ad", "rotated", "r18", "{d}", (0,), mean | {"image_auroc": None}, dict.fromkeys(METRICS), {}),
    ]
    markdown, latex = (
        path.read_text(encoding="utf-8") for path in write_tables(tmp_path, lines, ["markdown", "latex"])
    )
    assert markdown.splitlines()[2:] == [
        "| data | preset | category | image AUROC |",
        "| :-- | :-- | :-- | --: |",
        "| mvtec\\_ad | r18 | a\\|b\\\\n&c | 50.0 (25.0) |",
        "| mvtec\\_ad, rotated | r18 | \\{d\\} | – |",
    ]
    assert r"mvtec\_ad & r18 & a|b\textbackslash{}n\&c & 50.0 (25.0) \\" in latex
    assert r"mvtec\_ad, rotated & r18 & \{d\} & -- \\" in latex


@pytest.mark.slow
def test_runs_of_a_grid_lie_apart_and_are_kept(bottle: Path, tmp_path: Path, padim: Padim) -> None:
    out = tmp_path / "out"
    arguments = ("evaluate", bottle, "--out", out, *SIZES, "--n-channels", "5", "--ridge", "0.01", "--no-report")
    code, printed, told = padim(*arguments, "--ridge", "0.1", "--table-format", "markdown")
    assert code == 0, told
    assert "1/2 bottle lite0 ridge=0.01 seed 0: image AUROC" in told
    assert "results.csv, files.csv, table.md" in printed
    assert len(list(out.glob("runs/*/*/lite0/bottle-*/seed-0/run.json"))) == 2
    written = json.loads((out / "results.json").read_text())
    assert [line["settings"] for line in written["summary"]] == [{"ridge": 0.01}, {"ridge": 0.1}]
    assert [run["settings"]["members"][0]["ridge"] for run in written["runs"]] == [0.01, 0.1]
    with (out / "results.csv").open(newline="") as stream:
        assert [row["config.ridge"] for row in csv.DictReader(stream)] == ["0.01", "0.1"]
    with (out / "files.csv").open(newline="") as stream:
        assert {row["config.ridge"] for row in csv.DictReader(stream)} == {"0.01", "0.1"}
    assert "| lite0 | 0.1 | bottle |" in (out / "table.md").read_text()
    code, _, told = padim(*arguments)
    assert (code, "1/1 bottle lite0 seed 0" in told, "there already" in told) == (0, True, True)
