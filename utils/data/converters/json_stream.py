"""Read the lists of a JSON file that is too large for the memory, entry by entry.

The library ijson was tried first: 100 000 brackets in a row fill the memory in it, and its errors name no line.
"""

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

from utils.errors import UserError

_CHUNK = 1 << 20  # characters
_LARGEST = 1 << 26  # characters of one entry; more is no annotation, but a bracket forgotten
_AFTER_VALUE = frozenset(" \t\r\n,:]}")
_SPACE = re.compile(r"[ \t\r\n]*")


def stream_entries(file: Path, keys: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Key and entry, for each entry of some lists of the JSON object in a file, in their order.

    Args:
        file: The JSON; only one entry at a time is held in memory.
        keys: The lists; what stands under other keys is passed over.

    Raises:
        UserError: If it cannot be read, is no JSON object, or has none of these lists.
    """
    found = False
    try:
        with file.open(encoding="utf-8-sig") as stream:
            reader = _Reader(file, stream)
            for key in reader.read_keys():
                if reader.peek() != "[":
                    reader.read_value()
                    continue
                found |= key in keys
                for entry in reader.read_entries():
                    if key in keys:
                        yield key, entry
            if reader.peek():
                raise reader.error("found more behind the end")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}), expected a JSON file; restore it") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: found bytes that are no text, expected JSON in UTF-8; restore it") from error
    if not found:
        raise UserError(f"{file}: found none of the lists {', '.join(keys)}; expected the official annotation file")


class _Reader:
    """A position in the text of a JSON file."""

    def __init__(self, file: Path, stream: TextIO) -> None:
        self._file = file
        self._stream = stream
        self._buffer = ""
        self._position = 0
        self._lines = 0  # before the buffer
        self._columns = 0  # of the line in which the buffer begins, before it
        self._decode = json.JSONDecoder().raw_decode

    def error(self, found: str, position: int | None = None) -> UserError:
        """What to raise for something that was found at a position in the buffer, by default the one reached."""
        lines, columns = self._count(self._position if position is None else position)
        where = f"{self._file}:{lines + 1}: not valid JSON ({found} at column {columns + 1})"
        return UserError(f"{where}; restore the file, or correct that line")

    def peek(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self._buffer, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._buffer) or not self._fill():
                return self._buffer[self._position : self._position + 1]

    def read_keys(self) -> Iterator[str]:
        """The keys of the object that begins here; the value of each has to be read before the next."""
        for _ in self._items("{", "}"):
            key = self.read_value()
            if not isinstance(key, str):
                raise self.error(f"found the key {key!r}, expected text in quotes")
            self._take(":")
            yield key

    def read_entries(self) -> Iterator[Any]:
        """The entries of the list that begins here."""
        for _ in self._items("[", "]"):
            yield self.read_value()

    def read_value(self) -> Any:
        """The value that begins here, of any kind."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                problem = self.error(error.msg.rstrip(": ").removesuffix(" at"), error.pos)
            except (ValueError, RecursionError) as error:
                problem = self.error(str(error).partition(":")[0])
            else:
                if self._buffer[end : end + 1] in _AFTER_VALUE:  # else the buffer may end within a number
                    self._position = end
                    return value
                problem = self.error("found a value without a comma or a bracket behind it", end)
            if len(self._buffer) - self._position > _LARGEST or not self._fill():
                raise problem

    def _items(self, opening: str, closing: str) -> Iterator[None]:
        """Stop before each item."""
        self._take(opening)
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self._take(",")
                yield
        self._take(closing)

    def _take(self, expected: str) -> None:
        found = self.peek()
        if found != expected:
            raise self.error(f"found {found or 'the end of the file'}, expected {expected}")
        self._position += 1

    def _fill(self) -> bool:
        """Drop what was read, read on, and say whether there was more."""
        rest = self._buffer[self._position :]
        more = self._stream.read(max(_CHUNK, len(rest)))
        if more:
            self._lines, self._columns = self._count(self._position)
            self._buffer, self._position = rest + more, 0
        return bool(more)

    def _count(self, position: int) -> tuple[int, int]:
        """Lines before a position in the buffer, and characters before it in its line."""
        lines = self._buffer.count("\n", 0, position)
        start = self._buffer.rfind("\n", 0, position) + 1
        return self._lines + lines, position - start if lines else self._columns + position
