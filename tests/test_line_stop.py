"""A watch on standard input that never ends can be stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from padim_jax.line.store import Store
from tests.conftest import write_images
from tests.line_parts import fit_model, parts

pytestmark = pytest.mark.slow


def test_a_stream_that_stays_open_does_not_keep_a_watch_from_ending(tmp_path: Path) -> None:
    fit_model(tmp_path / "m")
    paths = write_images(tmp_path / "new", parts(2, seed=5))
    command = [sys.executable, "-m", "padim_jax.cli", "watch", "-", "--model", tmp_path / "m", "--store"]
    command += [tmp_path / "l.db", "--look-rate", "0.2", "--batch-size", "2"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*map(str, command)], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for path in paths:
            process.stdin.write(os.fsencode(path) + b"\n")
        assert all(process.stdout.readline() for _ in paths)  # both are told, while the stream stays open
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(60) == 0, said
    with Store.open(tmp_path / "l.db") as store:
        assert len(list(store.decisions())) == 2
