"""Settings are chosen by defects that are drawn on good images: what is chosen, what it follows from, what it costs."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.method.choosing import FEWEST_IMAGES, Choice, compare, images_computed, spread
from padim_jax.method.pseudo_defects import FAMILIES, pseudo_defects
from padim_jax.method.standard import MapMoments
from tests.conftest import SMALL, images, write_images

DISTANCE = replace(SMALL, image_size=SMALL.crop, covariance="pooled", ridge="auto")
STANDARDISED = replace(DISTANCE, anomaly_map="standardised")
CANDIDATES = (STANDARDISED, DISTANCE)


def edged(count: int, seed: int = 0) -> np.ndarray:
    """Quiet parts with a band where all that is good varies, much in some and little in others."""
    rng = np.random.default_rng(seed)
    quiet = 128 + 2 * rng.normal(size=(count, *SMALL.crop, 3))
    quiet[:, :8] += 60 * np.exp(rng.normal(size=(count, 1, 1, 1))) * rng.normal(size=(count, 8, SMALL.crop[1], 1))
    return np.clip(quiet, 0, 255).astype(np.uint8)


def dusty(count: int, seed: int = 0) -> np.ndarray:
    """Parts of which one half varies evenly, and the other not at all, but for dust on a fifth of them."""
    rng = np.random.default_rng(seed)
    parts = np.full((count, *SMALL.crop, 3), 128.0)
    parts[:, :16] += 40 * rng.normal(size=(count, 16, SMALL.crop[1], 1))
    for index in np.flatnonzero(rng.uniform(size=count) < 0.2):
        row, column = rng.integers((17, 1), (29, 44))
        parts[index, row : row + 3, column : column + 3] += 30
    return np.clip(parts, 0, 255).astype(np.uint8)


@pytest.mark.slow
def test_standardised_maps_are_chosen_where_good_parts_have_an_edge_that_varies(lite0: padim.Backbone) -> None:
    choice = padim.choose(lite0, edged(40), CANDIDATES[::-1])
    assert choice.config == STANDARDISED
    assert choice.gain(1) > choice.standard_errors[1] > 0
    assert choice.describe().startswith("anomaly_map=standardised is chosen: defects drawn on 40 good images stand out")


@pytest.mark.slow
def test_distances_are_chosen_where_what_is_still_is_rarely_dusty(lite0: padim.Backbone) -> None:
    choice = padim.choose(lite0, dusty(40), CANDIDATES)
    assert choice.config == DISTANCE
    assert choice.describe().startswith("anomaly_map=distance is chosen: ")


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_the_criterion_is_what_refits_and_numpy_give(lite0: padim.Backbone, masked: bool) -> None:
    good, seed, roi = images(13, SMALL), 3, None
    if masked:
        roi = np.zeros(SMALL.crop, bool)
        roi[4:28, 10:40] = True
    plain = replace(SMALL, ridge=0.5, seed=seed, image_score="top-1%")
    candidates = plain, replace(plain, anomaly_map="standardised")
    choice = compare(lite0, good, candidates, roi=roi, batch_size=4)

    digests = [hashlib.sha256(f"{seed}\0".encode() + np.asarray(image).tobytes()).digest() for image in good]
    good = good[np.argsort(np.array(digests, object))]
    maps = np.zeros((1 + len(FAMILIES), len(good), *SMALL.crop))
    box = (slice(None), slice(4, 28), slice(10, 40)) if masked else (slice(None),)
    for part in (slice(k, None, 4) for k in range(4)):
        others = np.delete(good, np.arange(len(good))[part], axis=0)
        model = padim.with_roi(padim.fit(lite0, [others], plain), roi)
        for index, family in enumerate((None, *FAMILIES)):
            shown = good[part].copy()
            if family is not None:
                shown[box] = pseudo_defects(shown[box], family, seed).images
            maps[index, part] = np.asarray(padim.score(model, shown).anomaly_map)
    inside = np.ones(SMALL.crop, bool) if roi is None else roi
    values = maps[..., inside]
    standardised = np.empty_like(values)
    for i in range(len(good)):
        rest = MapMoments.of(np.delete(values[0], i, axis=0))
        standardised[:, i] = (values[:, i] - rest.mean) / rest.spread()
    each = []
    for array in (values, standardised):
        k = max(1, round(0.01 * array.shape[-1]))
        scores = np.sort(array, axis=-1)[..., -k:].mean(axis=-1)
        a = np.tanh((scores[1:] - scores[0].mean()) / (2 * scores[0].std(ddof=1)))
        each.append(a.mean(axis=0))
    np.testing.assert_allclose(choice.criteria, np.mean(each, axis=1), atol=2e-3)
    error = np.std(each[1] - each[0], ddof=1) / len(good) ** 0.5
    np.testing.assert_allclose(choice.standard_errors, [0, error], atol=1e-3)


@pytest.mark.slow
def test_neither_order_nor_copies_nor_batches_matter(lite0: padim.Backbone) -> None:
    good = edged(14)
    one = compare(lite0, good, CANDIDATES)
    other = compare(lite0, np.concatenate([good[::-1], good[:5]]), CANDIDATES, batch_size=5)
    assert (one.images, other.images) == (14, 14)
    np.testing.assert_allclose(one.criteria, other.criteria, atol=2e-3)
    assert compare(lite0, good, CANDIDATES) == one
    reseeded = compare(lite0, good, [replace(config, seed=1) for config in CANDIDATES])
    assert abs(reseeded.criteria[0] - one.criteria[0]) > 1e-3


@pytest.mark.slow
def test_candidates_that_share_distances_cost_one_fit(lite0: padim.Backbone) -> None:
    done, third = list[int](), replace(DISTANCE, image_score="top-1%")
    candidates = (*CANDIDATES, third)
    choice = compare(lite0, images(12, SMALL), candidates, advance=done.append)
    assert len(choice.criteria) == 3
    assert sum(done) == images_computed(candidates, 12) == 9 * 12
    assert images_computed((*candidates, replace(DISTANCE, neighbourhood=3)), 12) == 2 * 9 * 12
    assert images_computed((replace(SMALL, ridge=0.1), SMALL), 12) == 2 * 8 * 12
    components = replace(DISTANCE, projection="principal-components")
    assert images_computed((components, replace(components, anomaly_map="standardised")), 12) == 10 * 12
    done.clear()
    compare(
        lite0, images(12, SMALL), (components, replace(components, anomaly_map="standardised")), advance=done.append
    )
    assert sum(done) == 10 * 12


def test_many_images_are_sampled_evenly() -> None:
    assert spread(0) == []
    assert spread(64) == list(range(64))
    chosen = spread(1000)
    assert len(chosen) == 64
    assert {chosen[0], 999 - chosen[-1]} == {7}
    assert set(np.diff(chosen)) == {15, 16}


def test_too_few_images_keep_the_first_candidate(lite0: padim.Backbone) -> None:
    few = images(FEWEST_IMAGES - 1, SMALL)
    choice = padim.choose(lite0, [few, few], CANDIDATES)
    assert choice == Choice(CANDIDATES, 11)
    assert choice.config == STANDARDISED
    assert choice.describe() == (
        "11 different images are too few to choose by, wanted 12; anomaly_map=standardised is kept"
    )


@pytest.mark.parametrize(
    ("criteria", "errors", "index", "words"),
    [
        ((0.5, 0.52), (0, 0.03), 0, "a is kept, for nothing is better beyond doubt: .* \\+0.020 ± 0.030"),
        ((0.5, 0.4), (0, 0.03), 0, "a is kept, for nothing is better: .*with b"),
        ((0.5, 0.54, 0.6), (0, 0.03, 0.2), 1, "b is chosen: .* 0.540 of 1 with b, and by 0.500 with a"),
        ((0.5, 0.54, 0.6), (0, 0.03, 0.05), 2, "c is chosen: "),
    ],
)
def test_the_first_is_left_only_beyond_doubt(
    criteria: tuple[float, ...], errors: tuple[float, ...], index: int, words: str
) -> None:
    names = [f"sigma={sigma}" for sigma in (1.0, 2.0, 3.0)]
    candidates = tuple(replace(SMALL, sigma=sigma) for sigma in (1, 2, 3))[: len(criteria)]
    choice = Choice(candidates, 20, criteria, errors)
    assert (choice.index, choice.config) == (index, candidates[index])
    text = choice.describe()
    for letter, name in zip("abc", names, strict=True):
        text = text.replace(name, letter)
    assert re.match(words, text), text


def test_what_can_not_be_compared_is_refused(lite0: padim.Backbone) -> None:
    with pytest.raises(ValueError, match="choose: no candidates; give two or more PadimConfigs"):
        padim.choose(lite0, images(12, SMALL), [])
    with pytest.raises(ValueError, match=r"choose: the candidates have image_size=\(40, 56\), \(32, 48\), wanted one"):
        padim.choose(lite0, images(12, SMALL), [SMALL, DISTANCE])
    with pytest.raises(ValueError, match=r"choose: images are .*\(12, 16, 16, 3\), wanted \(n, 32, 48, 3\)"):
        padim.choose(lite0, np.zeros((12, 16, 16, 3), np.uint8), CANDIDATES)


def test_a_folder_is_looked_at_as_its_images_are(lite0: padim.Backbone, tmp_path: Path) -> None:
    good = edged(13)
    write_images(tmp_path / "good", good)
    np.testing.assert_allclose(
        padim.choose(lite0, tmp_path / "good", CANDIDATES).criteria,
        padim.choose(lite0, (good[:6], good[6:]), CANDIDATES).criteria,
        atol=2e-3,
    )
