"""What a service is made of: models within memory, the worker's queue, photos, tokens, rates, what other rates do."""

import dataclasses
import errno
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import resident_bytes
from padim_jax.artifact.ownership import MARKER, NotOurs
from padim_jax.line.judge import Judge, Photo
from padim_jax.line.preview import preview
from padim_jax.line.records import Decision
from padim_jax.line.service.bodies import Bodies
from padim_jax.line.service.limits import ServiceLimits
from padim_jax.line.service.metrics import Metrics
from padim_jax.line.service.models import Models, NoSuchModel
from padim_jax.line.service.photos import Photos
from padim_jax.line.service.security import RateLimit, is_loopback
from padim_jax.line.service.uploads import Refusal
from padim_jax.line.service.worker import Answer, QueueFull, Stopped, Worker
from padim_jax.line.store import Store
from padim_jax.line.verdict import Decider, Rates
from tests.line_parts import SEEN, fit_model, parts
from tests.service import NAME, bad, good

RATES = Rates(None, 0.2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_model(tmp_path_factory.mktemp("models") / NAME)


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """Three models, one of them damaged."""
    for name in ("a", "b", "broken"):
        shutil.copytree(model, tmp_path / "models" / name)
    (tmp_path / "models" / "broken" / "model.json").write_text("{}")
    (tmp_path / "models" / "no-model").mkdir()
    return tmp_path / "models"


def photo(content: bytes, item: str = "part") -> Photo:
    return Photo("camera", item, Path(item), content=content)


def worker_of(models: Models, store: Store, queue: int = 100) -> Worker:
    return Worker(models, store, queue=queue, batch_size=4, metrics=Metrics())


def answered(futures: list[Future[Answer]]) -> list[Answer]:
    return [future.result(60) for future in futures]


def test_models_beyond_the_budget_make_room_for_each_other(folder: Path) -> None:
    said = list[str]()
    size = resident_bytes(folder / "a")
    models = Models(folder, int(1.5 * size), RATES, batch_size=2, remark=said.append)
    assert models.names == ["a", "b", "broken"]
    models.load_all()
    assert [state.digest is not None for state in models.states()] == [True, False, False]
    assert "does not describe" in models.state("broken").problem
    models.judge("b")
    assert [state.digest is not None for state in models.states()] == [False, True, False]
    assert models.loaded == 1
    with pytest.raises(NoSuchModel, match="there are a, b, broken"):
        models.judge("../a")
    with pytest.raises(ValueError, match="more than --memory"):
        Models(folder / "a", size // 2, RATES, batch_size=2).judge("a")


def replaced(path: Path, by: Path) -> None:
    path.rename(path.with_name(f".{path.name}"))
    shutil.copytree(by, path)


def test_a_model_that_is_replaced_takes_its_new_size_of_the_budget(folder: Path, tmp_path: Path) -> None:
    said, size = list[str](), resident_bytes(folder / "a")
    config = dataclasses.replace(SEEN, n_channels=40)
    model = padim.fit(padim.load_backbone("efficientnet_lite0"), [parts(24)], config)
    padim.save(padim.calibrate(model, [parts(24)], false_alarm_rate=0.04), tmp_path / "larger")
    larger = resident_bytes(tmp_path / "larger")
    assert larger > 1.2 * size
    models = Models(folder, larger + size // 2, RATES, batch_size=2, remark=said.append)
    models.judge("b")
    models.judge("a")
    replaced(folder / "b", tmp_path / "larger")
    models.refresh()
    assert [state.digest is not None for state in models.states()] == [False, True, False]  # though used for longest
    small = Models(folder, larger - 1, RATES, batch_size=2, remark=said.append)
    before = small.judge("a").current.digest
    replaced(folder / "a", tmp_path / "larger")
    small.refresh()
    small.refresh()
    assert small.state("a").digest == before
    assert len([text for text in said if "more than --memory" in text and "the model goes on that was" in text]) == 1


def test_models_that_come_and_go_are_noticed(folder: Path, model: Path) -> None:
    models = Models(folder, 10**9, RATES, batch_size=2)
    models.load_all()
    shutil.copytree(model, folder / "c")
    shutil.rmtree(folder / "a")
    models.refresh()
    assert models.names == ["b", "broken", "c"]
    with pytest.raises(NoSuchModel):
        models.check("a")


def test_models_go_on_while_their_folder_can_not_be_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> Iterator[Path]:
        raise OSError(errno.EMFILE, "Too many open files")

    said, away = list[str](), folder.with_name("away")
    models = Models(folder, 10**9, RATES, batch_size=2, remark=said.append)
    models.judge("a")
    names = models.names
    said.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", fails)
        models.refresh()
        models.refresh()
    assert said == [f"{folder} can't be looked at (Too many open files); the models in memory go on"]
    folder.rename(away)
    models.refresh()
    folder.mkdir()  # as a drive that is not mounted looks
    models.refresh()
    models.refresh()
    assert [text.split(str(folder))[1].split(";")[0] for text in said[1:]] == [
        " can't be looked at (No such file or directory)",
        " has no model any more",
    ]
    assert (models.names, models.loaded) == (names, 1)
    folder.rmdir()
    away.rename(folder)
    shutil.rmtree(folder / "b")
    models.refresh()
    assert (models.names, models.loaded) == (["a", "broken"], 1)
    assert len(said) == 3


def test_images_that_wait_together_are_one_batch_of_their_model(folder: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "line.db") as store:
        models = Models(folder, 10**9, RATES, batch_size=4)
        worker = worker_of(models, store)
        first = worker.put("a", [photo(good(seed), f"{seed}") for seed in range(3)])
        other = worker.put("b", [photo(bad(9), "9")])
        last = worker.put("a", [photo(good(3), "3")])
        assert len(worker) == 5
        worker.start()
        answers = answered(first + other + last)
        assert [answer.decision.item for answer in answers] == ["0", "1", "2", "9", "3"]
        assert [answer.decision.model for answer in answers] == ["a", "a", "a", "b", "a"]
        assert answers[0].computed == answers[4].computed != answers[3].computed  # those of "a" were one batch
        worker.stop()
        assert [decision.item for decision in store.decisions()] == ["0", "1", "2", "3", "9"]
        with pytest.raises(Stopped):
            worker.put("a", [photo(good())])


def test_a_queue_takes_all_images_of_a_request_or_none(folder: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "line.db") as store:
        worker = worker_of(Models(folder, 10**9, RATES), store, queue=3)
        worker.put("a", [photo(good()), photo(good())])
        with pytest.raises(QueueFull, match="2 images wait already, and 3 may"):
            worker.put("a", [photo(good()), photo(good())])
        assert len(worker) == 2
        assert not worker.is_ready


def test_a_model_that_can_not_be_used_fails_its_own_requests_alone(folder: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "line.db") as store:
        worker = worker_of(Models(folder, 10**9, RATES, batch_size=4), store)
        broken, whole = worker.put("broken", [photo(good())]), worker.put("a", [photo(good())])
        worker.start()
        with pytest.raises(padim.ArtifactError):
            answered(broken)
        assert answered(whole)[0].decision.model == "a"
        worker.stop()


def test_where_no_model_can_be_used_the_worker_ends_with_the_reason(folder: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "line.db") as store:
        worker = worker_of(Models(folder / "broken", 10**9, RATES), store)
        waiting = worker.put("broken", [photo(good())])
        worker.start()
        worker.stop()
        assert "can be used" in str(worker.failure)
        with pytest.raises(Stopped):
            answered(waiting)


def test_photos_are_bounded_shared_and_ours(model: Path, tmp_path: Path) -> None:
    judge, folder = Judge(model, RATES, batch_size=2), tmp_path / "line.db.photos"
    photos = Photos(folder, 2)
    images = [good(1), good(2), bad(3)]
    judged = [judge.judge([photo(content, "x")])[0] for content in images]
    for found, content in zip(judged, images, strict=True):
        photos.keep(judge.current, found, content)
    assert not photos.has(judged[0].decision)
    assert photos.photo(judged[2].decision) == (images[2], "image/png")
    assert photos.overlay(judged[2].decision).startswith(b"\x89PNG")
    assert len(list(folder.iterdir())) == 6  # two photos, two maps, the mark and the lock
    again = judge.judge([photo(images[2], "another item")])[0]
    photos.keep(judge.current, again, images[2])  # the same bytes are kept once, for both of the last two decisions
    assert [photos.has(found.decision) for found in judged] == [False, False, True]
    assert (len(list(folder.glob("*.photo"))), len(list(folder.glob("*.png")))) == (1, 2)
    photos.close()
    reopened = Photos(folder, 1)
    assert [reopened.has(found.decision) for found in judged] == [False, False, True]
    with pytest.raises(KeyError):
        reopened.photo(judged[1].decision)
    with pytest.raises(KeyError):
        reopened.overlay(judged[2].decision)  # it went with its decision
    assert reopened.overlay(again.decision).startswith(b"\x89PNG")
    reopened.close()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("mine")
    with pytest.raises(NotOurs):
        Photos(foreign, 1)
    (folder / "letter.txt").write_text("mine")
    Photos(folder, 1)
    assert (folder / "letter.txt").exists()
    assert (folder / MARKER).exists()


def test_requests_in_hand_share_a_budget_of_bytes() -> None:
    bodies = Bodies(100)
    with bodies.holding() as first:
        first.take(90)
        with bodies.holding() as second:
            second.take(10)
            with pytest.raises(Refusal, match="hold 100 bytes already, of 100") as refusal:
                second.take(11)
            assert (refusal.value.status, refusal.value.headers) == (503, {"retry-after": "1"})
            first.take(30)
            second.take(70)
        assert bodies.held == 30
    assert bodies.held == 0
    with pytest.raises(ValueError, match="wanted at least 192000000, 3 times the largest one"):
        ServiceLimits(in_hand=100 * 10**6)


def test_a_client_gets_its_rate_over_some_seconds() -> None:
    now = [0.0]
    limit = RateLimit(5.0, clock=lambda: now[0])
    for _ in range(10):
        limit.check("a")
    with pytest.raises(Refusal, match="more than 5 requests a second") as refusal:
        limit.check("a")
    assert int(refusal.value.headers["retry-after"]) >= 1
    limit.check("b")
    now[0] = 0.2
    limit.check("a")
    with pytest.raises(Refusal):
        limit.check("a")
    RateLimit(None).check("a")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "192.168.1.2", "camera.local", "localhost.evil")),
    ],
)
def test_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


