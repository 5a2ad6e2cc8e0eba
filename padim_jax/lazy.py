"""Names of a package that are imported once they are asked for (PEP 562): importing the package costs nothing."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazily(package: str, homes: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names live in modules of their own.

    Submodules are found too, as they are where a package imports them all.

    Args:
      package: its name.
      homes: names by the module that has them.
    """
    home = {name: module for module, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name in home:
            found = getattr(importlib.import_module(home[name]), name)
            setattr(sys.modules[package], name, found)  # the next time Python finds it by itself
            return found
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return find, listed
