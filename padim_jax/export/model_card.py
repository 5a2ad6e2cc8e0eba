"""What a repository of the Hugging Face Hub holds of padim's: files, the model's digest, and a card about both."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padim_jax.artifact import load
from padim_jax.artifact.manifest import MANIFEST, read_manifest
from padim_jax.export.certificate import CERTIFICATE, Certificate
from padim_jax.export.describe import model_digest
from padim_jax.export.fitness import words_of_unfit
from padim_jax.export.folder import EXPORT_FILES
from padim_jax.export.reading import read_certificate
from padim_jax.method.records import Padim

CARD = "README.md"
_MODEL_FILE = re.compile(r"model\.json|arrays-[0-9a-f]{16}(/(?!\.\.?(/|$))[\w.+=,%@-]+)+")
_DIGEST = re.compile(r"padim_digest: ([0-9a-f]{64})")
_MOST = 1 << 20  # characters of a card that are looked at


@dataclass(frozen=True)
class Contents:
    """A model's folder or an export's, every file of which was checked.

    Attributes:
      kind: "model" or "export".
      digest: of the model (:func:`padim_jax.export.describe.model_digest`).
      files: by their names in the folder, with ``/``.
      card: Markdown that says what it is.
    """

    kind: str
    digest: str
    files: tuple[str, ...]
    card: str


def examine(folder: Path) -> Contents:
    """Read a model's or an export's folder, which anybody may have made, as ``load`` and ``padim verify`` read it.

    Raises:
      ArtifactError, ExportError: neither of both; a file that is missing, damaged or changed.
    """
    if (folder / CERTIFICATE).exists():
        certificate = read_certificate(folder)
        names = (CERTIFICATE, *certificate.files)
        return Contents("export", certificate.model, names, _card("export", certificate.model, _of_export(certificate)))
    manifest = read_manifest(folder)
    model = load(folder)
    digest, names = model_digest(model), (MANIFEST, *(f"{manifest['directory']}/{name}" for name in manifest["files"]))
    return Contents("model", digest, names, _card("model", digest, _of_model(model, manifest)))


def is_own_file(name: str) -> bool:
    """Whether a file of a repository is one that a model or an export of padim's has, by its name."""
    return name in EXPORT_FILES or _MODEL_FILE.fullmatch(name) is not None


def digest_on(card: str) -> str | None:
    """The digest of the model that a card names; None where it is not one that padim wrote."""
    found = _DIGEST.search(card[:_MOST])
    return None if found is None else found[1]


def _card(kind: str, digest: str, facts: Mapping[str, Any]) -> str:
    what, how = {
        "model": ("a model", "padim score DIR PATH..."),
        "export": ("a program for other runtimes", "padim verify DIR"),
    }[kind]
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""---
library_name: padim_jax
tags:
- anomaly-detection
- padim
padim_digest: {digest}
---

# PaDiM, {what}

Finds defects after seeing good parts only ([arXiv 2011.08785](https://arxiv.org/abs/2011.08785)). padim_jax wrote the
files. `padim pull REPO --out DIR` checks every one of them, and `{how}` takes the folder then. Nothing in it is
pickled, and reading it executes nothing.

| what | |
| --- | --- |
| digest of the model | `{digest}` |
{rows}

padim can't say under which licence the images were that the model was fitted on, and numbers computed from them are in
these files: whoever pushed them adds what holds for that.
"""


def _of_model(model: Padim, manifest: Mapping[str, Any]) -> dict[str, Any]:
    spec, embedding, found = model.backbone.spec, model.embedding, model.calibration
    judged = "none: scores come without p-values and verdicts"
    if found is not None:
        judged = (
            f"{len(found.scores)} good images, {found.method}; above {float(found.threshold):.6g} is anomalous, for a "
            f"rate of false alarms of {found.false_alarm_rate:g}"
        )
    return {
        "network": f"`{spec.name}`, layers {', '.join(embedding.taps)}",
        "licence of the network's weights": spec.licence,
        "fitted on": f"{float(model.count):.6g} good images",
        "embedding": f"d = {embedding.dimension} at {embedding.grid[0]}×{embedding.grid[1]} positions",
        "form": manifest.get("form", "square"),
        "calibration": judged,
        **{f"`{name}`": f"`{value}`" for name, value in dataclasses.asdict(model.config).items()},
    }


def _of_export(certificate: Certificate) -> dict[str, Any]:
    size = "×".join(map(str, certificate.taken.size))
    return {
        "format, precision": f"{certificate.exported}, {certificate.precision}",
        "takes": f"{certificate.batch or 'any number of'} images of {size} pixels at a time, uint8 RGB",
        "licence of the network's weights": "that of the model's network, which padim's README names",
        **{
            f"{report.name} {report.version}": f"within {report.differences.relative:.1e} of the maps' scale"
            for report in certificate.runtimes
        },
        **{
            f"not in {report.name}": f"**{words_of_unfit(report, certificate.exported, certificate.bound)}**"
            for report in certificate.unfit
        },
        "made": certificate.made,
        **{f"`{name}`": f"`{value}`" for name, value in certificate.reading.items()},
    }
