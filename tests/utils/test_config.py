import dataclasses

import pytest

from utils.config import option, parse_options
from utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Example:
    batch_size: int = option(16, "images a batch", flags=("--size",))
    name: str = option("exp", "name of 100% of runs")
    rate: float = option(0.5, "a rate")
    fast: bool = option(False, "a switch")
    classes: tuple[int, ...] = option((), "some numbers", least=0)
    kind: str = option("a", "a choice", choices=("a", "b"))
    resume: str = option("", "optional value", bare="newest")


def parse(*argv):
    return parse_options(Example, argv, prog="x.py", description="An example.", refused={"--gone": "it is gone"})


def test_defaults_and_every_spelling():
    assert parse() == Example()
    assert (
        parse("--batch-size", "3")
        == parse("--batch_size", "3")
        == parse("--size", "3")
        == parse("--batch", "3")
        == Example(batch_size=3)
    )
    assert parse("--b", "3") == parse("--batch_s=3") == Example(batch_size=3)
    assert parse("--na", "my_run").name == "my_run"
    assert parse("--fast", "--classes", "1", "2", "--rate", "2").classes == (1, 2)
    assert parse("--resume").resume == "newest" and parse("--resume", "a.pt").resume == "a.pt"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch-size", "many"], "x.py: argument --batch-size.*'many'"),
        (["--classes", "0", "-1"], "--classes: found -1, expected at least 0"),
        (["--classes", "one"], "--classes: invalid int value: 'one'"),
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["--kind", "c"], "'c'"),
        (["--gone"], "--gone is not supported: it is gone"),
        (["--gone", "with", "values"], "--gone is not supported"),
        (["--name"], "expected one argument"),
    ],
)
def test_mistakes_are_one_message(argv, message):
    with pytest.raises(UserError, match=message):
        parse(*argv)


def test_help_shows_defaults(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    assert "images a batch (default: 16)" in text and "100% of runs" in text and "--gone" not in text
