"""Options declared once, as a frozen dataclass: the command line, its help and the saved run file derive from it."""

import argparse
import dataclasses
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from utils.errors import UserError

Options = TypeVar("Options")


def option(
    default: Any,
    help: str,
    *,
    flags: Sequence[str] = (),
    choices: Sequence[str] | None = None,
    bare: Any = None,
    least: float | None = None,
) -> Any:
    """Declare a field of an options dataclass.

    Args:
        default: Value when the flag is not given.
        help: One line for --help; the default is added.
        flags: Further spellings, for example ("--img", "--img-size").
        choices: The only values accepted.
        bare: Value of the flag given without a value; None means that a value is required.
        least: The smallest number accepted on the command line.
    """
    return dataclasses.field(
        default=default,
        metadata={"help": help, "flags": tuple(flags), "choices": choices, "bare": bare, "least": least},
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help")


class _Refuse(argparse.Action):
    """A flag of YOLOv5 that is not here: say so, never ignore it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        raise UserError(f"{parser.prog}: {self.option_strings[0]} is not supported: {self.help_text}")

    def __init__(self, *args: Any, help_text: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help_text = help_text


def parse_options(
    cls: type[Options],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
    description: str,
    refused: Mapping[str, str] | None = None,
) -> Options:
    """Read a command line into an options dataclass.

    A field `batch_size: int` becomes `--batch-size` (`--batch_size` is accepted too), a `bool` a switch, a `tuple` a
    flag with one or more values. Prefixes of a flag such as `--conf` are accepted, as in YOLOv5.

    Args:
        cls: Dataclass whose fields are made by `option`.
        argv: Arguments, by default those of the process.
        prog: Name in messages, for example "train.py".
        description: First lines of --help.
        refused: Flags we know but do not implement, with the reason and the remedy.

    Raises:
        UserError: For an unknown flag, a value of the wrong type, a number that is too small or a refused flag.
    """
    parser = _Parser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        _add_option(parser, field, hints[field.name])
    for flag, reason in {_dashed(flag): reason for flag, reason in (refused or {}).items()}.items():
        parser.add_argument(
            flag, nargs="*", action=_Refuse, default=argparse.SUPPRESS, help=argparse.SUPPRESS, help_text=reason
        )
    given = sys.argv[1:] if argv is None else argv
    return cls(**vars(parser.parse_args([_dashed(word) for word in given])))


def _dashed(word: str) -> str:
    """A flag with dashes for underscores: were both spellings registered, every prefix would be ambiguous."""
    flag, equals, value = word.partition("=")
    return f"{flag.replace('_', '-')}{equals}{value}" if word.startswith("--") else word


def _add_option(parser: argparse.ArgumentParser, field: "dataclasses.Field[Any]", hint: Any) -> None:
    meta = field.metadata
    names = [f"--{field.name.replace('_', '-')}", *meta["flags"]]
    settings: dict[str, Any] = {"dest": field.name, "default": field.default, "help": _help(field)}
    if hint is bool:
        settings["action"] = "store_true"
    else:
        kind = _value_type(hint)
        settings["type"] = kind if meta["least"] is None else _AtLeast(kind, meta["least"])
        settings["choices"] = meta["choices"]
        if not meta["choices"]:
            settings["metavar"] = kind.__name__.upper()
        if typing.get_origin(hint) is tuple:
            settings["nargs"] = "+"
            settings["action"] = _StoreTuple
        elif meta["bare"] is not None:
            settings["nargs"], settings["const"] = "?", meta["bare"]
    parser.add_argument(*names, **settings)


class _StoreTuple(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        setattr(namespace, self.dest, tuple(values))


class _AtLeast:
    """A number that is not too small."""

    def __init__(self, kind: type, least: float) -> None:
        self.kind, self.least = kind, least
        self.__name__ = kind.__name__  # for argparse's "invalid int value"

    def __call__(self, text: str) -> Any:
        value = self.kind(text)
        if not value >= self.least:
            raise argparse.ArgumentTypeError(f"found {text}, expected at least {self.least:g}")
        if value == math.inf:
            raise argparse.ArgumentTypeError(f"found {text}, expected a finite number")
        return value


def _value_type(hint: Any) -> type:
    """The type of one value: str of `str | None`, int of `tuple[int, ...]`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is tuple:
        hint = typing.get_args(hint)[0]
    return typing.cast(type, hint)


def _help(field: "dataclasses.Field[Any]") -> str:
    text = str(field.metadata["help"]).replace("%", "%%")
    if field.default in (None, "", False, ()):
        return text
    default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return f"{text} (default: {default})"
