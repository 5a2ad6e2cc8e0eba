"""Every block of code that README.md, the guide and benchmarks/README.md show works as it stands there."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax import presets
from padim_jax.cli import main
from padim_jax.presets import PRESETS
from tests.conftest import SMALL, images, write_images
from tests.documents import DOCUMENTS, PROJECT, ROOT, Block, blocks, check_command, every_option, prose, text_of
from tests.notebook import NOTEBOOK, notebook

SETTINGS = "--tap block2 --tap block4 --n-channels 12 --image-size 40x56 --crop-size 32x48 --sigma 1.5".split()
TINY = {"fit": SETTINGS, "fit-many": SETTINGS, "evaluate": ["--image-size", "40x56", "--crop-size", "32x48"]}
RUN = [name for name in DOCUMENTS if any(block.use == "run" or block.kind == "python" for block in blocks(name))]
KINDS = {("sh", ""), ("sh", "run"), ("python", ""), ("text", ""), ("csv", "")}


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the documents name: folders of images, a mask, models, results."""
    folder = tmp_path_factory.mktemp("factory")
    photos = images(48, padim.PadimConfig(crop_size=(40, 56)))
    counts = {
        "good_parts": 24, "more_good_parts": 6, "this_week": 4, "new_parts": 3, "measured/good": 6, "measured/bad": 3,
    }  # fmt: skip
    ends = np.cumsum([0, *counts.values()])
    for name, start, end in zip(counts, ends[:-1], ends[1:], strict=True):
        write_images(folder / name, photos[start:end])
    write_images(folder / "recalled_parts", photos[:2])
    mask = np.zeros((40, 56), np.uint8)
    mask[8:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    for good, name in (("good_parts", "bracket"), ("good_parts", "site_a"), ("more_good_parts", "site_b")):
        assert main(["fit", str(folder / good), "--out", str(folder / f"{name}.padim"), *SETTINGS]) == 0
    model, new, out = (str(folder / name) for name in ("bracket.padim", "new_parts", "result"))
    assert main(["score", model, new, "--out", out]) == 0
    return folder


@pytest.fixture
def here(factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, as the current one."""
    shutil.copytree(factory, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(block: Block, names: dict[str, Any]) -> None:
    """Run a block if it is one to be run, or write the file that it is."""
    if block.kind == "csv" and block.use:
        Path(block.use).write_text(block.code, encoding="utf-8")
    elif block.kind == "python":
        exec(block.code.replace("224, 224", "{}, {}".format(*SMALL.crop)), names)
    elif block.use == "run":
        for words in replace(block, code=block.code.replace("photo 1080 1920", "photo 40 56")).commands:
            assert main([*words[1:], *TINY.get(words[1], [])]) == 0, words


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_is_of_a_kind_that_is_tested(name: str) -> None:
    kinds = {(block.kind, "" if block.kind == "csv" else block.use) for block in blocks(name)}
    assert kinds <= KINDS
    assert "```" not in prose(name)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_can_be_typed(name: str) -> None:
    for block in blocks(name):
        for words in block.commands if block.kind == "sh" else ():
            check_command(words)


@pytest.mark.parametrize(
    "line",
    [
        "padim fit good --out m --nonsense 3",
        "padim fit good",
        "padim fit good --out m --n-channels many",
        "padim fit good --out m --resize wrongly",
        "padim fits good",
        "python benchmarks/latency.py --nonsense",
        "python benchmarks/nothing.py",
        "pip install '.[nonsense]'",
        "rm -rf .",
    ],
)
def test_a_command_that_can_not_be_typed_is_noticed(line: str) -> None:
    (words,) = Block("sh", "", line).commands
    with pytest.raises((AssertionError, click.ClickException, OSError)):
        check_command(words)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_prose_names_options_and_pages_there_are(name: str) -> None:
    code = re.findall(r"`([^`]+)`", prose(name))
    options = {option for text in code for option in re.findall(r"(?<!\S)--[a-z-]+", text)}
    assert options <= every_option()
    pages = {page for text in code for page in re.findall(r"padim guide ([a-z-]+)", text)}
    assert pages <= DOCUMENTS.keys()
    links = re.findall(r"\]\(([^)#]+)\)", prose(name))
    missing = [link for link in links if "://" not in link and not (DOCUMENTS[name].parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("name", [name for name in RUN if name != "tutorial"])
def test_what_a_document_shows_runs(name: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tuple(getattr(SMALL, field) for field in padim.PadimConfig.__dataclass_fields__)
    monkeypatch.setattr(padim.PadimConfig.__init__, "__defaults__", small)
    several = SMALL, replace(SMALL, anomaly_map="standardised")
    found = {
        name: replace(preset, members=(SMALL,), candidates=several[: len(preset.candidates)])
        for name, preset in PRESETS.items()
    }
    monkeypatch.setattr(presets, "PRESETS", found)
    names: dict[str, Any] = {"batches": [images(8, SMALL), images(8, SMALL, seed=1)]}
    for block in blocks(name):
        run(block, names)
    for table in ("result/scores.csv", "looked/images.csv", "models/models.csv", "evaluation/files.csv"):
        if Path(table).exists():
            columns = Path(table).read_text(encoding="utf-8").partition("\n")[0].split(",")
            assert [column for column in columns if f"`{column}`" not in text_of("files")] == []
    if name == "many-machines":
        wanted = padim.score(padim.fit(names["backbone"], names["batches"], SMALL), names["images"])
        np.testing.assert_allclose(names["scores"].anomaly_map, wanted.anomaly_map, rtol=2e-3)


def test_the_notebook_is_that_of_the_tutorial() -> None:
    assert NOTEBOOK.read_text(encoding="utf-8") == notebook(), "write it again: python -m tests.notebook"


def is_said(line: str, said: str) -> bool:
    """Whether ``line`` is in what was said, its numbers to 2 %: processors round differently."""
    numbers = r"\d+(?:\.\d+)?"
    pattern = f"({numbers})".join(map(re.escape, re.split(numbers, line)))
    expected = [float(number) for number in re.findall(numbers, line)]
    return any(
        np.allclose([float(number) for number in match.groups()], expected, rtol=0.02)
        for match in re.finditer(pattern, said)
    )


@pytest.mark.slow
def test_the_tutorial_runs_and_says_what_it_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        code = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
        if code.startswith("!"):
            for words in Block("sh", "run", code.replace("!padim", "padim")).commands:
                assert main(words[1:]) == 0, words
        else:
            exec(code, names)
    said = " ".join(capsys.readouterr().out.split())
    for block in blocks("tutorial"):
        for line in block.code.splitlines() if block.kind == "text" else ():
            assert is_said(" ".join(line.removesuffix("...").split()), said), line


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len(text_of("README").splitlines()) <= 160


def test_every_benchmark_is_in_the_tables_of_benchmarks() -> None:
    helpers = {"alternate.py", "peers.py", "exported_peers.py", "torch_padim.py", "misaligned.py", "line_peers.py"}
    programs = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - helpers
    commands = [words for block in blocks("benchmarks") for words in block.commands]
    assert programs == {Path(words[1]).name for words in commands if words[0] == "python"}


def test_extras_that_documents_name_are_there() -> None:
    named = {name for document in DOCUMENTS for name in re.findall(r"extra `([a-z0-9]+)`", text_of(document))}
    assert named
    assert named <= PROJECT["optional-dependencies"].keys()
