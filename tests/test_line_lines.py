"""Paths on standard input that are no paths end nothing and take no more memory than a line may have."""

import io
import os
import threading
from pathlib import Path

from padim_jax.line.backlog import Arrival, Backlog
from padim_jax.line.judge import Photo, _read
from padim_jax.line.sources.lines import Lines
from padim_jax.line.sources.source import stamp_of


def find(content: bytes) -> list[Arrival]:
    found = list[Arrival]()
    Lines(io.BytesIO(content).read).find(found.append, threading.Event())
    return found


def test_a_nul_in_a_line_is_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    broken, whole = find(b"a\0b.png\n" + os.fsencode(tmp_path / "a.png") + b"\n")
    assert broken.stamp == stamp_of(broken.path) == ""
    assert whole.stamp
    read = _read(Photo("-", broken.item, broken.path), None)  # type: ignore[arg-type] - not come to
    assert "null" in read.reason


def test_a_line_that_does_not_end_takes_no_memory_and_the_next_ones_are_told() -> None:
    class Endless:
        def __init__(self) -> None:
            self.left = 200

        def read(self, count: int) -> bytes:
            self.left -= 1
            return (b"x" * count if self.left > 1 else b"x\nnext.png\n") if self.left > 0 else b""

    found = list[Arrival]()
    Lines(Endless().read).find(found.append, threading.Event())
    first, second = found
    assert len(first.item) < 2**15 + 4096
    assert first.stamp == ""
    assert second.path.name == "next.png"
    (alone,) = find(b"y" * 2**17)  # and where the stream ends with it
    assert len(alone.item) < 2**15 + 4096


def test_what_comes_once_a_backlog_is_closed_is_given_back() -> None:
    backlog = Backlog(1)
    backlog.close()
    arrival = Arrival("-", "a", Path("a"), "")
    assert backlog.put(arrival) == arrival
    assert backlog.is_done
