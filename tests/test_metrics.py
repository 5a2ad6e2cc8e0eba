"""Metrics against thresholds tried one by one, and against scikit-learn."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from padim_jax.evaluation import metrics
from padim_jax.evaluation.metrics import ImageMetrics, PixelMetrics, PixelScores, image_metrics

Image = tuple[np.ndarray, np.ndarray]  # a map and its mask


def naive_auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    wins = [(a > b) + (a == b) / 2 for a in scores[labels] for b in scores[~labels]]
    return float(np.mean(wins))


def naive_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    area = reached = 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        called = scores >= threshold
        recall = float(labels[called].sum() / labels.sum())
        area += (recall - reached) * float(labels[called].mean())
        reached = recall
    return area


def naive_f1(labels: np.ndarray, scores: np.ndarray, threshold: float) -> float:
    called = scores >= threshold
    return float(2 * (called & labels).sum() / (called.sum() + labels.sum()))


def regions_of(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Sets of pixels that touch by an edge or a corner, by flood fill."""
    left, regions = set(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True)), []
    while left:
        region, front = set(), [left.pop()]
        while front:
            i, j = front.pop()
            region.add((i, j))
            near = {(i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)} & left
            left -= near
            front += near
        regions.append(region)
    return regions


def naive_pro(images: Sequence[Image], limit: float) -> float:
    """Try every score as a threshold, join the points, and add up trapezoids that are cut at the limit."""
    regions = [[scores[at] for at in region] for scores, mask in images for region in regions_of(mask)]
    normal = np.concatenate([scores[~mask] for scores, mask in images])
    points = [(0.0, 0.0)]
    for threshold in sorted({float(score) for scores, _ in images for score in scores.flat}, reverse=True):
        overlap = np.mean([np.mean(np.array(region) >= threshold) for region in regions])
        points.append((float(np.mean(normal >= threshold)), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + (y1 - y0) * (end - x0) / (x1 - x0) / 2)
    return area / limit


def naive_pixel_metrics(images: Sequence[Image], limit: float = 0.3) -> PixelMetrics:
    labels = np.concatenate([mask.ravel() for _, mask in images])
    scores = np.concatenate([scores.ravel() for scores, _ in images])
    n_regions = sum(len(regions_of(mask)) for _, mask in images)
    found = PixelMetrics(None, None, None, n_regions, int((~labels).sum()), int(labels.sum()), True, 0.0)
    if labels.all() or not labels.any():
        return found
    auroc, average_precision = naive_auroc(labels, scores), naive_average_precision(labels, scores)
    return replace(found, auroc=auroc, average_precision=average_precision, pro=naive_pro(images, limit))


def pixel_metrics(images: Sequence[Image], fpr_limit: float = 0.3, limit: int = 2**28) -> PixelMetrics:
    scores = PixelScores(limit)
    for anomaly_map, mask in images:
        scores.add(anomaly_map, mask)
    return scores.metrics(fpr_limit)


def assert_close(found: ImageMetrics | PixelMetrics, wanted: ImageMetrics | PixelMetrics) -> None:
    assert astuple(found) == pytest.approx(astuple(wanted), rel=1e-12, abs=1e-12)


def some_images(seed: int, shapes: Sequence[tuple[int, int]] = ((9, 7), (5, 12)), density: float = 0.3) -> list[Image]:
    """Noise that is higher, on average, inside random masks; the first mask is empty."""
    rng = np.random.default_rng(seed)
    images = []
    for index, shape in enumerate(shapes):
        mask = rng.random(shape) < density * (index > 0)
        images.append(((rng.normal(size=shape) + mask).astype(np.float32), mask))
    return images


def mapped(images: Sequence[Image], function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> list[Image]:
    return [(function(scores, mask).astype(np.float32), mask) for scores, mask in images]


VARIANTS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "distinct": lambda scores, mask: scores,
    "ties": lambda scores, mask: np.round(2 * scores) / 2,
    "many ties": lambda scores, mask: np.round(scores / 2),
    "two values": lambda scores, mask: scores > 0,
    "all equal": lambda scores, mask: np.zeros_like(scores),
    "separated": lambda scores, mask: np.where(mask, 2, 1),
    "separated by noise": lambda scores, mask: scores + 100 * mask,
    "inverted": lambda scores, mask: -scores - 100 * mask,
    "signed zeros": lambda scores, mask: np.where(scores > 0, 0.0, -0.0) + np.where(abs(scores) > 1, scores, -0.0),
}


# Images


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n", [2, 3, 10, 60])
def test_images_match_every_threshold_tried(n: int, variant: str) -> None:
    rng = np.random.default_rng(n)
    labels = rng.permutation(np.arange(n) < max(1, n // 3))
    scores = VARIANTS[variant](rng.normal(size=n) + labels, labels).astype(np.float32)
    found = image_metrics(labels, scores)
    best = max(naive_f1(labels, scores, threshold) for threshold in scores)
    auroc, average_precision = naive_auroc(labels, scores), naive_average_precision(labels, scores)
    assert_close(found, ImageMetrics(auroc, average_precision, best, found.best_f1_threshold))
    assert found.best_f1_threshold is not None
    assert found.best_f1_threshold in scores
    assert naive_f1(labels, scores, found.best_f1_threshold) == pytest.approx(best, rel=1e-12)


def test_images_worked_by_hand() -> None:
    # called from the top: defective, good, defective, good
    found = image_metrics([0, 1, 0, 1], [1.0, 4.0, 3.0, 2.0])
    assert_close(found, ImageMetrics(0.75, 1 / 2 + 1 / 2 * 2 / 3, 4 / 5, 2.0))


def test_images_of_one_class() -> None:
    nothing = ImageMetrics(None, None, None, None)
    assert image_metrics([], []) == nothing
    assert image_metrics([False, False], [1.0, 2.0]) == nothing
    assert image_metrics([1, 1, 1], [3, 2, 5]) == ImageMetrics(None, 1.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [1.0], r"image_metrics: labels and scores must both have shape \(n,\), not \(2,\) and \(1,\)"),
        ([[0, 1]], [[1.0, 2.0]], r"must both have shape \(n,\), not \(1, 2\) and \(1, 2\)"),
        ([0, 2], [1.0, 2.0], "labels must be 0 or 1, not 2"),
        ([0, 1, 1], [1.0, np.nan, np.inf], "scores must be finite; 2 are not"),
    ],
)
def test_images_that_make_no_sense(labels, scores, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_metrics(labels, scores)


# Pixels


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("limit", [0.01, 0.3, 1 / 3, 1.0])
def test_pixels_match_every_threshold_tried(variant: str, limit: float) -> None:
    for seed, density in itertools.product(range(3), (0.02, 0.3, 0.95)):
        images = mapped(some_images(seed, density=density), VARIANTS[variant])
        assert_close(pixel_metrics(images, limit), naive_pixel_metrics(images, limit))


@pytest.mark.parametrize("variant", VARIANTS)
def test_pixels_match_scikit_learn(variant: str) -> None:
    images = mapped(some_images(7, [(40, 60), (80, 30), (64, 64)], density=0.1), VARIANTS[variant])
    labels = np.concatenate([mask.ravel() for _, mask in images])
    scores = np.concatenate([scores.ravel() for scores, _ in images])
    found = pixel_metrics(images)
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), rel=1e-12, abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(labels, scores), rel=1e-12)


