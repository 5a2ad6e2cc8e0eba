"""Runs of the paper's tables that nobody carried out."""

from typing import Any

from padim_jax.evaluation.paper import MVTEC
from padim_jax.presets import PRESETS


def record(name: str, category: str, value: float, *, data: str = MVTEC, seed: int = 0, **more: Any) -> dict[str, Any]:
    pixel = {"auroc": value, "average_precision": None, "pro": value - 0.1}
    return {
        "data": data,
        "protocol": {"name": "standard", "seed": 0},
        "preset": name,
        "method": "padim" if name in PRESETS else name.partition(":")[0],
        "category": category,
        "seed": seed,
        "as_published": False,
        "metrics": {"image": {"auroc": value}, "pixel": pixel},
        "settings": {"members": [{}], "backbone": None},
        "files": {"fit": ["a.png", "b.png"], "test": []},
        "seconds": {"fit": 3.0, "score": 4.0},
        **more,
    }
