"""Models to export, small and of every kind, and how an export is run."""

import io
import json
import tarfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import padim_jax as padim
from padim_jax.artifact.compaction import Compacted, DeployedForm, compact
from padim_jax.config.settings import Align
from padim_jax.export.compare import hostile_images
from padim_jax.export.integer_factors import FactorsKept, in_integers
from padim_jax.export.page import RUNTIMES
from padim_jax.export.refitting import refit
from padim_jax.export.runtimes import Format
from padim_jax.gaussians.low_rank import low_rank
from tests.conftest import SMALL, images
from tests.test_aligned import ALIGNED, TURNED
from tests.test_aligned import GOOD as PLACED

ROI = np.zeros(SMALL.crop, bool)
ROI[4:22, 8:40] = True
TEST = np.concatenate(
    [images(1, SMALL, seed=9), np.zeros((1, *SMALL.crop, 3), np.uint8), images(1, SMALL, seed=8) // 2]
)
GOOD = images(24, SMALL)[:5]  # which an export is certified on
PLACED_ROI = np.zeros(ALIGNED.crop, bool)
PLACED_ROI[10:52, 14:50] = True
SHOWN = np.concatenate([TURNED, PLACED[3:6], hostile_images(ALIGNED.crop)])  # to aligned models
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "neighbourhood, semi-orthogonal": {"neighbourhood": 3, "projection": "semi-orthogonal", "interpolation": "bicubic"},
    "standardised, top share": {"anomaly_map": "standardised", "image_score": "top-5%"},
    "combined": {"anomaly_map": "combined", "covariance": "pooled", "prior_images": 10.0},
    "neighbourhood": {"neighbourhood": 3},
    "plus": {
        **{"neighbourhood": 3, "projection": "semi-orthogonal"},
        **{"covariance": "pooled", "ridge": "auto", "anomaly_map": "combined"},
    },
    "shared": {"positions": "shared", "n_components": 3},
    "one for all, neighbourhood": {"positions": "shared", "neighbourhood": 3},
    "one for all, no blur": {"positions": "shared", "sigma": 0.0, "taps": ("block4",)},
}


def backbone(name: str) -> padim.Backbone:
    return padim.load_backbone(name, weights=None if name == "efficientnet_lite0" else "random")


@cache
def fitted(name: str, calibrated: bool = True, roi: bool = False, network: str = "efficientnet_lite0") -> padim.Padim:
    config = replace(SMALL, **SETTINGS[name])
    good = images(24, config)
    model = padim.fit(backbone(network), good, config)
    model = padim.with_roi(model, ROI) if roi else model
    return padim.calibrate(model, good, false_alarm_rate=0.2) if calibrated else model


@cache
def aligned(
    align: Align, name: str = "plain", calibrated: bool = True, roi: bool = False, **changes: Any
) -> padim.Padim:
    """A model that registers its images, of parts that lie at any angle."""
    config = replace(ALIGNED, align=align, **SETTINGS[name], **changes)
    model = padim.fit(backbone("efficientnet_lite0"), [PLACED], config)
    model = padim.with_roi(model, PLACED_ROI) if roi else model
    return padim.calibrate(model, [PLACED], false_alarm_rate=0.2) if calibrated else model


@cache
def compacted(form: DeployedForm) -> Compacted:
    """A model of few images in a form."""
    network = backbone("efficientnet_lite0")
    moments = padim.update(network, padim.init(network, SMALL), images(6, SMALL))
    model = padim.finalize(network, moments)
    if form == "low-rank":
        return Compacted(form, replace(model, gaussian=low_rank(moments.moments, 5, 0.01)), None, 0.0, ())
    found = compact(model, 1e-2, moments=moments.moments if form == "low-rank-16bit" else None, rank=5)
    assert found.form == form
    return found


def in_eight_bits(model: padim.Padim, good: list[np.ndarray], format: Format = "onnx") -> padim.Padim:
    """What an export in eight bits holds, for JAX."""
    again = refit(model, good, "int8", format)
    try:
        return in_integers(again).model
    except FactorsKept:
        return again


def wanted(model: padim.Padim, shown: np.ndarray) -> dict[str, np.ndarray]:
    """What the model says."""
    scores = padim.score(model, shown)
    names = ["image_score", "anomaly_map", *(["p_value", "anomalous"] if model.calibration is not None else [])]
    names += ["match"] if model.alignment is not None else []
    found = {name: np.asarray(getattr(scores, name)) for name in names}
    if model.calibration is not None:
        found["mask"] = found["anomaly_map"] > np.asarray(model.calibration.pixel_threshold)
    return found


def check_equal(model: padim.Padim, found: dict[str, np.ndarray], shown: np.ndarray) -> None:
    """Raise where outputs are not those of the model: floats to 1e-5 of the largest distance, the rest exactly."""
    expected = wanted(model, shown)
    assert found.keys() == expected.keys()
    scale = np.abs(expected["anomaly_map"]).max()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        assert found[name].shape == values.shape, name
        atol = 0 if values.dtype == bool else 1e-4 if name == "match" else 1e-5 * scale
        np.testing.assert_allclose(found[name], values, rtol=0, atol=atol, err_msg=name)


def ort_web(path: Path, name: str = "onnxruntime-web") -> Path:
    """A package of the layout of ONNX Runtime Web, with nothing in it that runs."""
    files = {"package.json": json.dumps({"name": name, "version": "1.30.0"})}
    files |= {f"dist/{file}": file for files_of_one in RUNTIMES.values() for file in files_of_one}
    with tarfile.open(path, "w:gz") as archive:
        for file, text in files.items():
            member = tarfile.TarInfo(f"package/{file}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path
