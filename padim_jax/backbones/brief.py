"""What records say of themselves on one line: facts instead of arrays.

They are asked inside ``jit`` too, by tracebacks and debuggers, and while JAX fills their fields with placeholders: what
has no value there is given as "?".
"""

from collections.abc import Callable
from typing import Any


def line(record: Any, *facts: Callable[[], str]) -> str:
    """The type of ``record`` and its facts, each asked for only now."""
    return f"{type(record).__name__}({', '.join(map(fact_or_mark, facts))})"


def fact_or_mark(fact: Callable[[], str]) -> str:
    """What ``fact`` gives, or "?" where it can't."""
    try:
        return fact()
    except Exception:  # whatever it is, a repr that fails would hide the error that somebody looks for
        return "?"


def number(value: Any) -> str:
    """To four digits, or "?"."""
    return fact_or_mark(lambda: f"{float(value):.4g}")
