"""Many models in one run, and scoring with many."""

import csv
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import load_updatable, resident_bytes
from padim_jax.cli import main
from padim_jax.fleet import Journal, Outcome, Terms, fit_many
from padim_jax.fleet.serving import Fleet
from padim_jax.fleet.tables import Job
from padim_jax.images import UnreadableImage
from padim_jax.runs.watch import Interrupted
from tests.conftest import SMALL, images, write_images

SETTINGS = "--tap block2 --tap block4 --n-channels 12 --image-size 40x56 --crop-size 32x48 --sigma 1.5".split()
CONFIG = replace(SMALL, image_size=SMALL.crop_size)  # files as they are, so that their pixels are at hand
TERMS = Terms(CONFIG, batch_size=8)


def jobs_in(root: Path, counts: Sequence[int]) -> list[Job]:
    """A folder of so many good images for each job."""
    jobs = []
    for index, count in enumerate(counts):
        good = root / "good" / str(index)
        write_images(good, images(count, SMALL, seed=index))
        jobs.append(Job(f"part{index // 3}/camera{index % 3}", good))
    return jobs


def outcomes(backbone: padim.Backbone, jobs: Sequence[Job], out: Path, terms: Terms = TERMS) -> dict[str, Outcome]:
    """Of one run."""
    out.mkdir(exist_ok=True)
    return {outcome.name: outcome for outcome in fit_many(backbone, jobs, terms, out, Journal(out))}


@pytest.mark.slow
def test_thirty_models_take_one_compilation(lite0: padim.Backbone, tmp_path: Path, compilations: list[str]) -> None:
    counts = [14 + index % 5 for index in range(30)]  # ragged; more than d, so that rounding stays small
    jobs = jobs_in(tmp_path, counts)
    (jobs[7].good / "004b.png").write_bytes(b"no image")
    out = tmp_path / "models"
    out.mkdir()
    run = fit_many(lite0, jobs, TERMS, out, Journal(out))
    found = [next(run)]
    assert found[0].status == "fitted"
    so_far = len(compilations)
    found += list(run)
    assert len(compilations) == so_far
    assert {outcome.name for outcome in found if outcome.status == "failed"} == {"part2/camera1"}
    assert "004b.png" in next(outcome.notes[0] for outcome in found if outcome.status == "failed")
    assert not (out / "part2" / "camera1").exists()
    test = images(3, SMALL, seed=99)
    for index in (0, 1, 8, 29):
        wanted = padim.fit(lite0, [images(counts[index], SMALL, seed=index)], CONFIG)
        wanted = padim.calibrate(wanted, [images(counts[index], SMALL, seed=index)])
        one, other = (padim.score(model, test) for model in (padim.load(out / jobs[index].name), wanted))
        np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, rtol=1e-4)
        np.testing.assert_allclose(np.asarray(one.p_value), np.asarray(other.p_value))
    assert len(load_updatable(out / jobs[29].name).images) == counts[29]


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(lite0: padim.Backbone, tmp_path: Path) -> None:
    jobs, out = jobs_in(tmp_path, [5, 5, 5, 5]), tmp_path / "models"
    shutil.rmtree(jobs[3].good)
    first = outcomes(lite0, jobs, out)
    assert [first[job.name].status for job in jobs] == ["fitted", "fitted", "fitted", "failed"]
    assert "there is no file or folder" in first[jobs[3].name].notes[0]
    journal = out / ".models.1-of-1.jsonl"
    journal.write_text(journal.read_text() + '{"name": "part0/camera0", "status":')  # torn by a power cut
    write_images(jobs[3].good, images(4, SMALL, seed=3))
    write_images(jobs[1].good, images(6, SMALL, seed=1))
    shutil.rmtree(out / jobs[2].name)
    again = outcomes(lite0, jobs, out)
    assert [again[job.name].status for job in jobs] == ["kept", "fitted", "fitted", "fitted"]
    assert {outcome.status for outcome in outcomes(lite0, jobs, out).values()} == {"kept"}
    assert {name: one.images for name, one in Journal(out).last().items()} == dict(
        zip([job.name for job in jobs], [5, 6, 5, 4], strict=True)
    )
    wider = replace(TERMS, config=replace(CONFIG, n_channels=13))
    assert {outcome.status for outcome in outcomes(lite0, jobs, out, wider).values()} == {"fitted"}


