"""Decisions to an OPC UA server: a real one, in this process."""

import math
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("asyncua")
import asyncua.sync
from asyncua import ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.user_managers import UserManager

from padim_jax.line.outputs.opcua import COUNTERS, VALUES, Opcua
from padim_jax.line.outputs.output import Refused, hand_on, names_for
from padim_jax.line.records import VERDICTS
from padim_jax.line.store import Store
from tests.test_line_store import decision, many

KINDS = {
    **{"sequence": "UInt32", "verdict": "String", "is_good": "Boolean", "score": "Float", "p_value": "Double"},
    **dict.fromkeys(("item", "source", "reason", "model", "id"), "String"),
    **{"time": "DateTime", **dict.fromkeys(COUNTERS, "UInt32")},
}
START = {"String": "", "Boolean": False, "Float": 0.0, "Double": 0.0, "DateTime": datetime(2000, 1, 1), "ByteString": b""}  # fmt: skip


class OneUser(UserManager):
    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        return User(role=UserRole.User) if (username, password) == ("ada", "s3cret") else None


class Plant:
    """A server with the object ns=2;s=Padim and variables of it, which can go away and come back."""

    def __init__(self, manager: Any = None) -> None:
        self._manager = manager
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._server: asyncua.sync.Server | None = None
        self._nodes, self._kept = dict[str, Any](), dict[str, Any]()

    def url(self, name: str = "Padim", user: str = "") -> str:
        return f"opc.tcp://{user}127.0.0.1:{self.port}/?node=ns=2;s={name}"

    def on(self) -> None:
        self._server = server = asyncua.sync.Server()
        if self._manager is not None:
            server.aio_obj.iserver.set_user_manager(self._manager)
        server.set_endpoint(f"opc.tcp://127.0.0.1:{self.port}/")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        server.register_namespace("http://plant")
        self.add("Padim", KINDS)
        server.start()

    def add(self, name: str, kinds: dict[str, str], read_only: str = "") -> None:
        """Make an object with variables of these types."""
        assert self._server is not None
        made = self._server.nodes.objects.add_object(f"ns=2;s={name}", f"2:{name}")
        for key, kind in kinds.items():
            path, title = f"{name}.{key}", "".join(word.capitalize() for word in key.split("_"))  # as plants write them
            variant = ua.Variant(self._kept.get(path, START.get(kind, 0)), ua.VariantType[kind])
            self._nodes[path] = made.add_variable(f"ns=2;s={path}", f"2:{title}", variant)
            if key != read_only:
                self._nodes[path].set_writable()

    def off(self) -> None:
        if self._server is not None:
            self._kept = {path: node.read_value() for path, node in self._nodes.items()}
            self._server.stop()
            self._server = None

    def read(self, key: str, name: str = "Padim") -> Any:
        return self._nodes[f"{name}.{key}"].read_value()

    def write(self, key: str, value: Any, kind: str, name: str) -> None:
        self._nodes[f"{name}.{key}"].write_value(ua.Variant(value, ua.VariantType[kind]))


@pytest.fixture(scope="module")
def shared() -> Iterator[Plant]:
    """A plant that is on, where each test has an object of its own."""
    plant = Plant()
    plant.on()
    yield plant
    plant.off()


@pytest.fixture
def plant() -> Iterator[Plant]:
    """A plant that is not on yet."""
    plant = Plant()
    yield plant
    plant.off()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("padim_jax.line.outbox._FIRST_WAIT", 0.05)
    with Store.open(tmp_path / "line.db") as store:
        yield store


