"""What README.md shows runs as it stands there, on one device."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.fleet import Fleet
from padim_jax.images import UnreadableImage, read_image
from tests.conftest import SMALL, images

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def block(section: str) -> str:
    """The first block of Python of a section."""
    return README.split(f"\n## {section}\n")[1].split("\n## ")[0].split("```python\n")[1].split("```")[0]


@pytest.fixture
def photo() -> np.ndarray:
    """A photo larger than what the network sees."""
    return images(1, padim.PadimConfig(crop_size=(60, 80)))[0]


@pytest.fixture
def models(small_model: padim.Padim, tmp_path: Path) -> Path:
    padim.save(small_model, tmp_path / "models" / "bracket")
    return tmp_path / "models"


def test_the_fleet(
    models: Path, photo: np.ndarray, small_model: padim.Padim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo).save("photo.png")
    seen = read_image(Path("photo.png"), SMALL)
    stream = [("bracket", item) for item in (photo, "photo.png", Path("photo.png"), seen)]
    exec(block("Many models"), {"stream": stream})
    wanted = padim.score(small_model, seen[None]).anomaly_map
    for _, scores in Fleet(models, 10**9).score(stream):
        np.testing.assert_allclose(scores.anomaly_map, wanted, rtol=1e-4)


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


def test_the_mesh(lite0: padim.Backbone) -> None:
    given: dict[str, Any] = {
        "backbone": lite0,
        "config": SMALL,
        "batches": [images(8, SMALL), images(8, SMALL, seed=1)],
    }
    exec(block("Many devices, many machines"), given)
    wanted = padim.score(padim.fit(lite0, given["batches"], SMALL), given["images"])
    np.testing.assert_allclose(given["scores"].anomaly_map, wanted.anomaly_map, rtol=2e-3)
