"""Question: what does the sharded path cost where there is only one device.

    python benchmarks/mesh_overhead.py
    python benchmarks/mesh_overhead.py --models r18 --rounds 9

Folding 16 images and scoring 16 images, plainly (`padim_jax.update` in place, `padim_jax.score`) and on a mesh of one
device (`padim_jax.mesh`), the two taking turns. Prints a table and one JSON line per row; exits 1 where the mesh takes
3 % more.
"""

import argparse
import sys
from typing import Any

import jax
from alternate import Row, add_options, alternate, judge, medians, show, summary
from peers import MODELS, load, random_images

import padim_jax as padim
from padim_jax import mesh as meshes
from padim_jax.method.fitting import accumulate

BATCH = 16


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, rounds=15)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    rows: list[Row] = []
    bounds: list[tuple[str, float, float]] = []
    mesh = meshes.device_mesh(devices=jax.devices()[:1])
    for model in options.models:
        backbone, images = load(model), random_images(BATCH)
        fitted = padim.fit(backbone, [images])
        shared, network = meshes.place(mesh, fitted), meshes.replicated(mesh, backbone)
        state: dict[str, Any] = {
            "plain": padim.init(backbone, padim.PadimConfig()),
            "mesh": meshes.init(mesh, network, padim.PadimConfig()),
        }

        def fold_plain(backbone: Any = backbone, state: dict[str, Any] = state, images: Any = images) -> Any:
            (state["plain"],) = accumulate(backbone, state["plain"], [images])

        def fold_mesh(network: Any = network, state: dict[str, Any] = state, images: Any = images) -> Any:
            state["mesh"] = jax.block_until_ready(meshes.update(network, state["mesh"], images))

        works: dict[str, dict[str, Any]] = {
            "update": {"plain": fold_plain, "mesh": fold_mesh},
            "score": {
                "plain": lambda fitted=fitted, images=images: jax.block_until_ready(padim.score(fitted, images)),
                "mesh": lambda shared=shared, images=images: jax.block_until_ready(meshes.score(shared, images)),
            },
        }
        for work, sides in works.items():
            seconds = alternate(sides, options.rounds, repeats=2, settle=True)
            middle = medians(seconds)
            for side, values in seconds.items():
                rows.append({"work": work, "model": model, "side": side} | summary(values))
                rows[-1]["over_plain"] = middle[side] / middle["plain"]
            bounds.append((f"{work}, {model}: 1.03 times plain over mesh", 1.03 * middle["plain"] / middle["mesh"], 1))
    show(rows, ["work", "model", "side", "ms", "q1", "q3", "over_plain"], options.json)
    return judge(bounds)


if __name__ == "__main__":
    sys.exit(main())
