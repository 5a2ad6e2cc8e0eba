"""What stands in several files of the project says the same in all of them."""

import re
import tomllib

import yaml

import padim_jax
from tests.test_structure import LAYERS, ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_ruff_and_pyright_are_pinned_and_pre_commit_runs_the_same_ruff() -> None:
    pins = dict(requirement.split("==") for requirement in EXTRAS["dev"] if "==" in requirement)
    assert set(pins) == {"pyright", "ruff"}
    hooks = {repository["repo"]: repository for repository in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]}
    (ruff,) = [hooks[repository] for repository in hooks if "ruff" in repository]
    assert ruff["rev"] == f"v{pins['ruff']}"
    assert [hook["id"] for hook in ruff["hooks"]] == ["ruff-check", "ruff-format"]


def test_the_workflow_tests_the_oldest_python_allowed_and_both_ends_of_the_dependencies() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    jobs = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]
    pythons = jobs["tests"]["strategy"]["matrix"]["python-version"]
    assert f">={pythons[0]}" == project["requires-python"]
    assert any("--resolution lowest-direct" in step.get("run", "") for step in jobs["lowest"]["steps"])
    assert {"ruff check .", "ruff format --check .", "pyright"} <= {step.get("run") for step in jobs["lint"]["steps"]}


def test_contributing_lists_the_layers_in_their_order() -> None:
    table = text("CONTRIBUTING.md").split("<!-- layers -->")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([\w.]+)` \| .+ \|$", table, re.M) == LAYERS


def test_changelog_and_citation_know_the_version() -> None:
    headings = re.findall(r"^## (.+)$", text("CHANGELOG.md"), re.M)
    assert headings[0] == "Unreleased"
    assert headings[1].split(" ")[0] == padim_jax.__version__
    assert yaml.safe_load(text("CITATION.cff"))["version"] == padim_jax.__version__
