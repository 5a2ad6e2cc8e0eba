"""A made-up run folder: bottles from above, some broken or dirty, with scores that overlap a little."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from padim_jax.evaluation.operating_points import RATES, OperatingPoints
from padim_jax.method.calibration import BINS, calibration
from padim_jax.method.pictures import colours, overlay

DEFECTS = ("broken_large", "broken_small", "contamination")
_SOURCE = "PaDiM, arXiv 2011.08785"
PUBLISHED = {"pixel_auroc": {"value": 0.983, "source": _SOURCE}, "pro": {"value": 0.948, "source": _SOURCE}}
PIXEL = {"auroc": 0.9812, "average_precision": 0.7734, "pro": 0.9466, "n_regions": 68, "exact": True}


def write_run(
    folder: Path,
    *,
    fit: int = 120,
    good: int = 12,
    defective: int = 18,
    pictured: int | None = None,
    side: int = 48,
    seed: int = 0,
    names: dict[int, str] | None = None,
    calibrated: bool = True,
) -> dict[str, Any]:
    """Write ``run.json`` with pictures of the first ``pictured`` test images (None: all); gives what it wrote.

    ``names`` replaces file names, by index of the test image; the defective images come first. What is not
    ``calibrated`` is as an earlier version wrote it.
    """
    rng = np.random.default_rng(seed)
    kinds = [DEFECTS[i * len(DEFECTS) // defective] for i in range(defective)] + ["good"] * good
    strength = np.where(np.array(kinds) == "good", 0, rng.gamma(3, 2.2, len(kinds)))
    scores = np.round(9 + 1.6 * rng.standard_normal(len(kinds)) + strength, 4)
    left_out = 9 + 1.6 * np.random.default_rng(seed + 1000).standard_normal(fit)
    points = OperatingPoints(tuple(calibration(left_out, np.ones(BINS), "leave-one-out", rate) for rate in RATES))
    scale = (4.0, 2 * float(points.calibrations[0].threshold) - 4 if calibrated else float(scores.max()))
    tests, pictures = [], []
    for index, (kind, score) in enumerate(zip(kinds, scores, strict=True)):
        bad = kind != "good"
        file = (names or {}).get(index, f"test/{kind}/{index:03}.png")
        tests.append({"file": file, "label": int(bad), "defect_type": kind, "has_mask": bad, "score": float(score)})
        if index < (len(kinds) if pictured is None else pictured):
            pictures.append({"test": index, **_pictures(folder, index, kind, float(score), scale, side, rng)})
    record: dict[str, Any] = {
        "format": "padim_jax run",
        "schema": 2 if calibrated else 1,
        "preset": "lite0",
        "category": "bottle",
        "data": "mvtec_ad",
        "seed": 0,
        "protocol": {"name": "standard", "seed": 0},
        "settings": {
            "backbone": "efficientnet_lite0",
            "weights_digest": "sha256:1f0c6f7d2a",
            "members": [{"n_channels": 100, "ridge": 0.01, "seed": 0, "taps": ["block2", "block4", "block10"]}],
        },
        "versions": {"padim-jax": "0.1.0", "jax": "0.8.0", "numpy": "2.4.0"},
        "metrics": {"image": image_metrics(tests), "pixel": PIXEL if defective else None},
        "published": PUBLISHED,
        "seconds": {"fit": 3.1, "calibrate": 1.2, "score": 4.2},
        "colour_scale": list(scale),
        "files": {"fit": [f"train/good/{i:03}.png" for i in range(fit)], "test": tests},
        "pictures": pictures,
    }
    if calibrated:
        measured = points.measure([test["label"] for test in tests], [test["score"] for test in tests])
        record["metrics"]["calibrated"] = measured
        record["calibration"] = points.record()
    rewrite(folder, record)
    return record


def start(record: dict[str, Any]) -> float:
    """What a score has to reach to be flagged where the page starts: more than the threshold for 1 % false alarms."""
    return float(np.nextafter(record["calibration"]["thresholds"][0]["threshold"], np.inf))


def rewrite(folder: Path, record: dict[str, Any]) -> None:
    """Write ``record`` as the folder's run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


