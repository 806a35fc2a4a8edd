"""Small .onnx files, written without the onnx package, as protocol buffers are encoded."""

from collections.abc import Sequence
from pathlib import Path

Shape = Sequence[int | str]  # a str is the name of a size that is open


def varint(value: int) -> bytes:
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor_type(name: str, shape: Shape) -> bytes:
    sizes = b"".join(field(1, field(1 if isinstance(size, int) else 2, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, sizes)))  # 1: float32


def reshaping_detector(
    path: Path,
    *,
    shape: Shape = (1, 3, 32, 64),
    no: int = 6,
    input: str = "images",
    output: str = "output0",
    **metadata: str,
) -> Path:
    """A "detector" whose predictions are the numbers of the image in rows of `no`."""
    rows = b"".join(value.to_bytes(8, "little", signed=True) for value in (1, -1, no))
    target = field(1, 3) + field(2, 7) + field(8, "rows") + field(9, rows)  # dimension 3, of int64
    node = field(1, input) + field(1, "rows") + field(2, output) + field(3, "reshape") + field(4, "Reshape")
    size = 1 if isinstance(shape[-1], str) else shape[-1] * shape[-2] * 3 // no
    graph = field(1, node) + field(2, "graph") + field(5, target)
    graph += field(11, tensor_type(input, shape)) + field(12, tensor_type(output, (1, size, no)))
    properties = b"".join(field(14, field(1, key) + field(2, value)) for key, value in metadata.items())
    path.write_bytes(field(1, 7) + field(7, graph) + field(8, field(1, "") + field(2, 13)) + properties)
    return path
