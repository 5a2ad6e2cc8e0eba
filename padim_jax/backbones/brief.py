"""The ``__repr__`` of records, on one line: facts instead of arrays.

Tracebacks and debuggers ask for it inside ``jit`` too, and while JAX fills the fields with placeholders: a fact that
has no value there is given as "?".
"""

from collections.abc import Callable
from typing import Any


def line(record: Any, *facts: Callable[[], str]) -> str:
    """The type of ``record`` and its facts, each computed only now."""
    return f"{type(record).__name__}({', '.join(map(fact_or_mark, facts))})"


def fact_or_mark(fact: Callable[[], str]) -> str:
    """What ``fact`` gives, or "?" where it can't."""
    try:
        return fact()
    except Exception:  # whatever it is: a repr that fails would hide the error that somebody is looking for
        return "?"


def number(value: Any) -> str:
    """``value`` to four digits, or "?"."""
    return fact_or_mark(lambda: f"{float(value):.4g}")