def test_a_decision_stands_in_the_plants_variables(shared: Plant, store: Store) -> None:
    output, said = Opcua(shared.url()), list[str]()
    assert output.name == f"opcua opc.tcp://127.0.0.1:{shared.port}/ ns=2;s=Padim"
    (found,) = store.record([decision(verdict="bad", reason="p = 0.5")], names_for([output]))
    assert hand_on(store, output, {}, said.append) == 0
    assert said == []
    written = {name: shared.read(name) for name in KINDS}
    moment = written.pop("time").replace(tzinfo=UTC)
    assert moment == datetime.fromisoformat(found.time)
    counts = {f"{verdict}_count": int(verdict == "bad") for verdict in VERDICTS}
    expected = {name: found.record()[name] for name in VALUES if name not in ("is_good", "time")}
    assert written == expected | {"is_good": False, "sequence": found.sequence, "total_count": 1} | counts
    output.close()


@pytest.mark.slow
def test_decisions_wait_while_the_plant_is_away_and_each_is_counted_once(plant: Plant, store: Store) -> None:
    output, said = Opcua(plant.url(), timeout=2.0), list[str]()
    store.record(many(5), names_for([output]))
    assert hand_on(store, output, {}, said.append) > 0
    assert [waiting.count for waiting in store.outbox.waiting()] == [5]
    assert len(said) == 1
    assert "decisions wait in" in said[0]
    plant.on()
    deliver_all(store, output)
    plant.off()
    more = store.record(many(4, digest="d1"), names_for([output]))
    hand_on(store, output, {}, said.append)
    assert [waiting.count for waiting in store.outbox.waiting()] == [4]
    plant.on()
    deliver_all(store, output)
    assert (plant.read("sequence"), plant.read("total_count")) == (more[-1].sequence, 9)
    output.deliver(more[-1], 2)  # its answer was lost
    Opcua(plant.url()).deliver(more[-1], 3)  # or another process
    assert plant.read("total_count") == 9
    assert sum(plant.read(f"{verdict}_count") for verdict in VERDICTS) == 9
    output.close()


@pytest.mark.parametrize(
    ("marks", "written"),
    [(("id",), 2), (("item", "time"), 2), (("id", "item", "time"), 2), (("item",), 3), (("time",), 3), ((), 3)],
)
@pytest.mark.parametrize("kind", ["DateTime", "String"])
def test_a_sequence_of_another_store_hides_no_part(
    shared: Plant, marks: tuple[str, ...], written: int, kind: str
) -> None:
    name = f"{'-'.join(marks)}{kind}"
    kinds = dict.fromkeys(marks, "String") | ({"time": kind} if "time" in marks else {})
    shared.add(name, {"sequence": "UInt32", "verdict": "String", "total_count": "UInt32"} | kinds)
    output = Opcua(shared.url(name))
    moment = {"sequence": 1, "time": "2026-01-02T03:04:05.678Z"}
    output.deliver(replace(decision("a.png"), **moment), 1)
    other = replace(decision("b.png", verdict="bad", digest="d2"), **moment)  # the first one of a new store
    output.deliver(other, 1)
    assert shared.read("verdict", name) == "bad"
    output.deliver(other, 2)  # its answer was lost
    assert shared.read("total_count", name) == written
    output.close()


def deliver_all(store: Store, output: Opcua) -> None:
    end = time.monotonic() + 20
    while store.outbox.waiting():
        hand_on(store, output, {}, lambda text: None)
        assert time.monotonic() < end
        time.sleep(0.02)


def test_types_are_those_of_the_plant(shared: Plant, store: Store) -> None:
    kinds = {"sequence": "Int16", "verdict": "Byte", "score": "Double", "p_value": "String", "time": "String"}
    shared.add("Types", kinds)
    output = Opcua(shared.url("Types"))
    for code, verdict in enumerate(VERDICTS):
        numbers: dict[str, Any] = {} if verdict != "unreadable" else {"score": None, "p_value": None}
        (found,) = store.record([decision(f"{verdict}.png", verdict=verdict, **numbers)])
        output.deliver(found, 1)
        assert shared.read("verdict", "Types") == code
        assert shared.read("time", "Types") == found.time
        assert shared.read("p_value", "Types") == ("0.5" if numbers == {} else "")
    assert math.isnan(shared.read("score", "Types"))
    (found,) = store.record([decision("far.png", digest="x")])
    with pytest.raises(OSError, match="the variable sequence is Int16, from -32768 to 32767, and 70000 has no place"):
        output.deliver(replace(found, sequence=70_000), 1)
    output.close()