def test_pro_worked_by_hand() -> None:
    # a region of four pixels that is half found, one of one pixel that is found only past all normal ones
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 1]], bool)
    scores = np.array([[9, 9, 8, 7, 6], [5, 5, 4, 3, 0]], np.float32)
    found = pixel_metrics([(scores, mask)], fpr_limit=0.8)
    # from (0, 1/4) level to (3/5, 1/4), up to 1/2, level from there
    assert found.pro == pytest.approx((0.6 / 4 + 0.2 / 2) / 0.8)
    assert (found.n_regions, found.n_normal_pixels, found.n_defective_pixels) == (2, 5, 5)


def test_pro_is_interpolated_at_the_limit() -> None:
    # all scores equal: the curve is the diagonal, whose mean height is half the limit
    images = mapped(some_images(0), VARIANTS["all equal"])
    for limit in (0.1, 0.3, 1.0):
        assert pixel_metrics(images, limit).pro == pytest.approx(limit / 2)


def test_perfect_is_one() -> None:
    found = pixel_metrics(mapped(some_images(1, [(50, 30), (31, 47)]), VARIANTS["separated by noise"]))
    assert (found.auroc, found.average_precision, found.pro) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("rows", "n_regions"),
    [
        (["#.", ".#"], 1),
        ([".#", "#."], 1),
        (["#.#"], 2),
        (["#", ".", "#"], 2),
        (["#..", "...", "..#"], 2),
        (["#.#", ".#.", "#.#"], 1),
        (["..", ".."], 0),
    ],
)
def test_regions_touch_by_corners(rows: list[str], n_regions: int) -> None:
    mask = np.array([[pixel == "#" for pixel in row] for row in rows])
    assert pixel_metrics([(np.zeros(mask.shape, np.float32), mask)]).n_regions == n_regions


