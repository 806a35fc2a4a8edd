"""Reading a pickle as data: every object in it stays an inert record, so nothing in the file can run.

Python's own unpickler calls what the file tells it to call, and even with every global refused a hostile 2 MB file can
crash the interpreter (a dictionary key made of deeply nested tuples). This reader walks the opcodes that `torch.save`
writes and builds dictionaries, lists and `Instance` records, never an object of a foreign class.
"""

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from utils.errors import UserError

MAX_INSTRUCTIONS = 4_000_000
"""A yolov5x6 checkpoint with its optimizer needs about 0.4 million."""
MAX_DEPTH = 64
MAX_VALUES = 200_000

_PUSHED_AS_IS = {"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_CONSTANTS: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_KEY_TYPES = (str, int, float, bool, bytes, type(None))
_SET_NAMES = {"__builtin__.set", "builtins.set"}
_PATH_NAME = re.compile(r"pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path")
_ARRAY_NAMES = {f"numpy.{core}.multiarray.{kind}" for core in ("core", "_core") for kind in ("_reconstruct", "scalar")}
_PLAIN_NAMES = {
    *_SET_NAMES,
    *_ARRAY_NAMES,
    "collections.OrderedDict",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.ndarray",
    "torch.Size",
    "torch.device",
    "argparse.Namespace",
}
_NUMBER_TYPE = re.compile(r"(b1|[iu][1248]|f[248])")


@dataclass(frozen=True)
class Global:
    """A class or function the file refers to, by its dotted name only."""

    name: str


@dataclass(eq=False)
class Instance:
    """An object the file asked for: what would have been called, with what, and the state it would have been given."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = field(default=None, repr=False)

    @property
    def class_name(self) -> str:
        """The last part of the dotted name."""
        return self.name.rpartition(".")[2]


def is_plain_global(name: str) -> bool:
    """Whether a dotted name is one of the containers, numbers and paths that `plain` understands."""
    return name in _PLAIN_NAMES or _PATH_NAME.fullmatch(name) is not None


def globals_of(data: bytes) -> set[str]:
    """The dotted names a pickle refers to, found without loading it; unusual ways to refer appear as their opcode.

    Args:
        data: The pickle.

    Raises:
        ValueError: If this is not a complete pickle.
    """
    found = set()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("GLOBAL", "INST"):
            found.add(_dotted(argument))
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            found.add(opcode.name)
    return found


def unpickle(data: bytes, allowed: Callable[[str], bool], source: str) -> Any:
    """Read a pickle of protocol 2 without running any code.

    Args:
        data: The pickle.
        allowed: Tells for a dotted name whether the file may refer to it (as a record).
        source: The file's name, for messages.

    Returns:
        Plain Python values, with an `Instance` wherever the file holds an object; plain dictionaries for ordered ones.

    Raises:
        UserError: If the file refers to a name that is not allowed, uses opcodes `torch.save` does not write, is
            damaged, or is too large to be a checkpoint.
    """
    try:
        return _Machine(allowed, source).run(data)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"{source}: its pickle is damaged ({error}); get the file again") from error


def plain(value: object) -> Any:
    """Turn what `unpickle` returned into plain Python values.

    Args:
        value: Numbers, strings, containers, and records of numpy numbers, paths, sizes, devices and namespaces.

    Returns:
        The same with lists for arrays and sets, strings for paths and devices, dictionaries for namespaces.

    Raises:
        ValueError: If there is anything else inside, or it is nested too deeply or too large.
    """
    return _Plainer().convert(value, 0)


def describe(value: object) -> str:
    """A short text about a value of `unpickle` for messages; never descends into what a file may nest without end."""
    if isinstance(value, Instance | Global):
        return value.name
    if type(value) is tuple:
        return f"({', '.join(str(n) if type(n) is int else type(n).__name__ for n in value[:8])})"
    if type(value) is str:
        return repr(value[:80])
    return str(value) if type(value) in (int, float, bool, type(None)) else f"a {type(value).__name__}"


def _dotted(argument: object) -> str:
    return str(argument).replace(" ", ".", 1)


class _Machine:
    """The stack machine of a pickle, without the opcodes that reach outside."""

    def __init__(self, allowed: Callable[[str], bool], source: str) -> None:
        self._allowed = allowed
        self._source = source
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count > MAX_INSTRUCTIONS:
                raise UserError(f"{self._source}: more than {MAX_INSTRUCTIONS} pickle instructions, not a checkpoint")
            self._step(opcode.name, argument)
        return self._stack.pop()

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        if opcode in _PUSHED_AS_IS:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        else:
            match opcode:
                case "PROTO" | "STOP":
                    pass
                case "BINPUT" | "LONG_BINPUT":
                    self._memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(self._memo[argument])
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST":
                    stack.append([])
                case "MARK":
                    self._marks.append(len(stack))
                case "TUPLE":
                    stack.append(tuple(self._since_mark()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack.append(tuple(self._take(int(opcode[-1]))))
                case "APPEND":
                    self._extend(self._take(1))
                case "APPENDS":
                    self._extend(self._since_mark())
                case "SETITEM":
                    self._set_items(self._take(2))
                case "SETITEMS":
                    self._set_items(self._since_mark())
                case "GLOBAL":
                    stack.append(self._global(_dotted(argument)))
                case "REDUCE":
                    stack.append(self._call(*self._take(2)))
                case "NEWOBJ":
                    stack.append(self._create(*self._take(2)))
                case "BUILD":
                    self._build(self._take(1)[0])
                case "BINPERSID":
                    stack.append(Instance("storage", self._arguments(self._take(1)[0])))
                case _:
                    self._refuse_opcode(opcode, argument)

    def _take(self, count: int) -> list[Any]:
        if len(self._stack) - (self._marks[-1] if self._marks else 0) < count:
            raise ValueError("stack underflow")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _since_mark(self) -> list[Any]:
        mark = self._marks.pop()
        taken = self._stack[mark:]
        del self._stack[mark:]
        return taken

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise TypeError(f"items for a {type(target).__name__}")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise TypeError(f"keys and values for a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_scalar(key)] = value

    def _global(self, name: str) -> Global:
        if not self._allowed(name):
            raise UserError(
                f"{self._source}: refers to {name}, which is no part of a known detection checkpoint; "
                "it was not loaded and none of its code was run. Only use weights from a source you trust"
            )
        return Global(name)

    def _call(self, function: object, args: object) -> Any:
        arguments = self._arguments(args)
        if not isinstance(function, Global):
            raise TypeError(f"a call of {type(function).__name__}")
        if function.name == "collections.OrderedDict":
            return {_scalar(key): value for key, value in (arguments[0] if arguments else ())}
        if function.name in _SET_NAMES:
            return {_scalar(item) for item in (arguments[0] if arguments else ())}
        return Instance(function.name, arguments)

    def _create(self, cls: object, args: object) -> Instance:
        if not isinstance(cls, Global):
            raise TypeError(f"an instance of {type(cls).__name__}")
        return Instance(cls.name, self._arguments(args))

    def _build(self, state: object) -> None:
        target = self._stack[-1]
        if isinstance(target, Instance):
            target.state = state
        elif type(target) is not dict:  # a state dict carries its version numbers this way; nobody needs them
            raise TypeError(f"a state for a {type(target).__name__}")

    def _refuse_opcode(self, opcode: str, argument: object) -> None:
        if opcode == "STACK_GLOBAL":
            self._global(".".join(map(str, self._take(2))))
        elif opcode == "INST":
            self._global(_dotted(argument))
        raise UserError(
            f"{self._source}: uses the pickle opcode {opcode}, which torch.save does not write; it was not loaded"
        )

    @staticmethod
    def _arguments(args: object) -> tuple[Any, ...]:
        if type(args) is not tuple:
            raise TypeError(f"arguments in a {type(args).__name__}")
        return args


def _scalar(key: Any) -> Any:
    """Let through what can be hashed without descending into it."""
    if type(key) not in _KEY_TYPES:
        raise TypeError(f"a key of type {type(key).__name__}")
    return key


class _Plainer:
    """Converts records to plain values; shared parts count every time, so that their number is bounded."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def convert(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise ValueError("too large or too deeply nested")
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) is dict:
            return {key: self.convert(item, depth + 1) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.convert(item, depth + 1) for item in value)
        if type(value) is set:
            return sorted(value, key=str)
        if isinstance(value, Instance):
            return self._instance(value, depth)
        raise ValueError(f"expected plain values, found {getattr(value, 'name', type(value).__name__)}")

    def _instance(self, record: Instance, depth: int) -> Any:
        name, args = record.name, record.args
        if _PATH_NAME.fullmatch(name) and all(type(part) is str for part in args):
            return "/".join(args).replace("//", "/")
        if name == "argparse.Namespace" and type(record.state) is dict:
            return self.convert(record.state, depth + 1)
        if name == "torch.Size" and len(args) == 1:
            return self.convert(args[0], depth + 1)
        if name == "torch.device" and all(type(part) in (str, int) for part in args):
            return ":".join(map(str, args))
        if name in _ARRAY_NAMES:
            return _numbers(record)
        raise ValueError(f"expected plain values, found an object of {name}")


