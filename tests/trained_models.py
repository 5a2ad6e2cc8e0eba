"""Parts that are easy to tell from defects, and small settings of each method that trains."""

from typing import Any

import numpy as np

import padim_jax as padim
from padim_jax.baselines import METHODS, Method

CONFIG = padim.PadimConfig(image_size=(32, 48), crop_size=(32, 48), sigma=1.0)
TRAINED = {name: method for name, method in METHODS.items() if not method.uses_backbone}
QUICK: dict[str, Any] = {"steps": 6, "look_every": 3, "batch_size": 8}  # enough to see that something is the same
SMALL: dict[str, dict[str, Any]] = {
    "ae": {"width": 4, "latent": 8},
    "vae": {"width": 4, "latent": 4},
    "ganomaly": {"width": 4, "latent": 8},
    "deep-svdd": {"width": 4, "latent": 8},
    "patch-svdd": {"width": 4, "latent": 8, "patch_size": 16},
}
LEARNS: dict[str, dict[str, Any]] = {
    "ae": {"steps": 150, "learning_rate": 4e-3},
    "vae": {"steps": 150, "learning_rate": 4e-3},
    "ganomaly": {"steps": 150},
    "deep-svdd": {"steps": 150},
    "patch-svdd": {"steps": 120, "learning_rate": 4e-3, "width": 8, "latent": 32, "large_stride": 4, "small_stride": 2},
}


def settings_of(method: Method, **own: Any) -> Any:
    return method.settings(**{"config": CONFIG} | SMALL[method.name] | QUICK | own)


def parts(n: int, seed: int) -> np.ndarray:
    """Striped discs that lie a little apart from one another, with noise."""
    rng = np.random.default_rng(seed)
    height, width = CONFIG.crop
    y, x = np.mgrid[:height, :width]
    found = []
    for dy, dx in rng.normal(0, 0.5, (n, 2)):
        distance = np.hypot(y - height / 2 - dy, x - width / 2 - dx)
        inside = 1 / (1 + np.exp(distance - height / 3))
        found.append(50 + inside * (110 + 25 * np.sin(x - dx)))
    coloured = np.stack(found)[..., None] * np.array([1.0, 0.8, 0.6])
    return np.clip(coloured + rng.normal(0, 4, coloured.shape), 0, 255).astype(np.uint8)


def damaged(good: np.ndarray) -> np.ndarray:
    """With a bright green square of 6 pixels on each part."""
    bad = good.copy()
    bad[:, 12:18, 20:26] = (40, 255, 60)
    return bad


GOOD, TEST = parts(24, 1), parts(6, 2)
BAD = damaged(TEST)
