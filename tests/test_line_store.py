"""The store of decisions: each once, nothing changed, corrections beside, several writers, errors in words."""

import multiprocessing
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from padim_jax.line import schema
from padim_jax.line.outbox import LONGEST_WAIT
from padim_jax.line.records import COLUMNS, Decision, time_text
from padim_jax.line.retention import NEWEST
from padim_jax.line.schema import NotAStore, StoreError
from padim_jax.line.seen import Dropped
from padim_jax.line.store import Overtaken, Store
from padim_jax.runs.tables import escape_bytes

Capture = pytest.CaptureFixture[str]
LATEST = len(schema.MIGRATIONS)
DAY = 86400.0


class Clock:
    """A clock that is set."""

    def __init__(self, now: float = 1.8e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def decision(item: str = "a.png", digest: str = "d0", verdict: Any = "good", **more: Any) -> Decision:
    fields: dict[str, Any] = {"model": "m", "model_digest": "m0", "score": 3.25, "p_value": 0.5, "stamp": f"s-{item}"}
    return Decision("/in", item, digest, verdict=verdict, **fields | more)


def many(n: int, **more: Any) -> list[Decision]:
    return [decision(f"{index:05}.png", **more) for index in range(n)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store.open(tmp_path / "line.db", clock=clock) as store:
        yield store


# decisions


def test_a_decision_comes_back_as_it_was_recorded(store: Store) -> None:
    region = {
        "left": 1,
        "top": 2,
        "width": 3,
        "height": 4,
        "area": 9,
        "peak": 7.5,
        "row": 3,
        "column": 2,
        "p_value": 0.1,
    }
    given = decision(verdict="bad", reason="p = 0.01", regions=(region,))
    (recorded,) = store.record([given])
    assert (recorded.sequence, recorded.time) == (1, time_text(1.8e9))
    assert list(store.decisions()) == [recorded] == [store.decision(given.id)]
    assert list(recorded.record()) == list(COLUMNS)
    assert recorded.record()["regions"] == [region]


def test_the_same_image_of_the_same_item_by_the_same_model_is_recorded_once(store: Store) -> None:
    assert len(store.record([decision(), decision()])) == 1
    assert store.record([decision(verdict="bad")]) == []
    others = [decision("b.png"), decision(digest="d1"), decision(model_digest="m1")]
    assert len(store.record(others)) == 3
    assert [found.verdict for found in store.decisions()] == ["good"] * 4


def test_a_clock_that_is_set_back_leaves_the_order_alone(store: Store, clock: Clock) -> None:
    store.record([decision("1.png")])
    clock.now -= 3 * DAY
    store.record([decision("2.png")])
    clock.now += 9 * DAY
    store.record([decision("3.png")])
    assert [found.item for found in store.decisions()] == ["1.png", "2.png", "3.png"]
    assert [found.item for found in store.decisions(newest_first=True, limit=2)] == ["3.png", "2.png"]
    assert [found.item for found in store.decisions(since=time_text(1.8e9))] == ["1.png", "3.png"]
    assert [found.item for found in store.decisions(until=time_text(1.8e9))] == ["2.png"]


def test_decisions_are_found_by_what_they_say_over_many_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("padim_jax.line.store._PAGE", 3)
    store.record([*many(10), *many(4, verdict="bad", model="other", digest="d1")])
    assert [found.sequence for found in store.decisions()] == list(range(1, 15))
    assert [found.sequence for found in store.decisions(newest_first=True, limit=7)] == list(range(14, 7, -1))
    assert len(list(store.decisions(verdict="bad"))) == len(list(store.decisions(model="other"))) == 4
    assert [found.sequence for found in store.decisions(verdict="good", after=8)] == [9, 10]
    assert list(store.decisions(source="elsewhere")) == []
    assert store.count() == {"good": 10, "look": 0, "bad": 4, "unreadable": 0}
    assert store.count(model="other")["good"] == 0


def test_any_file_name_comes_back(store: Store) -> None:
    names = [os.fsdecode(b"\xff.png"), "\\xff.png", "a\nb.png", "=1+2.png", "ü'\".png"]
    given = [decision(name, stamp="s") for name in names]
    store.record(given)
    assert [found.item for found in store.decisions()] == names
    assert [found.id for found in store.decisions()] == [one.id for one in given]
    assert store.record(given) == []
    assert all(store.seen.is_known("/in", name, "s") for name in names)
    assert store.seen.earlier_items("/in", "new.png", "s") == sorted(names, key=escape_bytes)


def test_an_unknown_verdict_or_time_is_refused_and_nothing_is_recorded(store: Store) -> None:
    with pytest.raises(ValueError, match=r"Store\.record: verdict='anomalous', wanted one of good, look, bad"):
        store.record([decision("b.png"), decision(verdict="anomalous")])
    assert list(store.decisions()) == []
    with pytest.raises(ValueError, match="'yesterday' is no day or time such as"):
        store.decisions(since="yesterday")


# corrections


def test_nobody_overrules_a_word_that_they_have_not_seen(store: Store) -> None:
    (found,) = store.record([decision()])
    first = store.correct(found.id, "good", who="Ada", seen=0)
    with pytest.raises(Overtaken, match=r"was corrected to good by Ada since you looked; look again") as raised:
        store.correct(found.id, "bad", who="Bob", seen=0)
    assert raised.value.decision.correction == first
    assert store.corrections() == [first]
    second = store.correct(found.id, "bad", who="Bob", seen=first.number)
    store.undo(second.number, who="Bob")
    store.undo(first.number, who="Ada")
    with pytest.raises(Overtaken, match="is not corrected any more since you looked"):
        store.correct(found.id, "look", who="Max", seen=second.number)
    store.correct(found.id, "look", who="Max")  # who does not say what they saw overrules whatever stands


def test_a_correction_stands_beside_the_decision_and_is_undone_not_erased(store: Store, clock: Clock) -> None:
    (found,) = store.record([decision(verdict="bad")])
    first = store.correct(found.id, "good", who="Ada", note="only dust")
    second = store.correct(found.id, "look", who="Max")
    (corrected,) = store.decisions(corrected=True)
    assert (corrected.verdict, corrected.correction) == ("bad", second)
    clock.now += 60
    undone = store.undo(second.number, who="Ada")
    assert (undone.undone_by, undone.undone_at) == ("Ada", time_text(1.8e9 + 60))
    assert store.decision(found.id).correction == first
    store.undo(first.number, who="Ada")
    assert store.decision(found.id).correction is None
    assert list(store.decisions(corrected=True)) == []
    assert [one.verdict for one in store.corrections(found.id)] == ["good", "look"]
    odd = store.correct(found.id, "bad", who="A\\xffda", note="\\x80 \udc80")
    assert store.corrections(found.id)[2] == odd == store.decision(found.id).correction
    store.undo(odd.number, who="Ada")
    with pytest.raises(ValueError, match="was undone at"):
        store.undo(first.number, who="Ada")


def test_what_can_not_be_corrected_is_refused_in_words(store: Store) -> None:
    (found,) = store.record([decision()])
    with pytest.raises(KeyError, match="no decision 'nothing'"):
        store.correct("nothing", "good", who="Ada")
    with pytest.raises(ValueError, match="who is empty"):
        store.correct(found.id, "good", who=" ")
    with pytest.raises(ValueError, match="wanted one of good"):
        store.correct(found.id, "fine", who="Ada")  # pyright: ignore[reportArgumentType]
    with pytest.raises(KeyError, match="no correction 7"):
        store.undo(7, who="Ada")


# the outbox


def test_what_is_decided_waits_for_every_output_until_it_has_it(store: Store, clock: Clock) -> None:
    given = store.record(many(3), outputs=lambda _: ["csv a", "webhook b"])
    assert [one.item for one, _ in store.outbox.pending("csv a", limit=2)] == ["00000.png", "00001.png"]
    store.outbox.delivered("csv a", given)
    assert store.outbox.pending("csv a") == []
    waits = [store.outbox.postpone("webhook b", given[0], "refused") for _ in range(12)]
    assert waits[:4] == [1, 2, 4, 8]
    assert max(waits) == LONGEST_WAIT
    assert [one.sequence for one, _ in store.outbox.pending("webhook b")] == [2, 3]
    (waiting,) = store.outbox.waiting()
    assert (waiting.output, waiting.count, waiting.error) == ("webhook b", 3, "refused")
    clock.now += LONGEST_WAIT
    assert [(one.sequence, tried) for one, tried in store.outbox.pending("webhook b")] == [(1, 12), (2, 0), (3, 0)]
    clock.now -= 30 * DAY  # set back: nobody waits for a month
    assert len(store.outbox.pending("webhook b")) == 3
    assert store.outbox.abandon("webhook b") == 3


def test_what_was_recorded_before_does_not_wait_again(store: Store) -> None:
    store.outbox.delivered("csv", store.record([decision()], outputs=lambda _: ["csv"]))
    store.record([decision()], outputs=lambda _: ["csv"])
    assert store.outbox.waiting() == []


# retention


def test_what_is_old_goes_but_what_a_person_said_and_what_waits_stays(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("padim_jax.line.retention.NEWEST", 0)
    old = store.record(many(5))
    store.record([decision("waits.png")], outputs=lambda _: ["webhook"])
    store.correct(old[2].id, "bad", who="Ada")
    clock.now += 2 * DAY
    store.record([decision("new.png")])
    kept = store.retain(max_seconds=DAY)
    assert (kept.deleted, kept.kept_corrected, kept.kept_waiting) == (4, 1, 1)
    assert [one.item for one in store.decisions()] == ["00002.png", "waits.png", "new.png"]
    assert store.record([old[0]]) == []  # its image is not decided again
    assert store.seen.is_known("/in", "00000.png", "s-00000.png")
    assert store.retain(max_seconds=DAY, corrected_too=True).deleted == 1
    assert store.corrections() == []
    assert store.seen.forget_gone("/in", lambda item: item == "00001.png") == 4
    assert len(store.record(old[:2])) == 1


def test_a_store_comes_down_to_its_size_and_frees_the_disk(store: Store) -> None:
    given = store.record(many(4000, reason="x" * 200))
    store.correct(given[0].id, "bad", who="Ada")
    before = store.retain(max_bytes=2**40).size
    store.close()
    with Store.open(store.path) as store:
        assert store.path.stat().st_size == before
        kept = store.retain(max_bytes=before // 2)
        assert kept.size <= before // 2
        assert store.path.stat().st_size <= before // 2
        assert [one.sequence for one in store.decisions(limit=2)] == [1, kept.deleted + 2]  # the oldest went
        assert 0 < kept.deleted < 3990
        kept = store.retain(max_bytes=4096)
        assert kept.size > 4096
        assert kept.kept_corrected == 1
        assert len(list(store.decisions())) == 1 + NEWEST


@pytest.mark.parametrize("limits", [{"max_seconds": 0}, {"max_bytes": -1}])
def test_a_limit_of_nothing_is_refused(store: Store, limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(limits))}=.*wanted a number above 0"):
        store.retain(**limits)


# images that were seen


def test_a_file_is_known_by_its_stamp_and_by_its_content(store: Store) -> None:
    store.record([decision()])
    store.seen.drop([Dropped("/in", "late.png", "s9", "the queue was full")])
    assert store.seen.is_known("/in", "a.png", "s-a.png")
    assert not store.seen.is_known("/in", "a.png", "s1")
    assert store.seen.is_known("/in", "late.png", "s9")
    assert store.seen.is_decided("/in", "a.png", "d0", "m")
    assert not store.seen.is_decided("/in", "a.png", "d0", "other")
    assert store.seen.earlier_items("/in", "sub/a.png", "s-a.png") == ["a.png"]
    assert store.seen.earlier_items("/in", "a.png", "s-a.png") == []
    (dropped,) = store.seen.dropped()
    assert (dropped.item, dropped.reason, dropped.time) == ("late.png", "the queue was full", time_text(1.8e9))
    store.seen.drop([Dropped("/in", name, "s8", "the queue was full") for name in ("b.png", "c.png")])
    assert [one.item for one in store.seen.dropped(last=2)] == ["b.png", "c.png"]
    assert [one.item for one in store.seen.dropped()] == ["late.png", "b.png", "c.png"]
    assert store.seen.count_dropped() == 3


# files that are no store, and several processes


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("not a database, but long enough to be one " * 40)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE parts (name TEXT)")
    connection.close()
    content = other.read_bytes()
    with pytest.raises(NotAStore, match=r"notes\.txt is no store of decisions"):
        Store.open(text)
    with pytest.raises(NotAStore, match=r"other\.db is no store of decisions but a database of parts"):
        Store.open(other)
    with pytest.raises(NotAStore, match="is a folder"):
        Store.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no store at"):
        Store.open(tmp_path / "none.db", create=False)
    with pytest.raises(StoreError, match="can't be opened; is its folder there"):
        Store.open(tmp_path / "none" / "line.db")
    assert other.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "other.db"]


def test_a_store_of_a_newer_version_is_refused_and_an_older_one_brought_up_to_date(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = store.record([decision()])
    store.close()
    step = "ALTER TABLE decisions ADD COLUMN shift TEXT NOT NULL DEFAULT ''"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, step))
        for _ in range(2):  # once only
            with Store.open(store.path) as newer:
                assert list(newer.decisions()) == [found]
    with pytest.raises(NotAStore, match=rf"has schema {LATEST + 1}, this version reads up to {LATEST}; upgrade"):
        Store.open(store.path)


def test_verdicts_of_a_model_are_counted_without_reading_its_decisions(store: Store) -> None:
    query = "EXPLAIN QUERY PLAN SELECT d.verdict, count(*) FROM decisions d WHERE 1 AND d.model = ? GROUP BY d.verdict"
    plan = " ".join(str(row) for row in store._database.read(query, "m"))
    assert "COVERING INDEX decisions_count" in plan
    assert "TEMP B-TREE" not in plan


def test_a_migration_that_fails_leaves_the_store_as_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = store.record([decision()])
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "DROP TABLE retired;\nDROP TABLE missing"))
        with pytest.raises(StoreError, match="no such table: missing"):
            Store.open(store.path)
    with Store.open(store.path) as opened:
        assert list(opened.decisions()) == [found]
        assert opened.record([found]) == []


