"""Who takes the steps makes no difference to what is built; what goes wrong in another process is said here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import polarindex as pi
from polarindex.distributed import engines
from polarindex.distributed.build import build
from polarindex.distributed.work import Job

OPTIONS = {"num_shards": 3, "nlist": 12, "threads": 1}
PLACES = os.environ | {"PYTHONPATH": str(Path(pi.__file__).parents[1])}


@pytest.mark.parametrize(
    "source", ["chunks", pytest.param("file", marks=pytest.mark.slow), pytest.param("matrix", marks=pytest.mark.slow)]
)
def test_other_processes_build_the_same(source, x, tmp_path, contents, short_ranges):
    np.save(tmp_path / "x.npy", x)
    given = {"file": tmp_path / "x.npy", "matrix": x, "chunks": iter([x[:500], x[500:]])}
    build(x, tmp_path / "here", **OPTIONS)
    build(given[source], tmp_path / "there", processes=2, **OPTIONS)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_a_bad_row_that_another_process_finds_is_named(x, tmp_path, short_ranges):
    x[700] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=r"x\.npy\[700\] is not finite"):
        build(tmp_path / "x.npy", tmp_path / "built", processes=2, nlist=1, num_shards=2, memory=2**29)


def test_a_process_that_is_killed_is_said():
    with pytest.raises(ChildProcessError, match="a process of the build was killed, maybe for want of memory"):
        list(engines.Processes(Job(Path("nowhere"), (), 1, 1), 2)._each(_kill, [1, 2, 3]))


def _kill(job: Job, number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_steps_come_to_their_end_once_each():
    job = Job(Path("nowhere"), (), 1, 1)
    assert sorted(engines.Processes(job, 2)._each(_same, range(7))) == list(range(7))
    assert list(engines.Processes(job, 2)._each(_same, [])) == []


def _same(job: Job, number: int) -> int:
    return number


INTERRUPTED = """
import sys
from polarindex.distributed import build as building
from polarindex.distributed.build import build
building.RANGE_ROWS = 500
if __name__ == "__main__":
    build(sys.argv[1], sys.argv[2], num_shards=3, nlist=64, processes=int(sys.argv[3]), threads=1,
          progress=lambda *what: print(*what, flush=True))
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGINT")
@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ctrl_c_leaves_a_build_that_goes_on(processes, tmp_path, rng, contents):
    np.save(tmp_path / "x.npy", rng.standard_normal((20_000, 16), np.float32))
    (tmp_path / "program.py").write_text(INTERRUPTED)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "x.npy"), str(tmp_path / "built")]
    with subprocess.Popen(
        [*command, str(processes)], env=PLACES, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        for line in child.stdout:
            if line.startswith("1000 ") and line.endswith("coding\n"):
                child.send_signal(signal.SIGINT)
                break
        told = child.communicate(timeout=60)[1]
    assert child.returncode != 0 and "KeyboardInterrupt" in told and told.count("Traceback") == 1
    build(tmp_path / "x.npy", tmp_path / "built", num_shards=3, nlist=64, threads=1)
    build(tmp_path / "x.npy", tmp_path / "whole", num_shards=3, nlist=64, threads=1)
    assert contents(tmp_path / "built") == contents(tmp_path / "whole")


# --- Ray


@pytest.fixture(scope="module")
def ray(request):
    """A cluster of this machine, which workers of a test's own module can import polarindex in."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    request.addfinalizer(ray.shutdown)
    return ray


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of Ray Data's own modules
@pytest.mark.parametrize("source", ["file", "matrix", "dataset"])
def test_rays_tasks_build_the_same(source, ray, x, tmp_path, contents, short_ranges):
    np.save(tmp_path / "x.npy", x)
    given = {"file": tmp_path / "x.npy", "matrix": x}.get(source)
    if source == "dataset":
        data = pytest.importorskip("ray.data")
        given = data.from_numpy(np.array_split(x, 4))
    build(x, tmp_path / "here", engine="local", **OPTIONS)
    build(given, tmp_path / "there", **OPTIONS)  # by Ray, as it is connected to
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.slow
def test_a_bad_row_that_a_task_of_rays_finds_is_named(ray, x, tmp_path, short_ranges):
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(Stopped):
        build(tmp_path / "x.npy", tmp_path / "built", engine="ray", progress=stop, **OPTIONS)
    assert not (tmp_path / "built" / "sharded.json").exists()
    build(tmp_path / "x.npy", tmp_path / "built", engine="ray", **OPTIONS)
    x[700] = 1e6
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=r"x\.npy\[700\] reaches 1e\+06, beyond float16's 65504"):
        build(tmp_path / "x.npy", tmp_path / "bad", engine="ray", store="float16", num_shards=2, nlist=1)


class Stopped(Exception):
    """The builder has had enough."""


def stop(done: int, total: int, what: str) -> None:
    if what == "coding" and done:
        raise Stopped


def test_ray_is_chosen_where_the_caller_has_connected_to_it(monkeypatch):
    for connected, wanted in ((True, "ray"), (False, "local")):
        ray = SimpleNamespace(is_initialized=lambda connected=connected: connected)
        monkeypatch.setitem(sys.modules, "ray", ray)
        assert engines.chosen("auto") == wanted
        assert engines.chosen("local") == "local" and engines.chosen("ray") == "ray"