def _numbers(record: Instance) -> Any:
    """The content of a numpy array (nested lists) or of a numpy number."""
    content = (0, (), *record.args[:1], False, *record.args[1:]) if record.class_name == "scalar" else record.state
    if type(content) is not tuple or len(content) != 5:
        raise ValueError(f"an incomplete {record.name}")
    _, shape, dtype, _, data = content
    kind = dtype.args[0] if isinstance(dtype, Instance) and dtype.name == "numpy.dtype" and dtype.args else None
    if type(kind) is not str or not _NUMBER_TYPE.fullmatch(kind):
        raise ValueError(f"expected an array of numbers, found {describe(kind)}")
    state = dtype.state if type(dtype.state) is tuple else ()
    number = np.dtype(kind).newbyteorder(">" if state[1:2] == (">",) else "<")
    raw = _bytes(data)
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
        raise ValueError(f"array shape {describe(shape)}")
    if math.prod(shape) * number.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes for an array of shape {describe(shape)}")
    return np.frombuffer(raw, number).reshape(shape).tolist()


def _bytes(value: object) -> bytes:
    """Bytes as protocol 2 writes them: text to be encoded as Latin-1."""
    if isinstance(value, Instance) and value.name == "_codecs.encode" and len(value.args) == 2:
        text, encoding = value.args
        if type(text) is str and encoding in ("latin1", "latin-1"):
            return text.encode("latin-1")
    raise ValueError("expected bytes encoded as latin1")