def test_regions_never_span_images() -> None:
    full, scores = np.ones((2, 3), bool), np.zeros((2, 3), np.float32)
    assert pixel_metrics([(scores, full), (scores, full)]).n_regions == 2


def test_pixels_of_one_kind() -> None:
    shape = (3, 5)
    scores = np.arange(15, dtype=np.float32).reshape(shape)
    empty, full = np.zeros(shape, bool), np.ones(shape, bool)
    assert pixel_metrics([]) == PixelMetrics(None, None, None, 0, 0, 0, True, 0.0)
    assert pixel_metrics([(scores, empty)]) == PixelMetrics(None, None, None, 0, 15, 0, True, 0.0)
    assert pixel_metrics([(scores, full)]) == PixelMetrics(None, None, None, 1, 0, 15, True, 0.0)
    assert pixel_metrics([(scores, full)], limit=14) == PixelMetrics(None, None, None, 1, 0, 15, False, 0.0)
    assert pixel_metrics([(scores[:0], empty[:0]), (scores, empty), (scores, full)]).auroc == 0.5


@pytest.mark.parametrize(
    ("anomaly_map", "mask", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3), bool), "anomaly_map must be float32 and mask bool, not float64 and bool"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3)), "mask bool, not float32 and float64"),
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), bool), r"shape \(h, w\), not \(2, 3\) and \(3, 2\)"),
        (np.zeros(3, np.float32), np.zeros(3, bool), r"shape \(h, w\), not \(3,\) and \(3,\)"),
        (np.array([[0, np.nan, -np.inf]], np.float32), np.zeros((1, 3), bool), "must be finite; 2 of 3 pixels are not"),
    ],
)
def test_maps_that_make_no_sense_leave_no_trace(anomaly_map: np.ndarray, mask: np.ndarray, message: str) -> None:
    scores = PixelScores()
    with pytest.raises(ValueError, match=rf"PixelScores\.add: .*{message}"):
        scores.add(anomaly_map, mask)
    assert scores.metrics() == pixel_metrics([])


@pytest.mark.parametrize("limit", [0, -0.1, 1.1, float("nan")])
def test_limit_of_the_rate_is_checked(limit: float) -> None:
    with pytest.raises(ValueError, match=rf"PixelScores\.metrics: fpr_limit must be in \(0, 1\], not {limit}"):
        PixelScores().metrics(limit)


def test_inputs_stay_as_they_are() -> None:
    images = some_images(3)
    before = [(scores.copy(), mask.copy()) for scores, mask in images]
    for scores, mask in images:
        scores.setflags(write=False)
        mask.setflags(write=False)
    for limit in (0, 2**28):
        pixel_metrics(images, limit=limit)
    for image, wanted in zip(images, before, strict=True):
        np.testing.assert_array_equal(image, wanted)


