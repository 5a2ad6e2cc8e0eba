"""What padim-jax installs by itself is enough to fit and score; what more is needed comes with an extra, by name."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import padim_jax as padim
from tests.conftest import SMALL, images, write_images
from tests.test_structure import ROOT, SOURCES

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# neither Etils, which Orbax needs anyway, nor importlib-resources, which older releases of Etils import
MISSING = ("sklearn", "grain")
BLOCK = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {MISSING}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
from padim_jax.cli import main
print([main(command) for command in COMMANDS])
"""


def distributions(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=~!;]", requirement)[0] for requirement in requirements}


def imported(node: ast.AST, extra: str | None = None) -> Iterator[tuple[str, str | None]]:
    """Every package imported below ``node``, with the extra that the ``with extra(...)`` around it names."""
    for child in ast.iter_child_nodes(node):
        inner = extra
        if isinstance(child, ast.With):
            call = child.items[0].context_expr
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                if call.func.id == "suppress":  # the package may be missing
                    continue
                if call.func.id == "extra":
                    inner = ast.literal_eval(call.args[0])
        if isinstance(child, ast.Import):
            yield from ((alias.name.split(".")[0], inner) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module.split(".")[0], inner
        yield from imported(child, inner)


def test_every_import_is_declared_where_it_is_used_and_every_dependency_is_imported() -> None:
    core = distributions(PROJECT["dependencies"])
    extras = {name: distributions(of) for name, of in PROJECT["optional-dependencies"].items()}
    homes, seen = packages_distributions(), set[tuple[str, str | None]]()
    for path in SOURCES:
        for package, extra in imported(ast.parse(path.read_text(encoding="utf-8"))):
            if package in sys.stdlib_module_names or package in ("padim_jax", "weights_conversion"):
                continue
            names = {name.replace("_", "-").lower() for name in homes.get(package, [package])}
            assert names & (core | (extras[extra] if extra else set())), (path, package, extra)
            seen |= {(name, extra) for name in names}
    packages = {package for spec in padim.BACKBONES.values() if (package := spec.package)}  # found by their files
    for package in packages:
        place = PROJECT["optional-dependencies"][package.extra] if package.extra else PROJECT["dependencies"]
        assert package.requirement in place
    assert not core - {name for name, _ in seen} - {package.distribution for package in packages}
    assert not extras["evaluate"] - {name for name, extra in seen if extra == "evaluate"}


def test_fit_and_score_need_no_extra_and_what_does_says_which(tmp_path: Path) -> None:
    write_images(tmp_path / "parts" / "good", images(4, SMALL))
    write_images(tmp_path / "parts" / "bad", images(2, SMALL, seed=1))
    small = "--tap block2 --tap block4 --n-channels 12 --image-size 40x56 --crop-size 32x48".split()
    commands = [
        ["fit", "parts/good", "--out", "model", *small],
        ["score", "model", "parts/bad", "--out", "result"],
        ["evaluate", "parts", "--out", "evaluation", "--preset", "lite0"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.replace("COMMANDS", repr(commands))], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "[0, 0, 1]", done.stderr
    (error,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert re.search(r"the package \w+ is not installed; .*: pip install 'padim-jax\[evaluate\]'$", error)
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("padim_jax.evaluation.metrics", "sklearn.metrics", "evaluate"),
        ("padim_jax.data.examples", "grain", "evaluate"),
        ("padim_jax.data.mvtec_ad", "importlib_resources", "evaluate"),
        ("padim_jax.export.onnx_model", "onnx", "export"),
    ],
)
def test_a_missing_package_names_its_extra_to_python_users_too(
    module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in [
        name for name in sys.modules if name.startswith(("padim_jax.evaluation", "padim_jax.data", "padim_jax.export"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'padim-jax\[{extra}\]'"):
        importlib.import_module(module)