def test_a_preview_is_what_the_decider_says_of_the_same_images(model: Path) -> None:
    judge = Judge(model, RATES, batch_size=4)
    pixels = [good(700 + seed) for seed in range(8)] + [bad(5)]
    decisions = [found.decision for found in judge.judge([photo(content, f"{n}") for n, content in enumerate(pixels)])]
    other = Judge(model, Rates(0.3, 0.6), batch_size=4)
    expected = [found.decision for found in other.judge([photo(content, f"{n}") for n, content in enumerate(pixels)])]
    unreadable = Decision("camera", "x", "", NAME, judge.current.digest, "unreadable", "no image")
    decider = Decider.of("test", judge.current.model.calibration, Rates(0.3, 0.6), judge.current.fitted_on)
    earlier = [replace(one, model_digest="0" * 64) for one in decisions]  # by another state of the model
    found = preview([*earlier, *decisions, unreadable], decider, judge.current.digest)
    assert found.left_out == len(earlier)
    verdicts = [decision.verdict for decision in expected]
    assert {verdict: found.then[verdict] for verdict in ("good", "look", "bad")} == {
        verdict: verdicts.count(verdict) for verdict in ("good", "look", "bad")
    }
    assert found.changes.total() == sum(a.verdict != b.verdict for a, b in zip(decisions, expected, strict=True)) > 0
    assert (found.now["unreadable"], found.then["unreadable"]) == (1, 1)
    assert sum(map(sum, found.bins.values())) == len(decisions)


def test_a_preview_keeps_the_doubt_about_an_image_of_another_aspect(model: Path) -> None:
    current = Judge(model, RATES).current
    decider = Decider.of("test", current.model.calibration, Rates(0.3, 0.6), current.fitted_on)
    reason = "10×20 pixels, another size than every image the model was fitted on and another aspect ratio"
    decision = Decision("c", "x", "", NAME, current.digest, "look", reason, score=1.0, p_value=0.99)
    assert preview([decision], decider, current.digest).then["look"] == 1


def test_a_p_value_at_the_end_of_a_part_counts_in_it(model: Path) -> None:
    current = Judge(model, RATES).current
    decider = Decider.of("test", current.model.calibration, RATES, current.fitted_on)
    for count in (20, 40, 100):
        values = [index / count for index in range(count + 1)]  # such as the rates themselves
        decisions = [Decision("s", f"{p}", "i", "m", current.digest, "good", score=1.0, p_value=p) for p in values]
        bins = np.sum(list(preview(decisions, decider, current.digest).bins.values()), axis=0)
        assert bins[0] == sum(p <= 0.05 for p in values)
        assert list(bins[1:]) == [count // 20] * 19
