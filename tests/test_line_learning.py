"""Corrections become part of the model: proposed, looked at, made, undone; and it is the model of ``padim update``."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.cli import main
from padim_jax.images.folder import digest_file
from padim_jax.line import forgetting
from padim_jax.line.judge import Judge, Photo
from padim_jax.line.learning import NothingToLearn, propose
from padim_jax.line.proposal import Changed, Kept, apply
from padim_jax.line.records import Decision
from padim_jax.line.store import Store
from padim_jax.line.verdict import Rates
from tests.conftest import write_images
from tests.line_parts import fit_model, parts
from tests.service import NAME, Running, png, serving

SETTINGS = "--tap block2 --tap block4 --n-channels 12 --image-size 32x48 --crop-size 32x48 --sigma 1.5".split()
RATES = Rates(None, 0.2)
JSON = {"x-padim": "1"}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    write_images(folder / "good", parts(24))
    assert main(["fit", str(folder / "good"), "--out", str(folder / NAME), *SETTINGS]) == 0
    return folder / NAME


@pytest.fixture
def model(fitted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted, tmp_path / NAME))


def other(n: int, seed: int = 0) -> np.ndarray:
    """Good parts that the model does not know: with a label that those it knows have not."""
    return parts(n, 50 + seed, defect=True)


def judged(model: Path, folder: Path, pixels: np.ndarray, store: Store, *, corrected: str = "") -> list[Kept]:
    """Decisions on images, recorded and corrected, with their photos."""
    paths = write_images(folder, pixels)
    photos = [Photo("camera", path.name, path) for path in paths]
    recorded = store.record(found.decision for found in Judge(model, RATES, batch_size=4).judge(photos))
    for decision in recorded if corrected else ():
        store.correct(decision.id, corrected, who="Ada")  # type: ignore[arg-type] - a verdict
    return [Kept(store.decision(decision.id), path) for decision, path in zip(recorded, paths, strict=True)]


def test_the_changed_model_is_that_of_padim_update_and_nothing_is_written_before(model: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(model, tmp_path / "twin.padim"))
    before, calibration = (model / "model.json").read_bytes(), padim.load(model).calibration
    assert calibration is not None
    with Store.open(tmp_path / "line.db") as store:
        alarms = judged(model, tmp_path / "alarms", other(6), store, corrected="good")
        recent = judged(model, tmp_path / "recent", other(3, 1), store)
        assert {one.decision.verdict for one in alarms} == {"bad"}
        proposal = propose(model, alarms, [*alarms, *recent], RATES, batch_size=4)
    assert (model / "model.json").read_bytes() == before
    assert sorted(proposal.added) == sorted(one.decision.id for one in alarms)
    apply(proposal)
    assert main(["update", str(twin), str(tmp_path / "alarms"), "--batch-size", "4"]) == 0
    ours, expected = padim.load(model), padim.load(twin)
    images = parts(4, 77)
    np.testing.assert_allclose(
        padim.score(ours, images).anomaly_map, padim.score(expected, images).anomaly_map, rtol=1e-4, atol=1e-4
    )
    assert ours.calibration is not None
    assert expected.calibration is not None
    # but these parts were chosen because they scored high, so thresholds do not follow from them
    np.testing.assert_array_equal(ours.calibration.scores, calibration.scores)
    assert (
        float(ours.calibration.threshold)
        == proposal.threshold
        == proposal.threshold_after
        == float(calibration.threshold)
    )
    assert len(expected.calibration.scores) > len(calibration.scores)
    # what it said of recent decisions is what the changed model says of them
    again = Judge(model, RATES, batch_size=4).judge([Photo("c", one.path.name, one.path) for one in recent])
    pairs = [(one.decision.verdict, found.decision.verdict) for one, found in zip(recent, again, strict=True)]
    assert dict(proposal.effect.changes) == {pair: pairs.count(pair) for pair in pairs if pair[0] != pair[1]}
    assert proposal.effect.judged == 3
    assert main(["undo", str(model)]) == 0
    assert (model / "model.json").read_bytes() == before


def test_what_an_earlier_lesson_changed_is_not_counted_as_the_work_of_the_next(model: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "line.db") as store:
        first = judged(model, tmp_path / "first", other(8), store, corrected="good")
        apply(propose(model, first, [], RATES, batch_size=4))
        photos = [Photo("c", one.path.name, one.path) for one in first]
        now = [found.decision.verdict for found in Judge(model, RATES, batch_size=4).judge(photos)]
        assert {one.decision.verdict for one in first} == {"bad"}  # so the store has it
        assert set(now) == {"good"}
        (good,) = write_images(tmp_path / "good", parts(1))  # of the fit
        named, learned = (
            forgetting.Named("0", digest_file(good), good),
            {one.decision.image_digest: one.path for one in first},
        )
        gone = forgetting.propose(model, [named], first, RATES, learned=lambda *state: learned, batch_size=4)
        second = judged(model, tmp_path / "second", parts(2, 60, defect=True)[:, ::-1], store, corrected="good")
        more = propose(model, second, first, RATES, batch_size=4)
    for proposal in (gone, more):
        assert proposal.effect.judged == 8
        assert not proposal.effect.changes
    assert gone.effect.ratio == pytest.approx(1, abs=0.3)


def test_a_change_for_another_state_of_the_model_is_not_made(model: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "line.db") as store:
        alarms = judged(model, tmp_path / "alarms", other(4), store, corrected="good")
        proposal = propose(model, alarms, [], RATES, batch_size=4)
    write_images(tmp_path / "more", parts(3, 90))
    assert main(["update", str(model), str(tmp_path / "more"), "--batch-size", "4"]) == 0
    now = (model / "model.json").read_bytes()
    with pytest.raises(Changed, match="replaced since this change was proposed"):
        apply(proposal)
    assert (model / "model.json").read_bytes() == now


def test_only_good_parts_that_were_called_otherwise_are_learnt(model: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "line.db") as store:
        defects = judged(model, tmp_path / "bad", parts(2, 60, defect=True), store, corrected="bad")
        known = judged(model, tmp_path / "known", parts(24)[:2], store, corrected="bad")
        uncorrected = judged(model, tmp_path / "open", other(2, 3), store)
        with pytest.raises(NothingToLearn, match="none is of a part"):
            propose(model, [*defects, *known, *uncorrected], [], RATES)
        alarms = judged(model, tmp_path / "alarms", other(4), store, corrected="good")
        proposal = propose(model, [*defects, *known, *alarms], [], RATES, batch_size=4)
    assert sorted(proposal.added) == sorted(one.decision.id for one in alarms)
    assert sorted(proposal.contradicted) == sorted(one.decision.id for one in known)
    assert any("2 images that the model was fitted on are called bad" in remark for remark in proposal.remarks)


def test_the_last_word_on_a_photo_counts_in_whatever_decision_it_was_said(model: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "line.db") as store:
        first = judged(model, tmp_path / "alarms", other(1), store, corrected="good")
        (again,) = store.record([replace(first[0].decision, item="again.png", correction=None)])
        store.correct(again.id, "bad", who="Ada")
        both = [*first, Kept(store.decision(again.id), first[0].path)]
        with pytest.raises(NothingToLearn, match="1 photos are called good in one decision and bad in another"):
            propose(model, both, [], RATES)
        store.correct(first[0].decision.id, "good", who="Bea")
        both = [replace(one, decision=store.decision(one.decision.id)) for one in both]
        proposal = propose(model, both, [], RATES, batch_size=4)
    assert proposal.added == (first[0].decision.id,)
    assert any("the last word counts" in remark for remark in proposal.remarks)


def test_a_model_that_only_scores_can_not_learn(tmp_path: Path) -> None:
    model = fit_model(tmp_path / NAME)
    with pytest.raises(padim.ArtifactError):
        propose(model, [Kept(Decision("c", "x", "0a", NAME, "", "bad"), tmp_path / "x")], [], RATES)


@pytest.fixture
def service(model: Path, tmp_path: Path) -> Iterator[Running]:
    with serving(model, tmp_path / "line.db", "--keep-photos", "50", "--learn") as running:
        yield running


def test_over_http_a_change_is_proposed_made_and_undone(model: Path, service: Running) -> None:
    with service.client() as client:
        headers = {"content-type": "image/png"}
        pixels = other(6)
        found = [client.post(service.score, content=png(one), headers=headers).json() for one in pixels]
        learning = f"/models/{NAME}/learning"

        def post(address: str, **body: Any) -> httpx.Response:
            return client.post(address, json={"who": "Ada"} | body, headers=JSON)

        refused = post(learning)
        assert refused.status_code == 409
        assert "none is of a part" in refused.json()["error"]
        for one in found[:5]:
            assert post(f"/decisions/{one['id']}/corrections", verdict="good").status_code == 200
        deadline = time.monotonic() + 60
        while not client.get(f"/decisions/{found[-1]['id']}").json()["has_photo"]:
            assert time.monotonic() < deadline
        made = post(learning).json()
        assert sorted(made["added"]) == sorted(one["id"] for one in found[:5])
        assert made["judged"] == 1
        calibration = padim.load(model).calibration
        assert calibration is not None
        assert made["threshold"] == pytest.approx(float(calibration.threshold))
        assert post(f"{learning}/apply", proposal="0" * 32).status_code == 409
        digest = found[0]["model_digest"]
        assert post(f"{learning}/apply", proposal=made["proposal"]).status_code == 200
        assert post(f"{learning}/apply", proposal=made["proposal"]).status_code == 409  # once

        def current() -> str:
            return client.get("/models").json()["models"][0]["digest"]

        while current() == digest:
            assert time.monotonic() < deadline
        assert (
            client.post(f"{service.score}?item=again", content=png(pixels[5]), headers=headers).json()["verdict"]
            != "bad"
        )
        assert post(f"{learning}/undo").status_code == 200
        while current() != digest:
            assert time.monotonic() < deadline
        # who did it is in the log
        assert {record.get("who") for record in service.logged() if record["path"].startswith(learning)} == {"Ada"}


@pytest.mark.slow
def test_without_the_option_no_model_is_changed(model: Path, tmp_path: Path) -> None:
    before = (model / "model.json").read_bytes()
    with serving(model, tmp_path / "line.db", "--keep-photos", "5") as service, service.client() as client:
        for end in ("", "/apply", "/undo"):
            body = {"who": "Ada"} | ({"proposal": "x"} if end == "/apply" else {})
            refused = client.post(f"/models/{NAME}/learning{end}", json=body, headers=JSON)
            assert refused.status_code == 403
            assert "padim serve --learn does" in refused.json()["error"]
    assert (model / "model.json").read_bytes() == before
