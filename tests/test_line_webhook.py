"""Decisions to a web address: none lost while the other end is away, and each with an id to know it again by."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from padim_jax.line.courier import Courier
from padim_jax.line.outputs.output import hand_on, names_for
from padim_jax.line.outputs.webhook import Webhook
from padim_jax.line.records import Decision
from padim_jax.line.store import Store
from tests.receiver import Receiver
from tests.test_line_store import decision, many
from tests.test_line_watch import wait_for


@pytest.fixture
def server() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("padim_jax.line.outbox._FIRST_WAIT", 0.05)
    with Store.open(tmp_path / "line.db") as store:
        yield store


def offer(store: Store, hook: Webhook, decisions: list[Decision]) -> list[Decision]:
    return store.record(decisions, names_for([hook]))


def test_each_decision_is_sent_whole_with_its_id(server: Receiver, store: Store) -> None:
    hook = Webhook(server.url)
    given = offer(store, hook, [decision("=a\n.png", verdict="bad", reason="p = 0.01", regions=({"left": 1},))])
    assert hand_on(store, hook, {}, pytest.fail) == 0
    ((headers, body),) = server.got
    assert {key: body[key] for key in given[0].record()} == given[0].record()
    assert headers["Idempotency-Key"] == given[0].id
    assert headers["X-Attempt"] == "1"
    assert headers["Content-Type"] == "application/json"
    assert store.outbox.waiting() == []


def test_only_the_verdicts_that_are_wanted_are_sent(server: Receiver, store: Store) -> None:
    hook = Webhook(server.url, ["bad", "unreadable"])
    offer(
        store, hook, [decision(f"{verdict}.png", verdict=verdict) for verdict in ("good", "bad", "look", "unreadable")]
    )
    hand_on(store, hook, {}, pytest.fail)
    assert server.items == ["bad.png", "unreadable.png"]


@pytest.mark.parametrize("code", [500, 503, 429])
def test_what_can_not_be_taken_now_is_sent_again_in_its_order(server: Receiver, store: Store, code: int) -> None:
    hook, said = Webhook(server.url), list[str]()
    given = offer(store, hook, many(3))
    server.answers = [200, code]
    assert hand_on(store, hook, {}, said.append) > 0
    assert f"it answers {code}" in said[0]
    assert "decisions wait in" in said[0]
    wait_for(lambda: hand_on(store, hook, {}, said.append) == 0 and not store.outbox.waiting())
    taken = [body["item"] for _, body in server.got if body["answer"] == 200]
    assert sorted(taken) == [one.item for one in given]
    again = [headers for headers, body in server.got if body["item"] == given[1].item]
    assert [headers["X-Attempt"] for headers in again] == ["1", "2"]
    assert {headers["Idempotency-Key"] for headers in again} == {given[1].id}


@pytest.mark.parametrize("code", [401, 403, 404, 405, 410])
def test_an_address_that_is_wrong_is_asked_once_and_all_decisions_wait(
    server: Receiver, store: Store, code: int
) -> None:
    hook, said = Webhook(server.url), list[str]()
    offer(store, hook, many(3))
    server.answers = [code] * 3
    assert hand_on(store, hook, {}, said.append) > 0
    assert len(server.got) == 1
    assert f"padim results {store.path} --abandon '{hook.name}'" in said[0]
    assert store.outbox.pending(hook.name) == []
    assert store.outbox.waiting()[0].count == 3


def test_one_that_is_always_refused_is_given_up(
    server: Receiver, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("padim_jax.line.outputs.output.MOST_REFUSALS", 3)
    hook, said = Webhook(server.url), list[str]()
    offer(store, hook, many(1))
    server.answers = [400] * 9
    for _ in range(4):
        store.outbox.make_due(hook.name)
        hand_on(store, hook, {}, said.append)
    assert len(server.got) == 3
    assert "it is given up" in said[-1]
    assert len(said) == 2
    assert store.outbox.waiting() == []


@pytest.mark.parametrize("code", [400, 302])
def test_one_that_is_refused_does_not_hold_up_the_others(server: Receiver, store: Store, code: int) -> None:
    hook, said = Webhook(server.url), list[str]()
    offer(store, hook, many(3))
    server.answers = [code]
    hand_on(store, hook, {}, said.append)
    assert server.items == ["00000.png", "00001.png", "00002.png"]  # a redirect was not followed
    assert f"refuses 00000.png (it answers {code}" in said[0]
    (waiting,) = store.outbox.waiting()
    assert waiting.count == 1


def test_nothing_is_lost_while_the_other_end_is_away(store: Store) -> None:
    server = Receiver()
    hook, said = Webhook(server.url, timeout=2.0), list[str]()
    server.end()
    courier = Courier(store, hook, said.append)
    offer(store, hook, many(5))
    courier.wake()
    wait_for(lambda: store.outbox.pending(hook.name) == [] and said)
    assert "it can't be reached" in said[0]
    courier.end()
    assert [waiting.count for waiting in store.outbox.waiting()] == [5]
    again = Receiver(server.server_port)
    courier = Courier(store, hook, said.append)  # the next start
    wait_for(lambda: not store.outbox.waiting())
    courier.end()
    again.end()
    assert sorted(again.items) == [f"{index:05}.png" for index in range(5)]
    assert len(said) == 1  # told once, not at every attempt


def test_a_password_is_sent_and_kept_nowhere(server: Receiver, store: Store) -> None:
    hook = Webhook(server.url.replace("http://", "http://ada:s%40cret@") + "?token=s3")
    offer(store, hook, [decision()])
    hand_on(store, hook, {}, pytest.fail)
    (headers, _) = server.got[0]
    assert base64.b64decode(headers["Authorization"].split()[1]) == b"ada:s@cret"
    assert hook.name == f"webhook {server.url}?ae5fccfb"


@pytest.mark.parametrize("url", ["ftp://host/x", "host/x", "http://", "file:///etc/passwd"])
def test_another_kind_of_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no address such as https://host/path"):
        Webhook(url)
