"""Decisions to an MQTT broker, a real one where it is installed."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from padim_jax.line.drift import find_drifts
from padim_jax.line.outputs.drift_events import DriftEvents
from padim_jax.line.outputs.output import hand_on, names_for
from padim_jax.line.store import Store
from tests.test_line_drift_events import drifted
from tests.test_line_store import many
from tests.test_line_watch import wait_for

pytest.importorskip("paho.mqtt.client")
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from padim_jax.line.outputs.mqtt import Mqtt

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin")


class Broker:
    """A mosquitto, and somebody who listens to all topics."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._settings = folder / "mosquitto.conf"
        self._settings.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self.heard = list[dict[str, Any]]()

    def start(self) -> None:
        self._process = subprocess.Popen([str(MOSQUITTO), "-c", str(self._settings)], stderr=subprocess.DEVNULL)
        self._listener = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._listener.on_message = lambda _, __, message: self.heard.append(json.loads(message.payload))
        end = time.monotonic() + 20
        while True:
            try:
                self._listener.connect("127.0.0.1", self.port)
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.05)
        ready = list[int]()
        self._listener.on_subscribe = lambda *_: ready.append(1)
        self._listener.loop_start()
        self._listener.subscribe("#", qos=1)
        wait_for(lambda: ready)

    def stop(self) -> None:
        self._listener.disconnect()
        self._listener.loop_stop()
        self._process.terminate()
        self._process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if MOSQUITTO is None:
        pytest.skip("needs a broker: mosquitto is not installed")
    broker = Broker(tmp_path)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("padim_jax.line.outbox._FIRST_WAIT", 0.05)
    with Store.open(tmp_path / "line.db") as store:
        yield store


def test_decisions_are_published_in_their_order_and_wait_while_the_broker_is_away(broker: Broker, store: Store) -> None:
    output, said = Mqtt(f"mqtt://127.0.0.1:{broker.port}/line%201/decisions", timeout=5.0), list[str]()
    assert output.name == f"mqtt mqtt://127.0.0.1:{broker.port}/line 1/decisions"
    given = store.record(many(5), names_for([output]))
    assert hand_on(store, output, {}, said.append) == 0
    wait_for(lambda: len(broker.heard) == 5)
    assert broker.heard == [decision.record() for decision in given]
    broker.stop()
    more = store.record(many(4, digest="d1"), names_for([output]))
    assert hand_on(store, output, {}, said.append) > 0
    assert [waiting.count for waiting in store.outbox.waiting()] == [4]
    assert len(said) == 1
    broker.start()
    wait_for(lambda: hand_on(store, output, {}, said.append) == 0 and not store.outbox.waiting())
    wait_for(lambda: len({body["id"] for body in broker.heard}) == 9)
    assert list(dict.fromkeys(body["id"] for body in broker.heard[5:])) == [decision.id for decision in more]
    output.close()


def test_drift_is_published_to_a_topic_below(broker: Broker, store: Store) -> None:
    store.record(drifted("m", "m0"))
    output = DriftEvents(store.alarms, Mqtt(f"mqtt://127.0.0.1:{broker.port}/line", timeout=5.0))
    assert output.name == f"drift mqtt mqtt://127.0.0.1:{broker.port}/line"
    event = store.alarms.record(find_drifts(store.scores())[0], [output.name])
    topics = list[str]()
    broker._listener.message_callback_add("line/drift", lambda _, __, message: topics.append(message.topic))
    assert hand_on(store, output, {}, pytest.fail) == 0
    wait_for(lambda: topics == ["line/drift"])
    assert store.outbox.waiting() == []
    assert event is not None
    output.close()


@pytest.mark.parametrize(
    "url", ["http://host/t", "mqtt://host", "mqtt:///t", "mqtt://host/line/%23", "mqtt://host/+/t"]
)
def test_another_kind_of_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no address such as mqtt://host/line/decisions"):
        Mqtt(url)


def test_a_password_is_in_no_name() -> None:
    assert Mqtt("mqtts://ada:s3cret@host/t").name == "mqtt mqtts://host:8883/t"
