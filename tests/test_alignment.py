"""Parts that don't lie alike are told at fit, with what to try; parts that do are not."""

import numpy as np
import pytest
from PIL import Image

from padim_jax.method.alignment import FEWEST, excess, explained_variance, remarks, split_in_two, two_peaked_limit
from tests.conftest import write_images
from tests.test_cli import run

SIZES = "--tap block2 --tap block4 --n-channels 12 --image-size 64 --crop-size 64 --batch-size 8".split()


def parts(angles: np.ndarray, seed: int = 0) -> np.ndarray:
    """Brackets with a hole, turned, on a grey table with a little noise."""
    rng = np.random.default_rng(seed)
    part = np.full((64, 64), 90, np.uint8)
    part[14:50, 18:30] = 200
    part[38:50, 18:48] = 220
    part[20:26, 21:27] = 30
    turned = [
        np.asarray(Image.fromarray(part).rotate(angle, resample=Image.Resampling.BILINEAR, fillcolor=90))
        for angle in angles
    ]
    noise = rng.normal(0, 4, (len(angles), 64, 64))
    return np.clip(np.stack(turned)[..., None] + noise[..., None], 0, 255).astype(np.uint8).repeat(3, axis=3)


@pytest.mark.parametrize(
    ("name", "angles", "words"),
    [
        ("still", np.zeros(40), None),
        ("turned", np.linspace(0, 350, 40), "the parts do not lie alike: .* try --align rigid"),
        ("two ways", np.arange(40) % 2 * 180.0, "the images fall into two groups at .* fit a model for each"),
    ],
)
def test_fit_says_how_parts_lie(
    tmp_path, capsys: pytest.CaptureFixture[str], name: str, angles: np.ndarray, words: str | None
) -> None:
    import re

    write_images(tmp_path / "good", parts(angles))
    code, _, err = run(capsys, "fit", tmp_path / "good", "--out", tmp_path / "m", *SIZES)
    assert code == 0
    if words is None:
        assert "lie alike" not in err
        assert "two groups" not in err
    else:
        assert re.search(words, err), err


def test_chance_gives_about_one() -> None:
    x = np.random.default_rng(0).standard_normal((400, 60, 20))
    x += 2 * np.random.default_rng(4).standard_normal((400, 1, 20))
    assert explained_variance(x) == pytest.approx(0.8, abs=0.02)
    assert 0.8 < excess(x, 1e-3) < 1.2
    assert remarks(x, 1e-3) == []
    spread = x * np.exp(np.random.default_rng(1).standard_normal((400, 60, 1)))  # now and then far out
    assert excess(spread, 1e-3) > 2
    assert remarks(x[:, : FEWEST - 1], 1e-3) == []


def test_the_excess_is_that_of_refits() -> None:
    x = np.random.default_rng(2).standard_normal((5, 24, 6))
    distances = np.zeros((5, 24))
    for p in range(5):
        for i in range(24):
            others = np.delete(x[p], i, axis=0)
            difference = x[p, i] - others.mean(axis=0)
            distances[p, i] = difference @ np.linalg.inv(np.cov(others.T) + 0.1 * 23 / 22 * np.eye(6)) @ difference
    from scipy.stats import f

    limit = 6 * (23**2 - 1) / (23 * 17) * f.ppf(1 - 1 / 5, 6, 17)
    assert excess(x, 0.1) == pytest.approx(np.sqrt(np.median(distances.max(axis=0)) / limit), rel=0.02)


def test_two_equal_peaks_are_two_groups() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((50, 40, 8)) + 9 * rng.standard_normal((50, 1, 8)) + 8 * (np.arange(40) % 2)[None, :, None]
    assert np.mean(split_in_two(x[..., 0])[0] >= two_peaked_limit(40)) == 1
    assert any("two groups at 100% of the positions" in text for text in remarks(x, 1e-3))
