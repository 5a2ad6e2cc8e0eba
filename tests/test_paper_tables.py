"""``padim evaluate --table``: the paper's tables of comparison, filled in as far as data and weights are there."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from padim_jax import cli
from padim_jax.baselines.registry import parse_method
from padim_jax.commands import evaluate as command
from padim_jax.commands import evaluating
from padim_jax.commands.comparison import Comparison, compare_with_paper
from padim_jax.commands.grid import expand_grid
from padim_jax.data.mvtec_ad import MVTecAD
from padim_jax.data.protocol import Protocol
from padim_jax.data.shanghaitech_campus import ShanghaiTechCampus
from padim_jax.evaluation.paper import MVTEC, STC, TABLES
from padim_jax.evaluation.results import summarise
from padim_jax.evaluation.run import AnyRun, MethodRun, Run
from padim_jax.presets import PRESETS
from tests.datasets import write_mvtec, write_shanghaitech
from tests.paper_runs import record

SIZES = ("--image-size", "64", "--crop-size", "56")
Padim = Callable[..., tuple[int, str, str]]
Plan = Callable[..., list[AnyRun]]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for name in ("first", "second"):  # no categories of MVTec AD, whose numbers of images are checked
        write_mvtec(root, "bottle", (6, 2, 3), size=64).rename(root / name)
    return root


@pytest.fixture
def padim(capsys: pytest.CaptureFixture[str]) -> Padim:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return run


@pytest.fixture
def planned(parts: Path, tmp_path: Path, padim: Padim, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The runs of a command line, none of which is carried out."""

    def plan(*arguments: object, folder: Path = parts) -> list[AnyRun]:
        found: list[AnyRun] = []
        with monkeypatch.context() as patch:
            patch.setattr(command, "evaluate_all", lambda runs, *_, **__: found.extend(runs))
            code, _, told = padim("evaluate", folder, "--out", tmp_path / "out", *arguments)
        assert code == 0, told
        return found

    return plan


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_the_tables_can_be_measured_or_have_been_published(name: str) -> None:
    table = TABLES[name]  # type: ignore[index]
    assert {MVTEC, STC} == {MVTecAD.name, ShanghaiTechCampus.name}
    for row in table.rows:
        assert row.preset is None or row.preset in PRESETS
        assert row.method is None or parse_method(row.method)[0].name
    lines = Comparison(table, [(row, None) for row in table.rows]).lines([], [])
    published = {line.preset for line in lines}
    assert {row.label for row in table.rows if row.preset is None} <= published
    assert not any(value for line in lines for value in line.mean.values())
    assert {line.preset for line in lines} == {row.label for row in table.rows}
    assert [line.preset for line in lines if not line.published] == ["GANomaly"] * (name == "detection")


@pytest.mark.parametrize("name", TABLES)
def test_without_a_folder_the_published_figures_are_shown(name: str, padim: Padim) -> None:
    code, printed, told = padim("evaluate", "--table", name)
    assert (code, told) == (0, "")
    assert "PaDiM-R18-Rd100" in printed or "PaDiM-WR50-Rd550" in printed
    assert "arXiv 2011.08785" in printed
    for figure in {"time": ["– (7.1)", "– (0.95)"], "non-aligned": ["– (92.2)", "– (87.2)"]}.get(name, []):
        assert figure in printed


