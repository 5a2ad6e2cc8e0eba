"""What an export may hold beside its program: examples, and folders that run it without Python."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

Target = Literal["browser", "javascript", "cpp", "csharp"]
TARGETS: tuple[Target, ...] = get_args(Target)
TARGET_FILES: dict[str, tuple[str, ...]] = {
    "browser": ("README.md", "index.html"),
    "javascript": ("README.md", "package.json", "reading.mjs", "score.mjs", "settings.json"),
    "cpp": ("CMakeLists.txt", "README.md", "main.cpp", "photo.hpp", "reading.hpp", "settings.hpp"),
    "csharp": ("Program.cs", "Reading.cs", "Png.cs", "README.md", "Settings.cs", "score.csproj"),
}
_RUN_IN: dict[str, str] = {"cpp": "OpenVINO"}  # the others run in ONNX Runtime
EXAMPLES, EXPECTED = "examples", "expected.json"
MOST_EXAMPLES = 8
_EXAMPLE = re.compile(rf"{EXAMPLES}/\d\d\d\.png")


def example_name(index: int) -> str:
    """Name of an example in its folder."""
    return f"{index:03}.png"


def target_files(targets: Iterable[str], examples: int) -> list[str]:
    """Files of folders for runtimes, and of the examples that belong to them, by their names in the export."""
    names = [f"{target}/{name}" for target in targets for name in TARGET_FILES[target]]
    shown = [f"{EXAMPLES}/{name}" for name in (EXPECTED, *map(example_name, range(examples)))]
    return [*names, *shown] if names else []


def runtimes_of(targets: Iterable[str]) -> dict[str, str]:
    """The runtime that each folder runs the program in, by the names of :data:`padim_jax.export.runtimes.OWN`."""
    return {target: _RUN_IN.get(target, "ONNX Runtime") for target in targets}


def claimed_targets(names: Iterable[str]) -> tuple[list[str], int]:
    """The folders for runtimes that some files belong to, and how many examples are among them, at most the most."""
    known = [*names]
    claimed = {name.partition("/")[0] for name in known}
    return [name for name in TARGETS if name in claimed], min(MOST_EXAMPLES, sum(map(_is_example, known)))


def strangers(folder: Path, known: Collection[str]) -> list[str]:
    """What lies in a folder and is neither one of the files named nor a folder of one; links to folders are strange.

    Args:
      folder: to look through.
      known: files by their names from there, such as ``cpp/main.cpp``.
    """
    parents = {parent.as_posix() for name in known for parent in PurePosixPath(name).parents}

    def walk(place: Path) -> list[str]:
        found = list[str]()
        for path in sorted(place.iterdir()):
            name = path.relative_to(folder).as_posix()
            is_folder = path.is_dir() and not path.is_symlink()
            if is_folder and name in parents:
                found += walk(path)
            elif is_folder or name not in known:
                found.append(name)
        return found

    return walk(folder)


def _is_example(name: str) -> bool:
    return _EXAMPLE.fullmatch(name) is not None
