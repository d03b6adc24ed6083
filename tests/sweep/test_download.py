"""Downloads end with the right whole file or with one clear line, however the server behaves."""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from polarindex.sweep import download as module
from polarindex.sweep.cache import cache_folder
from polarindex.sweep.download import DownloadError, download, fetch, progress_bar
from polarindex.sweep.registry import REGISTRY, RemoteDataset


def hdf5_bytes(seed=0, n=40_000):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["test"] = np.random.default_rng(seed).integers(0, 256, n, np.uint8)
    return buffer.getvalue()


CONTENT = hdf5_bytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content`; the attributes say how badly."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.tag = '"v1"'
        self.drop_after = []  # body bytes sent by the first, second ... answer before the line goes dead
        self.ignore_range = False
        self.status = None
        self.announced = None  # a wrong Content-Length
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/set.hdf5"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, content = self.server, self.server.content
        server.requests.append(dict(self.headers))
        if server.status:
            self.send_error(server.status)
            return
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", server.tag) == server.tag
        if asked and same and not server.ignore_range:
            start = int(asked[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.tag:
            self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(server.announced or len(content) - start))
        self.end_headers()
        stop = start + server.drop_after.pop(0) if server.drop_after else len(content)
        self.wfile.write(content[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path, monkeypatch):
    monkeypatch.setenv("POLARINDEX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "deep" / "set.hdf5"


def part_of(target):
    return target.with_name("set.hdf5.part")


def get(server, target, **options):
    return fetch(server.url, target, **({"pause": 0.0, "timeout": 5.0} | options))


def ranges(server):
    return [request.get("Range") for request in server.requests]


def test_a_download_is_the_servers_file_and_leaves_nothing_else(server, target):
    found = get(server, target, size=len(CONTENT), sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert (found.path, found.sha256, found.trust) == (target, SHA256, "matches the published checksum")
    assert sorted(os.listdir(target.parent)) == ["set.hdf5", "set.hdf5.lock", "set.hdf5.sha256"]


def test_progress_counts_to_the_size(server, target):
    calls = []
    get(server, target, progress=lambda *call: calls.append(call))
    assert calls == sorted(calls) and calls[-1] == (len(CONTENT), len(CONTENT))


def test_a_dropped_connection_is_continued_where_it_broke(server, target):
    server.drop_after = [10_000, 5_000, 1]
    get(server, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=10000-", "bytes=15000-", "bytes=15001-"]


def test_a_server_that_ignores_range_is_read_from_the_start(server, target):
    server.drop_after, server.ignore_range = [10_000], True
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=10000-"]


def test_what_came_is_kept_for_the_next_run(server, target):
    server.drop_after = [10_000] + [0] * 3
    with pytest.raises(DownloadError, match="10000 bytes.*run the same again") as caught:
        get(server, target, attempts=3)
    assert "\n" not in str(caught.value)
    assert not target.exists() and part_of(target).read_bytes() == CONTENT[:10_000]
    server.drop_after.clear()
    get(server, target)
    assert target.read_bytes() == CONTENT and ranges(server)[-1] == "bytes=10000-"


def test_attempts_count_only_without_progress(server, target):
    server.drop_after = [5_000] * 12
    get(server, target, attempts=2)
    assert target.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_not_joined_to_the_old_part(server, target):
    server.drop_after = [10_000, 0, 0]
    with pytest.raises(DownloadError):
        get(server, target, attempts=2)
    server.drop_after.clear()
    server.content, server.tag = hdf5_bytes(seed=1), '"v2"'
    get(server, target)
    assert target.read_bytes() == server.content


def test_without_version_and_checksum_a_part_is_not_continued(server, target):
    server.tag, server.drop_after = None, [10_000]
    get(server, target)
    assert ranges(server) == [None, None]


def test_without_version_a_published_checksum_allows_to_continue(server, target):
    server.tag, server.drop_after = None, [10_000]
    get(server, target, sha256=SHA256)
    assert ranges(server) == [None, "bytes=10000-"]


def test_control_c_keeps_the_part(server, target):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(server, target, progress=interrupt)
    kept = part_of(target).read_bytes()
    assert kept and CONTENT.startswith(kept) and not target.exists()
    get(server, target)
    assert target.read_bytes() == CONTENT and ranges(server)[-1] == f"bytes={len(kept)}-"


def test_a_whole_part_is_finished_without_its_bytes_again(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    get(server, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT and ranges(server) == [f"bytes={len(CONTENT)}-"]


def test_a_part_longer_than_the_file_is_begun_again(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT + b"more")
    get(server, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_an_announced_size_that_is_not_the_expected_one_stops_at_once(server, target):
    with pytest.raises(DownloadError, match=f"{len(CONTENT)} bytes.*where 7 are expected"):
        get(server, target, size=7)
    assert not target.exists() and not part_of(target).exists()


def test_a_content_length_beyond_the_body_is_found_out(server, target):
    """The rest never comes; the server's own 416 says how long the file is."""
    server.announced = len(CONTENT) + 100
    get(server, target)
    assert target.read_bytes() == CONTENT


def test_a_content_length_short_of_the_body_is_a_broken_file(server, target):
    server.announced = len(CONTENT) - 100
    with pytest.raises(DownloadError, match="not a whole HDF5 file"):
        get(server, target)
    assert not target.exists() and not part_of(target).exists()


def test_a_wrong_checksum_leaves_no_file(server, target):
    with pytest.raises(DownloadError, match=f"sha256 {SHA256} where 00 is expected"):
        get(server, target, sha256="00")
    assert not target.exists() and not part_of(target).exists()


def test_a_login_page_is_no_data_set(server, target):
    server.content = b"<!DOCTYPE html><title>Log in to this network</title>"
    with pytest.raises(DownloadError, match="not a whole HDF5 file"):
        get(server, target)
    assert not target.exists()


def test_a_refusal_is_passed_on_at_once(server, target):
    server.status = 404
    with pytest.raises(DownloadError, match="404"):
        get(server, target)
    assert len(server.requests) == 1


def test_a_server_error_is_tried_again(server, target):
    server.status = 503
    with pytest.raises(DownloadError, match="503"):
        get(server, target, attempts=3)
    assert len(server.requests) == 3


def test_offline_says_what_to_do(target):
    with pytest.raises(DownloadError, match="check the connection.*set.hdf5$") as caught:
        fetch("http://127.0.0.1:1/set.hdf5", target, pause=0.0)
    assert "\n" not in str(caught.value)
    assert str(target) in str(caught.value) and ".part" not in str(caught.value)


def test_a_full_disk_is_seen_before_the_transfer(server, target, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DownloadError, match="1000 bytes free"):
        get(server, target)


def test_two_processes_do_not_write_one_part(server, target):
    target.parent.mkdir()
    with (
        module._alone(target.with_name("set.hdf5.lock")),
        pytest.raises(DownloadError, match="another process"),
    ):
        get(server, target)
    get(server, target)


def test_the_first_checksum_is_recorded_and_held_against_later_damage(server, target):
    assert "this first download's own was recorded in set.hdf5.sha256" in get(server, target).trust
    assert target.with_name("set.hdf5.sha256").read_text() == f"{SHA256}  set.hdf5\n"
    assert "recorded at its first download" in get(server, target).trust
    content = bytearray(CONTENT)
    content[20_000] ^= 1
    target.write_bytes(content)
    with pytest.raises(DownloadError, match=f"where {SHA256} is expected; delete"):
        get(server, target)
    assert len(server.requests) == 1, "a file that is there is checked, not fetched"


def test_a_file_put_there_by_hand_is_checked_but_not_called_trusted(target):
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    assert "no checksum is published or recorded" in fetch("http://127.0.0.1:1/", target).trust


@pytest.fixture
def registered(server, target, monkeypatch):
    class Here(RemoteDataset):
        url = server.url

    monkeypatch.setitem(REGISTRY, "here", Here("here", "l2", 1, 1, 1, len(CONTENT), SHA256))
    return cache_folder() / "datasets" / "here.hdf5"


def test_a_registered_set_lands_in_the_cache_folder(registered, server):
    assert download("here").path == registered and registered.read_bytes() == CONTENT
    download("here")
    assert len(server.requests) == 1


def test_force_fetches_again(registered, server):
    download("here")
    registered.write_bytes(b"damaged")
    with pytest.raises(DownloadError, match="7 bytes"):
        download("here")
    download("here", force=True)
    assert registered.read_bytes() == CONTENT


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="sift-128-euclidean"):
        download("sift")


def test_the_progress_bar_takes_sizes_known_and_unknown(server, target):
    with progress_bar("set") as progress:
        progress(1, None)
        get(server, target, progress=progress)


@pytest.mark.parametrize("remote", REGISTRY.values(), ids=REGISTRY)
def test_the_registry_agrees_with_itself(remote):
    """The size law of registry.py, and shapes as the names have them."""
    assert remote.name in remote.url and remote.url.startswith("https://")
    assert (
        remote.metric == {"euclidean": "l2", "angular": "cosine", "dot": "cosine"}[remote.name.split("-")[-1]]
    )
    if remote.size is not None:
        assert f"-{remote.dim}-" in remote.name
        assert remote.size == 4 * remote.dim * (remote.rows + remote.queries) + 800 * remote.queries + 8288
    assert remote.sha256 is None or re.fullmatch("[0-9a-f]{64}", remote.sha256)


@pytest.mark.parametrize(
    "platform, variables, wanted",
    [
        ("linux", {}, "home/.cache/polarindex"),
        ("linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/polarindex"),
        ("darwin", {"XDG_CACHE_HOME": "xdg"}, "home/Library/Caches/polarindex"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/polarindex"),
        ("win32", {}, "home/AppData/Local/polarindex"),
        ("darwin", {"POLARINDEX_CACHE": "mine"}, "mine"),
    ],
)
def test_the_cache_folder_is_where_the_platform_keeps_caches(monkeypatch, platform, variables, wanted):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "POLARINDEX_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("home"))
    assert cache_folder() == Path(wanted)
