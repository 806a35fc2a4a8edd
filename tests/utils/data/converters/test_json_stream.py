import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import utils.data.converters.json_stream
from utils.data.converters.json_stream import stream_entries
from utils.errors import UserError


def read(tmp_path, text, keys=("a",)):
    file = tmp_path / "a.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(stream_entries(file, keys))


def test_only_the_lists_asked_for_in_their_order(tmp_path):
    text = '\ufeff {"x": {"a": [1]}, "b": [], "a": [{"c": [2, {}]}, "é,]}"],\n"no": [3], "b": [null, 4], "y": 5}\n '
    expected = [("a", {"c": [2, {}]}), ("a", "é,]}"), ("b", None), ("b", 4)]
    assert read(tmp_path, text, ("a", "b")) == expected


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(
    content=st.dictionaries(st.sampled_from("abcd"), st.lists(values, max_size=4) | values, max_size=4),
    chunk=st.integers(1, 9),
    form=st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}]),
)
def test_same_as_the_whole_at_once_wherever_a_chunk_ends(tmp_path_factory, content, chunk, form):
    content["b"] = [1.25e7]
    expected = [(key, entry) for key in content if isinstance(content[key], list) for entry in content[key]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils.data.converters.json_stream, "_CHUNK", chunk)
        assert read(tmp_path_factory.mktemp("x"), json.dumps(content, **form), "abcd") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a.json:1: not valid JSON (found the end of the file, expected { at column 1)"),
        ("[1]", "found [, expected {"),
        ('{"a": [1, 2', "not valid JSON"),
        ('{"a": [1, 2]', "found the end of the file, expected }"),
        ('{"a": [1 2]}', "found 2, expected ]"),
        ('{"a": [1,\n2,\n tru]}', "a.json:3: not valid JSON (Expecting value at column 2); restore"),
        ('{"a": [{"b":\n "c]}', "a.json:2: not valid JSON (Unterminated string starting at column 2)"),
        ('{"a": ["b\tc"]}', "(Invalid control character at column 10)"),
        ('{"a": [1,]}', "not valid JSON"),
        ('{"a": [{}}', "found }, expected ]"),
        ('{"a" [1]}', "found [, expected :"),
        ("{1: [1]}", "found the key 1"),
        ('{"a": [1.]}', "a value without a comma"),
        ('{"a": [1]} x', "found more behind the end"),
        ('{"b": [1], "a": 3}', "found none of the lists a"),
        (b'{"a": ["\xff"]}', "no text"),
        ('{"a": [' + "[" * 100000 + "]}", "not valid JSON"),
        ('{"a": [' + "1" * 5000 + "]}", "not valid JSON"),
    ],
)
def test_mistakes_are_named(tmp_path, text, expected):
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "a.json") in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_position_counts_from_the_start_of_the_file(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(utils.data.converters.json_stream, "_CHUNK", chunk)
    for text, place in [
        ('{"a": [1, 2, 3, 4, tru]}', ":1: not valid JSON (Expecting value at column 20)"),
        ('{"a": [1,\n\n 2, 3,\n 4, 5, {"b": 1 2}]}', ":4: not valid JSON (Expecting ',' delimiter at column 16)"),
        ('{"a": [1,\n\n 2, 3,\n 4, 5, 6 7]}', ":4: not valid JSON (found 7, expected ] at column 10)"),
    ]:
        with pytest.raises(UserError) as caught:
            read(tmp_path, text)
        assert str(caught.value).startswith(f"{tmp_path / 'a.json'}{place}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: cannot be read \(No such file"):
        list(stream_entries(tmp_path / "none.json", ("a",)))


def test_a_bracket_forgotten_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(utils.data.converters.json_stream, "_CHUNK", 10)
    monkeypatch.setattr(utils.data.converters.json_stream, "_LARGEST", 100)
    file = tmp_path / "a.json"
    file.write_text('{"a": [{"b": [' + "1, " * 1000 + "]}]}")
    read_characters = 0

    class Counting:
        def read(self, size):
            nonlocal read_characters
            read_characters += size
            return stream.read(size)

    with file.open() as stream:
        reader = utils.data.converters.json_stream._Reader(file, Counting())
        with pytest.raises(UserError, match="not valid JSON"):
            for _ in reader.read_keys():
                list(reader.read_entries())
    assert read_characters < 500