def test_more_may_be_added_after_a_look() -> None:
    images = some_images(5, [(8, 9), (7, 5), (6, 11)])
    for limit in (0, 100, 2**28):
        scores = PixelScores(limit)
        for count, image in enumerate(images, 1):
            scores.add(*image)
            assert scores.metrics() == pixel_metrics(images[:count], limit=limit)


# small integers make ties, exact in float32 under the maps below
maps = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(
        st.lists(st.integers(-9, 9), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
            lambda values: np.array(values, np.float32).reshape(shape)
        ),
        st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
            lambda values: np.array(values).reshape(shape)
        ),
    )
)


@settings(max_examples=60, deadline=None)
@given(images=st.lists(maps, min_size=1, max_size=4), limit=st.sampled_from([0, 10, 2**28]), data=st.data())
def test_order_and_increasing_maps_change_nothing(images: list[Image], limit: int, data: st.DataObject) -> None:
    found = pixel_metrics(images, limit=limit)
    assert all(value is None or 0 <= value <= 1 for value in (found.auroc, found.average_precision, found.pro))
    assert pixel_metrics(data.draw(st.permutations(images)), limit=limit) == found
    for function in (lambda x: 2 * x, lambda x: x + 100, lambda x: x**3):
        assert (
            pixel_metrics(mapped(images, lambda scores, _, function=function: function(scores)), limit=limit) == found
        )


@settings(max_examples=30, deadline=None)
@given(image=maps, limit=st.sampled_from([0, 10, 2**28]))
def test_batching_changes_nothing(image: Image, limit: int) -> None:
    # rows of normal pixels between the parts keep regions apart, so that parts and whole have the same ones
    scores, mask = np.repeat(image[0], 2, axis=0), np.repeat(image[1], 2, axis=0)
    mask[1::2] = False
    rows = [(scores[i : i + 2], mask[i : i + 2]) for i in range(0, len(mask), 2)]
    assert pixel_metrics(rows, limit=limit) == pixel_metrics([(scores, mask)], limit=limit)


# Beyond the limit


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("limit", [0, 1000, 7000])
def test_cut_scores_stay_within_their_bound(variant: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_BLOCK", 300)
    images = mapped(some_images(11, [(40, 60), (80, 30), (64, 64)], density=0.1), VARIANTS[variant])
    exact, cut = pixel_metrics(images), pixel_metrics(images, limit=limit)
    assert (exact.exact, cut.exact, exact.auroc_error) == (True, False, 0.0)
    assert exact.auroc is not None
    assert cut.auroc is not None
    assert abs(cut.auroc - exact.auroc) <= cut.auroc_error + 1e-12
    assert astuple(cut)[:6] == pytest.approx(astuple(exact)[:6], abs=1e-4)
    assert cut == pixel_metrics(images[::-1], limit=1)


def test_cut_scores_that_fall_together_are_owned_up_to() -> None:
    # all within a 2⁻¹⁶th: one value is left, every pair is tied, and perfect looks like chance
    scores = np.float32(1) + np.arange(6, dtype=np.float32).reshape(2, 3) * np.float32(2**-20)
    mask = np.array([[False] * 3, [True] * 3])
    found = pixel_metrics([(scores, mask)], limit=0)
    assert (found.auroc, found.auroc_error) == (0.5, 0.5)
    assert pixel_metrics([(scores, mask)]).auroc == 1.0


def test_limit_counts_either_kind() -> None:
    scores = np.zeros((4, 5), np.float32)
    mask = np.zeros((4, 5), bool)
    mask[0] = True
    for image in ((scores, mask), (scores, ~mask)):
        assert pixel_metrics([image], limit=15).exact
        assert not pixel_metrics([image], limit=14).exact


def test_cut_scores_are_held_as_counts() -> None:
    rng = np.random.default_rng(0)
    scores = PixelScores(limit=1000)
    for _ in range(8):
        anomaly_map = rng.uniform(1, 2, (256, 256)).astype(np.float32)
        scores.add(anomaly_map, anomaly_map > 1.99)
    values, counts = scores._normal.ascending()
    assert len(values) == len(counts) <= 2**16
    assert counts.sum() == scores.metrics().n_normal_pixels
