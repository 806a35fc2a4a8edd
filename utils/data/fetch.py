"""Download a file over HTTP, going on where an earlier try broke off."""

import contextlib
import hashlib
import http.client
import json
import logging
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from tqdm import tqdm

from utils.data.space import require_space, show_size
from utils.errors import UserError
from utils.files import write_text

logger = logging.getLogger(__name__)

WAITS = (1, 2, 4, 8, 16, 30, 60)
"""Seconds before each further try; they begin anew whenever a try has brought the file further."""
STALL = 30
"""Seconds without a byte after which a connection counts as broken."""

_CHUNK = 1 << 18  # bytes
_TEMPORARY = frozenset({408, 425, 429})  # and 5xx


class _Broken(Exception):
    """What went wrong in one try; the next may succeed."""


@dataclass(frozen=True)
class _Version:
    """Which content of a URL a partial file belongs to.

    Attributes:
        url: Where it comes from.
        validator: Strong ETag, or else the date of the last change (RFC 9110, 13.1.5).
        length: Bytes of the whole; None if the server does not say.
    """

    url: str
    validator: str
    length: int | None


def fetch(url: str, file: Path, *, checksum: str | None = None) -> None:
    """Download a file; it appears under its name when it is whole and checked.

    What has come is in `<name>.part` until then, with its version in `<name>.part.json`; both stay when the download is
    interrupted, and the next call goes on from there (RFC 9110, 14) if the server still has the same version.

    Args:
        url: http or https.
        file: What to make; if it exists already, nothing is done.
        checksum: "md5:" or "sha256:" and the digest in hexadecimal.

    Raises:
        UserError: If the URL is no http(s) one or is refused by the server, tries that bring nothing new have failed
            once more than `WAITS` is long, there is no room on the disk, or the checksum differs.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise UserError(f"{url}: expected a URL that begins with http:// or https://")
    if file.exists():
        return
    part = _Part(file)
    waits, longest = iter(WAITS), part.size()
    while True:
        try:
            _receive(url, part)
            break
        except _Broken as problem:
            if part.size() > longest:
                waits, longest = iter(WAITS), part.size()
            wait = next(waits, None)
            if wait is None:
                raise UserError(
                    f"{url}: {problem}; gave up after {len(WAITS) + 1} tries, {show_size(part.size())} are kept in "
                    f"{part.file}; check the connection and run the same command again, it goes on from there"
                ) from problem
            logger.warning("%s: %s; trying again in %g s", file.name, problem, wait)
            time.sleep(wait)
    if checksum:
        _verify(url, part, checksum)
    part.file.replace(file)
    part.forget()


class _Part:
    """What has come of a file, and of which version it is."""

    def __init__(self, file: Path) -> None:
        self.file = file.with_name(f"{file.name}.part")
        self._note = file.with_name(f"{file.name}.part.json")

    def size(self) -> int:
        """Bytes that are there."""
        return self.file.stat().st_size if self.file.exists() else 0

    def version(self, url: str) -> _Version | None:
        """The version of what is there, if that is known and so can be gone on with."""
        try:
            version = _Version(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        usable = version.url == url and 0 < self.size() <= (version.length or self.size())
        return version if usable else None

    def start(self, version: _Version | None) -> None:
        """Drop what is there and expect a version; None if the server says too little to go on with it later."""
        self.forget()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if version:
            write_text(self._note, json.dumps(asdict(version)))

    def forget(self) -> None:
        """Drop all; the content first, so that it never stands beside the note of another version."""
        self.file.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def _receive(url: str, part: _Part) -> None:
    """One try: ask for what is missing and append it."""
    known = part.version(url)
    offset = part.size() if known else 0
    if known and offset == known.length:
        return
    request = urllib.request.Request(url)  # noqa: S310 - the scheme was checked
    if known:
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", known.validator)
    with _open(request, part) as response:
        if response.status == http.client.PARTIAL_CONTENT:
            length = _total_length(response, offset)
            if known is None or known != _version_of(url, response, length):
                part.forget()
                raise _Broken("the server sent a part of something else")
        else:
            if offset:
                logger.info("%s: has changed on the server, or it cannot send parts; starting again", part.file.name)
            length, offset = response.length, 0
            part.start(_version_of(url, response, length))
        require_space(part.file, (length or 0) - offset, f"downloading {url}")
        with (
            part.file.open("ab") as file,
            tqdm(desc=part.file.stem, total=length, initial=offset, unit="B", unit_scale=True) as bar,
        ):
            while chunk := _read(response):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if length is not None and part.size() != length:
        raise _Broken(f"the server ended after {part.size()} of {length} bytes")


@contextlib.contextmanager
def _open(request: urllib.request.Request, part: _Part) -> Iterator[http.client.HTTPResponse]:
    try:
        response = _opener().open(request, timeout=STALL)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.forget()
            raise _Broken("the server has less than has come already") from error
        if error.code >= 500 or error.code in _TEMPORARY:
            raise _Broken(f"the server answered {error.code} {error.reason}") from error
        raise UserError(
            f"{request.full_url}: the server answered {error.code} {error.reason}; the file may have moved, get the "
            "data set by hand and give its folder with --from"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise UserError(
                f"{request.full_url}: the certificate of the server is not valid ({reason.verify_message}); check the "
                "date of this machine, its certificates and its proxy"
            ) from error
        raise _Broken(f"no connection ({_told(reason)})") from error
    with response:
        yield cast(http.client.HTTPResponse, response)


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https only, also after a redirection; the usual one reads files and ftp too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"the connection broke off ({_told(error)})") from error


def _told(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came for {STALL:g} s"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _version_of(url: str, response: http.client.HTTPResponse, length: int | None) -> _Version | None:
    tag = response.headers.get("ETag")
    validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    return _Version(url, validator, length) if validator else None


def _total_length(response: http.client.HTTPResponse, offset: int) -> int | None:
    """Bytes of the whole, of which a part came; -1 if the part is not the one from `offset`."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if not match or int(match[1]) != offset:
        return -1
    return None if match[2] == "*" else int(match[2])


def _verify(url: str, part: _Part, checksum: str) -> None:
    kind, _, expected = checksum.partition(":")
    digest = hashlib.new(kind, usedforsecurity=False)
    with part.file.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected.lower():
        part.forget()
        raise UserError(
            f"{url}: found the {kind.upper()} checksum {digest.hexdigest()}, expected {expected}; it was deleted, run "
            "the same command again to get it anew"
        )
