"""Sources beyond the first ones are followed together, and are not taken for one that is called as they are shown."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from padim_jax.line.drift import OTHERS, find_drifts
from padim_jax.line.drift_words import record
from padim_jax.line.store import Store
from tests.test_line_drift_events import drifted


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store in which one source is followed by itself, and all others together."""
    monkeypatch.setattr("padim_jax.line.drift.MOST_SOURCES", 1)
    with Store.open(tmp_path / "line.db") as store:
        yield store


def fill(store: Store, *sources: str) -> None:
    """Decisions of sources in turn, all of which become darker at the same time."""
    each = [drifted("m", "m0", source=source) for source in sources]
    store.record(one for together in zip(*each, strict=True) for one in together)


@pytest.mark.parametrize("is_pooled_first", [False, True])
def test_a_source_that_is_called_as_they_are_and_they_are_told_by_themselves(
    store: Store, is_pooled_first: bool
) -> None:
    fill(store, OTHERS, "b")
    drifts = find_drifts(store.scores())[:: -1 if is_pooled_first else 1]
    assert {record(one)["source_name"] for one in drifts} == {OTHERS}
    assert {record(one)["source"] for one in drifts} == {None, OTHERS}
    events = [store.alarms.record(drift) for drift in drifts]
    assert [event["source"] for event in events if event is not None] == [drift.source for drift in drifts]
    assert [store.alarms.record(drift) for drift in drifts] == [None, None]


def test_an_alarm_of_a_source_that_has_told_it_among_the_others_waits_for_a_later_decision(store: Store) -> None:
    fill(store, "a", "b")
    pooled = find_drifts(store.scores())[1]
    assert pooled.source is None
    assert store.alarms.record(pooled) is not None
    (own,) = find_drifts(store.scores(source="b"))  # as after a restart, where it is among the first ones
    assert (own.source, own.last) == ("b", pooled.last)
    assert store.alarms.record(own) is None
    (last,) = store.decisions(source="b", limit=1, newest_first=True)
    store.record([replace(last, item="later")])
    event = store.alarms.record(find_drifts(store.scores(source="b"))[0])
    assert event is not None
    assert event["source"] == "b"


def test_after_a_restart_other_sources_may_be_the_first_ones(store: Store) -> None:
    steady = drifted("m", "m0", 30)
    store.record([replace(steady[0], source="a"), *(replace(one, source="b") for one in steady[1:])])
    assert [one.source for one in find_drifts(store.scores())] == ["a", None]
    rest = list(store.scores())[1:]  # retention has deleted all of a
    assert [one.source for one in find_drifts(rest)] == ["b"]
