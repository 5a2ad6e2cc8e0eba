"""The lines of the paper's tables: what was measured beside what has been published, and what is said of it."""

from pathlib import Path
from typing import Any

import pytest

from padim_jax.baselines.registry import parse_method
from padim_jax.commands.comparison import Comparison, compare_with_paper
from padim_jax.commands.grid import MethodChoice, expand_grid
from padim_jax.data.mvtec_ad import COUNTS
from padim_jax.evaluation.results import summarise
from tests.paper_runs import record


def plan(view: Comparison, runs: list[dict[str, Any]]) -> None:
    for run in runs:
        names = view.planned.setdefault(run["data"], [])
        names += [run["category"]] * (run["category"] not in names)


def compare(
    table: str, runs: list[dict[str, Any]], *, presets: tuple[str, ...] = (), methods: tuple[str, ...] = ()
) -> Any:
    view = compare_with_paper(table, presets, methods, 5, expand_grid({}), None)  # type: ignore[arg-type]
    plan(view, runs)
    return view, {(line.preset, line.category): line for line in view.lines(summarise(runs), runs)}


def test_rows_take_what_is_nearest_to_them() -> None:
    methods = ("ae:published,loss=l2", "ae:width=4", "ae:width=6", "dn2")
    view, _ = compare("localisation", [], presets=("r18-rd100",), methods=methods)
    found = {row.label: subject for row, subject in view.rows}
    assert isinstance(found["AE-L2"], MethodChoice)
    assert found["AE-L2"].own["loss"] == "l2"
    assert found["AE-SSIM"].name == "ae:width=4"
    assert found["SPADE"] is None
    assert [row.label for row, _ in view.rows][-2:] == ["ae:width=6", "dn2"]


def test_measured_groups_stand_beside_the_papers() -> None:
    runs = [record("r18-rd100", name, 0.9) for name in COUNTS]
    runs += [record("spade", name, 0.8, seed=seed) for name in COUNTS for seed in (0, 1)]
    runs += [record("lite0", name, 0.7) for name in COUNTS]
    view, lines = compare("localisation", runs, presets=("r18-rd100", "lite0"), methods=("spade",))
    assert [category for label, category in lines if label == "PaDiM-R18-Rd100"] == ["textures", "objects", "mean"]
    mean = lines["PaDiM-R18-Rd100", "mean"]
    assert (mean.mean["pixel_auroc"], mean.published["pixel_auroc"].value) == (pytest.approx(0.9), 0.967)
    assert lines["SPADE", "mean"].spread["pixel_auroc"] == pytest.approx(0)
    assert "measured with resnet18, published with wide_resnet50_2" in lines["SPADE", "mean"].note
    assert not lines["lite0", "mean"].published
    assert lines["VAE", "mean"].mean["pixel_auroc"] is None  # published alone
    assert not lines["VAE", "mean"].note
    assert list(lines)[-1] == ("lite0", "mean")
    notes = view.layout(list(lines.values())).notes
    assert any(note.startswith("published, ") and "Table III" in note for note in notes)


def test_rotated_images_stand_beside_the_papers_rotated_ones() -> None:
    draws = [{"seed": seed, "protocol": {"name": "rotated", "seed": seed}} for seed in (0, 1)]
    runs = [record("wr50-rd550", name, 0.8 + seed["seed"] / 10, **seed) for name in COUNTS for seed in draws]
    _, lines = compare("non-aligned", runs)
    mean = lines["PaDiM-WR50-Rd550", "mean"]
    assert (mean.protocol, mean.seeds, mean.published["pro"].value) == ("rotated", (0, 1), 0.731)
    assert (mean.mean["pixel_auroc"], mean.spread["pixel_auroc"]) == (
        pytest.approx(0.85),
        pytest.approx(0.0707, rel=1e-3),
    )
    assert lines["SPADE", "mean"].published["pixel_auroc"].value == 0.872


def test_of_some_categories_only_these_are_compared() -> None:
    runs = [record("r18-rd100", name, 0.9) for name in ("bottle", "cable")]
    _, lines = compare("localisation", runs, presets=("r18-rd100",))
    of_r18 = {category: line for (label, category), line in lines.items() if label == "PaDiM-R18-Rd100"}
    assert list(of_r18) == ["bottle", "cable", "mean"]
    assert of_r18["bottle"].published["pixel_auroc"].value == 0.981
    assert not of_r18["mean"].published  # that is of fifteen
    assert ("VAE", "mean") not in lines
    assert ("PaDiM-WR50-Rd550", "bottle") in lines


