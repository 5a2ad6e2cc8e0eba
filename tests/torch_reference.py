"""Import the PyTorch side of the parity tests, or skip saying why."""

import sys
from typing import Any

import pytest

REASON = "compares with PyTorch: pip install 'padim-jax[parity]'"


def torch() -> Any:
    """The ``torch`` module."""
    return pytest.importorskip("torch", reason=REASON)


def torchvision() -> Any:
    """The ``torchvision`` module; on a PyTorch it was not built for, its operators are declared, not defined."""
    library = torch().library
    try:
        return pytest.importorskip("torchvision", reason=REASON)
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        declared = library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        declared.define(
            "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
            "int sampling_ratio, bool aligned) -> Tensor"
        )
        module = pytest.importorskip("torchvision", reason=REASON)
        module._declared = declared  # the declarations live as long as their library object
        return module
