"""Read the pickle of a state dict with a machine of our own, which can do nothing else.

A pickle is a program, and Python's own interpreter of it, once let loose on a hostile one, calls what the file names,
hashes whatever is a key (tuples within tuples until the C stack is used up) and allocates what the file says. This one
knows the opcodes that state dicts need and five kinds of name. It calls nothing, its keys are text and small numbers,
and it never descends into what it holds, so that nesting costs it nothing, however deep.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
_MOST_OPCODES = 2**20  # some hundred bytes of memory each; a thousand tensors need 40,000 of them
_MOST_DIMENSIONS = 64  # NumPy's own limit


class MalformedFile(ValueError):
    """The bytes are not what they should be; :func:`read_checkpoint` adds the path to the message."""


class Storage(NamedTuple):
    """Elements in a row that tensors are cut from: ``size`` of them, found under ``key``."""

    key: str
    dtype: str
    size: int


class Tensor(NamedTuple):
    """Where a tensor's elements lie in its storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Opaque:
    """What stands for a value of a class that is not known: it holds nothing, and nothing can be asked of it."""

    def __repr__(self) -> str:
        return "OPAQUE"


OPAQUE = Opaque()


def load_pickle(stream: io.BytesIO, *, opaque: bool = False) -> Any:
    """The value of the pickle that starts at the stream's position, which is left after it.

    Gives text, numbers, tuples, lists, dicts with text or small numbers as keys (``OrderedDict`` too becomes a plain
    one, its attributes are dropped), :class:`Storage` and :class:`Tensor`.

    With ``opaque``, whatever a pickle makes by classes and functions that state dicts do not need is :data:`OPAQUE`:
    they are not imported, let alone called, and what they would be given is dropped. So is an item of a dict whose key
    is neither text nor a small number.

    Raises:
      MalformedFile: damaged, or anything that a state dict does not need.
    """
    machine = _OpaqueMachine() if opaque else _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count == _MOST_OPCODES:
                raise MalformedFile(f"its pickle has more than {_MOST_OPCODES} instructions; a state dict needs fewer")
            machine.step(opcode.name, argument)
        return machine.pop()
    except MalformedFile:
        raise
    except Exception as error:  # a pickle can be wrong in any way: an empty stack, a wrong argument, an early end
        raise MalformedFile(f"its pickle is damaged ({type(error).__name__}: {str(error)[:200]})") from error


class _Symbol(NamedTuple):
    """A function or class that a pickle may name."""

    name: str


