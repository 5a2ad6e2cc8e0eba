"""Decisions as JSON to a topic of an MQTT broker, each at least once (quality of service 1)."""

import json
import threading
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from padim_jax.lazy import extra
from padim_jax.line.outputs.address import split_address, without_secrets
from padim_jax.line.outputs.output import Picture
from padim_jax.line.records import VERDICTS, Decision, Verdict

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_EXAMPLE = "mqtt://host/line/decisions"
_TIMEOUT = 10.0  # seconds


class Mqtt:
    """Publishes each decision to a topic, and waits until the broker has it.

    The payload has the keys :data:`padim_jax.line.records.COLUMNS`; ``id`` is the same whenever a decision is published
    again. Nothing is retained.

    Args:
      url: ``mqtt://host/topic``, or ``mqtts`` for TLS, with a user's name, password and port where they are needed; the
        password is kept nowhere.
      verdicts: whose decisions are published.
      timeout: seconds to wait for the broker.

    Raises:
      ValueError: no such URL, or a topic with a wildcard.
      ModuleNotFoundError: paho-mqtt is not installed.
    """

    is_far: ClassVar[bool] = True

    def __init__(self, url: str, verdicts: Iterable[Verdict] = VERDICTS, *, timeout: float = _TIMEOUT) -> None:
        with extra("mqtt"):
            import paho.mqtt.client

        self._library, parts = paho.mqtt.client, split_address(url, "mqtt", _EXAMPLE, (*_PORTS,))
        topic = urllib.parse.unquote(parts.path.removeprefix("/"))
        if not topic or {"+", "#", "\0"} & {*topic}:
            raise ValueError(f"watch: mqtt {without_secrets(url)!r} is no address such as {_EXAMPLE}")
        assert parts.hostname  # or it had been refused
        self._host, self._port, self._topic = parts.hostname, parts.port or _PORTS[parts.scheme], topic
        self._is_secure = parts.scheme == "mqtts"
        names = parts.username, parts.password
        self._user, self._password = (None if text is None else urllib.parse.unquote(text) for text in names)
        self.name = f"mqtt {parts.scheme}://{self._host}:{self._port}/{topic}"
        self.verdicts, self._timeout = frozenset(verdicts), timeout
        self._client: Any = None

    def deliver(self, decision: Decision, attempt: int, picture: Picture | None = None) -> None:
        """Publish one decision."""
        self.send(decision.record(), decision.id, attempt)

    def send(self, message: Mapping[str, Any], id: str, attempt: int, event: str = "") -> None:
        """Publish any message; one that is no decision to a topic below, named by its ``event``."""
        topic = f"{self._topic}/{event}" if event else self._topic
        client = self._client = self._client or self._connect()
        try:
            sent = client.publish(topic, json.dumps(message), qos=1)
            sent.wait_for_publish(self._timeout)
            if not sent.is_published():
                raise OSError(f"the broker has not confirmed it within {self._timeout:g} s")
        except (OSError, RuntimeError, ValueError) as error:  # paho's own, of a lost connection or a full queue
            self.close()  # or it would send what it holds once more by itself
            raise OSError(str(error)) from error

    def flush(self) -> None:
        """Nothing waits: each was confirmed."""

    def close(self) -> None:
        """Leave the broker."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def _connect(self) -> Any:
        mqtt, answered, answers = self._library, threading.Event(), list[Any]()
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, reconnect_on_failure=False)

        def connected(_: Any, __: Any, ___: Any, code: Any, ____: Any) -> None:
            answers.append(code)
            answered.set()

        client.on_connect = connected
        client.connect_timeout = self._timeout
        if self._user is not None:
            client.username_pw_set(self._user, self._password)
        if self._is_secure:
            client.tls_set()
        client.connect(self._host, self._port, keepalive=30)
        client.loop_start()
        if not answered.wait(self._timeout) or answers[0].is_failure:
            why = str(answers[0]) if answers else f"no answer within {self._timeout:g} s"
            client.disconnect()
            client.loop_stop()
            raise OSError(f"the broker does not let padim in: {why}")
        return client
