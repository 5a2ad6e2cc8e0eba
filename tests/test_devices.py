"""The tests in tests/devices, in a process that has eight virtual devices."""

import os
import re
from pathlib import Path

import pytest

from tests.conftest import run_pytest
from tests.devices.conftest import EIGHT

FOLDER = Path(__file__).parent / "devices"


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_on_eight_devices(which: str) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} {EIGHT}"
    said = run_pytest(str(FOLDER), which, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed[1]) >= 4
    assert "skipped" not in said
