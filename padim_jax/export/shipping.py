"""Folders in an export that run its program without Python, written from the templates beside this module."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padim_jax.config import PadimConfig
from padim_jax.export.describe import ExportError
from padim_jax.export.examples import BOUND, Example, write_examples
from padim_jax.export.page import PACKAGE, TESTED, write_page
from padim_jax.export.shipped import EXAMPLES, TARGET_FILES, TARGETS, Target, example_name
from padim_jax.method.records import Padim

TEMPLATES = Path(__file__).parent / "templates"
_CALL = "export_model"


@dataclass(frozen=True)
class Shipment:
    """What folders for runtimes are written from.

    Attributes:
      targets: which folders.
      ort_web: the package onnxruntime-web of npm, as it was packed or unpacked; None without "browser".
    """

    targets: tuple[Target, ...] = ()
    ort_web: Path | None = None

    def check(self, config: PadimConfig, format: str, batch: int | None, photo: tuple[int, int] | None) -> None:
        """Raise ``ExportError`` or ``ValueError`` where these folders can't be written, before anything is computed."""
        if unknown := [name for name in self.targets if name not in TARGETS]:
            raise ValueError(f"{_CALL}: runtimes has {unknown[0]!r}, wanted of {', '.join(TARGETS)}")
        if len({*self.targets}) < len(self.targets):
            raise ValueError(f"{_CALL}: runtimes={self.targets!r} names one twice")
        if self.ort_web is not None and "browser" not in self.targets:
            raise ValueError(f"{_CALL}: ort_web is for the runtime 'browser', which runtimes does not name")
        if not self.targets:
            return
        if format != "onnx":
            raise ExportError(f"{_CALL}: runtimes={self.targets!r} run format='onnx', not {format!r}; export that")
        if photo is not None:
            raise ExportError(
                f"{_CALL}: runtimes={self.targets!r} read photos of any size themselves, and a program with input="
                f"{('photo', *photo)!r} takes them unread, of one size; leave input or runtimes out"
            )
        if batch not in (None, 1):
            raise ExportError(
                f"{_CALL}: runtimes={self.targets!r} score one image at a time, and batch={batch}; export with batch=1"
            )
        if config.value_range is not None:
            raise ExportError(
                f"{_CALL}: the model is for images of more than 8 bits (value_range), which runtimes={self.targets!r} "
                "can't read yet; leave them out, and give the program pixels that padim has read"
            )
        if "browser" in self.targets and self.ort_web is None:
            raise ExportError(
                f"{_CALL}: the runtime 'browser' needs ort_web, the package onnxruntime-web of npm: "
                f"npm pack {PACKAGE}@{TESTED}, then give the .tgz file that it writes"
            )

    def write(
        self, folder: Path, model: Padim, digest: str, title: str, examples: Sequence[Example], bound: float
    ) -> None:
        """Write the folders, and the examples, beside the program that lies in ``folder``.

        Runtimes may be off by ``bound`` of a map's scale, and by :data:`padim_jax.export.examples.BOUND` anyway.

        Raises:
          ExportError: a program too large for a page; an ``ort_web`` that is not what it should be.
        """
        if not self.targets:
            return
        bound = max(bound, BOUND)
        write_examples(folder, examples, digest, bound)
        words = _words(model.config, digest, examples, bound)
        for target in self.targets:
            (folder / target).mkdir()
            if target == "browser":
                assert self.ort_web is not None
                write_page(folder, TEMPLATES, self.ort_web, _settings(model, digest, title, bound), examples)
            for name in TARGET_FILES[target]:
                template = TEMPLATES / target / name
                if (target, name) == ("browser", "index.html"):
                    continue
                text = template.read_text(encoding="utf-8")
                for key, value in words.items():
                    text = text.replace(f"@{key}@", value)
                (folder / target / name).write_text(text, encoding="utf-8", newline="\n")


def _settings(model: Padim, digest: str, title: str, bound: float) -> dict[str, Any]:
    """What a page knows of the model beside its program."""
    reading, calibration = _reading(model.config), model.calibration
    judged: dict[str, Any] = {"threshold": None, "pixel_threshold": None, "colour_scale": None, "least_match": None}
    if calibration is not None:
        judged = {
            "threshold": float(calibration.threshold),
            "pixel_threshold": float(calibration.pixel_threshold),
            "colour_scale": [float(value) for value in calibration.colour_scale],
            "least_match": None if calibration.least_match is None else float(calibration.least_match),
        }
    return {**reading, **judged, "bound": bound, "model": digest, "title": title}


def _reading(config: PadimConfig) -> dict[str, Any]:
    return {"image": config.image, "crop": config.crop, "resize": config.resize, "interpolation": config.interpolation}


def _words(config: PadimConfig, digest: str, examples: Sequence[Example], bound: float) -> dict[str, str]:
    """What stands for the names between @ in the templates."""
    settings = _reading(config)
    tests = "\n".join(
        f'add_test(NAME example-{index} COMMAND score --model "${{MODEL}}" --expect {example.said.image_score!r} '
        f'--within {bound * example.said.scale!r} --cropped "${{EXPORT}}/{EXAMPLES}/{example_name(index)}")'
        for index, example in enumerate(examples)
    )
    return {
        "SETTINGS": json.dumps(settings | {"model": digest}, indent=1),
        "MODEL_DIGEST": digest,
        "IMAGE_ROWS": str(config.image[0]),
        "IMAGE_COLUMNS": str(config.image[1]),
        "CROP_ROWS": str(config.crop[0]),
        "CROP_COLUMNS": str(config.crop[1]),
        "RESIZE": config.resize,
        "INTERPOLATION": config.interpolation,
        "TESTS": tests,
    }