_SYMBOLS = {
    **{
        f"{module} {name}": _Symbol(name)
        for module, name in (
            ("collections", "OrderedDict"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch._utils", "_rebuild_parameter"),
        )
    },
    **{f"torch {name}": _Symbol(name) for name in DTYPES},
}
_MARK = object()


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _METHODS:
            _METHODS[name](self)
        elif name in ("BINPUT", "LONG_BINPUT"):
            if argument > 2 * len(self.memo) + 64:
                raise MalformedFile("its pickle addresses memory far beyond what it stores")
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            # a tuple used twice inside another, again and again, is exponentially large to whoever walks it
            if type(self.memo[argument]) is tuple and self.memo[argument]:
                raise MalformedFile("its pickle uses a tuple twice, which a state dict never does")
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self.stack.append(self.named(argument))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise MalformedFile(f"its pickle uses {name}, which a state dict does not need")

    def named(self, name: str) -> Any:
        """What stands for a class or function, "module name"."""
        if name not in _SYMBOLS:
            raise MalformedFile(
                f"it holds a pickled {str(name)[:200].replace(' ', '.')}, not a state dict of tensors; nothing "
                "was executed (save model.state_dict(), not the model)"
            )
        return _SYMBOLS[name]

    def pop(self) -> Any:
        """Take the topmost value."""
        value = self.stack.pop()
        if value is _MARK:
            raise MalformedFile("its pickle is damaged: it takes a value where there is none")
        return value

    def pop_to_mark(self) -> list[Any]:
        """Take all values above the last mark, and the mark."""
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple([self.pop() for _ in range(count)][::-1]))

    def append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise MalformedFile("its pickle is damaged: it appends to what is no list")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise MalformedFile("its pickle is damaged: it sets an item of what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            self.stack[-1][_checked_key(key)] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        # an OrderedDict's attributes, as _metadata: nobody asks for them
        if type(state) is not dict or type(target) is not dict:
            raise MalformedFile("its pickle is damaged: it sets the state of what has none")

    def reduce(self) -> None:
        arguments, symbol = self.pop(), self.pop()
        if type(symbol) is not _Symbol or type(arguments) is not tuple:
            raise MalformedFile("its pickle is damaged: it calls what is no function")
        if symbol.name == "OrderedDict":
            self.stack.append(_ordered(arguments))
        elif symbol.name == "_rebuild_tensor_v2":
            self.stack.append(_tensor(arguments))
        elif symbol.name == "_rebuild_parameter" and arguments:
            self.stack.append(arguments[0])
        else:
            raise MalformedFile(f"its pickle calls {symbol.name}, which a state dict never does")

    def persistent(self) -> None:
        match self.pop():
            case ("storage", _Symbol(name=name), str(key), str(), int(size), *view) if name in DTYPES and size >= 0:
                if view and view[0] is not None:
                    raise MalformedFile("it stores views of storages, written before PyTorch 0.4")
                self.stack.append(Storage(key, DTYPES[name], size))
            case _:
                raise MalformedFile("a storage record is malformed")


class _OpaqueMachine(_Machine):
    """The same, for pickles that hold more than a state dict: what is not known becomes :data:`OPAQUE`."""

    def step(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        if name in _BYTES:
            self.stack.append(OPAQUE)
        elif name in ("NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL"):
            for _ in range(3 if name == "NEWOBJ_EX" else 2):
                self.pop()
            self.stack.append(OPAQUE)
        elif name == "EMPTY_SET":
            self.stack.append(OPAQUE)
        elif name == "ADDITEMS":
            self.pop_to_mark()
        elif name == "FROZENSET":
            self.pop_to_mark()
            self.stack.append(OPAQUE)
        elif name in ("BINGET", "LONG_BINGET") and type(self.memo[argument]) is tuple:
            self.stack.append(OPAQUE if self.memo[argument] else ())  # a shape or a stride is never used twice
        else:
            super().step(name, argument)

    def named(self, name: str) -> Any:
        return _SYMBOLS.get(name, OPAQUE)

    def append(self, values: list[Any]) -> None:
        if self.stack[-1] is not OPAQUE:
            super().append(values)

    def set_items(self, values: list[Any]) -> None:
        if self.stack[-1] is OPAQUE:
            return
        known = [pair for pair in zip(values[::2], values[1::2], strict=True) if _is_key(pair[0])]
        super().set_items([value for pair in known for value in pair])

    def build(self) -> None:
        if self.stack[-2] is OPAQUE:
            self.pop()
        else:
            super().build()

    def persistent(self) -> None:
        match self.stack[-1]:
            case ("storage", Opaque(), *_):  # of a type that no state dict here has
                self.pop()
                self.stack.append(OPAQUE)
            case _:
                super().persistent()

    def reduce(self) -> None:
        arguments = self.stack[-1]
        is_unknown = type(arguments) is not tuple or (len(arguments) > 0 and arguments[0] is OPAQUE)
        if self.stack[-2] is OPAQUE or is_unknown:
            self.pop()
            self.pop()
            self.stack.append(OPAQUE)
        else:
            super().reduce()


_BYTES = frozenset("BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split())
_PUSHED = frozenset(
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_METHODS: dict[str, Callable[[_Machine], None]] = {
    "EMPTY_LIST": lambda machine: machine.stack.append([]),
    "EMPTY_DICT": lambda machine: machine.stack.append({}),
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine: machine.tuple_of(1),
    "TUPLE2": lambda machine: machine.tuple_of(2),
    "TUPLE3": lambda machine: machine.tuple_of(3),
    "APPEND": lambda machine: machine.append([machine.pop()]),
    "APPENDS": lambda machine: machine.append(machine.pop_to_mark()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda machine: machine.set_items(machine.pop_to_mark()),
    "MEMOIZE": _Machine.memoize,
    "BUILD": lambda machine: machine.build(),
    "REDUCE": lambda machine: machine.reduce(),
    "BINPERSID": lambda machine: machine.persistent(),
}


def _is_key(key: Any) -> bool:
    # whole numbers are keys in what optimizers save; thousands of large ones may share a hash
    return isinstance(key, str) or (type(key) is int and abs(key) < 2**32)


def _checked_key(key: Any) -> str | int:
    if _is_key(key):
        return key
    what = "a large number" if type(key) is int else f"a value of type {type(key).__name__}"
    raise MalformedFile(f"its pickle has {what} as a key; those of a state dict are text")


def _ordered(arguments: tuple[Any, ...]) -> dict[str | int, Any]:
    """What ``OrderedDict(*arguments)`` holds: Python 2 wrote the items as its one argument, pairs in a list."""
    pairs = arguments[0] if arguments else []
    are_pairs = type(pairs) is list and all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs)
    if len(arguments) > 1 or not are_pairs:
        raise MalformedFile("its pickle makes an OrderedDict of something other than pairs in a list")
    return {_checked_key(key): value for key, value in pairs}


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    """What ``torch._utils._rebuild_tensor_v2`` is told; builds nothing."""
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_):
            if len(shape) != len(strides):
                raise MalformedFile("a tensor has other numbers of strides and dimensions, which must be equal")
            numbers = (offset, *shape, *strides)
            if len(shape) <= _MOST_DIMENSIONS and all(type(n) is int and 0 <= n < 2**63 for n in numbers):
                return Tensor(storage, offset, shape, strides)
    raise MalformedFile("a tensor record is malformed")