def test_a_mean_over_fewer_categories_than_other_rows_have_is_left_out() -> None:
    runs = [record("r18-rd100", name, 0.9) for name in COUNTS]
    runs += [record("wr50-rd550", name, 0.95) for name in COUNTS if name != "screw"]
    view = compare_with_paper("localisation", (), (), 5, expand_grid({}), None)
    plan(view, runs)
    view.failures["PaDiM-WR50-Rd550"] = {"out of memory": ["screw"]}
    lines = {(line.preset, line.category): line for line in view.lines(summarise(runs), runs)}
    assert lines["PaDiM-R18-Rd100", "mean"].mean["pixel_auroc"] == pytest.approx(0.9)
    assert lines["PaDiM-WR50-Rd550", "textures"].mean["pixel_auroc"] == pytest.approx(0.95)
    assert lines["PaDiM-WR50-Rd550", "objects"].mean["pixel_auroc"] is None
    assert lines["PaDiM-WR50-Rd550", "mean"].mean["pixel_auroc"] is None
    assert lines["PaDiM-WR50-Rd550", "mean"].published["pixel_auroc"].value == 0.975
    assert lines["PaDiM-WR50-Rd550", "mean"].note == "not measured of screw: out of memory"


def test_costs_are_of_one_image_and_of_network_and_model_together() -> None:
    costs = {"score_seconds": 0.25, "model_bytes": 2_000_000, "network_bytes": 3_000_000}
    runs = [record("wr50-rd550", name, 0.9, **costs) for name in ("bottle", "cable")] + [record("spade", "bottle", 0.9)]
    _, lines = compare("time", runs)
    line = lines["PaDiM-WR50-Rd550", "mean"]
    assert (line.mean["score_seconds"], line.mean["fit_seconds"]) == (0.25, 1.5)
    assert line.published["score_seconds"].value == 0.95
    assert line.note == ""
    assert lines["SPADE", "mean"].mean["fit_seconds"] is None  # of one category of two
    assert "measured by an earlier version, without costs" in lines["SPADE", "mean"].note
    assert "earlier version" not in line.note
    _, lines = compare("memory", runs)
    assert lines["PaDiM-WR50-Rd550", "mean"].mean["model_gb"] == pytest.approx(0.005)
    assert lines["PaDiM-WR50-Rd550", "mean"].published["model_gb"].value == 3.8


def test_other_images_take_the_table_without_what_was_published() -> None:
    runs = [record(name, "part", 0.9, data="image_folder_ad") for name in ("spade", "lite0")]
    _, lines = compare("localisation", runs, presets=("lite0",), methods=("spade",))
    assert list(lines) == [("SPADE", "part"), ("lite0", "part")]
    assert not any(line.published for line in lines.values())


@pytest.mark.parametrize(
    ("method", "notes"),
    [
        ("ae", ["measured with settings that learn in minutes; --method ae:published takes the paper's"]),
        ("ae:steps=12", ["measured with ae:steps=12"]),
        ("vae:steps=12", ["published of a VAE whose encoder is a ResNet18", "measured with vae:steps=12"]),
        ("spade:n_images=1", ["measured with spade:n_images=1"]),
        ("spade", []),
    ],
)
def test_settings_that_are_not_the_rows_are_said_beside_published_figures(method: str, notes: list[str]) -> None:
    name = parse_method(method)[0].title(parse_method(method)[1])
    _, lines = compare("localisation", [record(name, category, 0.5) for category in COUNTS], methods=(method,))
    (line,) = (line for (_, category), line in lines.items() if category == "mean" and line.mean["pixel_auroc"])
    assert line.published
    assert bool(line.note) == bool(notes)
    assert all(note in line.note for note in notes)


def test_sources_are_those_of_the_figures_shown() -> None:
    runs = [record("r18-rd100", name, 0.9, as_published=True) for name in COUNTS]
    view, lines = compare("detection", runs, presets=("r18-rd100",))
    notes = view.layout(list(lines.values())).notes
    assert [note for note in notes if "r18-rd100" in note] == [
        "published, r18-rd100: xiahaifeng1995/PaDiM-Anomaly-Detection-Localization-master, README"
    ]
    assert set(lines["r18-rd100", "mean"].published) == {"image_auroc"}
    assert not {"score_seconds", "model_gb"} & {name for line in summarise(runs) for name in line.published}


def test_a_weights_file_goes_by_its_name_alone(tmp_path: Path) -> None:
    weights = str(tmp_path / "own.npz")
    view = compare_with_paper("localisation", ("lite0",), (), 5, expand_grid({}), weights)
    runs = [record("lite0", "part", 0.9, data="image_folder_ad")]
    plan(view, runs)
    (line,) = view.lines(summarise(runs), runs)
    assert line.note == "measured with weights=own.npz"


def test_costs_of_a_row_that_is_not_whole_are_left_out() -> None:
    costs = {"score_seconds": 0.25, "model_bytes": 1, "network_bytes": 1}
    runs = [record("r18-rd100", "bottle", 0.9, **costs), record("spade", "bottle", 0.9, **costs)]
    runs += [record("spade", "cable", 0.9, **costs)]
    _, lines = compare("time", runs, presets=("r18-rd100",), methods=("spade",))
    assert lines["SPADE", "mean"].mean["score_seconds"] == 0.25
    assert lines["PaDiM-R18-Rd100", "mean"].mean["score_seconds"] is None
