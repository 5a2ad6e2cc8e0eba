"""The documents with code in them, cut into blocks, and what a command line in one has to be."""

import importlib.util
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import click

from padim_jax.cli import COMMANDS, app
from padim_jax.commands.lazy_click import named

ROOT = Path(__file__).parent.parent
DOCUMENTS = {
    "README": ROOT / "README.md",
    "benchmarks": ROOT / "benchmarks" / "README.md",
    **{path.stem: path for path in sorted((ROOT / "padim_jax" / "guide").glob("*.md")) if path.stem != "README"},
}
_FENCE = re.compile(r"^```(?P<kind>\w*) ?(?P<use>\S*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_PLAIN = {".venv/bin/pytest", ".venv/bin/pytest -m slow", "python3 -m venv .venv"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@dataclass(frozen=True)
class Block:
    """A fenced block: ``sh`` can be typed, ``sh run`` is run too, ``python`` is run, ``csv NAME`` is a file."""

    kind: str
    use: str
    code: str

    @property
    def commands(self) -> list[list[str]]:
        """Words of each command of a block of shell."""
        lines = [part for line in self.code.splitlines() for part in line.split(" && ")]
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def text_of(name: str) -> str:
    return DOCUMENTS[name].read_text(encoding="utf-8")


def blocks(name: str) -> list[Block]:
    """Every block of a document, in order."""
    return [Block(**match.groupdict()) for match in _FENCE.finditer(text_of(name))]


def prose(name: str) -> str:
    """The document without its blocks."""
    return _FENCE.sub("", text_of(name))


def check_command(words: list[str]) -> None:
    """Raise unless the command can be typed: the program is there, and takes these options and values."""
    program, *arguments = words
    if program.removeprefix(".venv/bin/") == "padim":
        _check_padim(arguments)
    elif words[:3] == ["python", "-m", "weights_conversion"] or " ".join(words) in _PLAIN:
        assert importlib.util.find_spec(words[2]) if program == "python" else True
    elif program.removeprefix(".venv/bin/") == "pip":
        extras = {extra for word in arguments for group in re.findall(r"\[(.+)\]", word) for extra in group.split(",")}
        assert extras <= PROJECT["optional-dependencies"].keys()
    else:
        assert program == "python", f"nothing is known of {' '.join(words)}"
        source = (ROOT / arguments[0]).read_text(encoding="utf-8")
        source += (ROOT / "benchmarks" / "alternate.py").read_text(encoding="utf-8") if "add_options" in source else ""
        options = [word for word in arguments if word.startswith("--")]
        assert [option for option in options if f'"{option}"' in source] == options


def _check_padim(arguments: list[str]) -> None:
    context = click.Context(app, info_name="padim")
    if arguments[0] not in COMMANDS:
        assert not app.make_parser(context).parse_args(arguments)[1]
        return
    command = named(COMMANDS[arguments[0]].place)
    context = click.Context(command, parent=context, info_name=arguments[0])
    with context.scope(cleanup=False):
        given, left, order = command.make_parser(context).parse_args(arguments[1:])
        assert not left
        for param in click.core.iter_params_for_processing(order, command.get_params(context)):
            if not isinstance(param.type, click.Path) and not param.is_eager:
                param.handle_parse_result(context, given, [])
            assert not param.required or given.get(str(param.name))


def every_option() -> set[str]:
    """Options of every command."""
    commands = [app, *(named(entry.place) for entry in COMMANDS.values())]
    params = [param for command in commands for param in command.get_params(click.Context(command))]
    return {name for param in params for name in (*param.opts, *param.secondary_opts)}
