"""A service says each change once: after a restart, beside a watch, with retention and other states of a model."""

import json
import lzma
import time
from pathlib import Path

import pytest

from padim_jax.line.drift import find_drifts
from padim_jax.line.schema import MIGRATIONS
from padim_jax.line.service.drift import DriftNews
from padim_jax.line.store import Store
from tests.line_parts import fit_model
from tests.service import NAME, Running, serving
from tests.test_line_drift_events import OLD, drift_of, drifted
from tests.test_line_store import DAY, Clock


def said(store: Store, news: DriftNews | None = None, remarks: list[str] | None = None) -> list[str]:
    """What a service says of a store, one that has just started unless there is one; the words up to their date."""
    found = list[str]() if remarks is None else remarks
    told = news or DriftNews(found.append)
    before = len(found)
    for drift in find_drifts(store.scores()):
        told.tell(store, drift)
    return [one.split(" since ")[0] for one in found[before:]]


DARKER = "m has drifted on images of /in: the images are darker"


@pytest.mark.slow
def test_a_restart_says_it_no_more(tmp_path: Path) -> None:
    model, path = fit_model(tmp_path / NAME), tmp_path / "line.db"
    with Store.open(path) as store:
        store.record(drifted("m", "m0"))

    def news(service: Running) -> list[str]:
        with service.client() as client:
            deadline = time.monotonic() + 20
            while not client.get("/drift").json()["models"]:
                assert time.monotonic() < deadline
        assert service.stop() == 0
        return [line for line in service.said if "has drifted" in line]

    with serving(model, path) as service:
        (line,) = news(service)
        assert DARKER in line
    with serving(model, path) as service:
        assert news(service) == []


def test_only_what_is_new_is_said_after_a_restart(tmp_path: Path) -> None:
    with Store.open(tmp_path / "l.db") as store:
        store.record(drifted("m", "m0"))
        assert said(store) == [DARKER]
        store.record(drifted("m", "m0", seed=9, source="/other"))
        assert said(store) == [DARKER.replace("/in", "/other")]
        store.record(drifted("m", "m0", seed=14)[:200])  # as bright again as it was
        assert said(store) == [DARKER.replace("darker", "brighter")]
        assert said(store) == []


@pytest.mark.parametrize("is_first", [True, False])
def test_a_service_and_a_watch_on_one_store_tell_both(tmp_path: Path, is_first: bool) -> None:
    with Store.open(tmp_path / "l.db") as store:
        store.record(drifted("m", "m0"))
        if is_first:
            assert said(store) == [DARKER]
        assert store.alarms.record(drift_of(store), ["drift webhook x"]) is not None
        assert said(store) == ([] if is_first else [DARKER])
        assert store.alarms.record(drift_of(store), ["drift webhook x"]) is None
        assert store.outbox.waiting()[0].count == 1


def test_another_state_of_the_model_is_told_anew_and_the_one_before_is_still_known(tmp_path: Path) -> None:
    with Store.open(tmp_path / "l.db") as store:
        store.record(drifted("m", "m0"))
        assert said(store) == [DARKER]
        store.record(drifted("m", "m1", seed=9))
        assert said(store) == [DARKER]
        store.record(drifted("m", "m0", 30, seed=10)[:10])  # as after undo
        assert said(store) == []


def test_sources_that_are_followed_together_are_no_source_of_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("padim_jax.line.drift.MOST_SOURCES", 1)
    with Store.open(tmp_path / "l.db") as store:
        own = drifted("caf\udce9", "m0", source="(others)")
        other = drifted("caf\udce9", "m0", seed=9, source="caf\udce9")
        store.record(one for pair in zip(own, other, strict=True) for one in pair)
        assert len(said(store)) == 2
        assert said(store) == []


def test_one_that_dies_before_the_mark_says_it_again(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def die(text: str) -> None:
        raise Killed

    with Store.open(tmp_path / "l.db") as store:
        store.record(drifted("m", "m0"))
        with pytest.raises(Killed):
            said(store, DriftNews(die))
        assert said(store) == [DARKER]


def test_a_mark_that_cannot_be_written_is_said_and_nothing_else_ends(tmp_path: Path) -> None:
    with Store.open(tmp_path / "l.db") as store:
        store.record(drifted("m", "m0"))
        store._database._connection.execute("PRAGMA query_only = ON")
        remarks = list[str]()
        news = DriftNews(remarks.append)
        assert len(said(store, news, remarks)) == 2
        assert remarks[1].startswith("the next start says this of m again, for it can't be noted: store: ")
        assert said(store, news, remarks) == []
        store._database._connection.execute("PRAGMA query_only = OFF")
        assert said(store) == [DARKER]
        assert said(store) == []


def test_retention_takes_the_marks_away_with_what_can_be_found_again(tmp_path: Path) -> None:
    clock = Clock()

    def marks(store: Store) -> list[tuple[str, int]]:
        return store._database.read("SELECT quantity, sequence FROM told")

    with Store.open(tmp_path / "l.db", clock=clock) as store:
        store.record(drifted("m", "m0")[:30])
        clock.now += 2 * DAY
        store.record(drifted("m", "m0")[30:])
        remarks = list[str]()
        running = DriftNews(remarks.append)
        assert said(store, running, remarks) == [DARKER]
        drift, ((quantity, at),) = drift_of(store), marks(store)
        assert json.loads(quantity) == ["/in", "brightness", None]
        assert store.retain(max_seconds=DAY).deleted == 30  # but not what the alarm was seen at
        assert marks(store) == [(quantity, at)]
        assert said(store) == []
        clock.now += 2 * DAY
        store.record(drifted("m", "m0", seed=9))
        assert store.retain(max_seconds=DAY).deleted == 270
        assert marks(store) == []
        running.tell(store, drift)  # which it has seen and remembers
        assert remarks[1:] == []
        assert said(store) == [DARKER]  # a change of a beginning of its own


@pytest.mark.parametrize("version", [3, 6])
def test_a_store_of_an_earlier_version_is_said_once_more_and_then_known(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "l.db"
    if version == 3:
        path.write_bytes(lzma.decompress(OLD.read_bytes()))
    else:
        with monkeypatch.context() as patch:
            patch.setattr("padim_jax.line.schema.MIGRATIONS", MIGRATIONS[:version])
            with Store.open(path) as store:
                store.record(drifted("m", "m0"))
                assert store.alarms.record(drift_of(store)) is not None
                assert store._database.read("PRAGMA user_version") == [(version,)]
    for expected in (1, 0):
        with Store.open(path) as store:
            assert len(said(store)) == expected
            assert [store.alarms.record(drift) for drift in find_drifts(store.scores()) if drift.alarms] == [None]