def test_the_next_decision_waits_for_the_plants_acknowledgement(shared: Plant, store: Store) -> None:
    name = "Acknowledged"
    shared.add(name, {"sequence": "UInt32", "acknowledged": "UInt32", "verdict": "String", "item": "String"})
    output = Opcua(shared.url(name), timeout=0.3)
    first, second = store.record(many(2))
    output.deliver(first, 1)
    with pytest.raises(OSError, match=r"not acknowledged within 0\.3 s: acknowledged is 0, wanted 1"):
        output.deliver(second, 1)
    assert shared.read("item", name) == first.item
    shared.write("acknowledged", first.sequence, "UInt32", name)
    output.deliver(second, 2)
    assert shared.read("item", name) == second.item
    output.close()


@pytest.mark.parametrize(
    ("name", "kinds", "read_only", "said"),
    [
        ("NoVerdict", {"sequence": "UInt32"}, "", "has no node ns=2;s=NoVerdict with the variable verdict"),
        ("", {}, "", "has no node ns=2;s=Nowhere with the variable sequence and verdict"),
        ("ReadOnly", KINDS, "score", "the server does not let padim write the variable score"),
        ("Bytes", KINDS | {"score": "ByteString"}, "", "the variable score is ByteString, which has no place for 3.25"),
    ],
)
def test_what_is_wrong_with_the_nodes_is_said_and_decisions_wait(
    shared: Plant, store: Store, name: str, kinds: dict[str, str], read_only: str, said: str
) -> None:
    if name:
        shared.add(name, kinds, read_only)
    output, words = Opcua(shared.url(name or "Nowhere")), list[str]()
    store.record([decision()], names_for([output]))
    hand_on(store, output, {}, words.append)
    (waiting,) = store.outbox.waiting()
    assert waiting.count == 1
    assert said in waiting.error
    output.close()


def test_a_value_that_is_refused_is_about_one_decision(
    shared: Plant, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Opcua(shared.url())
    (first, second) = store.record(many(2, digest="refused"))
    output.deliver(first, 1)
    answer = ua.StatusCode(ua.UInt32(0x803C0000))  # BadOutOfRange
    monkeypatch.setattr(output._client, "write_values", lambda nodes, values, _: [answer] * len(nodes))
    with pytest.raises(Refused, match="the server refuses 'good' for the variable verdict: BadOutOfRange"):
        output.deliver(second, 1)
    output.close()


def test_a_wrong_password_is_said_and_shown_nowhere(store: Store) -> None:
    plant = Plant(OneUser())
    plant.on()
    wrong, said = Opcua(plant.url(user="ada:wr0ng@")), list[str]()
    store.record([decision()], names_for([wrong]))
    hand_on(store, wrong, {}, said.append)
    (waiting,) = store.outbox.waiting()
    assert "BadUserAccessDenied" in waiting.error
    assert not [text for text in (*said, wrong.name, waiting.error) if "wr0ng" in text or "ada" in text]
    right = Opcua(plant.url(user="ada:s3cret@"))
    assert right.name == wrong.name
    deliver_all(store, right)
    assert plant.read("total_count") == 1
    right.close()
    plant.off()


@pytest.mark.parametrize(
    "url", ["http://h/?node=i=1", "opc.tcp:///?node=i=1", "opc.tcp://ada:s3cret@h/", "opc.tcp://ada:s3cret@h/?node=x"]
)
def test_another_kind_of_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"opc\.tcp://host:4840/\?node=ns=2;s=Padim") as caught:
        Opcua(url)
    assert "s3cret" not in str(caught.value)
