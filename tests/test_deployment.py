"""The systemd unit and the container of the guide: every command in them is one, and what they name fits together."""

import itertools
import json
import re
import shlex
from pathlib import PurePosixPath

import click
import pytest

from padim_jax.cli import COMMANDS
from padim_jax.commands.lazy_click import named
from padim_jax.line.service import app
from tests.documents import DOCUMENTS, blocks, check_command


def text_that_starts(start: str) -> str:
    """The block of text in the guide on serving that starts so; where lines go on, they are joined."""
    (code,) = [block.code for block in blocks("serving") if block.kind == "text" and block.code.startswith(start)]
    return re.sub(r" *\\\n *", " ", code)


def instructions(dockerfile: str) -> dict[str, str]:
    """Each instruction of a Dockerfile with what follows it."""
    return dict(line.split(" ", 1) for line in dockerfile.splitlines())


def options(command: list[str]) -> dict[str, str]:
    """Options of a command that have a value."""
    return {
        word: value
        for word, value in itertools.pairwise(command)
        if word.startswith("--") and not value.startswith("--")
    }


UNIT = [line.split("=", 1) for line in text_that_starts("[Unit]").splitlines() if "=" in line]
IMAGE = instructions(text_that_starts("FROM"))
BUILD, RUN = map(shlex.split, text_that_starts("docker build").splitlines())
STARTED = json.loads(IMAGE["ENTRYPOINT"])
UNIT_STARTED = shlex.split(dict(UNIT)["ExecStart"])


def test_every_command_of_padim_in_a_block_of_text_can_be_typed() -> None:
    lines = [
        line for name in DOCUMENTS for block in blocks(name) if block.kind == "text" for line in block.code.splitlines()
    ]
    for words in (shlex.split(line) for line in lines if line.startswith(("padim ", ".venv/bin/padim "))):
        check_command(words)
    for command in (STARTED, UNIT_STARTED):
        assert PurePosixPath(command[0]).name == "padim"
        check_command(["padim", *command[1:]])


@pytest.mark.parametrize("wrong", ["--keep-photo", "--hosts"])
def test_a_command_with_a_wrong_option_is_noticed(wrong: str) -> None:
    with pytest.raises((AssertionError, click.ClickException)):
        check_command(["padim", *STARTED[1:], wrong, "1"])


def test_the_unit_may_write_what_it_is_told_to_and_has_time_to_end() -> None:
    unit = dict(UNIT)
    state, cache = f"/var/lib/{unit['StateDirectory']}", f"/var/cache/{unit['CacheDirectory']}"
    assert unit["ProtectSystem"] == "strict"  # all else can't be written
    assert PurePosixPath(options(UNIT_STARTED)["--store"]).is_relative_to(state)
    assert unit["Environment"] == f"PADIM_JAX_CACHE={cache}"
    assert int(unit["TimeoutStopSec"]) > 60 + 10 + 10


def test_the_container_writes_to_its_volume_alone_and_finds_what_is_mounted() -> None:
    mounted = dict[str, str]()
    for word, value in itertools.pairwise(RUN):
        if word == "-v":
            source, target, *how = value.split(":")
            mounted[target] = "".join(how)
            assert source
    given = options(STARTED)
    assert mounted == {STARTED[2]: "ro", IMAGE["VOLUME"]: "", given["--token-file"]: "ro"}
    assert "--read-only" in RUN
    assert str(PurePosixPath(given["--store"]).parent) == IMAGE["VOLUME"]
    environment = dict(word.split("=") for word in IMAGE["ENV"].split())
    assert PurePosixPath(environment["PADIM_JAX_CACHE"]).is_relative_to(IMAGE["VOLUME"])
    assert environment["HOME"] == options(RUN)["--tmpfs"]
    user = IMAGE["USER"]
    assert f"useradd --uid 10001 {user} && install -d -o {user} {IMAGE['VOLUME']}" in IMAGE["RUN"]
    assert int(options(RUN)["--stop-timeout"]) > 60 + 10 + 10
    assert RUN[-1] == BUILD[BUILD.index("-t") + 1]


def test_the_image_installs_what_serving_needs_and_asks_whether_it_is_ready_where_it_listens() -> None:
    install = re.search(r"pip install --no-cache-dir '([^']+)'", IMAGE["RUN"])
    assert install is not None
    check_command(["pip", "install", install[1]])
    assert "serve" in install[1]
    (port,) = [param.default for param in named(COMMANDS["serve"].place).params if param.name == "port"]
    assert IMAGE["EXPOSE"] == str(port)
    assert RUN[RUN.index("-p") + 1] == f"{port}:{port}"
    python, flag, code = json.loads(IMAGE["HEALTHCHECK"].split("CMD ")[1])
    assert (python, flag) == ("python", "-c")
    compile(code, "healthcheck", "exec")
    asked = re.search(r"http://127\.0\.0\.1:([0-9]+)(/[a-z]+)", code)
    assert asked is not None
    assert asked[1] == str(port)
    assert asked[2] in app._PUBLIC  # no token is sent