def test_a_full_disk_loses_nothing_and_is_said_in_words(store: Store) -> None:
    store.record(many(10))
    store._database._connection.execute("PRAGMA max_page_count = 1")  # SQLite takes it for a disk of the present size
    with pytest.raises(StoreError, match="the disk is full; make room, nothing that was recorded is lost"):
        store.record(many(4000, digest="d1"))
    assert len(list(store.decisions())) == 10
    store._database._connection.execute("PRAGMA max_page_count = 100000")
    assert len(store.record(many(3, digest="d1"))) == 3


def test_a_store_that_stays_locked_is_said_in_words(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "PATIENCE", 0.1)
    with Store.open(store.path) as other, other._database.transaction():
        store._database._connection.execute("PRAGMA busy_timeout = 100")
        with pytest.raises(StoreError, match=r"another process has been writing it for 0\.1 s"):
            store.record([decision()])
        assert list(store.decisions()) == []  # who reads does not wait


def write_some(path: Path, worker: int) -> None:
    with Store.open(path) as store:
        for index in range(30):  # half of them are every worker's
            item = f"{index}.png" if index % 2 else f"{worker}-{index}.png"
            store.record([decision(item)], outputs=lambda _: ["csv"])


def test_reading_does_not_wait_for_recording(store: Store) -> None:
    counts = list[int]()

    def arriving() -> Iterator[Decision]:
        yield decision("a.png")
        counts.append(other.submit(store.count).result(10)["good"])  # another thread reads what is on disk
        counts.append(store.count()["good"])  # this one what it has written
        yield decision("b.png")

    with ThreadPoolExecutor(1) as other:
        store.record(arriving())
        counts.append(other.submit(store.count).result(10)["good"])
    assert counts == [0, 1, 2]


def test_processes_that_write_at_once_lose_nothing_and_record_nothing_twice(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_some, args=(tmp_path / "line.db", worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    with Store.open(tmp_path / "line.db", create=False) as store:
        items = [found.item for found in store.decisions()]
        assert len(items) == len(set(items)) == 15 + 4 * 15
        assert len(store.outbox.pending("csv", limit=1000)) == len(items)
