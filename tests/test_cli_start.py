"""The first things a user meets: versions and help texts, at once and in any code page."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from padim_jax.cli import COMMANDS, main
from padim_jax.commands.lazy_click import HEADINGS, named
from padim_jax.commands.terminal import tell
from tests.conftest import SMALL, images, write_images

HEAVY = {"jax", "jaxlib", "flax", "orbax", "scipy", "sklearn", "cv2", "tensorflow_datasets", "grain"}
AT_ONCE = [
    *(["--version"], ["--help"], ["fit"], ["fit", "--nonsense"], ["evaluate", "--list-presets"], ["guide", "limits"]),
    *([name, "--help"] for name in COMMANDS),
]


@pytest.mark.parametrize("arguments", AT_ONCE, ids=" ".join)
def test_versions_and_help_texts_need_no_jax(arguments: list[str]) -> None:
    code = f"import sys; from padim_jax.cli import main; main({arguments}); print({HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("name", COMMANDS)
def test_what_does_a_command_takes_what_is_declared(name: str) -> None:
    command = named(COMMANDS[name].place)
    declared = [str(param.name) for param in command.params if param.expose_value]
    inspect.signature(named(command.place)).bind(**dict.fromkeys(declared))  # raises where either lacks one


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main([name, "--help"]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", ["80", "300"])
def test_help_ends_with_an_example_and_fits_the_terminal(
    name: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = help_of(name, capsys)
    example = lines[lines.index("Example:") + 1 :]
    assert example
    assert all(line.startswith(f"  padim {name} ") for line in example)
    assert max(map(len, lines)) <= 100
    context = click.Context(named(COMMANDS[name].place), info_name=name)
    for line in example:  # what it says can be typed: unknown options and missing arguments would raise
        given = line.split()[2:]
        with context.scope(cleanup=False):
            parsed, *_ = context.command.make_parser(context).parse_args(given)
        assert {param.name for param in context.command.params if param.required} <= parsed.keys()


def test_what_everyone_needs_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of("fit", capsys)
    start, experts, devices = (lines.index(heading) for heading in ("Options:", "Expert options:", "Several devices:"))
    assert re.findall(r"^  (?:-h, )?(--[a-z-]+)", "\n".join(lines[start:experts]), re.M) == [
        *("--out", "--preset", "--image-size", "--crop-size", "--calibration", "--false-alarm-rate", "--roi"),
        *("--skip-unreadable", "--help"),
    ]
    assert any(line.startswith("  --ridge") for line in lines[experts:devices])
    assert any(line.startswith("  --coordinator") for line in lines[devices:])


def test_headings_name_options_there_are() -> None:
    params = {param.name for entry in COMMANDS.values() for param in named(entry.place).params}
    assert {name for names in HEADINGS.values() for name in names} <= params


# what becomes of a Greek letter on standard output: click takes a terminal that claims ASCII for one of UTF-8
WRITTEN = {"cp1252": ("cp1252", "backslashreplace"), "ascii": ("utf-8", "strict")}


def run(encoding: str, *program: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *map(str, program)], capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding}
    )


@pytest.mark.parametrize("encoding", WRITTEN)
def test_every_help_text_shows_in_any_code_page(encoding: str) -> None:
    code = f"from padim_jax.cli import main; print([main([name, '--help']) for name in {list(COMMANDS)}])"
    done = run(encoding, "-c", code)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines()[-1].decode() == str([0] * len(COMMANDS))
    assert "ε added to the covariance's diagonal".encode(*WRITTEN[encoding]) in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("encoding", WRITTEN)
def test_names_and_numbers_show_in_any_code_page(encoding: str, tmp_path: Path) -> None:
    folder = tmp_path / "σχήμα"
    write_images(folder, images(3, SMALL))
    (folder / "Σ.png").write_text("no image")
    done = run(encoding, "-m", "padim_jax.cli", "inspect", folder, "--quick")
    assert done.returncode == 1
    assert "Σ.png".encode(*WRITTEN[encoding]) in done.stdout
    assert b"\npadim: error: 1 files could not be read" in done.stderr
    done = run(encoding, "-m", "padim_jax.cli", "fit", tmp_path / "ε", "--out", tmp_path / "model")
    assert done.returncode == 2
    assert b"\\u03b5' does not exist" in done.stderr


@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["plain", "debug"])
def test_no_file_name_reaches_the_terminal_as_a_command(
    tmp_path: Path, debug: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Escape codes, turned writing, bytes that are no text."""
    folder = tmp_path / "a\x1b[31mred\u202e"
    write_images(folder, images(3, SMALL))
    for name in (b"\xff.png", b"\x1b]0;title\x07.png"):
        (folder / os.fsdecode(name)).write_text("no image")
    said = []
    for arguments in (
        ["inspect", folder, "--quick"],
        ["inspect", folder, "--quick", "--json"],
        ["fit", folder, "--out", tmp_path / "m", "--image-size", "32", "--crop-size", "32"],
        ["fit", folder / "\x1b[0m", "--out", tmp_path / "m"],
        ["compact", folder, "--out", folder / "\x1b[0m"],
        ["inspect", folder / "\x1b[0m"],
        ["\x1b[0m"],
    ):
        assert main([*map(str, arguments), *debug]) in (1, 2)
        captured = capsys.readouterr()
        said.append(captured.out + captured.err)
    for text in said:
        assert not set(text) & {"\x1b", "\x07", "\u202e", "\udcff"}, text
    assert "a\\x1b[31mred\\u202e" in said[0]
    assert "\\udcff.png" in said[0]
    assert all(text.strip() for text in said)


def test_results_are_told_without_escape_codes(capsys: pytest.CaptureFixture[str]) -> None:
    tell("a\x1b[31m\n\udcff.padim: done – 1×2")
    assert capsys.readouterr().out == "a\\x1b[31m\\n\\udcff.padim: done – 1×2\n"
