"""Imports that wait until they are needed (PEP 562), and those of packages that not everyone has."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


def lazy_attributes(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names live in modules of their own.

    Submodules are found too, as if the package had imported them all.

    Args:
      package: its name.
      modules: names by the module that defines them.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def find(name: str) -> Any:
        if name in module_of:
            value = getattr(importlib.import_module(module_of[name]), name)
            setattr(sys.modules[package], name, value)  # the next time Python finds it by itself
            return value
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return find, list_names


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Say which extra of padim-jax brings a package whose import fails in this block.

    Raises:
      ModuleNotFoundError: with the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"the package {error.name} is not installed; it comes with an extra: pip install 'padim-jax[{name}]'"
        raise ModuleNotFoundError(message, name=error.name) from error
