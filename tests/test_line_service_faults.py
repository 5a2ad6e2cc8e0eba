"""A service outlives what goes wrong with one image, one row or one model, and answers every request."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

import padim_jax as padim
from padim_jax.artifact import resident_bytes
from padim_jax.artifact.ownership import FolderInUse
from padim_jax.line.judge import Judge, Photo
from padim_jax.line.learning import Lesson, NothingToLearn
from padim_jax.line.proposal import Effect, Kept
from padim_jax.line.records import Decision
from padim_jax.line.schema import StoreError
from padim_jax.line.service.learning import Learning
from padim_jax.line.service.metrics import Metrics
from padim_jax.line.service.models import Models
from padim_jax.line.service.photos import Photos
from padim_jax.line.service.proposals import Proposals
from padim_jax.line.service.uploads import Refusal
from padim_jax.line.service.worker import Stopped, Worker
from padim_jax.line.store import Store
from padim_jax.line.verdict import Rates
from tests.line_parts import fit_model
from tests.service import NAME, good

RATES = Rates(None, 0.2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_model(tmp_path_factory.mktemp("models") / NAME)


def photo(seed: int) -> Photo:
    return Photo("camera", f"{seed}", Path(f"{seed}"), content=good(seed))


def worker_of(models: Models, store: Store, **options: Any) -> Worker:
    return Worker(models, store, queue=100, batch_size=4, metrics=Metrics(), **options)


def test_a_damaged_row_fails_its_own_image_and_the_service_goes_on(model: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "line.db") as store:
        worker = worker_of(Models(model, 10**9, RATES, batch_size=4), store)
        worker.start()
        (first,) = worker.put(NAME, [photo(1)])
        first.result(60)
        with sqlite3.connect(tmp_path / "line.db") as database:
            database.execute("UPDATE decisions SET regions = '{'")
        database.close()
        again, other = worker.put(NAME, [photo(1), photo(2)])
        with pytest.raises(StoreError):
            again.result(60)
        assert other.result(60).is_new
        (later,) = worker.put(NAME, [photo(3)])
        assert later.result(60).is_new
        worker.stop()
        assert worker.failure is None


def test_no_fault_of_any_kind_ends_the_service(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unforeseen(Exception):
        pass

    def fails(*args: object) -> Any:
        raise Unforeseen

    said = list[str]()
    with Store.open(tmp_path / "line.db") as store:
        worker = worker_of(Models(model, 10**9, RATES, batch_size=4), store, keep=fails, remark=said.append)
        worker.start()
        for name in ("begin", "finish"):
            with monkeypatch.context() as patch:
                patch.setattr(Judge, name, fails)
                (failed,) = worker.put(NAME, [photo(4)])
                with pytest.raises(Unforeseen):
                    failed.result(60)
        (answer,) = worker.put(NAME, [photo(5)])
        assert answer.result(60).is_new
        worker.stop()
        assert worker.failure is None
        assert any("a photo was not kept" in text for text in said)


def test_where_the_thread_ends_all_who_wait_are_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ends(BaseException):
        pass

    def ends(*args: object) -> Any:
        raise Ends

    for name in ("begin", "finish"):  # those of the batch in hand, of the next one, and of those behind
        with Store.open(tmp_path / f"{name}.db") as store, monkeypatch.context() as patch:
            patch.setattr(Judge, name, ends)
            worker = worker_of(Models(model, 10**9, RATES, batch_size=4), store)
            futures = worker.put(NAME, [photo(seed) for seed in range(10)])
            worker.start()
            for future in futures:
                with pytest.raises(Stopped):
                    future.result(60)
            worker.stop()
            assert isinstance(worker.failure, Ends)


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """Two models, and a third whose arrays are damaged."""
    for name in ("a", "b", "broken"):
        shutil.copytree(model, tmp_path / "models" / name)
    for path in (tmp_path / "models" / "broken").rglob("*"):
        if path.name != "model.json" and path.is_file():
            path.write_bytes(path.read_bytes()[:-40])
    return tmp_path / "models"


def test_a_model_that_can_not_be_loaded_takes_nobody_s_place_and_is_not_tried_again_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, tried, now = list[str](), list[Path](), [100.0]

    def counted(path: Path, *args: Any, **options: Any) -> Judge:
        tried.append(path)
        return Judge(path, *args, **options)

    monkeypatch.setattr("padim_jax.line.service.models.Judge", counted)
    monkeypatch.setattr("padim_jax.line.service.models.time", SimpleNamespace(monotonic=lambda: now[0]))
    models = Models(folder, int(1.5 * resident_bytes(folder / "a")), RATES, batch_size=2, remark=said.append)
    models.judge("a")
    for _ in range(3):
        with pytest.raises(padim.ArtifactError):
            models.judge("broken")
    assert [path.name for path in tried] == ["a", "broken"]
    assert models.state("a").digest is not None
    assert models.state("broken").problem in said[-1]
    now[0] += 6
    with pytest.raises(padim.ArtifactError):
        models.judge("broken")
    assert len(tried) == 3
    assert models.loaded == 1
    assert len([text for text in said if "broken can't be used" in text]) == 1  # said once


@pytest.mark.parametrize(("is_closing", "loaded"), [(lambda: True, 1), (lambda: False, 2)])
def test_a_service_that_ends_loads_no_further_model(folder: Path, is_closing: Callable[[], bool], loaded: int) -> None:
    models = Models(folder, 10**9, RATES, batch_size=2)
    models.load_all(is_closing)
    assert models.loaded == loaded


def test_the_same_image_sent_for_ever_takes_no_more_space(model: Path, tmp_path: Path) -> None:
    judge, folder = Judge(model, RATES, batch_size=1), tmp_path / "line.db.photos"
    photos = Photos(folder, 2)
    for index in range(5):
        (found,) = judge.judge([Photo("camera", f"{index}", Path("x"), content=good(6))])
        photos.keep(judge.current, found, good(6))
    assert (len(list(folder.glob("*.photo"))), len(list(folder.glob("*.png")))) == (1, 2)
    photos.close()
    Photos(folder, 1).close()
    assert (len(list(folder.glob("*.photo"))), len(list(folder.glob("*.png")))) == (1, 1)


def test_two_services_do_not_share_a_folder_of_photos(tmp_path: Path) -> None:
    photos = Photos(tmp_path / "photos", 2)
    with ThreadPoolExecutor(1) as another:
        with pytest.raises(FolderInUse, match=r"serve: .*photos is being written by process \d+"):
            another.submit(Photos, tmp_path / "photos", 2).result()
        photos.close()
        another.submit(lambda: Photos(tmp_path / "photos", 2).close()).result()


def test_corrections_whose_photos_rolled_out_are_counted_and_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposed = list[list[Kept]]()

    def propose(path: Path, corrected: list[Kept], *args: object, **options: object) -> Lesson:
        proposed.append(corrected)
        if not corrected:
            raise NothingToLearn("none is new")
        changed: Any = None
        return Lesson(path, "", changed, ("0a",), "", 1.0, 1.0, Effect(), ("one remark",), ("x",), ())

    async def received() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"who": "Ada"}'}

    async def answered() -> dict[str, Any]:
        scope = {"type": "http", "method": "POST", "headers": [], "path_params": {"name": NAME}}
        request = Request(scope, received)
        request.state.logged = {}
        return json.loads(bytes((await learning.propose(request)).body))

    monkeypatch.setattr("padim_jax.line.service.learning.propose", propose)
    models, judge = Models(model, 10**9, RATES), Judge(model, RATES, batch_size=1)
    photos = Photos(tmp_path / "photos", 2)
    gate: Any = SimpleNamespace(check_change=lambda headers: None)
    with Store.open(tmp_path / "line.db") as store:
        learning = Learning(Proposals(store, models, photos, gate, is_allowed=True, batch_size=1))
        for seed in range(5):
            (found,) = judge.judge([photo(seed)])
            store.record([found.decision])
            store.correct(found.decision.id, "good", who="Ada")
            photos.keep(judge.current, found, good(seed))
        remarks = asyncio.run(answered())["remarks"]
        assert [one.decision.item for one in proposed[0]] == ["4", "3"]
        assert remarks[0] == "one remark"
        assert remarks[1].startswith("3 corrections are left out: the photos of their decisions are not kept any more")
        # those that roll out between two looks are left out as well
        monkeypatch.setattr(Photos, "has", lambda self, decision: True)
        monkeypatch.setattr(Photos, "path", rolled_out)
        with pytest.raises(Refusal, match="none is new; 5 corrections are left out"):
            asyncio.run(answered())
    photos.close()


def rolled_out(photos: Photos, decision: Decision) -> Path:
    raise KeyError(decision.id)
