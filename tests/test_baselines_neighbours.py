"""Nearest neighbours and coresets, against scikit-learn and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from padim_jax.baselines.coreset import coreset, greedy_k_center
from padim_jax.baselines.neighbours import chunk_sizes, nearest


def sample(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


BANK, QUERIES = sample(53, 6), sample(20, 6, seed=1)


@pytest.mark.parametrize("k", [1, 4, 53])
@pytest.mark.parametrize("chunk_bytes", [1, 1200, 2**26])
def test_neighbours_are_those_of_scikit_learn(k: int, chunk_bytes: int) -> None:
    wanted, index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(BANK).kneighbors(QUERIES)
    found = nearest(jnp.asarray(QUERIES), jnp.asarray(BANK), k, chunk_bytes=chunk_bytes)
    np.testing.assert_allclose(found.distance, wanted, rtol=1e-5)
    np.testing.assert_array_equal(found.index, index)


def test_chunks_stay_within_their_bytes() -> None:
    assert chunk_sizes(20, 53, 6, 4, 1) == (1, 1)
    queries, rows = chunk_sizes(20, 53, 6, 4, 1200)
    assert 1 < queries < 20
    assert 1 < rows < 53
    for sizes in ((3136, 500_000, 256, 1), (3136, 500_000, 1792, 50), (16, 400, 112, 50)):
        queries, rows = chunk_sizes(*sizes, 2**26)
        width, k = sizes[2:]
        assert 4 * (queries * rows + rows * width + queries * (k + 1) * width) <= 2**26
        assert queries * rows > 100_000 or (queries, rows) == sizes[:2]


@pytest.mark.parametrize(("q", "m", "d", "k"), [(3136, 100_000, 32, 1), (50, 300_000, 64, 50)])
def test_a_search_holds_a_few_chunks_and_not_all_distances(q: int, m: int, d: int, k: int) -> None:
    shapes = jax.ShapeDtypeStruct((q, d), np.float32), jax.ShapeDtypeStruct((m, d), np.float32)
    needs = nearest.lower(*shapes, k, chunk_bytes=2**22).compile().memory_analysis()
    assert needs is not None
    assert needs.temp_size_in_bytes < 4 * 2**22 < 4 * q * m


def test_a_common_offset_costs_no_digits() -> None:
    bank = BANK + 1000  # ‖a‖² + ‖b‖² - 2 aᵀb would be off by about 1
    found = nearest(jnp.asarray(bank[:7]), jnp.asarray(bank), 2)
    np.testing.assert_array_equal(found.index[:, 0], np.arange(7))
    np.testing.assert_array_equal(found.distance[:, 0], 0)
    wanted, _ = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(bank.astype(np.float64)).kneighbors(bank[:7])
    np.testing.assert_allclose(found.distance[:, 1], wanted[:, 1], rtol=1e-3)  # the offset's own rounding


def test_of_equal_rows_all_are_found() -> None:
    bank = np.repeat(BANK[:3], 4, axis=0)
    found = nearest(jnp.asarray(BANK[:3]), jnp.asarray(bank), 4, chunk_bytes=200)
    np.testing.assert_array_equal(found.distance, 0)
    np.testing.assert_array_equal(np.sort(found.index, axis=1), np.arange(12).reshape(3, 4))


def test_approximate_neighbours_have_to_be_asked_for_and_are_exact_on_a_cpu() -> None:
    arguments = jnp.asarray(QUERIES), jnp.asarray(BANK), 4
    np.testing.assert_array_equal(nearest(*arguments, approximate=True).index, nearest(*arguments).index)
    assert "ApproxTopK" not in nearest.lower(*arguments).as_text()
    assert "ApproxTopK" in nearest.lower(*arguments, approximate=True).as_text()


def test_no_queries_have_no_neighbours() -> None:
    assert nearest(jnp.zeros((0, 6)), jnp.asarray(BANK), 3).index.shape == (0, 3)


@pytest.mark.parametrize(
    ("shape", "k", "message"),
    [
        ((2, 6), 54, "nearest: k=54, wanted 1 to 53, the number of rows in the bank; lower k"),
        ((2, 6), 0, "nearest: k=0, wanted 1 to 53"),
        ((2, 5), 1, r"nearest: queries are \(2, 5\) and the bank is \(53, 6\)"),
        ((6,), 1, r"nearest: queries are \(6,\)"),
    ],
)
def test_what_has_no_neighbours_is_refused(shape: tuple[int, ...], k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(jnp.zeros(shape), jnp.asarray(BANK), k)


def naive_k_center(rows: np.ndarray, size: int, start: int) -> list[int]:
    """Each time the row that is farthest from those chosen, found anew."""
    chosen = [start]
    while len(chosen) < size:
        others = [index for index in range(len(rows)) if index not in chosen]
        reach = [min(float(((rows[index] - rows[c]) ** 2).sum()) for c in chosen) for index in others]
        chosen.append(others[int(np.argmax(reach))])
    return chosen


@pytest.mark.parametrize("candidates", [1, 7, 53, 8192])
@pytest.mark.parametrize("start", [0, 17])
def test_greedy_k_center_is_the_loop(start: int, candidates: int) -> None:
    found = greedy_k_center(jnp.asarray(BANK), 25, jnp.int32(start), candidates=candidates)
    assert found.tolist() == naive_k_center(BANK.astype(np.float64), 25, start)


@pytest.mark.parametrize("spread", [0.0, 4.0])  # around a common place, and in clumps apart from each other
def test_centres_of_many_rounds_blocks_and_products_are_those_of_the_loop(spread: float) -> None:
    rows = sample(3000, 5) + spread * sample(12, 5, seed=1)[np.arange(3000) % 12]
    reach, wanted = np.full(len(rows), np.inf), [11]
    for _ in range(599):
        reach = np.minimum(reach, ((rows - rows[wanted[-1]].astype(np.float64)) ** 2).sum(axis=1))
        wanted.append(int(np.argmax(reach)))
    assert greedy_k_center(jnp.asarray(rows), 600, jnp.int32(11), candidates=1024).tolist() == wanted


@pytest.mark.parametrize("candidates", [1, 4, 8192])
def test_of_rows_as_far_the_first_is_taken(candidates: int) -> None:
    corners = np.array([[x, y] for x in (-1, 1) for y in (-1, 1)] * 2, np.float32)
    found = greedy_k_center(jnp.asarray(corners), 8, jnp.int32(5), candidates=candidates)
    assert found.tolist() == [5, 2, 0, 3, 1, 4, 6, 7]


@pytest.mark.parametrize("candidates", [1, 2, 5, 8192])
def test_no_row_is_taken_twice_even_of_equal_ones(candidates: int) -> None:
    rows = jnp.asarray(np.repeat(BANK[:2], 3, axis=0))
    assert sorted(greedy_k_center(rows, 6, jnp.int32(4), candidates=candidates).tolist()) == list(range(6))


def test_a_coreset_is_sought_without_all_distances() -> None:
    shapes = jax.ShapeDtypeStruct((100_000, 16), np.float32), jax.ShapeDtypeStruct((), np.int32)
    needs = greedy_k_center.lower(shapes[0], 10_000, shapes[1]).compile().memory_analysis()
    assert needs is not None
    assert needs.temp_size_in_bytes < 4 * 4 * 100_000 * 16 < 4 * 100_000 * 10_000


def test_a_coreset_depends_on_the_seed_and_not_on_the_order() -> None:
    def chosen(rows: np.ndarray, seed: int, dimension: int = 4) -> set[tuple[float, ...]]:
        index = coreset(jnp.asarray(rows), 12, jnp.uint32(seed), dimension)
        assert len(set(index.tolist())) == 12
        return {tuple(row) for row in rows[np.asarray(index)].tolist()}

    assert chosen(BANK, 0) == chosen(BANK[::-1].copy(), 0)
    assert chosen(BANK, 0) != chosen(BANK, 1)
    assert chosen(BANK, 0) != chosen(BANK, 0, dimension=6)  # which is no projection


def test_the_search_in_fewer_dimensions_is_the_loop_on_projected_rows() -> None:
    key, key_of_start = jax.random.split(jax.random.key(3))
    matrix = np.asarray(jax.random.normal(key, (6, 4)), np.float64) / 2  # sqrt(4)
    direction = np.asarray(jax.random.normal(key_of_start, (4,)), np.float64)
    rows = BANK @ matrix
    wanted = naive_k_center(rows, 12, int(np.argmax(rows @ direction)))
    assert coreset(jnp.asarray(BANK), 12, jnp.uint32(3), 4).tolist() == wanted
