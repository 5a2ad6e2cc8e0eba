"""Decisions to variables of an OPC UA server, such as a PLC has, each at least once."""

import logging
import math
import re
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, ClassVar

from padim_jax.lazy import extra
from padim_jax.line.outputs.address import ascii_host, split_address, without_secrets
from padim_jax.line.outputs.output import Picture, Refused
from padim_jax.line.records import VERDICTS, Decision, Verdict

SEQUENCE, ACKNOWLEDGED = "sequence", "acknowledged"
COUNTERS = ("total_count", *(f"{verdict}_count" for verdict in VERDICTS))
VALUES = ("verdict", "is_good", "score", "p_value", "item", "source", "time", "reason", "model", "id")
_EXAMPLE = "opc.tcp://host:4840/?node=ns=2;s=Padim"
_PORT = 4840
_TIMEOUT = 10.0  # seconds
_PAUSE = 0.01  # seconds between two looks whether a decision was acknowledged
_INTEGERS = {  # OPC UA's types and their ranges
    **{name: (0, 2**bits - 1) for name, bits in (("Byte", 8), ("UInt16", 16), ("UInt32", 32), ("UInt64", 64))},
    **{name: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for name, bits in (("SByte", 8), ("Int16", 16), ("Int32", 32))},
    "Int64": (-(2**63), 2**63 - 1),
}
_MARKS = ("id", "item", "time")  # what tells of which decision the values are
_OF_ONE = ("BadOutOfRange", "BadEncodingLimitsExceeded")  # answers that are about one decision's values


