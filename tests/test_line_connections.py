"""Clients that hold connections: the service outlives them, and ends without them."""

import resource
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from padim_jax.line.service.connections import Room, make_room
from tests.line_parts import fit_model
from tests.service import NAME, Running, good, serving

DOCS = b"GET /docs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def reads_nothing(port: int) -> socket.socket:
    """A client that asks without end for what needs no token, and reads no answer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.connect(("127.0.0.1", port))
    connection.settimeout(0.2)
    with suppress(TimeoutError):
        connection.sendall(DOCS * 5000)
    return connection


def wait_until_answers_pile_up(service: Running) -> None:
    """Wait until no further answer is written to those who do not read."""
    counts, deadline = [""], time.monotonic() + 60
    with service.client() as client:
        while (found := answered_docs(client)) != counts[-1] or not found:
            counts.append(found)
            time.sleep(1)
            assert time.monotonic() < deadline


def answered_docs(client: httpx.Client) -> str:
    lines = client.get("/metrics").text.splitlines()
    return next((line for line in lines if line.startswith('padim_requests_total{route="docs"')), "")


def is_closed(connection: socket.socket) -> bool:
    with suppress(TimeoutError):
        try:
            connection.sendall(b" ")
        except ConnectionError:
            return True
    return False


def judged(service: Running, item: str) -> None:
    """Judge an image, again and again where the service can't."""
    deadline, headers = time.monotonic() + 60, {"content-type": "image/png"}
    while True:
        with suppress(httpx.TransportError), service.client() as client:
            if client.post(f"{service.score}?item={item}", content=good(), headers=headers).status_code == 200:
                return
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_more_idle_connections_than_open_files_and_clients_that_do_not_read(tmp_path: Path) -> None:
    fit_model(tmp_path / "models" / NAME)
    with serving(tmp_path / "models", tmp_path / "line.db", "--receive-seconds", "3", files=200) as service:
        judged(service, "before")
        with ExitStack() as stack:
            for _ in range(300):  # the service looks at its models meanwhile
                with suppress(ConnectionError):
                    stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=10))
            time.sleep(2)
        judged(service, "after")
        with service.client() as client:
            assert 'padim_refused_total{reason="connections"}' in client.get("/metrics").text
        with reads_nothing(service.port) as connection:
            deadline = time.monotonic() + 30
            while not is_closed(connection):
                assert time.monotonic() < deadline
        said = "".join(service.said)
        assert "Traceback" not in said
        assert "is not there" not in said
        assert "at most 100 connections at a time" in said
        assert said.count("connections are closed as they come") == 1


@pytest.mark.slow
def test_a_service_ends_without_those_who_do_not_take_their_answers(tmp_path: Path) -> None:
    service_ = serving(fit_model(tmp_path / NAME), tmp_path / "line.db", "--receive-seconds", "600")
    with service_ as service, reads_nothing(service.port), reads_nothing(service.port):
        wait_until_answers_pile_up(service)
        service.process.terminate()
        assert service.process.wait(40) == 0


@pytest.mark.parametrize(
    ("limits", "room", "raised"),
    [
        ((20_000, 20_000), Room(1024, 1152), None),
        ((1024, 4096), Room(1024, 1152), (1280, 4096)),
        ((1024, resource.RLIM_INFINITY), Room(1024, 1152), (1280, resource.RLIM_INFINITY)),
        ((256, 1024), Room(768, 896), (1024, 1024)),
        ((200, 200), Room(100, 150), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), Room(1024, None), None),
    ],
)
def test_connections_leave_room_for_other_files(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], room: Room, raised: tuple[int, int] | None
) -> None:
    done, said = list[tuple[int, int]](), list[str]()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, wanted: done.append(wanted))
    assert make_room(said.append) == room
    assert done == ([] if raised is None else [raised])
    assert any("is raised from" in text for text in said) == (raised is not None)
    assert any("at most" in text for text in said) == (room.most < 1024)
