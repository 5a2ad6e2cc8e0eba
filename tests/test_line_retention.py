"""What a store forgets, and what of it still holds: no image is judged again for that, and no store empties itself."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from padim_jax.line import schema
from padim_jax.line.retention import NEWEST
from padim_jax.line.seen import Dropped
from padim_jax.line.store import Store
from tests.test_line_store import DAY, Clock, decision, many


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store.open(tmp_path / "line.db", clock=clock) as store:
        yield store


def count(store: Store, table: str) -> int:
    return store._database.read(f"SELECT count(*) FROM {table}")[0][0]


def test_a_store_of_one_size_keeps_decisions_however_many_came_before(store: Store) -> None:
    limit = 400_000
    for day in range(8):
        store.record(many(2000, digest=f"d{day}", stamp=f"s{day}"))
        store.seen.drop([Dropped("/in", f"{index}.png", "s", "x" * 100) for index in range(300)])
        kept = store.retain(max_bytes=limit)
        assert kept.size <= limit
    assert count(store, "retired") < 2000 * 7  # some of these are forgotten
    decisions = [found.image_digest for found in store.decisions()]
    assert len(decisions) > 200
    assert set(decisions) == {"d7"}  # the newest
    assert count(store, "retired") > 0
    assert sum(store.count().values()) == len(decisions)


def test_a_size_that_can_not_be_reached_leaves_the_newest_decisions(store: Store) -> None:
    given = store.record(many(500))
    kept = store.retain(max_bytes=4096)
    assert kept.size > 4096
    assert list(store.decisions()) == given[-NEWEST:]
    assert count(store, "retired") == 0


def test_an_image_whose_decision_was_deleted_is_known_by_its_bytes(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("padim_jax.line.retention.NEWEST", 0)
    store.record([decision()])
    clock.now += 2 * DAY
    assert store.retain(max_seconds=DAY).deleted == 1
    assert store.seen.is_decided("/in", "a.png", "d0", "m")  # touched, and the model updated since
    assert not store.seen.is_decided("/in", "a.png", "d1", "m")
    assert not store.seen.is_decided("/in", "a.png", "d0", "other")


def test_what_one_model_decided_another_has_not(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("padim_jax.line.retention.NEWEST", 0)
    store.record([decision()])
    store.seen.drop([Dropped("/in", "late.png", "s9", "the queue was full", model="m")])
    for _ in range(2):
        for item, stamp in (("a.png", "s-a.png"), ("late.png", "s9")):
            known = [store.seen.is_known("/in", item, stamp, name) for name in ("m", "other", None)]
            assert known == [True, False, True]
        assert store.seen.earlier_items("/in", "b.png", "s-a.png", "m") == ["a.png"]
        assert store.seen.earlier_items("/in", "b.png", "s-a.png", "other") == []
        clock.now += DAY
        store.retain(max_seconds=DAY / 2)
        store.seen.drop([Dropped("/in", "late.png", "s9", "the queue was full", model="m")])


def test_many_deleted_decisions_are_forgotten_a_part_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("padim_jax.line.seen._PAGE", 3)
    with store._database.transaction() as connection:
        rows = [(f"{index:02}", "/in", f"{index}.png", "s") for index in range(10)]
        connection.executemany("INSERT INTO retired (id, source, item, stamp) VALUES (?, ?, ?, ?)", rows)
    assert store.seen.forget_some("/in", lambda item: item == "1.png") == (2, "02")
    assert store.seen.forget_gone("/in", lambda item: item == "1.png") == 7
    assert count(store, "retired") == 1


def test_a_store_of_the_first_schema_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(tmp_path / "old.db") as old:
        old.executescript(schema.MIGRATIONS[0])
        old.execute("PRAGMA user_version = 1")
        old.execute(f"PRAGMA application_id = {schema.APPLICATION}")
        old.execute("INSERT INTO retired VALUES ('0', '/in', 'a.png', 's')")
        old.execute("INSERT INTO dropped VALUES (1, '2027-01-01T00:00:00.000Z', '/in', 'b.png', 's', 'full')")
        for sequence in (3, 7, 8):
            values = sequence, f"{sequence}", f"{sequence}.png"
            old.execute(
                "INSERT INTO decisions VALUES (?, ?, 't', '/in', ?, 's', 'd', 'm', 'm0', 1.0, 0.5, 'good', '', NULL)",
                values,
            )
    old.close()
    with Store.open(tmp_path / "old.db") as store:
        assert store.seen.is_known("/in", "a.png", "s", "m")  # of any model: nobody noted whose it was
        assert store.seen.is_known("/in", "b.png", "s", "m")
        assert store.last_deleted == 6
        assert [found.sequence for found in store.decisions()] == [3, 7, 8]


def items(store: Store) -> list[str]:
    return [found.item for found in store.decisions()]


def numbered(store: Store, name: str, count: int) -> list[str]:
    """Record some decisions; gives their items."""
    return [found.item for found in store.record(decision(f"{name}{index}.png") for index in range(count))]


def test_an_age_spares_the_newest_decisions(store: Store, clock: Clock) -> None:
    given = numbered(store, "a", NEWEST + 20)
    clock.now += 2 * DAY
    assert store.retain(max_seconds=DAY).deleted == 0  # nobody knows that the clock is right
    given += numbered(store, "b", NEWEST)
    assert store.retain(max_seconds=DAY).deleted == NEWEST + 20
    assert items(store) == given[-NEWEST:]


def test_decisions_of_a_clock_that_was_behind_stay_as_long_as_those_before_them(store: Store, clock: Clock) -> None:
    before = numbered(store, "before", 5)
    clock.now -= 40 * DAY
    behind = numbered(store, "behind", 5)
    assert store.retain(max_seconds=30 * DAY).deleted == 0
    clock.now += 40 * DAY
    after = numbered(store, "after", NEWEST + 5)
    assert store.retain(max_seconds=30 * DAY).deleted == 0
    assert items(store) == [*before, *behind, *after]
    clock.now += 31 * DAY
    later = numbered(store, "later", NEWEST)
    assert store.retain(max_seconds=30 * DAY).deleted == len([*before, *behind, *after])
    assert items(store) == later


@pytest.mark.parametrize("made", [0, NEWEST - 1])
def test_a_clock_that_is_ahead_for_a_while_empties_no_store(store: Store, clock: Clock, made: int) -> None:
    given = numbered(store, "a", 300)
    store.seen.drop(Dropped("/in", f"{index}.png", "s", "full") for index in range(300))
    clock.now += 400 * DAY
    given += numbered(store, "ahead", made)
    assert store.retain(max_seconds=30 * DAY).deleted == 0
    clock.now -= 400 * DAY
    assert store.retain(max_seconds=30 * DAY).deleted == 0
    assert items(store) == given
    assert len(store.seen.dropped()) == 300
    clock.now += 31 * DAY  # what was recorded then holds nothing up
    given += numbered(store, "b", NEWEST)
    assert store.retain(max_seconds=30 * DAY).deleted == 300 + made
    assert items(store) == given[-NEWEST:]


def test_who_reads_the_store_is_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.record(many(2000))
    reader = sqlite3.connect(store.path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM decisions").fetchone()  # a backup, or who looks at it
    thread = threading.Thread(target=store.retain, kwargs={"max_bytes": 400_000})
    thread.start()
    thread.join(schema.PATIENCE / 3)
    is_waiting = thread.is_alive()
    reader.close()
    thread.join()
    assert not is_waiting
    assert sum(store.count().values()) < 2000
    assert store._database.read("PRAGMA busy_timeout") == [(1000 * schema.PATIENCE,)]  # who writes is, as before
    log = store.path.with_name("line.db-wal")
    store.retain(max_bytes=2**40)
    store._database.free_disk()
    assert log.stat().st_size == 0
