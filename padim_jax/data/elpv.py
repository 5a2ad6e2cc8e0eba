"""The demonstration: real solar cells, fitted on good ones, scored on unseen good and defective ones.

Data: ELPV, electroluminescence images of 300×300 pixels (Buerhop-Lukschy et al. 2018; Deitsch et al. 2019,
arXiv 1807.02894), CC BY-NC-SA 4.0, as shipped by the package ``elpv-dataset``.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SEED = 0
FIT_SHARE = 0.6


@dataclass(frozen=True)
class DemoSplit:
    """Monocrystalline cells: a share of the good ones to fit, the other good and the certainly defective to score."""

    fit: tuple[Path, ...]
    good: tuple[Path, ...]
    defective: tuple[Path, ...]


def demo_split() -> DemoSplit:
    """Split ELPV's monocrystalline cells: probability 0 means good, 1 defective; those between are left out.

    Raises:
      ModuleNotFoundError: the package with the images is not installed.
    """
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the demo needs its images: pip install 'padim-jax[demo]'")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    cells = [line.split() for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines() if line]
    good, defective = (
        sorted(folder / name for name, probability, kind in cells if (float(probability), kind) == (defect, "mono"))
        for defect in (0.0, 1.0)
    )
    order = np.random.default_rng(SEED).permutation(len(good))
    count = int(FIT_SHARE * len(good))
    return DemoSplit(
        fit=tuple(good[i] for i in sorted(order[:count])),
        good=tuple(good[i] for i in sorted(order[count:])),
        defective=tuple(defective),
    )
