"""What a service that was killed has left behind is removed by the next one, and nothing else is."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from padim_jax.artifact.ownership import LOCK, MARKER, FolderInUse, NotOurs, mark
from padim_jax.line.service.photos import Photos
from padim_jax.line.service.received import Received

DIGEST, ID = "0a" * 16, "0b" * 16


def fill(folder: Path, *names: str) -> set[str]:
    """Files of these names, with something in them; gives the names."""
    for name in names:
        (folder / name).write_bytes(b"something")
    return set(names)


def killed(program: str, folder: Path) -> None:
    """Run a program on a folder, in which ``end(…)`` is how it is killed."""
    end = "import os, signal; end = lambda *given: os.kill(os.getpid(), signal.SIGKILL); "
    done = subprocess.run([sys.executable, "-c", end + program, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {MARKER, LOCK}


def test_half_written_photos_are_removed_at_the_next_start_and_nothing_else_is(tmp_path: Path) -> None:
    folder = tmp_path / "line.db.photos"
    mark(folder)
    kept = fill(
        folder,
        *(f"{DIGEST}.photo", f"{DIGEST}.{ID}.png", "letter.txt", ".letter.txt.123.tmp", f"{DIGEST}.photo.123.tmp"),
        *(f".{DIGEST}.photo.tmp", f".{DIGEST}.photo.12x.tmp", f".{DIGEST}.{ID}.png.123.tmp.old", f".{ID}.123.tmp"),
    )
    (folder / f".{DIGEST}.photo.7.tmp").mkdir()
    (folder / f".{DIGEST}.photo.8.tmp").symlink_to(tmp_path)
    kept |= {f".{DIGEST}.photo.7.tmp", f".{DIGEST}.photo.8.tmp"}
    fill(folder, f".{DIGEST}.{ID}.png.12300000001.tmp")

    killed(
        "import weights_conversion.atomic as atomic; from pathlib import Path; import sys; atomic.os.fsync = end; "
        f"atomic.write_atomically(Path(sys.argv[1], '{DIGEST}.photo'), b'half')",
        folder,
    )
    assert len(names(folder)) == len(kept) + 2
    Photos(folder, 2).close()
    assert names(folder) == kept


def test_photos_that_another_service_writes_now_are_left_alone(tmp_path: Path) -> None:
    photos = Photos(tmp_path / "photos", 2)
    drafts = fill(tmp_path / "photos", f".{DIGEST}.photo.123.tmp")
    with ThreadPoolExecutor(1) as another, pytest.raises(FolderInUse):
        another.submit(Photos, tmp_path / "photos", 2).result()
    assert names(tmp_path / "photos") == drafts
    photos.close()


def test_received_files_are_there_while_they_are_used_alone(tmp_path: Path) -> None:
    folder = tmp_path / "line.db.received"
    received = Received(folder)
    assert not folder.exists()  # a service that is sent nothing makes none
    with received.files([b"first", b"second"]) as files:
        assert [file.read_bytes() for file in files] == [b"first", b"second"]
        assert {file.parent for file in files} == {folder}
        with ThreadPoolExecutor(1) as another:
            another.submit(Received, folder).result()  # another service of the store starts
            with pytest.raises(FolderInUse, match=r"line.db.received is being written by process \d+"):
                another.submit(received.files([b"third"]).__enter__).result()
        assert [file.read_bytes() for file in files] == [b"first", b"second"]
    assert names(folder) == set()
    with pytest.raises(ZeroDivisionError), received.files([b"first"]):
        _ = 1 / 0
    assert names(folder) == set()


def test_received_files_of_a_service_that_was_killed_are_removed_and_nothing_else_is(tmp_path: Path) -> None:
    folder = tmp_path / "line.db.received"
    killed(
        "from padim_jax.line.service.received import Received; from pathlib import Path; import sys\n"
        "with Received(Path(sys.argv[1])).files([b'a photo', b'another']): end()",
        folder,
    )
    assert names(folder) == {"0.photo", "1.photo"}
    kept = fill(folder, "letter.txt", "0.photo.png", "x.photo", ".0.photo")
    Received(folder)
    assert names(folder) == kept
    fill(folder, "7.photo")  # left by another service since then
    with Received(folder).files([b"first"]):
        assert names(folder) == kept | {"0.photo"}
    assert names(folder) == kept


def test_a_folder_of_somebody_else_is_neither_emptied_nor_written(tmp_path: Path) -> None:
    folder = tmp_path / "line.db.received"
    folder.mkdir()
    mine = fill(folder, "0.photo")
    received = Received(folder)
    with pytest.raises(NotOurs, match=r"0.photo already exists and was not written by padim"), received.files([b"x"]):
        pass
    assert (names(folder), (folder / "0.photo").read_bytes()) == (mine, b"something")
    assert not (folder / MARKER).exists()