def test_published_figures_are_written_in_each_format(tmp_path: Path, padim: Padim) -> None:
    formats = [word for kind in ("markdown", "latex", "csv") for word in ("--table-format", kind)]
    code, printed, _ = padim("evaluate", "--table", "localisation", "--out", tmp_path, *formats)
    assert code == 0
    assert printed.splitlines()[-1].endswith("localisation.csv")
    assert "| SPADE | textures | – (92.9) | – (88.4) |" in (tmp_path / "localisation.md").read_text(encoding="utf-8")
    assert "- published, AE-SSIM" in (tmp_path / "localisation.md").read_text(encoding="utf-8")
    assert r"SPADE & textures & -- (92.9) & -- (88.4) \\" in (tmp_path / "localisation.tex").read_text(encoding="utf-8")
    with (tmp_path / "localisation.csv").open(newline="", encoding="utf-8") as stream:
        rows = {(row["method"], row["category"]): row for row in csv.DictReader(stream)}
    spade = rows["SPADE", "textures"]
    assert (spade["seeds"], spade["pixel_auroc"], spade["pixel_auroc.published"]) == ("0", "", "0.929")
    assert "Table III" in spade["source"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Missing argument 'FOLDER'"),
        (("--table", "time", "--preset", "lite0"), "--preset is of what is measured, and there is no FOLDER"),
        (("--table", "time", "--ridge", "0.1"), "--ridge is of what is measured"),
        (("--table", "time", "--folds", "3"), "--folds is of what is measured"),
        (("--table", "time", "--batch-size", "4"), "--batch-size is of what is measured"),
        (("--table", "time", "--no-report"), "--no-report is of what is measured"),
        (("--table", "time", "--table-format", "csv"), "--table-format writes into --out, which is missing"),
        (("--table", "speed"), "'speed' is not one of"),
    ],
)
def test_without_a_folder_nothing_else_makes_sense(padim: Padim, words: tuple[str, ...], message: str) -> None:
    code, printed, told = padim("evaluate", *words)
    assert (code, printed) == (2, "")
    assert message in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--protocol", "rotated"), "--table localisation is of the protocol standard; leave --protocol rotated out"),
        (("--preset", "lite0", "--ridge", "0.1", "--ridge", "0.2"), "--table takes one value of ridge"),
        (("--ridge", "0.1"), "a setting of PaDiM that spade does not have"),
        (("--weights", "random"), "--weights is of one backbone, but the presets have several"),
        (("--devices", "1"), "--devices is of PaDiM"),
        (("--table", "stc"), "--table stc is of ShanghaiTech Campus, and FOLDER is not"),
    ],
)
def test_what_contradicts_the_table_is_refused_before_any_run(
    parts: Path, tmp_path: Path, padim: Padim, words: tuple[str, ...], message: str
) -> None:
    code, _, told = padim("evaluate", parts, "--out", tmp_path / "out", "--table", "localisation", *words)
    assert code == 2
    assert message in told
    assert not (tmp_path / "out").exists()


def test_shanghaitech_campus_has_tables_of_its_own(tmp_path: Path, planned: Plan, padim: Padim) -> None:
    campus = write_shanghaitech(tmp_path / "campus", {"01_001": 4}, {"01_0014": 3})
    assert [run.name for run in planned("--table", "stc", folder=campus)] == ["spade", "r18-rd100"]
    assert planned("--table", "memory", folder=campus)[0].name == "spade"
    code, _, told = padim("evaluate", campus, "--out", tmp_path / "out", "--table", "detection")
    assert code == 2
    assert "--table detection is not of ShanghaiTech Campus; take --table stc" in told


def test_a_table_is_measured_row_by_row_and_what_trains_comes_last(planned: Plan) -> None:
    runs = planned("--table", "localisation", "--folds", "3", "--seed", "7", "--seed", "8")
    assert list(dict.fromkeys(run.name for run in runs)) == [
        *("spade", "r18-rd100", "wr50-rd550", "ae", "ae:loss=l2", "vae", "patch-svdd"),
    ]
    assert [(run.category.name, run.seed) for run in runs if run.name == "vae"] == [
        (name, seed) for name in ("first", "second") for seed in (7, 8)
    ]
    spade = next(run for run in runs if isinstance(run, MethodRun))
    assert (spade.preset.backbone, spade.folds) == ("wide_resnet50_2", 3)
    assert {run.seed for run in runs if run.name == "spade"} == {7}  # it draws nothing
    assert [run.category.name for run in planned("--table", "detection", "--category", "second")] == ["second"] * 6


def test_the_table_chooses_the_protocol(planned: Plan) -> None:
    runs = planned("--table", "non-aligned", "--category", "first")
    assert list(dict.fromkeys(run.name for run in runs)) == ["spade", "wr50-rd550", "vae"]
    assert [run.protocol for run in runs if isinstance(run, Run)] == [Protocol("rotated", seed) for seed in range(5)]
    assert planned("--table", "non-aligned", "--protocol", "rotated", "--seeds", "1")[0].protocol.name == "rotated"