def test_what_is_kept_is_what_the_model_itself_was_made_from(lite0: padim.Backbone, tmp_path: Path) -> None:
    (job, other), out = jobs_in(tmp_path, [5, 5]), tmp_path / "models"
    assert outcomes(lite0, [job], out)[job.name].status == "fitted"
    # by other settings, and the journal never heard of it
    wider = replace(TERMS, config=replace(CONFIG, n_channels=13))
    list(fit_many(lite0, [job], wider, out, Journal(tmp_path)))
    assert outcomes(lite0, [job], out)[job.name].status == "fitted"
    assert outcomes(lite0, [job], out)[job.name].status == "kept"
    assert main(["update", str(out / job.name), str(other.good)]) == 0
    kept = outcomes(lite0, [job], out)[job.name]
    assert (kept.status, kept.notes) == (
        "kept",
        ("it was updated since it was fitted, and is kept as it is; --replace-changed fits it anew",),
    )
    assert len(padim.load_updatable(out / job.name).images) == 10
    assert outcomes(lite0, [job], out, replace(TERMS, replace_changed=True))[job.name].status == "fitted"
    shutil.rmtree(next((out / job.name).glob("arrays-*")))
    assert outcomes(lite0, [job], out)[job.name].status == "fitted"
    (job.good / "bad.png").write_bytes(b"no image")
    failed = outcomes(lite0, [job], out)[job.name]
    assert failed.status == "failed"
    assert failed.notes[1] == "the model of an earlier fit is still there"
    skipping = replace(TERMS, skip_unreadable=True)
    skipped = outcomes(lite0, [job], out, skipping)[job.name]
    assert (skipped.status, skipped.skipped) == ("fitted", 1)
    assert "bad.png" in skipped.notes[0]
    assert outcomes(lite0, [job], out, skipping)[job.name].status == "kept"
    assert outcomes(lite0, [job], out)[job.name].status == "failed"
    # as it is there after all, the list must not go on calling it failed
    assert outcomes(lite0, [job], out, skipping)[job.name].status == "kept"
    assert Journal(out).last()[job.name].status == "kept"


@pytest.mark.slow
def test_interrupted_it_keeps_what_is_done(lite0: padim.Backbone, tmp_path: Path) -> None:
    jobs, out = jobs_in(tmp_path, [20, 20, 20]), tmp_path / "models"
    out.mkdir()
    run, asked = fit_many(lite0, jobs, TERMS, out, Journal(out), stopped=lambda: asked), False
    assert next(run).status == "fitted"
    asked = True
    with pytest.raises(Interrupted, match="models that are done are kept"):
        list(run)
    done = outcomes(lite0, jobs, out)
    assert sorted(outcome.status for outcome in done.values()) == ["fitted", "fitted", "kept"]
    assert not list(out.rglob("*.unfinished"))
    alone = padim.fit(lite0, [images(20, SMALL, seed=2)], CONFIG)
    test = images(3, SMALL, seed=99)
    found = padim.score(padim.load(out / jobs[2].name), test).anomaly_map
    np.testing.assert_allclose(found, padim.score(alone, test).anomaly_map, rtol=1e-4)
    # one who asks for no more outcomes ends the run too
    shutil.rmtree(out)
    out.mkdir()
    run = fit_many(lite0, jobs, TERMS, out, Journal(out))
    next(run)
    run.close()
    made = [path for path in out.rglob("model.json") if not path.parent.name.endswith(".unfinished")]
    assert len(Journal(out).last()) == len(made) < 3


def test_a_fault_of_the_calibration_does_not_cost_the_fit(lite0: padim.Backbone, tmp_path: Path) -> None:
    (job, other), out = jobs_in(tmp_path, [5, 5]), tmp_path / "models"
    (other.good / "bad.png").write_bytes(b"no image")
    both = replace(job, calibration=other.good)
    assert "bad.png" in outcomes(lite0, [both], out)[job.name].notes[0]
    assert list(out.rglob(".*.unfinished"))
    (other.good / "bad.png").unlink()
    assert outcomes(lite0, [both], out)[job.name].status == "fitted"
    assert not list(out.rglob(".*.unfinished"))
    small = replace(job, roi=tmp_path / "roi.png")
    write_images(tmp_path / "roi", np.full((1, 8, 8, 3), 255, np.uint8))[0].rename(tmp_path / "roi.png")
    assert "8×8 pixels, the images have 48×32" in outcomes(lite0, [small], out)[job.name].notes[0]


