"""The first things a user meets: versions and help texts, at once and in any code page."""

import subprocess
import sys

import pytest

from padim_jax.cli import COMMANDS

HEAVY = {"jax", "jaxlib", "flax", "orbax", "scipy", "sklearn", "cv2", "tensorflow_datasets", "grain"}
DECLARED = [name for name, entry in COMMANDS.items() if entry.place.split(":")[0].endswith((".making", ".looking"))]
AT_ONCE = [["--version"], ["--help"], ["fit"], ["fit", "--nonsense"], *([name, "--help"] for name in DECLARED)]


@pytest.mark.parametrize("arguments", AT_ONCE, ids=" ".join)
def test_versions_and_help_texts_need_no_jax(arguments: list[str]) -> None:
    code = f"import sys; from padim_jax.cli import main; main({arguments}); print({HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