class Opcua:
    """Writes each decision to the variables of one object of an OPC UA server.

    The variables are the object's children, known by their browse names, whatever their case and underscores:
    ``sequence`` and ``verdict`` have to be there, and of :data:`VALUES` and :data:`COUNTERS` those are written that
    are. A value is written in its variable's own type; a verdict is a word in a string, and 0 good, 1 look, 2 bad, 3
    unreadable in an integer; a score that there is none of is NaN. ``sequence`` is written last, together with the
    counters, each of which is read and raised by one. A decision that stands there already is not written again, so
    counters count once. It is known by its sequence together with ``id``, or with ``item`` and ``time``; a sequence
    alone may be that of another store, so an object without these gets it again, and counts it again. Where there is a
    variable ``acknowledged``, the next decision is written only once it equals ``sequence``.

    Args:
      url: ``opc.tcp://host:4840/path?node=NODE``, with the object's node id, such as ``ns=2;s=Padim``. A user's name
        and password in it are sent to the server, and kept nowhere; there is no encryption.
      verdicts: whose decisions are written.
      timeout: seconds to wait for the server, and for an acknowledgement.

    Raises:
      ValueError: no such URL.
      ModuleNotFoundError: asyncua is not installed.
    """

    is_far: ClassVar[bool] = True

    def __init__(self, url: str, verdicts: Iterable[Verdict] = VERDICTS, *, timeout: float = _TIMEOUT) -> None:
        with extra("opcua"):
            import asyncua.sync
            from asyncua import ua

        logger = logging.getLogger("asyncua")
        if logger.level == logging.NOTSET:  # it logs what it tries, which whoever calls this is told in an error
            logger.setLevel(logging.CRITICAL)
        self._sync, self._ua = asyncua.sync, ua
        parts = split_address(url, "opcua", _EXAMPLE, ("opc.tcp",))
        node = re.fullmatch(r"node=(.+)", urllib.parse.unquote(parts.query))
        try:
            self._object = ua.NodeId.from_string(node[1] if node else "")
        except (ValueError, RuntimeError) as error:  # RuntimeError: asyncua's own
            raise ValueError(f"watch: opcua {without_secrets(url)!r} names no node as {_EXAMPLE} does") from error
        host = ascii_host(parts.hostname or "")
        place = f"{f'[{host}]' if ':' in host else host}:{parts.port or _PORT}"
        self._url = f"opc.tcp://{place}{parts.path}"
        names = parts.username, parts.password
        self._user, self._password = (None if text is None else urllib.parse.unquote(text) for text in names)
        self.name = f"opcua {self._url} {self._object.to_string()}"
        self.verdicts, self._timeout = frozenset(verdicts), timeout
        self._client: Any = None
        self._nodes, self._types = dict[str, Any](), dict[str, str]()

    def deliver(self, decision: Decision, attempt: int, picture: Picture | None = None) -> None:
        """Write one decision."""
        try:
            if self._client is None:
                self._connect()
            self._write(decision)
        except Refused:
            raise
        except Exception as error:  # of asyncua, of many kinds
            self.close()
            raise OSError(_words(error, self._timeout)) from error

    def flush(self) -> None:
        """Nothing waits: each was written."""

    def close(self) -> None:
        """Leave the server."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.disconnect()

    def _connect(self) -> None:
        self._client = client = self._sync.Client(
            self._url, timeout=self._timeout, sync_wrapper_timeout=2 * self._timeout
        )
        if self._user is not None:
            client.set_user(self._user)
            client.set_password(self._password or "")
        client.connect()
        self._nodes, self._types = {}, {}
        for child in client.get_node(self._object).get_children():
            name = _plain(child.read_browse_name().Name)
            known = {_plain(known): known for known in (SEQUENCE, ACKNOWLEDGED, *COUNTERS, *VALUES)}
            if name in known:
                self._nodes[known[name]] = child
                self._types[known[name]] = child.read_data_type_as_variant_type().name
        if missing := {SEQUENCE, "verdict"} - self._nodes.keys():
            node, names = self._object.to_string(), " and ".join(sorted(missing))
            raise OSError(f"the server has no node {node} with the variable {names}")
        for name, node in self._nodes.items():
            if name != ACKNOWLEDGED and self._ua.AccessLevel.CurrentWrite not in node.get_user_access_level():
                raise OSError(f"the server does not let padim write the variable {name}")

    def _write(self, decision: Decision) -> None:
        if self._is_there(decision):
            return
        record = decision.record()
        code = VERDICTS.index(decision.verdict)
        values: dict[str, Any] = {name: record.get(name) for name in VALUES}
        values |= {"is_good": decision.verdict == "good"}
        if self._types["verdict"] in _INTEGERS:
            values["verdict"] = code
        self._send({name: values[name] for name in VALUES if name in self._nodes})
        counters = [name for name in ("total_count", f"{decision.verdict}_count") if name in self._nodes]
        counted = dict(zip(counters, self._read(counters), strict=True))
        raised: dict[str, Any] = {name: (count or 0) + 1 for name, count in counted.items()}
        self._send(raised | {SEQUENCE: decision.sequence})

    def _is_there(self, decision: Decision) -> bool:
        """Whether the decision was written already, as before an answer was lost; waits until the next may be.

        Raises:
          OSError: the last one was not acknowledged in time.
        """
        names = [name for name in (SEQUENCE, *_MARKS, ACKNOWLEDGED) if name in self._nodes]
        end = time.monotonic() + self._timeout
        while True:
            found = dict(zip(names, self._read(names), strict=True))
            if found[SEQUENCE] == decision.sequence and self._is_same(decision, found):
                return True
            if ACKNOWLEDGED not in found or found[ACKNOWLEDGED] == found[SEQUENCE]:
                return False
            if time.monotonic() >= end:
                last = f"acknowledged is {found[ACKNOWLEDGED]}, wanted {found[SEQUENCE]}"
                raise OSError(f"the decision before was not acknowledged within {self._timeout:g} s: {last}")
            time.sleep(_PAUSE)

    def _is_same(self, decision: Decision, found: Mapping[str, Any]) -> bool:
        """Whether all that tells of which decision these values are says that they are of this one."""
        marks, record = [name for name in _MARKS if name in found], decision.record()
        is_known = "id" in marks or {"item", "time"} <= {*marks}
        return is_known and all(
            _comparable(found[name]) == _comparable(_of_type(name, record[name], self._types[name])) for name in marks
        )

    def _read(self, names: list[str]) -> list[Any]:
        return self._client.read_values([self._nodes[name] for name in names]) if names else []

    def _send(self, values: Mapping[str, Any]) -> None:
        """Write variables in one request."""
        written = list[Any]()
        for name, value in values.items():
            kind = self._types[name]
            made = _of_type(name, value, kind)
            variant = self._ua.Variant(made, self._ua.VariantType[kind])
            written.append(self._ua.DataValue(variant))
        nodes = [self._nodes[name] for name in values]
        for name, status in zip(values, self._client.write_values(nodes, written, False), strict=True):
            if not status.is_good():
                why = f"the server refuses {values[name]!r} for the variable {name}: {status.name}"
                raise (Refused if status.name in _OF_ONE else OSError)(why)


def _of_type(name: str, value: Any, kind: str) -> Any:
    """A value as a variable's type has it.

    Raises:
      OSError: the type has no place for it.

    >>> _of_type("score", None, "Float"), _of_type("time", "2026-01-02T03:04:05.000Z", "String")
    (nan, '2026-01-02T03:04:05.000Z')
    """
    is_number = isinstance(value, int | float)
    if kind == "String":
        return "" if value is None else str(value)
    if kind in ("Float", "Double") and (value is None or is_number):
        return math.nan if value is None else float(value)
    if kind == "Boolean" and isinstance(value, bool):
        return value
    if kind == "DateTime" and name == "time":
        return datetime.fromisoformat(str(value))
    if kind in _INTEGERS and isinstance(value, int):
        low, high = _INTEGERS[kind]
        if low <= value <= high:
            return int(value)
        raise OSError(f"the variable {name} is {kind}, from {low} to {high}, and {value} has no place in it")
    raise OSError(f"the variable {name} is {kind}, which has no place for {value!r}")


def _comparable(value: Any) -> Any:
    """A time without its zone, which is UTC; other values as they are."""
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _words(error: Exception, timeout: float) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer within {timeout:g} s"
    return str(error) or type(error).__name__
