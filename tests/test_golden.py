"""What the commands made of the same files when the golden record was written, they make today.

``python -m tests.test_golden`` writes the record anew, where a change of the numbers is meant.
"""

import csv
import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.cli import main
from tests.conftest import SMALL, images, write_images

RECORD = Path(__file__).parent / "golden.npz"
SIZES = "--tap block2 --tap block4 --image-size 40x56 --crop-size 32x48 --sigma 1.5 --batch-size 8".split()
MODELS = {
    "ridge": ["--n-channels", "12"],
    "semi-orthogonal": ["--n-channels", "12", "--projection", "semi-orthogonal", "--neighbourhood", "3"],
    "ledoit-wolf": ["--n-channels", "12", "--covariance", "ledoit-wolf"],
}


def machine() -> str:
    """Digest of what decides how float32 is rounded: JAX, and the processor, of which instructions do not tell all.

    Two processors with the same instructions were off by 1.4e-6 from each other.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    kinds = ("flags", "cpu family", "model", "stepping", "cache size")
    facts = [next((line for line in lines if line.startswith(kind)), "") for kind in kinds]
    return hashlib.sha256(f"{jax.__version__} {platform.machine()} {facts}".encode()).hexdigest()


def run(*arguments: object) -> None:
    assert main(list(map(str, arguments))) == 0


def produce(name: str, folder: Path) -> dict[str, np.ndarray]:
    """All that the commands give for the model ``name``, as arrays."""
    good, other = folder / "good", folder / "other"
    write_images(good, images(20, SMALL))
    write_images(other, images(5, SMALL, seed=3))
    run("fit", good, "--out", folder / "model", *SIZES, *MODELS[name])
    run("score", folder / "model", other, "--out", folder / "scores")
    model = padim.load(folder / "model")
    scores = padim.score(model, images(5, SMALL, seed=3))
    moments = padim.load_updatable(folder / "model").moments.moments
    assert model.calibration is not None
    assert scores.p_value is not None
    manifest = json.loads((folder / "model" / "model.json").read_text())
    with (folder / "scores" / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {
        "image_score": np.asarray(scores.image_score),
        "anomaly_map": np.asarray(scores.anomaly_map),
        "p_value": np.asarray(scores.p_value),
        "left_out": np.asarray(model.calibration.scores),
        "threshold": np.asarray(model.calibration.threshold),
        "mean": np.asarray(moments.mean),
        "scatter": np.concatenate([np.asarray(panel)[::5].ravel() for panel in moments.scatter.panels]),
        "csv_numbers": np.array([[float(row[key]) for key in ("score", "p_value", "threshold")] for row in rows]),
        "csv_places": np.array([[int(row["row"]), int(row["column"])] for row in rows], float),
        "text": np.array(
            [
                ",".join(rows[0]),
                ",".join(sorted(manifest)),
                ",".join(f"{key}={shape}" for key, shape in sorted(manifest["arrays"].items())),
                json.dumps(manifest["embedding"], sort_keys=True) if "embedding" in manifest else "",
                str(len(manifest["images"])),
                ",".join(sorted(path.name for path in (folder / "scores").rglob("*"))),
            ]
        ),
    }


@pytest.fixture(scope="module")
def golden() -> Mapping[str, np.ndarray]:
    with np.load(RECORD) as record:
        return dict(record)


@pytest.mark.optimised
@pytest.mark.parametrize("name", ["ridge", *(pytest.param(name, marks=pytest.mark.slow) for name in list(MODELS)[1:])])
def test_numbers_and_files_are_those_of_the_record(name: str, golden: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    found = produce(name, tmp_path)
    wanted = {key.split("/")[1]: value for key, value in golden.items() if key.startswith(f"{name}/")}
    assert found.keys() == wanted.keys()
    np.testing.assert_array_equal(found.pop("text"), wanted.pop("text"))
    allowed = 1e-6 if machine() == str(golden["machine"]) else 1e-4  # another processor rounds in other places
    for key, value in found.items():
        off = np.abs(value - wanted[key]).max() / np.abs(wanted[key]).max()
        assert off <= allowed, f"{key} is off by {off:.2g} of its largest number"


def write_record(folder: Path) -> None:
    """Write the golden record."""
    found = {f"{name}/{key}": value for name in MODELS for key, value in produce(name, folder / name).items()}
    np.savez_compressed(RECORD, machine=np.array(machine()), **found)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        write_record(Path(scratch))
