"""The house rules that can be read from the source: layers, sizes, a light and pinned root."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import padim_jax
import padim_jax.backbones
import padim_jax.baselines
import padim_jax.inspection
import padim_jax.runs
from padim_jax.backbones import BackboneSpec

ROOT = Path(__file__).parent.parent
PACKAGES = ("padim_jax", "weights_conversion")
SOURCES = sorted([*ROOT.glob("padim_jax/**/*.py"), *ROOT.glob("weights_conversion/*.py")])
# A module imports from its own layer and from those before it; within a layer nothing goes in circles.
LAYERS = [
    "weights_conversion",
    "padim_jax.lazy",
    "padim_jax.config",
    "padim_jax.backbones",
    "padim_jax.presets",
    "padim_jax.gaussians",
    "padim_jax.method",
    "padim_jax.artifact",
    "padim_jax.baselines",
    "padim_jax.images",
    "padim_jax.data",
    "padim_jax.mesh",
    "padim_jax.runs",
    "padim_jax.export",
    "padim_jax.fleet",
    "padim_jax.inspection",
    "padim_jax.line",
    "padim_jax.evaluation",
    "padim_jax.commands",
    "padim_jax.cli",
    "padim_jax",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> int:
    parts = module.split(".")
    return LAYERS.index(".".join(parts[:2]) if parts[0] == "padim_jax" else parts[0])


def imports(path: Path) -> set[str]:
    """Modules of ours that ``path`` imports anywhere, functions included."""
    known, found = {module_name(source) for source in SOURCES}, set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inner or {node.module}
    return found & known


def test_every_layer_is_there_and_every_module_in_one() -> None:
    assert {layer(module_name(path)) for path in SOURCES} == set(range(len(LAYERS)))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_module_imports_from_its_own_layer_and_those_before(path: Path) -> None:
    assert not {name for name in imports(path) if layer(name) > layer(module_name(path))}


def test_no_imports_go_in_circles() -> None:
    graph = {module_name(path): imports(path) - {module_name(path)} for path in SOURCES}
    assert set(TopologicalSorter(graph).static_order()) == set(graph)  # raises CycleError, naming the circle


def test_a_stranger_finds_few_entries() -> None:
    assert len([path for path in (ROOT / "padim_jax").iterdir() if path.name != "__pycache__"]) <= 22


@pytest.mark.parametrize("path", [*SOURCES, *sorted(ROOT.glob("tests/*.py"))], ids=str)
def test_no_file_outgrows_a_reader(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def full_names(source: str) -> set[str]:
    """All names that ``source`` uses, in full: ``bye`` of ``from sys import exit as bye`` is ``sys.exit``."""
    tree, imported = ast.parse(source), dict[str, str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute)}
    parts = [name.split(".", 1) for name in names | set(imported)]
    return {".".join([imported.get(first, first), *rest]) for first, *rest in parts}


# names that print or exit, and modules that do nothing else
TERMINAL = re.compile(
    r"(builtins\.)?(print|exit|quit|SystemExit)|os\.(_exit|abort)|sys\.(exit|_exit|__?std(out|err).*|std(out|err).*)"
    r"|(click|rich)(\..*)?|.*\.(secho|_exit)"
)


def terminal_names(source: str) -> set[str]:
    return {name for name in full_names(source) if TERMINAL.fullmatch(name)}


@pytest.mark.parametrize(
    "line",
    [
        *("print(1)", "exit()", "quit()", "raise SystemExit(1)", "f(tell=print)", "import builtins as b; b.print(1)"),
        *("import os; os._exit(1)", "from os import _exit", "import os as o; o._exit(1)", "import os; os.abort()"),
        *("import sys; sys.exit()", "from sys import exit as bye; bye()", "import sys as s; s.stdout.write('')"),
        *("from sys import stderr", "import sys; sys.__stdout__.write('')", "import click; click.echo('')"),
        *("from click import echo as say", "from rich.console import Console", "import rich; rich.print(1)"),
    ],
)
def test_what_prints_or_exits_is_seen(line: str) -> None:
    assert terminal_names(line)
    assert not terminal_names("model.exit(stream.tell()); self.print_width; os.environ; sys.modules; path.stdout")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_the_command_prints_and_exits(path: Path) -> None:
    if not module_name(path).startswith(("padim_jax.commands", "padim_jax.cli", "weights_conversion.__main__")):
        assert not terminal_names(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_nobody_asks_of_what_kind_a_gaussian_is(path: Path) -> None:
    if {"gaussians", "artifact"} & set(path.relative_to(ROOT).parts):  # the mathematics itself, and its layouts on disk
        return
    kinds = {"Gaussian", "WhitenedGaussian", "LowRankGaussian", "AnyGaussian"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        asks = isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass")
        if asks or isinstance(node, ast.MatchClass | ast.Compare):
            assert not kinds & {name for part in ast.walk(node) if (name := ast.unparse(part)) in kinds}, ast.unparse(
                node
            )


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_private_name_crosses_modules(path: Path) -> None:
    def is_private(name: str) -> bool:
        return name.startswith("_") and not name.startswith("__")

    modules, private = set[str](), set[str]()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            source = node.module if isinstance(node, ast.ImportFrom) else None
            ours = [alias for alias in node.names if (source or alias.name).split(".")[0] in PACKAGES]
            private |= {alias.name for alias in ours if any(map(is_private, alias.name.split(".")))}
            modules |= {alias.asname or alias.name for alias in ours}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) in modules:
            private.add(ast.unparse(node))
    assert not private


def test_results_reach_the_terminal_by_tell_which_escapes_names() -> None:
    echoing = {path.name for path in SOURCES if "click.echo" in path.read_text(encoding="utf-8")}
    assert echoing == {"terminal.py", "cli.py"}  # the command itself writes a help text


@pytest.mark.parametrize("spec", padim_jax.BACKBONES.values(), ids=lambda spec: spec.name)
def test_readme_tells_the_truth_about_backbones(spec: BackboneSpec) -> None:
    (row,) = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| `{spec.name}`")]
    channels = sum(tap.channels for tap in spec.select(None))
    numbers = ", ".join(name.removeprefix("layer").removeprefix("block") for name in spec.default_taps)
    assert (spec.download is None) != (spec.package is None)
    weights = [spec.download.file_name] if spec.download else []
    weights += [spec.package.distribution, spec.package.extra or "installed with the package"] if spec.package else []
    for fact in (f"{channels} → {spec.default_channels}", numbers, *weights, spec.licence):
        assert fact in row


HEAVY = ("torch", "tensorflow", "matplotlib", "tensorflow_datasets", "sklearn", "grain", "av", "cv2")
JAX = ("jax", "jaxlib", "flax", "orbax", "scipy")


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("padim_jax", (*HEAVY, *JAX, "click", "numpy")),
        ("padim_jax.images, padim_jax.data, padim_jax.method.fitting, padim_jax.artifact", (*HEAVY, "click")),
        ("padim_jax.commands.fit", HEAVY),
        ("padim_jax.commands.score", (*HEAVY, "padim_jax.baselines.registry", "padim_jax.baselines.storing")),
        ("padim_jax.cli", (*HEAVY, *JAX)),
    ],
)
def test_import_stays_light(modules: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {modules}; print({set(heavy)} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_root_is_pinned() -> None:
    assert padim_jax.__all__ == [
        "BACKBONES", "PRESETS", "ArtifactError", "Backbone", "Calibration", "Padim", "PadimConfig", "PadimDetector",
        "PadimMoments", "Scores", "Updatable", "accumulate", "calibrate", "choose", "extract", "finalize", "fit", "forget",
        "init", "load", "load_backbone", "load_updatable", "merge", "own_backbone", "parameters_at", "preset",
        "regularise", "save", "save_updatable", "score", "update", "with_roi", "with_solver", "with_threshold",
    ]  # fmt: skip
    assert all(hasattr(padim_jax, name) for name in padim_jax.__all__)


@pytest.mark.parametrize(
    "package", [padim_jax, padim_jax.backbones, padim_jax.baselines, padim_jax.runs, padim_jax.inspection]
)
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
