"""Question: what does a network in eight bits cost in accuracy, with the model fitted anew on it and without.

    python benchmarks/eight_bits.py DIR [DIR ...]                # folders in MVTec AD's layout
    python benchmarks/eight_bits.py DIR --presets lite0 lite0-plus
    python benchmarks/eight_bits.py DIR --format openvino --precision bfloat16

One model a folder and preset, calibrated by leaving each good image out; then the same with its network in the other
precision, as the runtime of the format computes it, with the Gaussians and the calibration of the network in 32 bits
("as it was"), fitted and calibrated anew, and with factors in integers too, as ``padim export --precision int8``
writes it, of as many bits as it takes and with what rounding them moves their products by. Prints image AUROC (pixel
AUROC, PRO, where there are masks), and the share of defective and, after the slash, of good images above the threshold
for 5 % false alarms.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from alternate import split_batches
from lite0_local import DataSet
from sharper import BATCH, fit, judge, read_folder

import padim_jax as padim
from padim_jax.export.integer_factors import FactorsKept, in_integers
from padim_jax.export.refitting import refit
from padim_jax.gaussians.integer_products import IntegerWhitening
from padim_jax.presets import preset


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Accuracy of a network in another precision.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--presets", nargs="+", default=["lite0", "lite0-plus"])
    parser.add_argument("--format", choices=["onnx", "openvino"], default="onnx", help="whose runtime computes it")
    parser.add_argument("--precision", choices=["int8", "bfloat16"], default="int8", help="bfloat16 takes openvino")
    options = parser.parse_args()
    named = options.precision
    print(f"| set | preset | float32 | {named}, as it was | {named}, fitted anew | factors in integers too |")
    print("| --- | --- | --- | --- | --- | --- |")
    for folder in options.folders:
        for name in options.presets:
            config = preset(name).members[0]
            data = read_folder(folder, config)
            model, _ = fit(data, padim.load_backbone(preset(name).backbone), config)
            anew = refit(model, split_batches(data.fit, BATCH), options.precision, options.format)
            stale = replace(model, backbone=anew.backbone)
            cells = [describe(judge(one, data)) for one in (model, stale, anew)]
            cells.append(in_integers_too(anew, data) if named == "int8" else "–")
            print(f"| {folder.name} | {name} | " + " | ".join(cells) + " |", flush=True)
    return 0


def in_integers_too(model: padim.Padim, data: DataSet) -> str:
    """A cell: also how many bits factors take, and by how much of a standard deviation products are moved."""
    try:
        held = in_integers(model)
    except FactorsKept:
        return "–"
    assert isinstance(held.quantised, IntegerWhitening)
    return f"{describe(judge(held.model, data))}; {7 * len(held.quantised.parts)} bits, {held.factor_error:.2g}"


def describe(row: dict[str, Any]) -> str:
    """A cell of the table."""
    pixel = "" if row["pixel_auroc"] is None else f" ({row['pixel_auroc']:.3f}, {row['pro']:.3f})"
    found, alarms = (100 * np.array([row["found_at_0.05"], row["false_alarms_at_0.05"]])).tolist()
    return f"{row['image_auroc']:.3f}{pixel}; {found:.0f} / {alarms:.0f} %"


if __name__ == "__main__":
    sys.exit(main())