def image_metrics(tests: list[dict[str, Any]]) -> dict[str, float | None]:
    """Image metrics of scored test images; all None when they are of one class."""
    labels, scores = [test["label"] for test in tests], [test["score"] for test in tests]
    if len(set(labels)) == 1:
        return dict.fromkeys(("auroc", "average_precision", "best_f1", "best_f1_threshold"))
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    return {
        "auroc": float(roc_auc_score(labels, scores)),
        "average_precision": float(average_precision_score(labels, scores)),
        "best_f1": float(f1[best]),
        "best_f1_threshold": float(thresholds[best]),
    }


def tally(tests: list[dict[str, Any]], threshold: float) -> dict[str, int]:
    """Number of test images by verdict."""
    flagged = [(test["label"], test["score"] >= threshold) for test in tests]
    verdicts = {"found": (1, True), "missed": (1, False), "alarm": (0, True), "right": (0, False)}
    return {name: flagged.count(pair) for name, pair in verdicts.items()}


def _pictures(
    folder: Path, index: int, kind: str, score: float, scale: tuple[float, float], side: int, rng: np.random.Generator
) -> dict[str, str | None]:
    big, mask = Image.new("L", (256, 256), 205), Image.new("L", (256, 256), 0)
    for radius, grey in ((118, 60), (112, 25), (96, 90), (70, 45), (62, 20)):
        ImageDraw.Draw(big).ellipse((128 - radius, 128 - radius, 128 + radius, 128 + radius), fill=grey)
    turn, reach = rng.uniform(0, 2 * np.pi), {"broken_large": 34, "broken_small": 16, "contamination": 24}.get(kind, 0)
    x, y = 128 + 95 * np.cos(turn), 128 + 95 * np.sin(turn)
    if reach:
        corners = [(x + reach * np.cos(a) * r, y + reach * np.sin(a) * r) for a, r in
                   zip(np.linspace(0, 2 * np.pi, 9)[:-1], rng.uniform(0.5, 1.1, 8), strict=True)]  # fmt: skip
        ImageDraw.Draw(big).polygon(corners, fill=185 if kind == "contamination" else 120)
        ImageDraw.Draw(mask).polygon(corners, fill=255)
    noise = rng.normal(0, 5, (side, side, 1)) + np.array([6, 0, -8])
    pixels = np.asarray(big.filter(ImageFilter.GaussianBlur(1.5)).resize((side, side)), float)[..., None] + noise
    image = np.clip(pixels, 0, 255).astype(np.uint8)
    bump = np.asarray(mask.filter(ImageFilter.GaussianBlur(10)).resize((side, side)), float)
    ground = Image.fromarray(rng.uniform(0, 255, (7, 7)).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    rough = scale[0] + np.asarray(ground, float) / 255 * 3
    peak = bump + np.asarray(ground, float) * 0.1
    anomaly_map = rough + (score - rough.max()) * peak / peak.max()
    levels = np.clip((anomaly_map - scale[0]) / (scale[1] - scale[0]), 0, 1)
    drawn: dict[str, Image.Image] = {
        "image": Image.fromarray(image),
        "map": Image.fromarray(np.rint(colours(levels)).astype(np.uint8)),
        "overlay": Image.fromarray(overlay(image, anomaly_map.astype(np.float32), scale)),
    }
    if reach:
        drawn["mask"] = mask.resize((side, side), Image.Resampling.NEAREST)
    places: dict[str, str | None] = {"mask": None}
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for view, picture in drawn.items():
        places[view] = f"pictures/{index:06}-{view}.{'png' if view == 'mask' else 'jpg'}"
        picture.save(folder / str(places[view]), quality=88)
    return places
