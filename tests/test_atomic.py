"""Files replaced in one step: nobody else's file is touched on the way."""

import os
import re
import secrets
from pathlib import Path

import pytest

from weights_conversion.atomic import write_atomically


def test_a_file_of_the_temporary_name_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([7, 7, 8])
    monkeypatch.setattr(secrets, "randbelow", lambda most: next(numbers))
    foreign = [tmp_path / f".a.txt.{os.getpid()}.tmp", tmp_path / f".a.txt.{os.getpid()}00000007.tmp"]
    for path in foreign:
        path.write_text("precious")
    write_atomically(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert [path.read_text() for path in foreign] == ["precious"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.txt", *(path.name for path in foreign)])


def test_a_link_of_the_temporary_name_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([7, 8])
    monkeypatch.setattr(secrets, "randbelow", lambda most: next(numbers))
    (tmp_path / f".a.txt.{os.getpid()}00000007.tmp").symlink_to(tmp_path / "elsewhere")
    write_atomically(tmp_path / "a.txt", b"new")
    assert not (tmp_path / "elsewhere").exists()


def test_the_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_what_failed_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.json").write_bytes(b"old")
    seen: list[str] = []

    def full(descriptor: int) -> None:
        seen.extend(path.name for path in tmp_path.iterdir())
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(tmp_path / "model.json", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
    # the names that a model's folder may hold (padim_jax.artifact.folder.check_writable)
    assert any(re.fullmatch(r"\.?model\.json(\.\d+\.tmp)", name) for name in seen)
