import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

import utils.data.fetch
from utils.data.fetch import fetch
from utils.errors import UserError

CONTENT = os.urandom(50_001)
SPACE = namedtuple("SPACE", "total used free")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(utils.data.fetch, "WAITS", (0, 0.01, 0.02))
    monkeypatch.setattr(utils.data.fetch, "STALL", 0.3)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "downloads" / "a.zip"


def left(file: Path) -> list[str]:
    return sorted(path.name for path in file.parent.glob("*"))


def test_whole(server, file):
    url = server.serve("/a.zip", CONTENT)
    fetch(url, file, checksum=f"md5:{hashlib.md5(CONTENT).hexdigest()}")
    assert file.read_bytes() == CONTENT
    assert left(file) == ["a.zip"]
    fetch(url, file)  # is there
    assert len(server.requests) == 1


def test_empty_file(server, file):
    fetch(server.serve("/a.zip", b""), file)
    assert file.read_bytes() == b""


@pytest.mark.parametrize(
    "validators", [{"etag": '"x"'}, {"etag": None, "modified": "Mon, 02 Nov 2020 10:00:00 GMT"}], ids=["etag", "date"]
)
def test_goes_on_where_the_server_broke_off(server, file, validators):
    url = server.serve("/a.zip", CONTENT, **validators)
    server.files["/a.zip"].plan = [server.break_off(10_000), server.break_off(30_000)]
    fetch(url, file)
    assert file.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=10000-", "bytes=30000-"]
    assert server.requests[-1][2] == next(value for value in validators.values() if value)
    assert left(file) == ["a.zip"]


def test_goes_on_when_the_server_stalls(server, file):
    url = server.serve("/a.zip", CONTENT)
    server.files["/a.zip"].plan = [server.stall(20_000)]
    started = time.monotonic()
    fetch(url, file)
    assert file.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=20000-"]
    assert time.monotonic() - started < 5


def test_many_breaks_that_bring_it_further_are_no_reason_to_give_up(server, file):
    url = server.serve("/a.zip", CONTENT)
    server.files["/a.zip"].plan = [server.break_off(n * 4000) for n in range(1, 13)]
    fetch(url, file)
    assert file.read_bytes() == CONTENT
    assert len(server.requests) == 13 > len(utils.data.fetch.WAITS) + 1


def test_a_server_that_ignores_ranges_starts_again(server, file):
    url = server.serve("/a.zip", CONTENT, ranges=False)
    server.files["/a.zip"].plan = [server.break_off(10_000)]
    fetch(url, file)
    assert file.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=10000-"]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_validator_it_starts_again(server, file, etag):
    url = server.serve("/a.zip", CONTENT, etag=etag)
    server.files["/a.zip"].plan = [server.break_off(10_000)]
    fetch(url, file)
    assert file.read_bytes() == CONTENT
    assert server.ranges() == [None, None]


def test_a_file_that_changes_between_tries_is_never_mixed(server, file):
    new = os.urandom(40_000)
    url = server.serve("/a.zip", CONTENT)
    server.files["/a.zip"].plan = [server.replace(10_000, new, '"2"')]
    fetch(url, file)
    assert file.read_bytes() == new


def test_a_part_of_another_version_is_dropped(server, file):
    """A server that ignores If-Range."""
    new = os.urandom(40_000)

    def careless(handler, served):
        del handler.headers["If-Range"]
        server.answer(handler, served)

    url = server.serve("/a.zip", CONTENT)
    server.files["/a.zip"].plan = [server.replace(10_000, new, '"2"'), careless]
    fetch(url, file)
    assert file.read_bytes() == new
    assert server.ranges() == [None, "bytes=10000-", None]


def test_without_a_length(server, file):
    fetch(server.serve("/a.zip", CONTENT, announce=False), file)
    assert file.read_bytes() == CONTENT


def test_a_length_that_is_too_large_is_noticed(server, file):
    url = server.serve("/a.zip", CONTENT, length=len(CONTENT) + 500)
    with pytest.raises(UserError, match="gave up after 4 tries"):
        fetch(url, file)
    assert not file.exists()


@pytest.mark.parametrize("code", [404, 403, 410])
def test_a_refusal_is_final(server, file, code):
    url = server.serve("/a.zip", CONTENT)
    server.files["/a.zip"].plan = [server.status(code)]
    with pytest.raises(UserError, match=f"{url}: the server answered {code} .*--from"):
        fetch(url, file)
    assert len(server.requests) == 1
    assert not file.parent.exists()


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_busy_server_is_asked_again(server, file, code):
    url = server.serve("/a.zip", CONTENT)
    server.files["/a.zip"].plan = [server.status(code), server.status(code)]
    fetch(url, file)
    assert file.read_bytes() == CONTENT


def test_a_server_that_stays_busy_is_given_up(server, file):
    url = server.serve("/a.zip", CONTENT)
    server.files["/a.zip"].plan = [server.break_off(9000), *[server.status(500)] * 9]
    with pytest.raises(UserError, match=r"500 .* gave up after 4 tries, 9.0 kB are kept in .*a\.zip\.part; .*again"):
        fetch(url, file)
    assert left(file) == ["a.zip.part", "a.zip.part.json"]
    server.files["/a.zip"].plan = []
    fetch(url, file)
    assert file.read_bytes() == CONTENT
    assert server.ranges()[-1] == "bytes=9000-"


