"""Strict climate, and small models shared by the tests."""

import ctypes
import gc
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Container, Iterator
from importlib.metadata import version
from pathlib import Path

# XLA reads its flags once, when JAX first compiles: without optimisation, a program takes a quarter of the time
# (1.5 instead of 6.0 CPU seconds for a small fit and its scores) and differs in the last bits. Processes that tests
# start inherit the flags. TESTS_COMPILE=optimised leaves them out, and so do tests that are marked optimised.
FULL = os.environ.get("TESTS_COMPILE") == "optimised"
_EMITTERS = "xla_cpu_use_fusion_emitters"  # a flag that JAX does not have since 0.11.1, where it ends the process
_HAS_EMITTERS = tuple(map(int, version("jaxlib").split(".")[:3])) < (0, 11, 1)
QUICK = " ".join(
    ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
    + [f"--{_EMITTERS}=false"] * _HAS_EMITTERS
)
OPTIMISED: dict[str, str | bool] = {"xla_backend_optimization_level": "3"}  # for one program: XLA's defaults
if _HAS_EMITTERS:
    OPTIMISED[_EMITTERS] = True
if not FULL and QUICK not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()

# ruff: noqa: E402
import jax
import numpy as np
import psutil
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.artifact.manifest import manifest_checksum
from padim_jax.backbones.weights import is_packaged, packaged_file

# compiling is most of the work: what one process has compiled the others, and those that tests start, read
COMPILED = os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "compiled")
)
jax.config.update("jax_compilation_cache_dir", COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

MUCH = 2 * 2**30  # bytes of a process

# two taps: half of the network compiles in half of the time
SMALL = padim.PadimConfig(taps=("block2", "block4"), n_channels=12, image_size=(40, 56), crop_size=(32, 48), sigma=1.5)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked optimised in a process whose programs are compiled as those of users are."""
    if FULL or pyfuncitem.get_closest_marker("optimised") is None:
        return None
    flags = os.environ["XLA_FLAGS"].replace(QUICK, "")
    said = run_pytest(pyfuncitem.nodeid, TESTS_COMPILE="optimised", XLA_FLAGS=flags)
    for reason in re.findall(r"(?m)^SKIPPED \[\d+\] \S+: (.*)$", said):
        pytest.skip(reason)
    return True


def run_pytest(what: str, mark: str = "", **environment: str) -> str:
    """Run tests, of all those that have the mark, in a process of their own; fail with what it prints where it fails."""
    command = [sys.executable, "-m", "pytest", "-n0", f"-m={mark}", "-p", "no:cacheprovider", what]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, env=os.environ | environment, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stdout[-8000:] + done.stderr[-2000:]
        pytest.fail(f"{' '.join(command)} gives {done.returncode}\n{said}", pytrace=False)
    return done.stdout


@pytest.fixture(autouse=True)
def _strict() -> Iterator[None]:
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory() -> Iterator[None]:
    """Let compiled programs go after a module, once a process holds much: all of the suite's take 8 GB."""
    yield
    if psutil.Process().memory_info().rss > MUCH:
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":  # what was freed stays with the process unless it is asked for
            ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def lite0() -> padim.Backbone:
    """Lite0 with its real weights."""
    return padim.load_backbone("efficientnet_lite0")


def packaged_weights(name: str) -> Path:
    """The weights file of backbone ``name`` in the package that an extra brings; skips where that is not installed."""
    if not is_packaged(name):
        pytest.skip(f"the package of {name} is not installed; the extra test brings it")
    return packaged_file(name)


def hide_modules(monkeypatch: pytest.MonkeyPatch, names: Container[str]) -> None:
    """As if modules were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in names else find(name, *more))


@pytest.fixture
def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no package of weights were installed."""
    hide_modules(monkeypatch, {spec.package.module for spec in padim.BACKBONES.values() if spec.package})


@pytest.fixture
def small() -> padim.PadimConfig:
    """Settings of a model with an 8×12 grid."""
    return SMALL


@pytest.fixture(scope="session")
def small_model(lite0: padim.Backbone) -> padim.Padim:
    return padim.fit(lite0, [images(20, SMALL)], SMALL)


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Programs compiled, or fetched from the cache of compiled ones, so far."""
    found: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def images(n: int, config: padim.PadimConfig, seed: int = 0) -> np.ndarray:
    """Smooth random images: every one differs, none is noise alone."""
    rng = np.random.default_rng(seed)
    height, width = config.crop
    coarse = rng.integers(0, 256, (n, height // 4, width // 4, 3))
    fine = coarse.repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(fine + rng.integers(-20, 21, fine.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def good_dir(tmp_path: Path) -> Path:
    """Folder of 6 good PNG files of 56×40 pixels, some in a subfolder."""
    folder = tmp_path / "good"
    (folder / "later").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for index in range(6):
        pixels = rng.integers(0, 256, (40, 56, 3), np.uint8)
        place = folder / "later" if index > 3 else folder
        Image.fromarray(pixels).save(place / f"part{index}.png")
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a small model, certified on good images; not to be changed."""
    from padim_jax.export import export_model
    from tests.exports import GOOD, fitted

    folder = tmp_path_factory.mktemp("exported") / "part-onnx"
    export_model(fitted("plain"), folder, GOOD)
    return folder


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """A copy of that export, to be changed."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if OpenVINO were not installed, which rounds eight bits of small networks a little beyond the bound."""
    hide_modules(monkeypatch, {"openvino"})


def rewrite_manifest(folder: Path, **changes: object) -> None:
    """Change a model's manifest as somebody would who knows of its checksum."""
    manifest = json.loads((folder / "model.json").read_text()) | changes
    manifest["checksum"] = manifest_checksum(manifest)
    (folder / "model.json").write_text(json.dumps(manifest))


def write_images(folder: Path, pixels: np.ndarray) -> list[Path]:
    """Write images as PNG files; gives their paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:03}.png" for index in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths
