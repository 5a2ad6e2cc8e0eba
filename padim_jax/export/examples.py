"""A few images of the crop's size in an export, with what the model says about them: for runtimes without Python."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from padim_jax.export.certificate import AGAIN, Certificate, GoodImage, Reference
from padim_jax.export.compare import Outputs
from padim_jax.export.describe import ExportError
from padim_jax.export.shipped import EXAMPLES, EXPECTED, claimed_targets, example_name

MOST_GOOD = 3  # of the images that were named
BOUND = 1e-3  # of scores, relative to the map's scale; wider than that of runtimes here, as for 16-bit arithmetic
_OTHERS = (2, 4)  # noise and a ramp, of the reference's images


@dataclass(frozen=True)
class Example:
    """An image and what the model says about it.

    Attributes:
      pixels: uint8 RGB of the crop's size.
      said: scores and verdict, with the scale of its map.
    """

    pixels: UInt8[np.ndarray, "height width 3"]
    said: GoodImage

    def record(self, file: str) -> dict[str, Any]:
        """What a file of examples says about it."""
        found = {"file": file, "scale": self.said.scale, "image_score": self.said.image_score}
        if self.said.p_value is not None:
            found |= {"p_value": self.said.p_value, "anomalous": self.said.anomalous}
        return found


def keep_first(
    batches: Iterable[UInt8[np.ndarray, "n height width 3"]], kept: list[np.ndarray], most: int
) -> Iterator[UInt8[np.ndarray, "n height width 3"]]:
    """The same batches; the first images that pass, at most ``most``, are added to ``kept``."""
    for batch in batches:
        kept += list(batch[: most - len(kept)].copy())
        yield batch


def choose_examples(
    images: Sequence[UInt8[np.ndarray, "height width 3"]], good: Sequence[GoodImage], reference: Reference
) -> list[Example]:
    """The first of the images that were named, then noise and a ramp."""
    examples = [Example(*pair) for pair in zip(images, good, strict=False)]
    for index in _OTHERS:
        scale, score = float(reference.scale[index]), float(reference.image_score[index])
        p_value = None if reference.p_value is None else float(reference.p_value[index])
        anomalous = None if reference.anomalous is None else bool(reference.anomalous[index])
        examples.append(Example(reference.images[index], GoodImage("", scale, score, p_value, anomalous)))
    return examples


def write_examples(folder: Path, examples: Sequence[Example], model: str, bound: float) -> None:
    """Write PNG files and ``expected.json`` to a folder, which is made.

    Args:
      folder: of the export.
      examples: in order.
      model: the digest of the model that they are of.
      bound: what a runtime's scores may be off by, relative to the map's scale.
    """
    (folder / EXAMPLES).mkdir()
    names = [example_name(index) for index in range(len(examples))]
    for name, example in zip(names, examples, strict=True):
        Image.fromarray(example.pixels).save(folder / EXAMPLES / name)
    records = [example.record(name) for name, example in zip(names, examples, strict=True)]
    text = json.dumps({"model": model, "bound": bound, "examples": records}, indent=1, allow_nan=False)
    (folder / EXAMPLES / EXPECTED).write_text(text + "\n", encoding="utf-8")


def read_examples(
    folder: Path, certificate: Certificate
) -> tuple[UInt8[np.ndarray, "n height width 3"], Outputs, Float[np.ndarray, " n"]]:
    """Images, what the model said about them, and the scales of their maps; none where the export has no examples.

    Raises:
      ExportError: files that are not as :func:`write_examples` writes them.
    """
    _, count = claimed_targets(certificate.files)
    size = certificate.settings.crop
    images, records = np.zeros((count, *size, 3), np.uint8), list[Any]()
    if count:
        path = folder / EXAMPLES / EXPECTED
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            records, names = found["examples"], [example_name(index) for index in range(count)]
            if found["model"] != certificate.model or [record["file"] for record in records] != names:
                raise ValueError("it is of another model, or of other images")
            for index, name in enumerate(names):
                path = folder / EXAMPLES / name
                images[index] = _read_png(path, size)
            outputs = _outputs(records)
        except (ValueError, KeyError, TypeError, OSError, SyntaxError, RecursionError) as error:
            raise ExportError(f"verify_export: {path} is not as it was written ({error}); {AGAIN}") from error
        return images, outputs, np.array([float(record["scale"]) for record in records])
    return images, {}, np.zeros(0)


def _outputs(records: Sequence[Any]) -> dict[str, np.ndarray]:
    judged = "p_value" in records[0]
    names = ["image_score", *(["p_value", "anomalous"] if judged else [])]
    for record in records:
        if {*record} != {"file", "scale", *names}:
            raise ValueError(f"an example has {', '.join(sorted(record))}")
        numbers = [record[name] for name in ("scale", *names) if name != "anomalous"]
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise ValueError("its scores are not of numbers")
        if judged and type(record["anomalous"]) is not bool:
            raise ValueError("its verdicts are not true or false")
    return {
        name: np.array([record[name] for record in records], bool if name == "anomalous" else np.float64)
        for name in names
    }


def _read_png(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Pixels of a PNG, whose size is compared before they are decoded."""
    with Image.open(path, formats=["PNG"]) as opened:
        if (opened.height, opened.width) != size or opened.mode != "RGB":
            raise ValueError(f"it is {opened.width}×{opened.height} {opened.mode}, wanted {size[1]}×{size[0]} RGB")
        return np.asarray(opened)
