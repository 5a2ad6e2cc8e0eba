"""Question: how near does the Mahalanobis distance come to the speed at which memory can be read.

    python benchmarks/mahalanobis.py
    python benchmarks/mahalanobis.py --dimensions 100 --positions 784 --rounds 3

At one image each number of a Gaussian is used once, so bytes over bandwidth is the floor of every form that keeps
these bytes. Times the jitted distance of each form in ``FORMS`` on a grid of 56×56 and, turn by turn with it, a
reading of 512 MB by JAX and by NumPy on all threads, the faster of which is the bandwidth. A form's bytes are those
of its arrays; its error is the largest relative difference from distances in float64. Prints a table and one JSON
line per row; exits 1 where, at batch 1, the best form with an error below 0.001 reads slower than 60 % of the
bandwidth, at any dimension.
"""

import argparse
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from alternate import Row, add_options, alternate, judge, medians, plot_bars, show, summary

from padim_jax.gaussians import factors
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.low_rank import AnyGaussian, low_rank
from padim_jax.gaussians.moments import Moments

SHARE, ERROR = 0.6, 1e-3  # of the bandwidth; relative, of a distance
RIDGE = 0.01

_factored = jax.jit(factors.finalize, static_argnums=(1, 2))
_low_rank = jax.jit(low_rank, static_argnums=(1, 2))


def distances(gaussian: AnyGaussian, x: Any) -> Any:
    """Distances by the form that the Gaussians have."""
    return gaussian.distances(x)


Form = tuple[Callable[[Moments], Any], Callable[[Any, Any], Any]]
FORMS: dict[str, Form] = {  # how it is made from moments, and how it scores x (p, n, d)
    "triangular-solve": (lambda moments: _factored(moments, RIDGE, "triangular-solve"), distances),
    "inverse-factor": (lambda moments: _factored(moments, RIDGE, "inverse-factor"), distances),
    "low-rank": (lambda moments: _low_rank(moments, int(moments.count) - 1, RIDGE), distances),
}


def make_moments(positions: int, d: int, images: int) -> Moments:
    """Moments of random embeddings, as many images as n - 1 directions at every position."""
    x = jax.random.normal(jax.random.key(0), (positions, images, d), jnp.float32)
    update = jax.jit(gaussian_moments.update, donate_argnums=0)
    return jax.block_until_ready(update(gaussian_moments.init(positions, d), x, jnp.ones(images)))


def exact(moments: Moments, x: np.ndarray, positions: int = 8) -> np.ndarray:
    """Distances (positions, n) in float64 of the first positions."""
    scatter, mean = (
        np.asarray(a, np.float64) for a in (moments.scatter[:positions].square(), moments.mean[:positions])
    )
    covariance = scatter / (float(moments.count) - 1) + RIDGE * np.eye(x.shape[2])
    delta = x[:positions].astype(np.float64) - mean[:, None]
    return np.sqrt(np.einsum("pnd,pnd->pn", delta, np.linalg.solve(covariance, delta.mT).mT))


def readers() -> dict[str, tuple[Callable[[], object], int]]:
    """Ways to read memory as fast as it goes, each with the bytes it reads: a sum in JAX, and NumPy's by threads."""
    threads = os.cpu_count() or 1
    array = np.ones(2**27, np.float32)  # 512 MB, beyond any cache
    shared = jnp.asarray(array).reshape(64, -1)
    parts = np.array_split(array, threads)
    pool = ThreadPoolExecutor(threads)
    total = jax.jit(lambda a: jnp.sum(a, axis=1))
    return {
        "read by jax": (lambda: jax.block_until_ready(total(shared)), array.nbytes),
        "read by numpy": (lambda: list(pool.map(np.sum, parts)), array.nbytes),
    }


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="Bytes per second of the Mahalanobis distance.")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[100, 550])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--positions", type=int, default=56 * 56)
    parser.add_argument("--images", type=int, default=60, help="of the fit: the low rank is one less (%(default)s)")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    add_options(parser, rounds=7)
    options = parser.parse_args()
    rows: list[Row] = []
    bounds: list[tuple[str, float, float]] = []
    reading = readers()
    for d in options.dimensions:
        moments = make_moments(options.positions, d, options.images)
        for batch in options.batches:
            x = jax.random.normal(jax.random.key(1), (options.positions, batch, d), jnp.float32)
            exact_distances = exact(moments, np.asarray(x))
            shares = [0.0]
            for name in options.forms:
                make, distance = FORMS[name]
                form = jax.block_until_ready(make(moments))
                size = sum(leaf.nbytes for leaf in jax.tree.leaves(form))
                run = jax.jit(distance)
                measured = np.asarray(run(form, x))[: len(exact_distances)]
                error = float(np.abs(measured / exact_distances - 1).max())
                works = {name: partial(_wait, run, form, x)} | {reader: work for reader, (work, _) in reading.items()}
                seconds = alternate(works, options.rounds, settle=True)
                middle = medians(seconds)
                speeds = {reader: nbytes / middle[reader] for reader, (_, nbytes) in reading.items()}
                share = size / middle[name] / max(speeds.values())
                row: Row = {"d": d, "batch": batch, "form": name} | summary(seconds[name])
                row |= {"mb": size / 1e6, "gb_per_s": size / middle[name] / 1e9, "share": share, "error": error}
                row |= {reader.replace(" ", "_") + "_gb_per_s": speed / 1e9 for reader, speed in speeds.items()}
                rows.append(row | {"positions": options.positions, "images": options.images})
                shares.append(share if error < ERROR else 0.0)
                del form
            if batch == 1:
                bounds.append((f"d = {d}, one image: share of the bandwidth", max(shares), SHARE))
        del moments
    columns = "d batch form ms q1 q3 mb gb_per_s read_by_jax_gb_per_s read_by_numpy_gb_per_s share error"
    show(rows, columns.split(), options.json)
    plot_bars(options.plot, rows, ("d", "batch"), "form", "gb_per_s")
    return judge(bounds)


def _wait(run: Callable[[Any, Any], Any], form: Any, x: Any) -> None:
    jax.block_until_ready(run(form, x))


if __name__ == "__main__":
    sys.exit(main())
