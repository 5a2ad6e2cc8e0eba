"""What a fleet takes for an image: photos and paths; and how it refuses anything else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.fleet import Fleet
from padim_jax.images import UnreadableImage, read_image
from tests.conftest import SMALL, images


@pytest.fixture
def photo() -> np.ndarray:
    """A photo larger than what the network sees."""
    return images(1, padim.PadimConfig(crop_size=(60, 80)))[0]


@pytest.fixture
def models(small_model: padim.Padim, tmp_path: Path) -> Path:
    padim.save(small_model, tmp_path / "models" / "bracket")
    return tmp_path / "models"


def test_a_fleet_scores_a_photo_as_it_scores_its_file(
    models: Path, photo: np.ndarray, small_model: padim.Padim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo).save("photo.png")
    seen = read_image(Path("photo.png"), SMALL)
    expected = padim.score(small_model, seen[None]).anomaly_map
    stream = [("bracket", item) for item in (photo, "photo.png", Path("photo.png"), seen)]
    for _, scores in Fleet(models, 10**9).score(stream):
        np.testing.assert_allclose(scores.anomaly_map, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        ("nowhere.png", UnreadableImage, "nowhere"),
        (np.zeros((8, 8, 3), np.uint8), ValueError, "Fleet.score: images are smaller than the crop"),
        (np.zeros((60, 80), np.uint8), ValueError, "Fleet.score: images are"),
        (np.zeros((60, 80, 3)), TypeError, "Fleet.score: images must be a uint8 array"),
    ],
)
def test_a_fleet_tells_what_is_no_photo(models: Path, image: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        list(Fleet(models, 10**9).score([("bracket", image)]))
