"""``padim estimate``."""

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from padim_jax.backbones import load_backbone
from padim_jax.backbones.weights import is_packaged
from padim_jax.commands.inputs import find_inputs
from padim_jax.commands.settings import start_from_preset
from padim_jax.commands.terminal import tell, wrong_use
from padim_jax.config import PadimConfig
from padim_jax.images import find_value_range, load_batches
from padim_jax.inspection.estimate import Estimate, Files, estimate
from padim_jax.method.embedding import draw_embedding

_DEFAULT_IMAGES = 200
_TIMED = 8  # files


def estimate_command(
    good_dir: Path | None,
    images: int | None,
    preset_name: str | None,
    backbone: str | None,
    weights: str | None,
    form: str | None,
    as_json: bool,
    batch_size: int,
    **settings: Any,
) -> None:
    """Do what ``padim estimate`` says it does."""
    with wrong_use():
        name, config = start_from_preset(preset_name, backbone)
        config = replace(config, **{key: value for key, value in settings.items() if value is not None})
    paths = () if good_dir is None else find_inputs([good_dir]).paths
    count = images or len(paths) or _DEFAULT_IMAGES
    if count < 2:
        raise click.UsageError(f"{good_dir} holds one image; a fit needs 2 or more")
    start = time.perf_counter()
    if weights is None and not is_packaged(name):
        weights = "random"  # which are as large and as fast
    network = load_backbone(name, weights)
    starting_seconds = time.perf_counter() - start + _seconds_of_imports()
    with wrong_use():
        embedding = draw_embedding(network, config)
    n = min(batch_size, count)
    if paths:
        timed = paths[: max(_TIMED, n)]
        config = replace(config, value_range=find_value_range(timed))
        start = time.perf_counter()
        batches = list(load_batches(timed, config, max(_TIMED, n), note=lambda path, text: None))
        seconds_each = (time.perf_counter() - start) / len(timed)
        files = Files(max(w * h for batch in batches for w, h in batch.sizes), seconds_each)
        sample = np.resize(batches[0].images, (n, *config.crop, 3))
    else:
        files = Files(config.image[0] * config.image[1])
        sample = _random_images(n, config)
    estimated = estimate(network, config, count, sample, files, starting=starting_seconds)
    if form is not None and form not in estimated.disk:
        raise click.UsageError(f"--form {form} takes n ≤ d: {count} images, d = {embedding.dimension}")
    if as_json:
        tell(json.dumps(asdict(estimated)))
    else:
        _print(name, estimated, form, files)


def _print(name: str, estimated: Estimate, form: str | None, files: Files) -> None:
    p, d = estimated.positions, estimated.dimension
    tell(f"{name}, d = {d}, {p} positions, {estimated.images} images")
    tell(f"state: moments {_bytes(estimated.state)}, factors {_bytes(estimated.factors)}")
    tell("size on disk:")
    for stored in estimated.disk if form is None else (form,):
        tell(f"  {stored:17}{_bytes(estimated.disk[stored]):>9}")
    for command, phases, seconds in (
        ("fit", estimated.fit, estimated.fit_seconds),
        ("score", estimated.score, estimated.score_seconds),
    ):
        host, device = (max(phases, key=lambda phase, side=side: getattr(phase, side)) for side in ("host", "device"))
        tell(f"padim {command}:")
        if estimated.accelerator:
            tell(f"  peak memory: host {_bytes(host.host)} ({host.name}), device {_bytes(device.device)} "
                       f"({device.name})")  # fmt: skip
        else:
            peaks = ", ".join(f"{phase.name} {_bytes(phase.host)}" for phase in phases)
            tell(f"  peak memory: {_bytes(host.host)}, during {host.name} ({peaks})")
        parts = ", ".join(f"{part} {value:.1f}" for part, value in seconds.items() if value >= 0.05)
        tell(f"  seconds: {sum(seconds.values()):.0f} ({parts})")
    share = "all" if estimated.measured_positions == p else f"{estimated.measured_positions} of {p}"
    decoding = "decoding timed on files" if files.seconds is not None else "decoding not counted: no GOOD_DIR"
    tell(
        f"measured here: the process, one batch through the network, {share} positions (seconds, memory "
        f"beyond XLA's account), {decoding}; computed: everything else, by XLA's account of the compiled programs"
    )


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _seconds_of_imports() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import padim_jax.commands.fit"], check=True)
    return time.perf_counter() - start


def _random_images(n: int, config: PadimConfig) -> np.ndarray:
    """Random images in blocks of 16×16 pixels, which compress as pictures do; noise would not."""
    rng, (height, width) = np.random.default_rng(0), config.crop
    coarse = rng.integers(0, 256, (n, -(-height // 16), -(-width // 16), 3), np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
