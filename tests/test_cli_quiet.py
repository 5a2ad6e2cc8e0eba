"""Nothing reaches the user that is not padim's own: no line of the libraries below it."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SMALL, images, write_images

FIT = "--tap block2 --tap block4 --n-channels 12 --image-size 40x56 --crop-size 32x48 --batch-size 4".split()
# what padim says in these runs, beside lines of progress
OURS = (
    r"|(checking depths|fit|calibrate|score|download) .*images/s.*"
    r"|warning: \d+ images are too few for a false-alarm rate .*"
    r"|the model sees \d+% of the area of each image; .*|part: 4 good images are too few for .*"
    r"|1/1 part lite0 seed 0: image AUROC .*"
    r"|.*model: efficientnet_lite0, .*|calibrated on \d+ good images .*"
)


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "padim_jax.cli", *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_only_ours(text: str) -> None:
    assert [line for line in text.splitlines() if not re.fullmatch(OURS, line)] == []


@pytest.fixture
def part(tmp_path: Path) -> Path:
    write_images(tmp_path / "part" / "good", images(8, SMALL))
    write_images(tmp_path / "part" / "bad", images(2, SMALL, seed=3))
    return tmp_path / "part"


@pytest.mark.slow
def test_fit_and_evaluate_say_nothing_but_their_own(part: Path, tmp_path: Path) -> None:
    for arguments in (
        ("fit", part / "good", "--out", tmp_path / "model", *FIT),
        ("evaluate", part, "--out", tmp_path / "evaluation", "--image-size", "40x56", "--crop-size", "32x48"),
    ):
        process = start(*arguments)
        told, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
        assert told
        assert_only_ours(said)


@pytest.mark.slow
def test_processes_that_meet_say_nothing_but_their_own(part: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    shared = ("fit", part / "good", "--out", tmp_path / "model", *FIT, "--coordinator", place, "--num-processes", 2)
    processes = [start(*shared, "--process-id", own) for own in range(2)]
    spoken = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], spoken
    assert "fitted on 8 images" in spoken[0][0]
    for text in (text for both in spoken for text in both):
        assert_only_ours(text)
