"""The manifest of a model folder, ``model.json``: what the model is, and which arrays belong to it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from padim_jax.artifact.arrays import ArtifactError

# 2: neighbourhood, covariance, projection. 3: forms, calibration, region of interest, images. 4: parts
# 5: checksum of the manifest itself. 6: pooled covariance. 7: aligned images, shared positions
SCHEMA = 7
FORMAT = "padim_jax model"
MANIFEST = "model.json"


def read_manifest(folder: Path, kind: str = FORMAT) -> dict[str, Any]:
    """The record that :func:`padim_jax.artifact.folder.write` was given, with what it added.

    Args:
      folder: of the model.
      kind: its format, as the manifest names it.

    Raises:
      ArtifactError: there is no manifest, it is damaged, or a newer version wrote it.
    """
    if not folder.exists():
        raise ArtifactError(f"load: there is no model at {folder}")
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(f"load: {folder} is no model: it has no {MANIFEST} (a model is the folder `save` wrote)")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"load: {folder / MANIFEST} is damaged ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != kind:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        described = f", but a {found}" if isinstance(found, str) else ""
        raise ArtifactError(f"load: {folder / MANIFEST} does not describe a {kind}{described}")
    schema = manifest.get("schema")
    if not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
        versions = manifest.get("versions")
        writer = versions.get("padim-jax") if isinstance(versions, dict) else "unknown"
        raise ArtifactError(
            f"load: {folder} has schema {schema!r}, this version reads up to {SCHEMA}; "
            f"it was written by padim-jax {writer}: upgrade with pip install -U padim-jax"
        )
    if (schema >= 5 or "checksum" in manifest) and manifest.get("checksum") != manifest_checksum(manifest):
        raise ArtifactError(f"load: {folder / MANIFEST} is damaged (its checksum differs); copy the model again")
    return manifest


def manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 in hex of a manifest's entries except the checksum: a guard against decay, not malice."""
    entries = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def is_whole(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether every file that a manifest names is there; their checksums are checked by whoever reads them."""
    directory = folder / str(manifest.get("directory"))
    files = manifest.get("files")
    return isinstance(files, dict) and all((directory / name).is_file() for name in files)


def arrays_directory(path: Path) -> str | None:
    """Name of the folder of arrays that the manifest ``path`` names; None where it can't be read."""
    name = read_json(path).get("directory")
    return name if isinstance(name, str) else None


def read_json(path: Path) -> dict[str, Any]:
    """What ``path`` holds, or nothing where that is not a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def manifest_error(folder: Path, error: Exception) -> ArtifactError:
    """The error of a manifest that holds nonsense."""
    return ArtifactError(f"load: {folder / MANIFEST} is damaged ({type(error).__name__}: {error})")
