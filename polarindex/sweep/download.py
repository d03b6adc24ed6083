"""Download a registered data set: resumed after a break, checked, and in place only when it is whole.

Law:       the target exists only with the announced size, the right checksum, and as an HDF5 file that opens.
           What came so far stays in `<target>.part`, to be continued if the server still has the same file.
Checksums: the published one where the registry has it. Else the first download's own is recorded in
           `<target>.sha256` (as `sha256sum` writes it) and later checks compare with that.
Not here:  which sets there are (registry.py). `pooch` has no resume, hence the standard library."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py

from polarindex.checks import choice
from polarindex.sweep.dataset import downloads_folder
from polarindex.sweep.registry import REGISTRY

Progress = Callable[[int, int | None], None]  # (bytes here, bytes in all or None)

_AGENT = "Mozilla/5.0 (compatible; polarindex)"  # the host turns urllib's own name away
_CHUNK = 1 << 20


class DownloadError(OSError):
    """A download that did not end with a good file; the message says what to do."""


@dataclass(frozen=True)
class Download:
    """A checked file on this machine."""

    path: Path
    sha256: str
    trust: str  # in words: what the checksum was compared with


def download(name: str, *, force: bool = False, progress: Progress | None = None) -> Download:
    """Get a registered data set into the cache folder, or check the one that is there.

    force   delete what is there first
    """
    choice(name, "name", tuple(REGISTRY))
    remote = REGISTRY[name]
    target = downloads_folder() / remote.filename
    if force:
        for path in (
            target,
            _beside(target, ".sha256"),
            _beside(target, ".part"),
            _beside(target, ".part.version"),
        ):
            path.unlink(missing_ok=True)
    return fetch(remote.url, target, size=remote.size, sha256=remote.sha256, progress=progress)


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
    attempts: int = 5,
    pause: float = 1.0,
    timeout: float = 30.0,
) -> Download:
    """Download `url` to `target`, or check the target that is there.

    size, sha256   what the file must have, where known
    attempts       how often in a row the transfer may break without progress
    pause, timeout seconds: between attempts (doubled each time), and for the server to answer
    """
    if target.exists():
        return _checked(target, target, size, sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(target, ".part")
    with _alone(_beside(target, ".lock")):
        if not target.exists():
            _Transfer(url, part, size, sha256 is not None, progress, timeout).run(attempts, pause)
            try:
                found = _checked(part, target, size, sha256)
            except DownloadError:
                part.unlink()
                raise
            _beside(target, ".sha256").write_text(f"{found.sha256}  {target.name}\n")
            os.replace(part, target)
            _beside(target, ".part.version").unlink(missing_ok=True)
            return found
    return _checked(target, target, size, sha256)


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """A progress bar on the screen while a `with` block runs: yields what `download(progress=)` wants."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn()) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@dataclass
class _Transfer:
    """One file on its way into `part`, over as many connections as it takes."""

    url: str
    part: Path
    size: int | None
    checked: bool  # a published checksum will tell if parts of two versions were joined
    progress: Progress | None
    timeout: float

    def run(self, attempts: int, pause: float) -> None:
        """Until the file is whole; DownloadError when it breaks `attempts` times without progress."""
        best, failures = -1, 0
        while True:
            try:
                if self._receive():
                    return
                reason = "the connection was dropped"
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise DownloadError(
                        f"the server answered {error.code} {error.reason} for {self.url}"
                    ) from None
                reason = f"the server answered {error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, DownloadError):
                    raise
                reason = str(getattr(error, "reason", error)) or type(error).__name__
                if best < 0 and isinstance(error, urllib.error.URLError):
                    raise DownloadError(
                        f"cannot reach {self.url} ({reason}): check the connection and run the same again, "
                        f"or put the file, fetched elsewhere, at {self.part.with_suffix('')}"
                    ) from None
            here = self._here()
            failures = 1 if here > best else failures + 1
            best = max(best, here)
            if failures >= attempts:
                raise DownloadError(
                    f"{reason} after {here} bytes of {self.url}, {failures} times without progress; "
                    "what came is kept: run the same again to go on from there"
                )
            time.sleep(pause * 2 ** (failures - 1))

    def _receive(self) -> bool:
        """Append what one connection brings. -> whether the file is whole."""
        version = _beside(self.part, ".version")
        here = self._here()
        headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
        if here and version.exists():
            headers |= {"Range": f"bytes={here}-", "If-Range": version.read_text()}
        elif here and self.checked:
            headers |= {"Range": f"bytes={here}-"}
        request = urllib.request.Request(self.url, headers=headers)
        try:
            response = urllib.request.urlopen(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            if error.headers.get("Content-Range") == f"bytes */{here}":
                return True
            self.part.unlink()
            return False
        with response:
            start, total = _extent(response)
            if start not in (0, here):
                raise DownloadError(
                    f"the server sent bytes from {start} where {here} was asked for: {self.url}"
                )
            self._expect(total, start)
            if not start:
                version.unlink(missing_ok=True)
                if mark := _version(response):
                    version.write_text(mark)
            with open(self.part, "ab" if start else "wb") as file:
                here = start
                while data := response.read1(_CHUNK):  # what is there: a break loses nothing that came
                    file.write(data)
                    here += len(data)
                    if self.progress:
                        self.progress(here, total if total is not None else self.size)
        return total is None or here >= total

    def _expect(self, total: int | None, start: int) -> None:
        if self.size is not None and total is not None and total != self.size:
            raise DownloadError(f"the server has {total} bytes at {self.url} where {self.size} are expected")
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - start > free:
            raise DownloadError(f"{self.part.parent} has {free} bytes free; {total - start} more are needed")

    def _here(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where the body starts in the file, and the size of the whole file if it is announced."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match:
            raise DownloadError(f"the server sent a part without saying which: {response.url}")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return 0, None if length is None else int(length)


def _version(response: http.client.HTTPResponse) -> str | None:
    """What names this version of the file in If-Range: a strong ETag, else the time of its last change."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _checked(path: Path, target: Path, size: int | None, sha256: str | None) -> Download:
    """`path`, which is or will be `target`, if size, checksum and structure are right; else DownloadError."""
    again = (
        f"delete {target} and download it again"
        if path == target
        else "what came was deleted: run the same again"
    )
    found = path.stat().st_size
    if size is not None and found != size:
        raise DownloadError(f"{target.name} has {found} bytes where {size} are expected; {again}")
    record = _beside(target, ".sha256")
    recorded = record.read_text().split()[:1] if path == target and record.exists() else []
    digest = _sha256(path)
    wanted = sha256 or (recorded[0] if recorded else digest)
    if digest != wanted:
        raise DownloadError(f"{target.name} has sha256 {digest} where {wanted} is expected; {again}")
    try:
        h5py.File(path, "r").close()
    except OSError as error:
        raise DownloadError(
            f"{target.name} is not a whole HDF5 file ({str(error).splitlines()[0]}); {again}"
        ) from None
    if sha256:
        trust = "matches the published checksum"
    elif recorded:
        trust = "matches the checksum recorded at its first download; none is published"
    elif path == target:
        trust = "no checksum is published or recorded: only size and structure were checked"
    else:
        trust = f"no checksum is published: this first download's own was recorded in {record.name}"
    return Download(target, digest, trust)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold `lock`, so that two processes never write one .part. The empty file stays; its lock ends here."""
    with open(lock, "ab") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DownloadError(
                f"another process is downloading this file (it holds {lock}); wait for it"
            ) from None
        yield


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