def test_waits_grow(server, file, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(utils.data.fetch, "WAITS", (1, 2, 4))
    url = server.serve("/a.zip", CONTENT)
    server.files["/a.zip"].plan = [server.status(500)] * 9
    with pytest.raises(UserError, match="gave up"):
        fetch(url, file)
    assert [wait for wait in slept if wait] == [1, 2, 4]


def test_no_server(file):
    with pytest.raises(UserError, match=r"no connection \(Connection refused\); gave up"):
        fetch("http://127.0.0.1:9/a.zip", file)
    assert left(file) == []


@pytest.mark.parametrize("code", [301, 302, 303, 307])
def test_redirections_are_followed(server, file, code):
    url = server.serve("/a.zip", b"", plan=[server.redirect(code, server.serve("/b.zip", CONTENT))])
    server.files["/a.zip"].plan *= 2
    server.files["/b.zip"].plan = [server.break_off(10_000)]
    fetch(url, file)
    assert file.read_bytes() == CONTENT
    assert server.requests[-1] == ("/b.zip", "bytes=10000-", '"1"')


def test_redirections_lead_to_the_web_only(server, file, tmp_path):
    (tmp_path / "secret").write_text("secret")
    url = server.serve("/a.zip", b"")
    server.files["/a.zip"].plan = [server.redirect(302, f"file://{tmp_path}/secret")] * 9
    with pytest.raises(UserError):
        fetch(url, file)
    server.files["/a.zip"].plan = [server.redirect(302, url)] * 99
    with pytest.raises(UserError):
        fetch(url, file)
    assert left(file) == []


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.zip", "file:///etc/passwd", "a.zip", ""])
def test_other_urls_are_refused(file, url):
    with pytest.raises(UserError, match="expected a URL that begins with http"):
        fetch(url, file)


def test_a_wrong_checksum(server, file):
    url = server.serve("/a.zip", CONTENT)
    with pytest.raises(UserError, match=r"found the SHA256 checksum .* expected 00; it was deleted"):
        fetch(url, file, checksum="sha256:00")
    assert left(file) == []


def test_a_full_disk_is_told_before_anything_is_written(server, file, monkeypatch):
    url = server.serve("/a.zip", CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SPACE(10**6, 0, len(CONTENT) - 1))
        with pytest.raises(UserError, match=r"needs 50.0 kB, but only 50.0 kB are free"):
            fetch(url, file)
    assert not file.exists()
    server.files["/a.zip"].plan = [server.break_off(40_000), *[server.status(404)]]
    with pytest.raises(UserError, match="404"):
        fetch(url, file)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SPACE(10**6, 0, 10_001))  # the rest fits
    fetch(url, file)
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("note", ["", "{", "[]", '{"url": 3}', '{"url": "other", "validator": "x", "length": 3}'])
def test_a_part_that_is_not_known_is_not_used(server, file, note):
    file.parent.mkdir()
    Path(f"{file}.part").write_bytes(b"abc")
    Path(f"{file}.part.json").write_text(note)
    fetch(server.serve("/a.zip", CONTENT), file)
    assert file.read_bytes() == CONTENT
    assert server.ranges() == [None]


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 1])
def test_a_part_that_is_whole_or_too_long(server, file, size):
    url = server.serve("/a.zip", CONTENT)
    file.parent.mkdir()
    Path(f"{file}.part").write_bytes((CONTENT + b"x")[:size])
    Path(f"{file}.part.json").write_text(json.dumps({"url": url, "validator": '"1"', "length": len(CONTENT)}))
    fetch(url, file)
    assert file.read_bytes() == CONTENT
    assert len(server.requests) == size - len(CONTENT)


def test_a_part_longer_than_the_server_has(server, file):
    url = server.serve("/a.zip", CONTENT)
    file.parent.mkdir()
    Path(f"{file}.part").write_bytes(b"x" * 60_000)
    Path(f"{file}.part.json").write_text(json.dumps({"url": url, "validator": '"1"', "length": None}))
    fetch(url, file)
    assert file.read_bytes() == CONTENT
    assert server.ranges() == ["bytes=60000-", None]


ENDED = """
import signal, sys
from pathlib import Path
from utils.data.fetch import fetch
signal.signal(signal.SIGINT, signal.default_int_handler)  # children of a process that ignores it do so too
fetch(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_ends_leaves_its_part_for_the_next(server, file, ending):
    content = os.urandom(4_000_000)
    url = server.serve("/a.zip", content, pace=0.002)
    command = [sys.executable, "-c", ENDED, url, str(file)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL)
    part = Path(f"{file}.part")
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(ending)
    process.wait()
    assert not file.exists()
    there = part.stat().st_size
    assert 0 < there < len(content)
    server.files["/a.zip"].pace = 0
    fetch(url, file)
    assert file.read_bytes() == content
    assert server.ranges() == [None, f"bytes={there}-"]
