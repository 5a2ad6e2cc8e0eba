"""Connections of a service: how many there may be, and how long each may take to ask and to take its answer."""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from padim_jax.lazy import extra

with extra("serve"):
    from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    import resource
except ImportError:  # Windows has no limit of open files
    resource = None

_MOST = 1024  # connections at a time, beyond which new ones are told to come again
_RESERVE = 256  # open files beyond connections: half for refusals in words, half for models, photos and the store
_LAST = 5.0  # seconds that an answer has to be taken once the service ends
_SILENCE = 60.0  # seconds until it is said again that connections are refused


@dataclass(frozen=True)
class Room:
    """How many connections there may be.

    Attributes:
      most: at a time; beyond, requests are answered with 503.
      files: open files of the process at which a connection is closed as soon as it is made; None for any number.
    """

    most: int = _MOST
    files: int | None = None


def make_room(remark: Callable[[str], None]) -> Room:
    """Room for connections below the process's limit of open files, which is raised where that is too low.

    Args:
      remark: told that the limit was raised, or that it can't be and how many connections there may be.
    """
    if resource is None:
        return Room()
    (soft, hard), wanted = resource.getrlimit(resource.RLIMIT_NOFILE), _MOST + _RESERVE
    if soft == resource.RLIM_INFINITY:
        return Room()
    if soft < wanted and soft != hard:
        before, soft = soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        remark(f"the limit of open files is raised from {before} to {soft} for this process")
    most = min(_MOST, soft - min(_RESERVE, soft // 2))
    if most < _MOST:
        remark(
            f"at most {most} connections at a time, since the process may have {soft} files open; for {_MOST} raise "
            f"its limit to {wanted} (ulimit -n, or LimitNOFILE= of its systemd unit)"
        )
    return Room(most, most + min(_RESERVE, soft - most) // 2)


class Listener(socket.socket):
    """A listening socket that closes connections beyond a number of open files, so that other files can be opened.

    Args:
      bound: the socket that listens, which is taken over.
      files: as of :class:`Room`.
      refused: told of each connection that was closed.
    """

    def __init__(self, bound: socket.socket, files: int | None, refused: Callable[[], None]) -> None:
        super().__init__(bound.family, bound.type, bound.proto, bound.detach())
        self._files, self._refused = files, refused

    def accept(self) -> tuple[socket.socket, object]:
        """A connection.

        Raises:
          BlockingIOError: none waits, or one did and was closed.
        """
        connection, address = super().accept()
        # the system gives the lowest number that is free, so as many files are open, during handshakes of TLS too
        if self._files is None or connection.fileno() < self._files:
            return connection, address
        connection.close()
        self._refused()
        raise BlockingIOError


def refusals(count: Callable[[], None], remark: Callable[[str], None]) -> Callable[[], None]:
    """What counts each refused connection, and says so at most once a minute."""
    said = float("-inf")

    def refused() -> None:
        nonlocal said
        count()
        if time.monotonic() - said >= _SILENCE:
            said = time.monotonic()
            remark("connections are closed as they come, since too many are open; padim_refused_total counts them")

    return refused


def patient(seconds: float, not_taken: Callable[[], None] = lambda: None) -> type[H11Protocol]:
    """A protocol that ends connections whose clients are slow.

    Args:
      seconds: within which the head of a request has to arrive whole, and an answer has to be taken whole.
      not_taken: told of each answer that was not.
    """

    class Protocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            # an answer is written in two parts, of which the second would wait 40 ms for the client to confirm the
            # first; asyncio sees to that itself only for listeners that name their protocol
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.patience = seconds
            self.deadline: asyncio.TimerHandle | None = None  # of a request's head
            self.taking: asyncio.TimerHandle | None = None  # the deadline of an answer
            self._expect_head()
            # so that writing is paused as soon as one byte waits for the client, and goes on when none does; at once
            # where TLS has something to send
            transport.set_write_buffer_limits(high=1, low=0)

        def data_received(self, data: bytes) -> None:
            if self.deadline is None and (self.cycle is None or self.cycle.response_complete):
                self._expect_head()
            super().data_received(data)
            if self.deadline is not None and self.cycle is not None and not self.cycle.response_complete:
                self.deadline.cancel()
                self.deadline = None

        def pause_writing(self) -> None:
            super().pause_writing()
            self._expect_taking()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_taking()

        def shutdown(self) -> None:
            self.patience = min(seconds, _LAST)
            super().shutdown()
            if self.taking is not None or self.transport.is_closing():  # TLS waits for the other end's farewell
                self._expect_taking()

        def connection_lost(self, exc: Exception | None) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
            self._stop_taking()
            super().connection_lost(exc)

        def _expect_head(self) -> None:
            self.deadline = self.loop.call_later(seconds, self.transport.close)

        def _expect_taking(self) -> None:
            self._stop_taking()
            self.taking = self.loop.call_later(self.patience, self._give_up)

        def _stop_taking(self) -> None:
            if self.taking is not None:
                self.taking.cancel()
                self.taking = None

        def _give_up(self) -> None:
            not_taken()
            self.transport.abort()  # closing would wait for what is written to be taken

    return Protocol
