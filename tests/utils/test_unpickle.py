"""The inert unpickler agrees with Python's on plain content, and with numpy on numbers."""

import argparse
import collections
import pathlib
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import utils.unpickle
from utils.errors import UserError
from utils.unpickle import Instance, describe, globals_of, is_plain_global, plain, unpickle


def through(value):
    return unpickle(pickle.dumps(value, protocol=2), is_plain_global, "a.pt")


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=15,
    )
)
def test_plain_content_as_python_reads_it(value):
    assert through(value) == value
    assert plain(through(value)) == value


@pytest.mark.parametrize("kind", ["bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_numpy(kind, order):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(np.dtype(kind).newbyteorder(order))
    assert plain(through(array)) == array.tolist()
    assert plain(through(array.astype(kind)[1, 2])) == 1
    assert plain(through(array[:1, :1].reshape(()))) == 0


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([1 + 2j]), np.array(["2024-01-01"], "datetime64[D]")])
def test_numpy_of_anything_but_numbers(array):
    with pytest.raises(ValueError, match="array of numbers"):
        plain(through(array))


def test_other_plain_objects():
    assert plain(through(collections.OrderedDict(b=1, a=[2]))) == {"b": 1, "a": [2]}
    assert plain(through({3, 1, 2})) == [1, 2, 3]
    assert plain(through(argparse.Namespace(epochs=3, path=pathlib.PurePosixPath("/a/b")))) == {
        "epochs": 3,
        "path": "/a/b",
    }
    assert plain(through([torch.Size([2, 3]), torch.device("cuda", 1), torch.device("cpu")])) == [
        (2, 3),
        "cuda:1",
        "cpu",
    ]


def test_shared_and_cyclic_parts():
    part = [1]
    found = through({"a": part, "b": part})
    assert found["a"] is found["b"]
    part.append(part)
    with pytest.raises(ValueError, match="deeply nested"):
        plain(through(part))


def test_too_many_values():
    level = [1] * 10
    for _ in range(6):
        level = [level] * 10
    with pytest.raises(ValueError, match="too large"):
        plain(through(level))


def test_too_many_instructions(monkeypatch):
    monkeypatch.setattr(utils.unpickle, "MAX_INSTRUCTIONS", 100)
    with pytest.raises(UserError, match="more than 100"):
        through(list(range(200)))


def test_objects_are_records():
    data = b"\x80\x02cmodels.common\nConv\n)\x81}X\x01\x00\x00\x00aK\x05sb."
    record = unpickle(data, lambda name: name == "models.common.Conv", "a.pt")
    assert isinstance(record, Instance)
    assert (record.name, record.class_name, record.args, record.state) == ("models.common.Conv", "Conv", (), {"a": 5})
    assert describe(record) == "models.common.Conv"
    with pytest.raises(ValueError, match=r"object of models\.common\.Conv"):
        plain([record])


def test_globals_of():
    assert globals_of(b"\x80\x02cposix\nsystem\n0ccollections\nOrderedDict\n.") == {
        "posix.system",
        "collections.OrderedDict",
    }
    assert globals_of(pickle.dumps(print, protocol=4)) == {"STACK_GLOBAL"}
    with pytest.raises(ValueError, match="STOP"):
        globals_of(b"\x80\x02N")
