"""One writer at a time, and nothing removed that is not ours."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from padim_jax.artifact.ownership import LOCK, FolderInUse, NotOurs, check_claim, claim, is_ours, locked, mark, remove

HOLD = """
import sys, time
from pathlib import Path
from padim_jax.artifact.ownership import locked
with locked(Path(sys.argv[1]), "hold"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_writer_is_told_who_holds_the_folder_and_a_dead_one_does_not_block(tmp_path: Path) -> None:
    process = hold(tmp_path / "model")
    with pytest.raises(FolderInUse, match=rf"update: .*model is being written by process {process.pid} on .* since"):  # noqa: SIM117
        with locked(tmp_path / "model", "update"):
            pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "model" / LOCK).exists()
    with locked(tmp_path / "model", "update"):
        assert json.loads((tmp_path / "model" / LOCK).read_text())["process"] == os.getpid()
    assert not (tmp_path / "model" / LOCK).exists()


def test_a_folder_has_one_lock_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with locked(Path("model"), "outer"), locked(tmp_path / "link" / "model", "inner"):
        assert (tmp_path / "model" / LOCK).exists()
    assert not (tmp_path / "model").exists()


def test_a_thread_may_take_its_lock_again_and_another_may_not(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            with locked(tmp_path / "model", "other"):
                pass
        except FolderInUse as error:
            refused.append(str(error))

    with locked(tmp_path / "model", "outer"):
        with locked(tmp_path / "model", "inner"):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert not (tmp_path / "model").exists()  # it was created for the lock and nothing was written


def test_a_file_is_no_folder_to_lock(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    with pytest.raises(OSError, match="is a file, wanted a folder"):  # noqa: SIM117
        with locked(tmp_path / "model", "fit"):
            pass


def test_files_of_others_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mean.png").touch()
    words = (
        rf"inspect: {tmp_path}/mean\.png already exists and was not written by padim; move it away, or choose another"
    )
    with pytest.raises(FileExistsError, match=words):
        claim(tmp_path, ("images.csv", "mean.png"), "inspect")
    claim(tmp_path, ("images.csv",), "inspect")
    assert not is_ours(tmp_path)
    claim(tmp_path, ("mean.png",), "inspect", earlier=lambda path: path.name == "mean.png")
    assert not is_ours(tmp_path)
    claim(tmp_path / "new", ("mean.png",), "inspect")
    (tmp_path / "new" / "mean.png").touch()
    claim(tmp_path / "new", ("mean.png",), "inspect")


def test_a_folder_that_is_replaced_whole_needs_a_mark_of_its_own(tmp_path: Path) -> None:
    mark(tmp_path / "out")
    (tmp_path / "out" / "maps").mkdir()
    with pytest.raises(NotOurs, match="maps already exists and was not written by padim"):
        check_claim(tmp_path / "out", (), "score", folders=("maps",))
    (tmp_path / "out" / "maps").rmdir()
    mark(tmp_path / "ours")
    (tmp_path / "out" / "maps").symlink_to(tmp_path / "ours")
    with pytest.raises(NotOurs, match="maps already exists"):
        check_claim(tmp_path / "out", (), "score", folders=("maps",))
    (tmp_path / "out" / "maps").unlink()
    check_claim(tmp_path / "out", (), "score", folders=("maps",))
    assert not (tmp_path / "out" / "maps").exists()


def test_only_marked_folders_are_removed(tmp_path: Path) -> None:
    foreign, ours = tmp_path / "foreign", tmp_path / "ours"
    (foreign / "deep").mkdir(parents=True)
    remove(foreign)
    assert foreign.exists()
    with pytest.raises(FileExistsError, match="already exists and was not written by padim"):
        mark(foreign)
    mark(ours)
    (ours / "rows").touch()
    mark(ours)
    assert is_ours(ours)
    remove(ours)
    assert not ours.exists()
