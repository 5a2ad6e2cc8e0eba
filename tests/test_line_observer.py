"""Who looks for drift beside a line: at all that comes, once more at the end, and again after a look that failed."""

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from padim_jax.line.drift import DriftTests, find_drifts
from padim_jax.line.observer import Observer
from padim_jax.line.records import Decision, Scored
from padim_jax.line.schema import StoreError
from padim_jax.line.store import Store
from tests.test_line_drift_events import drifted
from tests.test_line_watch import WAIT, wait_for


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "line.db") as store:
        yield store


def test_an_observer_sees_what_comes_and_looks_once_more_at_its_end(store: Store) -> None:
    decisions, told, said = drifted("m", "m0"), list[str](), list[str]()
    store.record(decisions[:150])
    observer = Observer(store, lambda _, drift: told.append(drift.model), said.append, every=0.02)
    wait_for(lambda: observer.drifts and observer.drifts[0].images == 150)
    store.record(decisions[150:160])
    wait_for(lambda: observer.drifts[0].images == 160)
    assert told == []
    store.record(decisions[160:])
    observer.end()
    assert observer.drifts == find_drifts(store.scores())
    assert set(told) == {"m"}
    assert said == []


@pytest.mark.parametrize("is_stuck", [False, True])
def test_a_last_look_that_is_cut_off_is_said_and_what_was_seen_by_then_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, is_stuck: bool
) -> None:
    made, looking, said, told = threading.Event(), threading.Event(), list[str](), list[str]()
    store.record(drifted("m", "m0", 300))

    class Slow(DriftTests):
        """The end comes while the first part is looked at."""

        def add(self, decisions: Iterable[Decision | Scored]) -> None:
            super().add(decisions)
            looking.set()
            made.wait(WAIT)
            observer._wake.wait(WAIT)
            if is_stuck:
                wait_for(lambda: said)

    with monkeypatch.context() as patch:
        patch.setattr("padim_jax.line.observer.DriftTests", Slow)
        patch.setattr("padim_jax.line.observer._TOGETHER", 290)
        patch.setattr("padim_jax.line.observer._FAREWELL", -1.0)
        patch.setattr("padim_jax.line.observer._MOMENT", 1.1 if is_stuck else WAIT)
        observer = Observer(store, lambda _, drift: told.append(drift.model), said.append)
        made.set()
        looking.wait(WAIT)
        observer.end()
        observer._thread.join(WAIT)
    assert said == [
        f"decisions after number {0 if is_stuck else 290} were not looked at for drift before the end; the next start "
        f"looks at them, and so does padim drift {store.path}"
    ]
    assert told == ["m"]
    again = Observer(store, lambda _, drift: told.append(drift.model), said.append)  # the next start
    again.end()
    assert again.drifts == find_drifts(store.scores())
    assert len(said) == 1


def test_an_observer_whose_store_fails_says_so_and_nothing_else_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()
    monkeypatch.setattr(Store, "scores", lambda *given, **options: 1 / 0)
    Observer(store, lambda *given: None, said.append).end()
    assert said == ["nobody looks for drift any more until the next start: division by zero"]


def test_a_look_that_fails_is_made_good_by_the_next_one_and_said_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, failed, scores = list[str](), threading.Semaphore(0), Store.scores
    decisions = drifted("m", "m0")
    store.record(decisions[:150])
    observer = Observer(store, lambda *given: None, said.append, every=0.02)
    wait_for(lambda: observer.drifts and observer.drifts[0].images == 150)

    def locked(*given: object, **options: object) -> Iterator[Scored]:
        failed.release()
        raise StoreError("store: another process has been writing it for 30 s")

    before = observer.looked
    with monkeypatch.context() as patch:
        patch.setattr(Store, "scores", locked)
        for _ in range(3):
            assert failed.acquire(timeout=WAIT)
        time.sleep(0.01)
        store.record(decisions[150:])
        looked = observer.looked
    wait_for(lambda: observer.drifts[0].images == len(decisions))
    observer.end()
    assert observer.drifts == find_drifts(scores(store))
    assert before <= looked < observer.looked
    assert said == [
        "drift could not be looked for, which is tried again every 0.02 s: store: another process has been writing it for "
        "30 s",
        "drift is looked for again, in all that was decided meanwhile",
    ]


def test_a_last_look_that_fails_says_what_was_not_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[str]()

    def locked(*given: object, **options: object) -> Iterator[Scored]:
        raise StoreError("store: locked")

    monkeypatch.setattr(Store, "scores", locked)
    Observer(store, lambda *given: None, said.append).end()
    assert [text.split()[0] for text in said] == ["drift", "decisions"]
    assert said[0].startswith("drift could not be looked for")
    assert said[0].endswith(": store: locked")
    assert "decisions after number 0 were not looked at for drift before the end" in said[1]
