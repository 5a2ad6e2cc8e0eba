"""What a folder says of a model in it, before it is loaded: commands ask this of every model, PaDiM's too."""

import json
import os
from pathlib import Path

from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.manifest import MANIFEST, manifest_error, read_manifest

FORMAT = "padim_jax baseline"


def files_of(path: str | os.PathLike[str]) -> dict[str, tuple[int, int]]:
    """(width, height) of the files that a model of these methods was fitted on, by digest; none where it knows none.

    Raises:
      ArtifactError: no such model, or a damaged one.
    """
    manifest = read_manifest(Path(path), FORMAT)
    try:
        return {str(digest): (int(size[0]), int(size[1])) for digest, size in manifest.get("images", {}).items()}
    except (AttributeError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise manifest_error(Path(path), error) from error


def is_baseline(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a model of these methods, as its manifest says; False where it has none."""
    try:
        manifest = json.loads((Path(path) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def refuse(path: str | os.PathLike[str], operation: str) -> None:
    """Raise ``ArtifactError`` saying why where a folder holds a model of these methods, which ``operation`` can't take.

    Args:
      path: a folder, of a model or not.
      operation: as commands name it, such as "update".
    """
    if is_baseline(path):
        from padim_jax.baselines.registry import METHODS  # most folders hold PaDiM's models, which need it not

        name = str(read_manifest(Path(path), FORMAT).get("method"))
        reason = METHODS[name].refusals.get(operation) if name in METHODS else None
        told = reason or "padim score takes it; what else it is to do, padim fit --method does anew"
        raise ArtifactError(f"{operation}: {path} is a model of {name}, not of PaDiM; {told}")
