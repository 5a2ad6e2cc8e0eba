"""Hostile files: each is named with its reason, none gets a score, none stops or blocks the others."""

import math
import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest

from padim_jax.images import UnreadableImage, find_images, load_batches
from tests.conftest import SMALL
from tests.hostile_files import write_bad, write_good
from tests.image_files import png
from tests.test_cli import SIZES, rows, run


def test_score_survives_hostile_files(good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "fit", good_dir, "--out", tmp_path / "model", *SIZES)[0] == 0
    folder = tmp_path / "hostile"
    folder.mkdir()
    patterns, good = write_bad(folder), write_good(folder)
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    code, out, err = run(capsys, "score", tmp_path / "model", folder, "--out", tmp_path / "out", "--batch-size", 4)
    said = dict(re.findall(rf"^not scored: {re.escape(str(folder))}/(.+?): (.*)$", err, re.MULTILINE))
    assert code == 1
    assert set(said) == set(patterns)
    wrong = {name: reason for name, reason in said.items() if not re.search(patterns[name], reason)}
    assert not wrong
    scores = {
        str(Path(row["path"]).relative_to(folder)): float(row["score"]) for row in rows(tmp_path / "out" / "scores.csv")
    }
    assert set(scores) == good
    assert all(map(math.isfinite, scores.values()))
    assert scores["good.png"] == pytest.approx(scores["folder.png/inside.png"], rel=1e-5)
    assert f"note: {folder}/film.gif: first of 12 frames" in err
    assert "2 pipe, socket or device" in err
    assert not re.search(r"Warning|WARN|Traceback", out + err)


def test_pipes_named_outright_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.png"))
        (tmp_path / "zero.png").symlink_to("/dev/zero")
        paths = find_images([tmp_path / "pipe.png", tmp_path / "s.png", tmp_path / "zero.png"]).paths
        refused: list[UnreadableImage] = []
        assert list(load_batches(paths, SMALL, 4, refused.append)) == []
    assert [error.path for error in refused] == list(paths)
    assert {error.reason for error in refused} == {"it is a pipe, socket or device, not a file"}


@pytest.mark.slow
def test_many_equal_notes_are_few_lines(good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "fit", good_dir, "--out", tmp_path / "model", *SIZES)[0] == 0
    folder = tmp_path / "glass"
    folder.mkdir()
    for index in range(8):
        (folder / f"{index}.png").write_bytes(png(np.full((40, 56, 4), 99, np.uint8)))
    code, _, err = run(capsys, "score", tmp_path / "model", folder, "--out", tmp_path / "out")
    assert code == 0
    assert err.count("transparent pixels laid on black") == 6
    assert f"note: {folder}/4.png: transparent" in err
    assert "note: 3 more files: transparent" in err
