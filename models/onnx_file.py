"""What an .onnx file says about itself: the size of its input, and the names and stride that exporters add.

Read as protocol buffers are encoded, https://protobuf.dev/programming-guides/encoding, with the numbers of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError

_GRAPH, _METADATA = 7, 14  # fields of a model
_INPUT = 11  # of a graph
_NAME, _TYPE = 1, 2  # of an input
_TENSOR, _SHAPE, _DIMENSION, _SIZE = 1, 2, 1, 1  # of a type, a tensor, a shape, a dimension
_KEY, _VALUE = 1, 2  # of an entry of the metadata

_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5  # encodings


@dataclass(frozen=True)
class OnnxHeader:
    """What an .onnx file says about itself.

    Attributes:
        shape: (B, C, H, W) of the input called `images`; None where any size is accepted.
        names: Class index to name; empty if the file has none.
        stride: The largest stride in pixels; None if the file does not say.
    """

    shape: tuple[int | None, ...]
    names: dict[int, str]
    stride: int | None


def read_header(path: Path) -> OnnxHeader:
    """Read the header of an .onnx file, without its weights.

    Args:
        path: The file.

    Raises:
        UserError: If the file is missing, is no ONNX model, has no input `images` or unreadable metadata.
    """
    try:
        content = memoryview(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    try:
        shapes = {name: shape for graph in _messages(content, _GRAPH) for name, shape in _inputs(graph)}
        metadata = {_text(entry, _KEY): _text(entry, _VALUE) for entry in _messages(content, _METADATA)}
    except (IndexError, ValueError) as error:
        raise UserError(f"{path}: is damaged or no ONNX file; export the model again") from error
    if len(shapes.get("images", ())) != 4:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"
        raise UserError(f"{path}: expected an input called images of shape (B, 3, H, W), found {found}")
    try:
        names = _class_names(metadata.get("names", "{}"))
        stride = int(metadata["stride"]) if "stride" in metadata else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(f"{path}: names or stride in its metadata cannot be read; export the model again") from error
    return OnnxHeader(shapes["images"], names, stride)


def _class_names(text: str) -> dict[int, str]:
    """A literal such as `{0: 'cat', 1: 'dog'}` or `['cat', 'dog']`."""
    value = ast.literal_eval(text)
    names = dict(enumerate(value)) if isinstance(value, list) else dict(value)
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"expected classes 0 to {len(names) - 1}")
    return {int(index): str(name) for index, name in names.items()}


def _inputs(graph: memoryview) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    """Name and sizes of each input."""
    for value in _messages(graph, _INPUT):
        for kind in _messages(value, _TYPE):
            for tensor in _messages(kind, _TENSOR):
                for shape in _messages(tensor, _SHAPE):
                    yield _text(value, _NAME), tuple(_size(d) for d in _messages(shape, _DIMENSION))


def _size(dimension: memoryview) -> int | None:
    return next((value for number, value in _fields(dimension) if number == _SIZE and isinstance(value, int)), None)


def _text(message: memoryview, field: int) -> str:
    return bytes(next(_messages(message, field), b"")).decode()


def _messages(message: memoryview, field: int) -> Iterator[memoryview]:
    """The contents of each field of one number."""
    return (value for number, value in _fields(message) if number == field and isinstance(value, memoryview))


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: a whole number, or the bytes of anything else.

    Raises:
        IndexError: If the message ends in the middle of a field.
        ValueError: If a field has no known encoding.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, encoding = key >> 3, key & 7
        if encoding == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if encoding == _SIZED:
            size, position = _varint(message, position)
        elif encoding in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if encoding == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"unknown encoding {encoding} of field {number}")
        end = position + size
        if end > len(message):
            raise IndexError(f"field {number} ends at {end}, the message at {len(message)}")
        yield number, message[position:end]
        position = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A whole number in groups of seven bits, lowest first, and the position behind it."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
