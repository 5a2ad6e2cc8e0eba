"""Question: how long does a score take of a model that was exported to other runtimes, and how large is its file.

    python benchmarks/exported.py
    python benchmarks/exported.py --backbones efficientnet_lite0 --batches 1 --rounds 5
    python benchmarks/exported.py --backbones resnet18 efficientnet_lite0 --peers   # anomalib's exports beside it

A model at d = 100, calibrated, from uint8 images of 224×224 in memory to score, map, p-value, verdict and mask, as it
is, with factors of 16 bits, and with the network in eight bits or in bfloat16 too, on as many threads as there are
cores; the latter, and two of the former, in OpenVINO's own form where OpenVINO is installed: for any number of images,
and for just as many as a call has. ``padim_jax`` is ``padim.score`` of the model.
Sides take turns. ``cpu_ms`` is the processors' time of a call, which other load on the computer changes less. Prints a
table and one JSON line per row; exits 1, naming it, where a certificate is beyond its bound.
"""

import argparse
import importlib.util
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from alternate import Row, add_options, alternate, cpu_ms, judge, medians, show, summary
from exported_peers import exported_anomalib

import padim_jax as padim
from padim_jax.artifact.compaction import Compacted, compact
from padim_jax.export import export_model
from padim_jax.export.compare import BOUNDS
from padim_jax.export.runtimes import FILES, Format, Precision, open_runtimes

WEIGHTS = {"efficientnet_lite0": None}  # those of the others are random, which is as fast


def main() -> int:
    """Export, measure, print, judge."""
    parser = argparse.ArgumentParser(description="Seconds of a score in other runtimes.")
    parser.add_argument("--backbones", nargs="+", default=["efficientnet_lite0"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--good", type=int, default=120, help="images to fit on (%(default)s)")
    parser.add_argument("--peers", action="store_true", help="measure anomalib's exports too (exported_peers.py)")
    add_options(parser, rounds=7)
    options = parser.parse_args()
    rows: list[Row] = []
    bounds: list[tuple[str, float, float]] = []
    for name in options.backbones:
        good = _images(options.good, seed=0)
        model = padim.fit(padim.load_backbone(name, weights=WEIGHTS.get(name, "random")), good, padim.PadimConfig())
        model = padim.calibrate(model, good)
        small = compact(model, 0.1)
        with tempfile.TemporaryDirectory() as folder:
            sides = {
                ("padim_jax", ""): lambda images, model=model: padim.score(
                    model, images
                ).anomaly_map.block_until_ready()
            }
            sizes = {"": 0}
            halves = small.form.partition("-")[2]
            forms: list[tuple[str, padim.Padim | Compacted, Precision, Format, int | None]] = [
                ("32 bit", model, "float32", "onnx", None),
                (halves, small, "float32", "onnx", None),
                ("int8", model, "int8", "onnx", None),
            ]
            if importlib.util.find_spec("openvino") is not None:
                forms.append(("openvino, int8", model, "int8", "openvino", None))
                for count in options.batches:
                    forms.append((f"openvino, int8, {count}", model, "int8", "openvino", count))
                forms.append((f"openvino, bfloat16, {halves}", small, "bfloat16", "openvino", None))
            fixed = {form: count for form, *_, count in forms}
            for form, exported, precision, format, count in forms:
                out = Path(folder, form)
                given = () if precision == "float32" else good
                certificate = export_model(exported, out, given, precision=precision, format=format, batch=count)
                ratio = BOUNDS[precision] / certificate.largest
                bounds.append((f"{name}, {form}: the bound over the largest difference", ratio, 1))
                sizes[form] = sum(certificate.files[file][1] for file in FILES[format])
                sides |= {(one.name, form): one.run for one in open_runtimes(out, format, precision)}
            if options.peers:
                works_of_peer, bytes_of_peer = exported_anomalib(model.backbone, model.config, good, Path(folder))
                sides, sizes = sides | works_of_peer, sizes | bytes_of_peer
            for batch in options.batches:
                images = _images(batch, seed=1)
                works = {
                    "\t".join(side): partial(run, images)
                    for side, run in sides.items()
                    if fixed.get(side[1]) in (None, batch)
                }
                seconds = alternate(works, options.rounds, repeats=10 if batch == 1 else 2, settle=True)
                middle, work_ms = medians(seconds), {side: cpu_ms(work) for side, work in works.items()}
                for side, values in seconds.items():
                    runtime, form = side.split("\t")
                    row: Row = {"backbone": name, "batch": batch, "side": runtime, "form": form} | summary(values)
                    row |= {
                        "ms_per_image": 1e3 * middle[side] / batch,
                        "cpu_ms": work_ms[side],
                        "file_MB": sizes[form] / 1e6,
                    }
                    rows.append(row)
    columns = ["backbone", "batch", "side", "form", "ms", "q1", "q3", "ms_per_image", "cpu_ms", "file_MB"]
    show(rows, columns, options.json)
    return judge(bounds)


def _images(n: int, seed: int) -> np.ndarray:
    """Smooth random images."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 28, 28, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(coarse + rng.integers(-20, 21, coarse.shape), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
