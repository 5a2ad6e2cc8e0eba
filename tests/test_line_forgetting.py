"""Images that are not good are taken out of a model: proposed, looked at, made, undone; it is that of ``padim forget``."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.artifact import load_updatable
from padim_jax.artifact.folder import undo
from padim_jax.artifact.manifest import manifest_checksum, read_manifest
from padim_jax.cli import main
from padim_jax.images.folder import digest_file
from padim_jax.line import forgetting, learning
from padim_jax.line.forgetting import CannotForget, Named, Removal
from padim_jax.line.proposal import Changed, Proposal, apply, calibration_digest
from padim_jax.line.store import Store
from padim_jax.line.verdict import Rates
from tests.conftest import write_images
from tests.line_parts import fit_model, parts
from tests.service import NAME
from tests.test_line_learning import SETTINGS, judged, other

RATES = Rates(None, 0.2)
BAD = 2


def named(*paths: Path) -> list[Named]:
    return [Named(path.name, digest_file(path), path) for path in paths]


def fit(folder: Path, *more: str) -> Path:
    """A model of good parts, with bad ones among them by mistake: its folder, beside its images in good/ and bad/."""
    write_images(folder / "images" / "good", parts(24))
    write_images(folder / "images" / "bad", parts(BAD, 60, defect=True))
    assert main(["fit", str(folder / "images"), "--out", str(folder / NAME), *SETTINGS, *more]) == 0
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("fitted"))


@pytest.fixture(scope="module")
def standardised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("standardised"), "--anomaly-map", "standardised")


@pytest.fixture
def model(fitted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted / NAME, tmp_path / NAME))


def calibration(model: Path) -> padim.Calibration:
    found = padim.load(model).calibration
    assert found is not None
    return found


def bad_ones(folder: Path) -> list[Named]:
    return named(*sorted((folder / "images" / "bad").iterdir()))


@pytest.mark.slow
def test_the_changed_model_is_that_of_a_fit_without_them_and_nothing_is_written_before(
    fitted: Path, model: Path, tmp_path: Path
) -> None:
    before, known = (model / "model.json").read_bytes(), calibration(model)
    with Store.open(tmp_path / "line.db") as store:
        recent = judged(model, tmp_path / "recent", parts(3, 61, defect=True), store)
    proposal = forgetting.propose(model, bad_ones(fitted), recent, RATES, batch_size=4)
    assert (model / "model.json").read_bytes() == before
    assert (proposal.kind, len(proposal.removed)) == ("forget", BAD)
    for one in proposal.removed:
        assert one.score_after > 1.5 * one.score
        assert (one.verdict_after, one.is_calibrating) == ("bad", True)
    after = apply(proposal)
    assert after == manifest_checksum(read_manifest(model)) != proposal.based_on
    twin = tmp_path / "twin.padim"
    assert main(["fit", str(fitted / "images" / "good"), "--out", str(twin), *SETTINGS]) == 0
    images = parts(4, 77)
    np.testing.assert_allclose(
        padim.score(padim.load(model), images).anomaly_map,
        padim.score(padim.load(twin), images).anomaly_map,
        rtol=1e-3,
        atol=1e-3,
    )
    # their scores, which set the threshold, are not among those of the calibration any more; all others are
    left = calibration(model)
    assert len(left.scores) == len(known.scores) - BAD
    assert np.isin(np.asarray(left.scores), np.asarray(known.scores)).all()
    assert proposal.threshold == float(known.threshold) == float(known.scores[-1])
    assert proposal.threshold_after == float(left.threshold) < proposal.threshold
    exact = float(calibration(twin).threshold)
    assert 0.95 * exact < proposal.threshold_after <= exact  # errs towards more alarms
    assert left.false_alarm_rate == known.false_alarm_rate
    assert 0 < float(known.pixels.sum() - left.pixels.sum()) <= BAD * 32 * 48
    assert any("padim calibrate on good images makes it exact" in remark for remark in proposal.remarks)
    # what they hid is found again
    assert proposal.effect.judged == 3
    assert {then for _, then in proposal.effect.changes} == {"bad"}
    assert proposal.effect.ratio is not None
    assert proposal.effect.ratio > 1
    assert main(["undo", str(model)]) == 0
    assert (model / "model.json").read_bytes() == before


def test_an_image_that_was_never_in_it_is_refused_in_words(fitted: Path, model: Path, tmp_path: Path) -> None:
    (stranger,) = write_images(tmp_path / "x", parts(1, 90))
    before = (model / "model.json").read_bytes()
    with pytest.raises(CannotForget, match=r"000\.png is not among the 26 images that bracket\.padim was fitted on"):
        forgetting.propose(model, named(stranger), [], RATES)
    again = tmp_path / "again.bmp"  # the same pixels in another file
    Image.open(bad_ones(fitted)[0].path).save(again)
    with pytest.raises(CannotForget, match="give the very files, not copies"):
        forgetting.propose(model, [*bad_ones(fitted), *named(again)], [], RATES)
    with pytest.raises(CannotForget, match="no image was named"):
        forgetting.propose(model, [], [], RATES)
    assert (model / "model.json").read_bytes() == before


def test_a_model_that_only_scores_can_not_forget(fitted: Path, tmp_path: Path) -> None:
    scores_only, compact = fit_model(tmp_path / NAME), tmp_path / "compact.padim"
    assert main(["compact", str(fitted / NAME), "--out", str(compact), "--max-error", "0.01"]) == 0
    for model in (scores_only, compact):
        with pytest.raises(padim.ArtifactError, match="without the moments that updating needs"):
            forgetting.propose(model, bad_ones(fitted), [], RATES)


def test_where_a_model_gives_no_verdicts_without_them_it_stays_as_it_is(fitted: Path, model: Path) -> None:
    good = sorted((fitted / "images" / "good").iterdir())
    with pytest.raises(ValueError, match=r"look_rate=0\.04, wanted more than what is called bad"):
        forgetting.propose(model, [*bad_ones(fitted), *named(*good[:2])], [], Rates(0.01, 0.08 / 2))


def test_a_change_for_another_state_of_the_model_is_not_made(fitted: Path, model: Path, tmp_path: Path) -> None:
    proposal = forgetting.propose(model, bad_ones(fitted), [], RATES, batch_size=4)
    write_images(tmp_path / "more", parts(3, 90))
    assert main(["update", str(model), str(tmp_path / "more"), "--keep-calibration", "--batch-size", "4"]) == 0
    now = (model / "model.json").read_bytes()
    with pytest.raises(Changed, match=r"forget: bracket\.padim was replaced since this change was proposed"):
        apply(proposal)
    assert (model / "model.json").read_bytes() == now


def test_an_image_that_counts_twice_goes_with_all_its_weight(fitted: Path, tmp_path: Path) -> None:
    twice = tmp_path / "twice"
    shutil.copytree(fitted / "images" / "good", twice)
    (first,) = write_images(tmp_path / "bad", parts(1, 60, defect=True))
    for name in ("bad-1.png", "bad-2.png"):
        shutil.copy(first, twice / name)
    assert main(["fit", str(twice), "--out", str(tmp_path / NAME), *SETTINGS]) == 0
    assert read_manifest(tmp_path / NAME)["images"][digest_file(first)] == 2
    apply(forgetting.propose(tmp_path / NAME, named(first), [], RATES, batch_size=4))
    manifest = read_manifest(tmp_path / NAME)
    assert len(manifest["images"]) == 24
    assert float(load_updatable(tmp_path / NAME).moments.count) == 24
    assert len(calibration(tmp_path / NAME).scores) == 24


def test_messages_call_images_by_the_names_that_people_gave_them(fitted: Path, model: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "more", parts(3, 90))
    (gone,) = named(write_images(tmp_path / "sent", parts(1, 91))[0])
    shutil.copy(gone.path, tmp_path / "more" / "0.png")  # the oldest of them
    gone = replace(gone, name="front left")  # its file is one of the service's own
    add = ["update", str(model), str(tmp_path / "more"), "--keep-calibration", "--batch-size", "4"]
    assert main([*add, "--half-life", "3"]) == 0
    with pytest.raises(CannotForget, match=r"forget: front left has faded by a half-life in bracket\.padim") as caught:
        forgetting.propose(model, [gone], [], RATES, batch_size=4)
    assert str(tmp_path) not in str(caught.value)
    # nor is a learned part, whose photo goes along to find scores of the calibration, called by its file
    (newest,) = (one for one in named(*(tmp_path / "more").iterdir()) if load_updatable(model).images[one.digest] == 1)

    def learned(calibration: str, state: str) -> dict[str, Path | None]:
        return {gone.digest: gone.path}

    with pytest.raises(CannotForget, match=rf"those of {newest.name} is not known: images have faded") as caught:
        forgetting.propose(model, [newest], [], RATES, learned=learned, batch_size=4)
    assert str(tmp_path) not in str(caught.value)
    gone.path.write_bytes(b"no image")
    (first, _) = bad_ones(fitted)
    damaged = replace(first, path=gone.path, name="front right")
    with pytest.raises(padim.ArtifactError, match="forget: the photo of front right can't be read") as caught:
        forgetting.propose(fitted / NAME, [damaged], [], RATES, batch_size=4)
    assert str(tmp_path) not in str(caught.value)


def make(proposal: Proposal, store: Store, who: str) -> None:
    """Make a change as the service does."""
    number = store.changes.begin(NAME, proposal.kind, who=who, **proposal.about)
    store.changes.finish(number, apply(proposal))


def learn(model: Path, folder: Path, store: Store, n: int = 3) -> list[Named]:
    """Let a model learn parts that somebody called good, of those that it does not; gives these."""
    alarms = judged(model, folder, other(n), store, corrected="good")
    lesson = learning.propose(model, alarms, [], RATES, batch_size=4)
    make(lesson, store, "Ada")
    learned = [one for one in alarms if one.decision.id in lesson.added]
    return [Named(one.decision.item, one.decision.image_digest, one.path) for one in learned]


def propose(model: Path, gone: list[Named], store: Store, files: Mapping[str, Path]) -> Removal:
    def learned(calibration: str, state: str) -> dict[str, Path | None]:
        return {digest: files.get(digest) for digest in store.changes.learned(NAME, calibration, state)}

    return forgetting.propose(model, gone, [], RATES, learned=learned, batch_size=4)


@pytest.mark.parametrize("kind", ["fitted", "standardised"])
def test_parts_that_were_learned_go_again_and_leave_the_model_that_was(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(request.getfixturevalue(kind) / NAME, tmp_path / NAME))
    first, images = padim.load(model), parts(4, 77)
    with Store.open(tmp_path / "line.db") as store:
        alarms = learn(model, tmp_path / "alarms", store)
        proposal = propose(model, alarms, store, {})
        assert proposal.threshold_after == proposal.threshold == float(calibration(model).threshold)
        assert not any(one.is_calibrating for one in proposal.removed)
        assert "the calibration stays as it is: these images were not part of it" in proposal.remarks
        apply(proposal)
        again = padim.load(model)
        np.testing.assert_array_equal(
            calibration(model).scores, np.asarray(first.calibration and first.calibration.scores)
        )
        now, then = padim.score(again, images), padim.score(first, images)
        np.testing.assert_allclose(now.anomaly_map, then.anomaly_map, rtol=2e-3, atol=2e-3)
        np.testing.assert_array_equal(now.anomalous, then.anomalous)


def test_what_was_taken_out_is_not_learned_again_by_the_same_correction(model: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "line.db") as store:
        (gone,) = learn(model, tmp_path / "alarms", store, 1)
        proposal = propose(model, [gone], store, {})
        make(proposal, store, "Bea")
        (decision,) = store.decisions()
        kept = [learning.Kept(decision, gone.path)]
        for _ in range(2):  # back in the model, and out again
            number = store.changes.begin(NAME, "undo", who="Bea", before="", images=proposal.images)
            store.changes.finish(number, manifest_checksum(undo(model)))
        taken_out = store.changes.taken_out(NAME)
        assert taken_out.keys() == {gone.digest}
        with pytest.raises(learning.NothingToLearn, match="1 parts were called good, but taken out of the model since"):
            learning.propose(model, kept, [], RATES, taken_out=taken_out)
        store.correct(decision.id, "good", who="Ada")
        kept = [learning.Kept(store.decision(decision.id), gone.path)]
        assert learning.propose(model, kept, [], RATES, taken_out=taken_out, batch_size=4).added == (decision.id,)


def test_nor_is_what_padim_forget_took_out(fitted: Path, model: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "line.db") as store:
        (gone,) = learn(model, tmp_path / "alarms", store, 1)
        kept = [learning.Kept(decision, gone.path) for decision in store.decisions()]
        assert main(["forget", str(model), str(gone.path), "--batch-size", "4"]) == 0
        with pytest.raises(learning.NothingToLearn, match=r"bracket\.padim is not calibrated"):
            learning.propose(model, kept, [], RATES)
        assert main(["calibrate", str(model), str(fitted / "images"), "--batch-size", "4"]) == 0
        elsewhere = store.changes.taken_out_elsewhere(NAME, manifest_checksum(read_manifest(model)))
    assert elsewhere.keys() == {gone.digest}
    with pytest.raises(learning.NothingToLearn, match="1 parts were called good, but taken out of the model since"):
        learning.propose(model, kept, [], RATES, taken_out=elsewhere, batch_size=4)


def test_an_image_of_the_fit_is_found_in_the_calibration_also_after_others_were_learned(
    fitted: Path, model: Path, tmp_path: Path
) -> None:
    gone = bad_ones(fitted)
    alone = forgetting.propose(model, gone, [], RATES, batch_size=4)
    with Store.open(tmp_path / "line.db") as store:
        files = {one.digest: one.path for one in learn(model, tmp_path / "alarms", store)}
        kept = propose(model, gone, store, files)
        # the photos of what was learned are not kept any more, and with them their own scores are not there
        with pytest.raises(forgetting.CannotForget, match=r"which scores of the calibration are those of .* not known"):
            propose(model, gone, store, {})
    assert kept.threshold_after == alone.threshold_after


def forget(model: Path, gone: list[Named], store: Store, files: Mapping[str, Path]) -> Removal:
    proposal = propose(model, gone, store, files)
    make(proposal, store, "Bea")
    return proposal


def test_no_score_of_another_image_leaves_the_calibration(fitted: Path, model: Path, tmp_path: Path) -> None:
    first, second = bad_ones(fitted)
    with Store.open(tmp_path / "line.db") as store:
        files = {one.digest: one.path for one in learn(model, tmp_path / "alarms", store)}
        assert forget(model, [first], store, files).removed[0].is_calibrating
        # without its twin it scores higher than when the model was calibrated
        with pytest.raises(forgetting.CannotForget, match="take images of the fit out together, or run padim forget"):
            propose(model, [second], store, files)
        # what was learned before is no part of what is left of the calibration either
        known = np.asarray(calibration(model).scores)
        taught = [Named("learned", digest, path) for digest, path in files.items()]
        assert not forget(model, taught[:1], store, files).removed[0].is_calibrating
        np.testing.assert_array_equal(np.asarray(calibration(model).scores), known)
        write_images(tmp_path / "more", parts(2, 91))
        assert main(["update", str(model), str(tmp_path / "more"), "--keep-calibration", "--batch-size", "4"]) == 0
        with pytest.raises(forgetting.CannotForget, match="not known"):
            propose(model, named(*sorted((tmp_path / "more").iterdir())), store, files)


def test_other_images_that_calibrate_a_model_stay(fitted: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(fitted / NAME, tmp_path / NAME))
    write_images(tmp_path / "held", parts(30, 95))
    assert main(["calibrate", str(model), str(tmp_path / "held"), "--batch-size", "4"]) == 0
    assert calibration(model).method == "held-out"
    proposal = forgetting.propose(model, bad_ones(fitted), [], RATES, batch_size=4)
    assert proposal.threshold_after == proposal.threshold
    assert not any(one.is_calibrating for one in proposal.removed)
    assert {one.verdict_after for one in proposal.removed} == {"bad"}


def test_a_threshold_set_by_hand_stays(fitted: Path, model: Path) -> None:
    assert main(["calibrate", str(model), "--threshold", "25"]) == 0
    proposal = forgetting.propose(model, bad_ones(fitted), [], RATES, batch_size=4)
    assert proposal.threshold_after == proposal.threshold == 25
    assert proposal.changed.calibration is not None
    assert len(proposal.changed.calibration.scores) == 24


def test_images_that_standardise_a_models_maps_are_refused_with_words_that_help(
    standardised: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(standardised / NAME, tmp_path / NAME))
    with pytest.raises(CannotForget, match=r"are standardised by the images .* run padim forget, then padim calibrate"):
        forgetting.propose(model, bad_ones(standardised), [], RATES)
    good, bad = (str(standardised / "images" / name) for name in ("good", "bad"))
    assert main(["forget", str(model), bad]) == 0
    assert main(["calibrate", str(model), good]) == 0
    twin = tmp_path / "twin.padim"
    assert main(["fit", good, "--out", str(twin), *SETTINGS, "--anomaly-map", "standardised"]) == 0
    ours, expected = padim.load(model), padim.load(twin)
    images = np.concatenate([parts(3, 77), parts(2, 61, defect=True)])
    found, wanted = padim.score(ours, images), padim.score(expected, images)
    np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, rtol=1e-2, atol=1e-2)
    np.testing.assert_array_equal(found.anomalous, [False] * 3 + [True] * 2)
    np.testing.assert_allclose(calibration(model).threshold, calibration(twin).threshold, rtol=1e-2)
    assert ours.standard is not None
    assert float(ours.standard.count) == 24


KILLED = """
import os, signal, sys
from pathlib import Path
from padim_jax.line import forgetting, proposal
from padim_jax.line.store import Store
from tests.test_line_forgetting import NAME, RATES, bad_ones
model, fitted, store, when = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
found = forgetting.propose(model, bad_ones(fitted), [], RATES, batch_size=4)
save = proposal.save_updatable
def die(*arguments, **options):
    if when == "after":
        save(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
proposal.save_updatable = die
with Store.open(store) as opened:
    opened.changes.begin(NAME, "forget", who="Ada", before=found.based_on, images=found.images)
    proposal.apply(found)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_between_the_model_is_the_one_or_the_other_and_who_began_it_is_known(
    fitted: Path, model: Path, tmp_path: Path, when: str
) -> None:
    before, line = (model / "model.json").read_bytes(), tmp_path / "line.db"
    process = subprocess.run([sys.executable, "-c", KILLED, model, fitted, line, when], env=os.environ, check=False)
    assert process.returncode == -signal.SIGKILL
    assert ((model / "model.json").read_bytes() == before) == (when == "before")
    digest = bad_ones(fitted)[0].digest
    with Store.open(line) as store:
        (change,) = store.changes.of_image(NAME, digest)
        assert (change.who, change.kind, change.after) == ("Ada", "forget", "")
        assert store.changes.taken_out(NAME).keys() >= {digest}  # whether it is, the model itself says
    assert (digest in read_manifest(model)["images"]) == (when == "before")
    if when == "before":
        apply(forgetting.propose(model, bad_ones(fitted), [], RATES, batch_size=4))
    assert calibration_digest(calibration(model)) != ""
    assert main(["undo", str(model)]) == 0
    assert (model / "model.json").read_bytes() == before
