"""The preset auto in the commands: what is fitted, said and remembered, alone, in a fleet and in an evaluation."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import padim_jax as padim
from padim_jax.cli import main
from padim_jax.fleet.fitting import Terms, fit_many
from padim_jax.fleet.journal import Journal
from padim_jax.fleet.tables import Job
from padim_jax.images import UnreadableImage
from padim_jax.presets import PRESETS
from padim_jax.runs.choosing import choose_files
from padim_jax.runs.watch import Advance, Interrupted, Watch, skip_unreadable
from tests.conftest import images, write_images
from tests.test_choosing import CANDIDATES, DISTANCE, STANDARDISED, dusty, edged

OPTIONS = "--tap block2 --tap block4 --n-channels 12 --image-size 32x48 --crop-size 32x48 --sigma 1.5".split()
AUTO = ["--preset", "auto", *OPTIONS, "--neighbourhood", "1", "--projection", "random-channels"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_images(folder / "dusty", dusty(32))
    write_images(folder / "edged", edged(32))
    write_images(folder / "few", images(5, DISTANCE))
    return folder


def test_the_preset_has_its_first_candidate_as_its_settings() -> None:
    for preset in PRESETS.values():
        assert preset.candidates[:1] == (preset.members if preset.name == "auto" else ())
    kinds = [(candidate.anomaly_map, candidate.align) for candidate in PRESETS["auto"].candidates]
    assert kinds == [("standardised", "none"), ("distance", "none"), ("standardised", "rigid")]


@pytest.mark.slow
def test_fit_says_what_is_chosen_and_stores_it(
    parts: Path, tmp_path: Path, lite0: padim.Backbone, capfd: pytest.CaptureFixture
) -> None:
    assert main(["fit", str(parts / "dusty"), "--out", str(tmp_path / "model"), *AUTO]) == 0
    said = " ".join(capfd.readouterr().err.split())
    choice = padim.choose(lite0, parts / "dusty", CANDIDATES)
    assert f"note: {choice.describe()}" in said
    model = padim.load(tmp_path / "model")
    fitted = padim.fit(lite0, parts / "dusty", DISTANCE).config
    assert replace(model.config, ridge=fitted.ridge, prior_images=fitted.prior_images) == fitted
    assert model.calibration is not None


@pytest.mark.slow
def test_an_option_takes_precedence_and_may_leave_nothing_to_choose(
    parts: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    words = [*AUTO, "--anomaly-map", "standardised"]
    assert main(["fit", str(parts / "dusty"), "--out", str(tmp_path / "model"), *words]) == 0
    assert "stand out" not in capfd.readouterr().err
    assert padim.load(tmp_path / "model").config.anomaly_map == "standardised"


def test_few_images_keep_the_first_candidate_and_it_is_said(
    parts: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert main(["fit", str(parts / "few"), "--out", str(tmp_path / "model"), *AUTO]) == 0
    assert "5 different images are too few to choose by, wanted 12" in " ".join(capfd.readouterr().err.split())
    assert padim.load(tmp_path / "model").config.anomaly_map == "standardised"


def test_settings_that_do_not_go_together_are_refused(
    parts: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    words = [*AUTO, "--covariance", "ledoit-wolf"]
    assert main(["fit", str(parts / "few"), "--out", str(tmp_path / "model"), *words]) == 2
    assert "--ridge 'auto' does not go with --covariance 'ledoit-wolf'" in " ".join(capfd.readouterr().err.split())
    assert main(["fit", str(parts / "few"), "--out", str(tmp_path / "model"), *AUTO, "--backbone", "resnet18"]) == 2
    assert "--backbone resnet18 is not that of --preset auto" in " ".join(capfd.readouterr().err.split())


def test_choosing_follows_one_stage_and_can_be_stopped(parts: Path, lite0: padim.Backbone) -> None:
    counts, totals, remarks, stop = list[int](), list[tuple[str, int]](), list[str](), False

    @contextmanager
    def progress(stage: str, total: int) -> Iterator[Advance]:
        totals.append((stage, total))
        yield counts.append

    watch = Watch(progress=progress, remark=remarks.append, stopped=lambda: stop and len(counts) > 3)
    paths = sorted((parts / "dusty").iterdir())
    assert choose_files(lite0, paths, CANDIDATES, 16, watch) == DISTANCE
    assert totals == [("choose", 9 * 32)]
    assert sum(counts) == 9 * 32
    assert len(remarks) == 1
    assert remarks[0].startswith("note: anomaly_map=distance is chosen")
    counts.clear()
    stop = True
    with pytest.raises(Interrupted, match="interrupted while the settings were chosen, before the fit"):
        choose_files(lite0, paths, CANDIDATES, 16, watch)
    assert 0 < sum(counts) < 9 * 32


@pytest.mark.slow
def test_a_file_that_can_not_be_read_is_left_out_or_ends_it(parts: Path, tmp_path: Path, lite0: padim.Backbone) -> None:
    paths = write_images(tmp_path / "good", images(13, DISTANCE))
    paths[4].write_bytes(b"no image")
    remarks = list[str]()
    assert choose_files(lite0, paths, CANDIDATES, 16, Watch(remark=remarks.append, unreadable=skip_unreadable))
    assert "drawn on 12 good images" in remarks[0]
    with pytest.raises(UnreadableImage):
        choose_files(lite0, paths, CANDIDATES, 16, Watch())


@pytest.mark.slow
def test_models_of_a_fleet_choose_each_for_itself_and_share_programs(
    parts: Path, tmp_path: Path, lite0: padim.Backbone, compilations: list[str]
) -> None:
    terms = Terms(STANDARDISED, batch_size=16, candidates=CANDIDATES)
    jobs, out = [Job(name, parts / name) for name in ("few", "edged", "dusty")], tmp_path / "models"
    out.mkdir()
    run = fit_many(lite0, jobs, terms, out, Journal(out))
    outcomes = {outcome.name: outcome for outcome in (next(run), next(run))}
    so_far = len(compilations)
    outcomes |= {outcome.name: outcome for outcome in run}
    assert len(compilations) == so_far
    assert [padim.load(out / job.name).config.anomaly_map for job in jobs] == [
        "standardised",
        "standardised",
        "distance",
    ]
    assert "too few to choose by" in outcomes["few"].notes[0]
    assert "is chosen" in outcomes["dusty"].notes[0]
    assert {outcome.status for outcome in fit_many(lite0, jobs, terms, out, Journal(out))} == {"kept"}
    alone = replace(terms, candidates=())
    assert {outcome.status for outcome in fit_many(lite0, jobs, alone, out, Journal(out))} == {"fitted"}


@pytest.mark.slow
def test_evaluate_records_what_was_chosen(parts: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    for name, good in (("dusty", dusty(50, seed=4)), ("edged", edged(50, seed=4))):
        write_images(tmp_path / "data" / name / "good", good)
        write_images(tmp_path / "data" / name / "bad", 255 - good[:4])
    words = ["evaluate", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--no-report", *AUTO]
    assert main(words) == 0
    said = " ".join(capfd.readouterr().err.split())
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "out").rglob("run.json")]
    chosen = {record["category"]: record["chosen"] for record in records}
    assert len(chosen) == 2
    for record in records:
        maps = [one["anomaly_map"] for one in record["settings"]["candidates"]]
        assert maps == ["standardised", "distance", "standardised"]
        assert record["chosen"]["why"] in said
    assert {name: one["members"][0]["anomaly_map"] for name, one in chosen.items()} == {
        "dusty": "distance",
        "edged": "standardised",
    }
    rows = (tmp_path / "out" / "results.csv").read_text(encoding="utf-8")
    assert ",distance," in rows
    assert ",standardised," in rows
    assert main(words) == 0
    assert "there already" in capfd.readouterr().err