def test_value_ranges_share_a_program(lite0: padim.Backbone, tmp_path: Path, compilations: list[str]) -> None:
    from PIL import Image

    jobs = []
    for name, bits in (("twelve", 12), ("ten", 10)):
        (tmp_path / name).mkdir()
        for index, image in enumerate(images(14, SMALL, seed=bits)):
            deep = image[..., 0].astype(np.uint16) * (2**bits // 256)
            deep[0, 0] = 2**bits - 1
            Image.fromarray(deep).save(tmp_path / name / f"{index}.png")
        jobs.append(Job(name, tmp_path / name))
    out = tmp_path / "models"
    out.mkdir()
    run = fit_many(lite0, jobs, TERMS, out, Journal(out))
    first, so_far = next(run), len(compilations)
    (second,) = run
    assert len(compilations) == so_far
    assert [one.notes[:1] for one in sorted((first, second), key=lambda one: one.name)] == [
        ("values 0 to 1023 are black to white",),
        ("values 0 to 4095 are black to white",),
    ]
    assert padim.load(out / "ten").config.value_range == (0, 1023)


@pytest.mark.slow
def test_calibration_and_roi_of_a_job(lite0: padim.Backbone, tmp_path: Path) -> None:
    from PIL import Image

    (job, other), out = jobs_in(tmp_path, [5, 5]), tmp_path / "models"
    mask = np.zeros((32, 48), np.uint8)
    mask[:, :24] = 255
    Image.fromarray(mask).save(tmp_path / "roi.png")
    both = replace(job, calibration=other.good, roi=tmp_path / "roi.png")
    few = replace(other, good=tmp_path / "two")
    write_images(few.good, images(2, SMALL))
    found = outcomes(lite0, [both, few], out)
    model = padim.load(out / both.name)
    assert model.calibration is not None
    assert model.calibration.method == "held-out"
    assert model.roi is not None
    assert found[both.name].threshold == float(model.calibration.threshold)
    assert (found[few.name].status, found[few.name].threshold) == ("fitted", None)
    assert "leaving one image out takes 3" in found[few.name].notes[0]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs, out = jobs_in(tmp_path, [5, 5, 5]), tmp_path / "models"
    (jobs[1].good / "bad.png").write_bytes(b"no image")
    table = tmp_path / "table.csv"
    table.write_text("model,good\n" + "".join(f"{job.name},good/{job.good.name}\n" for job in jobs))
    command = ["fit-many", str(table), "--out", str(out), *SETTINGS]
    assert main([*command, "--part", "2/2"]) == 1
    said = capsys.readouterr()
    assert "0 fitted, 0 there already, 1 failed" in said.out
    assert f"not fitted: {jobs[1].name}:" in said.err
    assert "1 of 1 models failed" in said.err
    assert main([*command, "--part", "1/2"]) == 0
    assert main([*command, "--skip-unreadable"]) == 0
    with (out / "models.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert "bad.png" in rows[1]["notes"]
    assert [(row["model"], row["status"], row["images"], row["skipped"]) for row in rows] == [
        ("part0/camera0", "fitted", "5", "0"),
        ("part0/camera1", "fitted", "5", "1"),
        ("part0/camera2", "fitted", "5", "0"),
    ]
    for wrong in ("3/2", "0/2", "2//2", "2/x/2"):
        assert main([*command, "--part", wrong]) == 2
    assert main([*command, "--devices", "99"]) == 2
    table.write_text("model\n")
    assert main(command) == 2


@pytest.fixture(scope="module")
def fleet(lite0: padim.Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of four models, the last not calibrated, and of their images."""
    root = tmp_path_factory.mktemp("fleet")
    jobs = jobs_in(root, [6, 6, 6, 2])
    outcomes(lite0, jobs, root / "models")
    return root


NAMES = ["part0/camera0", "part0/camera1", "part0/camera2", "part1/camera0"]


def test_a_mixed_stream_is_routed_within_the_budget(lite0: padim.Backbone, fleet: Path) -> None:
    models = fleet / "models"
    each = resident_bytes(models / NAMES[0])
    actual = padim.load(models / NAMES[0])
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(replace(actual, backbone=None)))
    assert kept <= each <= 1.05 * kept
    stream = [(NAMES[index % 4], image) for index, image in enumerate(images(22, SMALL, seed=5))]
    for budget, window in ((2 * each, 7), (4 * each, 1), (each, 22)):
        many = Fleet(models, budget)
        found = list(many.score(stream, batch_size=4, window=window))
        assert many.held <= budget
        assert many.loads >= 4 if budget < 4 * each else many.loads == 4
        assert [name for name, _ in found] == [name for name, _ in stream]
        for (name, image), (_, scores) in zip(stream[:8], found[:8], strict=True):
            wanted = padim.score(padim.load(models / name), image[None])
            np.testing.assert_allclose(scores.anomaly_map, wanted.anomaly_map, rtol=1e-4)
            assert (scores.p_value is None) == (wanted.p_value is None)
            if wanted.p_value is not None:
                np.testing.assert_allclose(np.asarray(scores.p_value), np.asarray(wanted.p_value))
    assert len({id(padim.load(models / name).backbone) for name in NAMES} | {id(lite0)}) == 1


def test_a_fleet_compiles_few_programs(fleet: Path, compilations: list[str]) -> None:
    models, stream = fleet / "models", [(NAMES[0], image) for image in images(4, SMALL)]
    many = Fleet(models, 10**9)
    list(many.score(stream, window=4))
    so_far = len(compilations)
    list(many.score([(NAMES[2], image) for _, image in stream[:3]], window=4))  # filled up to four
    assert len(compilations) == so_far


def test_models_used_last_stay(fleet: Path) -> None:
    each = resident_bytes(fleet / "models" / NAMES[0])
    many = Fleet(fleet / "models", 2 * each)
    for name in (NAMES[0], NAMES[1], NAMES[0], NAMES[2], NAMES[0]):
        many.model(name)
    assert many.loads == 3
    with pytest.raises(ValueError, match=r"part0/camera0.*more than the budget"):
        Fleet(fleet / "models", each - 1).model(NAMES[0])
    with pytest.raises(ValueError, match="no model at"):
        many.model("part0/camera9")
    with pytest.raises(ValueError, match=r"Fleet\.score: window=0"):
        list(many.score([], window=0))
    with pytest.raises(ValueError, match=r"Fleet\.score_files: batch_size=0"):
        list(many.score_files([], batch_size=0))
    with pytest.raises(UnreadableImage, match="nowhere"):
        list(many.score_files([(NAMES[0], Path("nowhere.png"))]))
    with pytest.raises(ValueError, match="no model at"):
        list(many.score_files([("part0/camera9", Path("nowhere.png"))]))
    with pytest.raises(ValueError, match="crop_size"):
        list(many.score([(NAMES[0], np.zeros((8, 8, 3), np.uint8))]))


def test_the_score_many_command(fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "stream.csv", tmp_path / "out"
    (tmp_path / "bad.png").write_bytes(b"no image")
    good = fleet / "good"
    lines = [
        (NAMES[1], good / "1" / "003.png"),
        (NAMES[0], good / "0"),
        (NAMES[1], good / "1" / "003.png"),
        (NAMES[3], good / "3" / "001.png"),
        ("part9", good / "3" / "001.png"),
        (NAMES[2], tmp_path / "bad.png"),
        (NAMES[2], tmp_path / "bad.png"),
        (NAMES[2], tmp_path / "nowhere.png"),
    ]
    table.write_text("model,path\n" + "".join(f"{name},{path}\n" for name, path in lines))
    command = ["score-many", str(fleet / "models"), str(table), "--out", str(out), "--memory", "2MB"]
    assert main(command) == 1
    said = capsys.readouterr()
    assert "4 of 13 images have no score" in said.err
    assert "no heat maps of models that are not calibrated: part1/camera0" in " ".join(said.err.split())
    with (out / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["model"] for row in rows] == [NAMES[1], *[NAMES[0]] * 6, NAMES[1], NAMES[3]]
    assert rows[0] == rows[7]
    assert rows[8]["verdict"] == ""
    with (out / "unreadable.csv").open(newline="") as stream:
        assert sorted(row["model"] for row in csv.DictReader(stream)) == [*[NAMES[2]] * 3, "part9"]
    pictures = [path.relative_to(out / "heatmaps").as_posix() for path in (out / "heatmaps").rglob("*.png")]
    assert len(pictures) == 7
    assert all(path.startswith(("part0/camera0/", "part0/camera1/")) for path in pictures)
    assert main(["score", str(fleet / "models" / NAMES[0]), str(good / "0"), "--out", str(tmp_path / "one")]) == 0
    with (tmp_path / "one" / "scores.csv").open(newline="") as stream:
        alone = {row["path"]: row["score"] for row in csv.DictReader(stream)}
    assert {row["path"]: row["score"] for row in rows[1:7]} == pytest.approx(alone)
    assert main([*command, "--memory", "much"]) == 2
    (out / "heatmaps" / ".written-by-padim").unlink()
    assert main(command) == 2