def test_named_presets_and_methods_take_the_place_of_the_papers_choice(planned: Plan) -> None:
    words = ("--table", "localisation", "--category", "first")
    runs = planned(*words, "--preset", "lite0", "--method", "spade", "--method", "patchcore:share=0.2")
    assert [(run.name, run.preset.name) for run in runs] == [
        (name, "lite0") for name in ("spade", "lite0", "patchcore:share=0.2")
    ]
    (alone,) = planned(*words, "--method", "spade")
    assert alone.preset.name == "wr50-rd550"  # the network of its row


def test_where_all_fails_the_table_says_so(
    parts: Path, tmp_path: Path, padim: Padim, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(evaluating, "load_backbone", load)
    code, printed, told = padim("evaluate", parts, "--out", tmp_path, "--table", "detection", "--category", "first")
    assert code == 1
    assert "GANomaly, Patch-SVDD, SPADE" in told or "SPADE, MahalanobisAD" in told
    written = (tmp_path / "detection.md").read_text(encoding="utf-8")
    assert "| SPADE | first | – |" in written
    assert "SPADE: not measured: no network" in written
    assert "on images of which nothing has been published" in written
    assert str(tmp_path / "detection.md") in printed


@pytest.mark.slow
def test_one_row_that_fails_does_not_lose_the_others(
    parts: Path, tmp_path: Path, padim: Padim, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = evaluating.load_backbone

    def load(name: str, weights: str | None, **options: Any) -> Any:
        if name != "efficientnet_lite0":
            asked.append(name)
            raise OSError(f"{name} can't be had")
        return loading(name, weights, **options)

    asked: list[str] = []
    monkeypatch.setattr(evaluating, "load_backbone", load)
    out = tmp_path / "out"
    words = ("evaluate", parts, "--out", out, "--table", "localisation", *SIZES, "--no-report", "--folds", 2)
    rows = ("--preset", "lite0", "--preset", "wr50-rd550", "--method", "patchcore:share=0.5,n_neighbours=1")
    formats = ("--table-format", "markdown", "--table-format", "csv", "--table-format", "latex")
    code, printed, told = padim(*words, *rows, *formats)
    assert code == 1
    assert "not measured, or not on all images: PaDiM-WR50-Rd550; see above why" in told
    assert asked == ["wide_resnet50_2"]  # and not once for each category
    results = json.loads((out / "results.json").read_text())
    assert [(run["preset"], run["category"]) for run in results["runs"]] == [
        (name, category) for name in ("lite0", "patchcore:n_neighbours=1,share=0.5") for category in ("first", "second")
    ]
    assert {run["network_bytes"] > 0 and run["score_seconds"] > 0 for run in results["runs"]} == {True}
    assert "PaDiM-WR50-Rd550: not measured: wide_resnet50_2 can't be had" in " ".join(printed.split())
    markdown = (out / "localisation.md").read_text(encoding="utf-8")
    assert "| PaDiM-WR50-Rd550 | first | – |" in markdown
    assert "- PaDiM-WR50-Rd550: not measured: wide\\_resnet50\\_2 can't be had" in markdown
    assert "measured with image\\_size=64" in markdown
    assert "% PaDiM-WR50-Rd550: not measured" in (out / "localisation.tex").read_text(encoding="utf-8")
    with (out / "localisation.csv").open(newline="", encoding="utf-8") as stream:
        by_row = {(row["method"], row["category"]): row for row in csv.DictReader(stream)}
    assert float(by_row["lite0", "mean"]["pixel_auroc"]) > 0.5
    assert "not measured: wide_resnet50_2" in by_row["PaDiM-WR50-Rd550", "second"]["note"]

    # the runs are there for the other tables, too
    code, printed, told = padim(*words[:5], "time", *words[6:], "--preset", "lite0")
    assert (code, told.count("there already")) == (0, 2), told
    assert (out / "time.md").is_file()
    assert (out / "localisation.md").read_text(encoding="utf-8") == markdown


@pytest.mark.slow
def test_a_fit_that_fails_is_said_and_the_next_category_goes_on(
    parts: Path, tmp_path: Path, padim: Padim, monkeypatch: pytest.MonkeyPatch
) -> None:
    import padim_jax.evaluation.evaluate as evaluation

    fitting = evaluation.fit_detector

    def fit(run: AnyRun, *arguments: Any) -> Any:
        if run.category.name == "first":
            raise FloatingPointError("no factor")
        return fitting(run, *arguments)

    monkeypatch.setattr(evaluation, "fit_detector", fit)
    words = ("evaluate", parts, "--out", tmp_path / "out", *SIZES, "--no-report", "--preset", "lite0")
    code, printed, told = padim(*words, "--table", "detection")
    assert code == 1
    assert "Traceback" not in told
    assert "1/2 first lite0 seed 0: lite0: not measured: no factor" in told
    assert "lite0: not measured of first: no factor" in " ".join(printed.split())
    code, _, told = padim(*words)  # an evaluation that fills in no table ends
    assert code == 1
    assert "no factor" in told
    assert "2/2" not in told


def test_a_bug_is_called_by_its_name_and_debug_shows_where(
    parts: Path, tmp_path: Path, padim: Padim, monkeypatch: pytest.MonkeyPatch
) -> None:
    import padim_jax.evaluation.evaluate as evaluation

    def look_up(*_: Any) -> Any:
        return {}["taps"]

    monkeypatch.setattr(evaluation, "fit_detector", look_up)
    words = ("evaluate", parts, "--out", tmp_path / "out", "--table", "detection", *SIZES, "--no-report")
    code, printed, told = padim("--debug", *words, "--preset", "lite0")
    assert code == 1
    assert "lite0: not measured: KeyError: 'taps'" in " ".join(printed.split())
    assert "in look_up" in told


def test_draws_that_failed_are_counted(planned: Plan) -> None:
    runs = planned("--table", "non-aligned", "--preset", "wr50-rd550")
    view = compare_with_paper("non-aligned", ("wr50-rd550",), (), 5, expand_grid({}), None)
    view.order(runs)
    for run in runs[:1] + runs[5:]:  # one draw of the first category, all of the second
        assert "not measured: no factor" in view.fail(run, FloatingPointError("no factor"))
    done = [record("wr50-rd550", "first", 0.9, data=runs[0].category.data, seed=seed) for seed in range(1, 5)]
    (line, *_) = view.lines(summarise(done), done)
    assert line.note == "not measured of first (1 of 5 draws), second: no factor"


def test_a_figure_has_the_digits_that_were_published(padim: Padim) -> None:
    _, printed, _ = padim("evaluate", "--table", "localisation")
    assert "(78)" in printed
    assert "(78.0)" not in printed
    assert len([line for line in printed.splitlines() if "PaDiM-R18" in line and line.startswith("published")]) == 1
    _, printed, _ = padim("evaluate", "--table", "detection")
    assert "GANomaly: its published figures are not known here" in printed
    assert "less than 97.85" in printed


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 3, 16])  # a last batch that is not full, and one batch alone
def test_seconds_of_a_score_are_of_every_image_from_its_file_on_without_compiling(
    parts: Path, tmp_path: Path, padim: Padim, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    import padim_jax.evaluation.evaluate as evaluation

    fitting, loading = evaluation.fit_detector, evaluation.load_examples
    clock, called = [0.0], list[int]()

    def fit(*arguments: Any) -> Any:
        detector = fitting(*arguments)

        def program(images: Any) -> Any:
            clock[0] += 0.5 if called else 1000.0  # the first call compiles
            called.append(len(images))
            return detector.scorer.program(images)

        return replace(detector, scorer=replace(detector.scorer, program=program))

    def load(*arguments: Any) -> Iterator[Any]:
        for batch in loading(*arguments):
            clock[0] += 2.0 * len(batch.images)
            yield batch

    monkeypatch.setattr(evaluation, "fit_detector", fit)
    monkeypatch.setattr(evaluation, "load_examples", load)
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    out = tmp_path / "out"
    words = ("evaluate", parts, "--out", out, "--category", "first", *SIZES, "--no-report", "--batch-size", batch_size)
    code, _, told = padim(*words)
    assert code == 0, told
    (run,) = json.loads((out / "results.json").read_text())["runs"]
    n_images = len(run["files"]["test"])
    assert n_images == 5
    assert run["score_seconds"] == pytest.approx(2.0 + 0.5 * (len(called) - 1) / n_images)
