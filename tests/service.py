"""A service in a process of its own, and small images to send it."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.line_parts import parts

NAME = "bracket.padim"


@dataclass
class Running:
    """A service that runs.

    Attributes:
      process: its process.
      address: with a slash at the end.
      store: its store.
      said: lines on standard error so far.
    """

    process: subprocess.Popen[str]
    address: str
    store: Path
    said: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.address.rstrip("/").rsplit(":", 1)[1])

    @property
    def score(self) -> str:
        return f"{self.address}models/{NAME}/score"

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60, trust_env=False, **options)

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said if line.startswith("{")]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def serving(models: Path, store: Path, *options: str, files: int | None = None) -> Iterator[Running]:
    """A service that is ready, and may have so many files open; ended at the end."""
    limited = [] if files is None else ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
    command = [sys.executable, "-m", "padim_jax.cli", "serve", str(models), "--store", str(store), "--port", "0"]
    process = subprocess.Popen(
        [*limited, *command, "--batch-size", "4", "--look-rate", "0.08", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    errors = process.stderr
    reader = threading.Thread(target=lambda: said.extend(iter(errors.readline, "")), daemon=True)
    reader.start()
    try:
        ready = process.stdout.readline()
        assert ready.startswith("ready: "), "".join(said)
        yield Running(process, ready.split(" at ")[1].split(",")[0], store, said)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        reader.join(10)
        process.stdout.close()
        process.stderr.close()


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def good(seed: int = 100) -> bytes:
    return png(parts(1, seed)[0])


def bad(seed: int = 200) -> bytes:
    return png(parts(1, seed, defect=True)[0])


def raw(port: int, request: bytes, *, timeout: float = 10.0) -> bytes:
    """What a service answers to bytes that no client would send; to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(request)
        return received(connection)


def received(connection: socket.socket) -> bytes:
    """All that comes over a connection, until the other end closes it."""
    found = b""
    while part := connection.recv(65536):
        found += part
    return found
