"""The command line: what it prints, writes and returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import polarindex
from polarindex import kernels
from polarindex.cli import app
from polarindex.indexes import warmup
from polarindex.sweep import measure, peers, picture, run
from polarindex.sweep.dataset import SAMPLES, Dataset, dataset_names, write_dataset
from polarindex.sweep.groundtruth import exact_neighbors
from polarindex.sweep.plan import QUICK

COMMAND = [sys.executable, "-m", "polarindex"]


@pytest.fixture
def small(tmp_path) -> str:
    """The path of a small data set."""
    rng = np.random.default_rng(5)
    train, test = rng.standard_normal((1200, 32), np.float32), rng.standard_normal((20, 32), np.float32)
    path = tmp_path / "small.hdf5"
    write_dataset(Dataset("small", "l2", train, test, *exact_neighbors(train, test, 10, "l2")), path)
    return str(path)


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def lines_in(folder: Path) -> list[dict]:
    """The rows of a sweep's journal."""
    try:
        lines = [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return []
    return [line for line in lines if line["kind"] == "cell"]


def test_a_sweep_leaves_a_journal_and_a_report(small, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("plotly")
    folder = tmp_path / "out"
    done = call("sweep", small, "--bits", "1,2", "--quantizers", "eden,drive", "--no-peers", "--out", str(folder))
    assert done.exit_code == 0, done.output
    names = ["sweep.csv", "sweep.html", "sweep.jsonl", "sweep.lock", "sweep.md", "sweep.png", "sweep.svg"]
    assert sorted(path.name for path in folder.iterdir()) == names
    rows = lines_in(folder)
    assert [(row["method"], row["bits"]) for row in rows] == [("eden", 1), ("eden", 2), ("drive", 1)]
    assert json.loads((folder / "sweep.jsonl").read_text().splitlines()[-1])["kind"] == "end"
    assert "small: 1,200 × 32, l2, 20 queries" in done.stdout
    assert f"{rows[0]['recall@10']:.3f}" in done.stdout
    assert "sweep.jsonl, sweep.csv, sweep.png, sweep.svg, sweep.md, sweep.html" in done.stderr


def test_json_prints_the_results_and_nothing_else(small, tmp_path):
    done = call("sweep", small, "--quantizers", "drive", "--no-peers", "--json", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["rows"]
    (line,) = lines_in(tmp_path / "out")
    assert row.items() <= line.items()


@pytest.mark.slow
def test_options_reach_the_plan(small, tmp_path):
    options = (
        "--bits 1 --quantizers drive -k 5 --queries 7 --rows 1100 --threads 1 --seed 3 --no-peers --index ivf "
        "--store none,int8 --nlist 8 --nprobe 2,8 --rerank 1,2"
    )
    done = call("sweep", small, *options.split(), "--json", "--out", str(tmp_path / "out"))
    found = json.loads(done.stdout)
    wanted = {
        "bits": [1], "k": [1, 5], "queries": 7, "rows": 1100, "threads": 1, "seed": 3, "peers": False,
        "indexes": ["ivf"], "stores": ["none", "int8"], "nlist": 8, "nprobe": [2, 8], "rerank": [1, 2],
    }  # fmt: skip
    assert wanted.items() <= found["plan"].items()
    assert (found["rows"][0]["queries"], found["rows"][0]["rows"]) == (7, 1100)
    assert found["environment"]["threads"] == 1
    assert len(found["rows"]) == 2 + 4


def test_a_plan_in_a_file_takes_the_place_of_options(small, tmp_path):
    lines = [f'datasets = "{small}"', 'quantizers = "drive"', "bits = 1", "peers = false", "seed = 5"]
    (tmp_path / "plan.toml").write_text("\n".join(lines))
    done = call("sweep", "--plan", str(tmp_path / "plan.toml"), "--json", "--report", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert [(row["method"], row["seed"]) for row in json.loads(done.stdout)["rows"]] == [("drive", 5)]


def test_a_plan_in_a_file_takes_no_other_options(small, tmp_path):
    (tmp_path / "plan.toml").write_text("seed = 5")
    done = call("sweep", small, "--plan", str(tmp_path / "plan.toml"), "--seed", "6", "--out", str(tmp_path / "out"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: a plan in a file says all of it: leave out ")
    assert {"datasets", "seed"} <= set(done.stderr.replace(",", "").split())
    assert not (tmp_path / "out").exists()


def test_an_error_leaves_a_report_of_what_was_measured(small, tmp_path, monkeypatch):
    steps = run.run

    def broken(plan, earlier):
        yield from steps(plan, earlier)
        raise MemoryError("no room for the next data set")

    monkeypatch.setattr(run, "run", broken)
    folder = tmp_path / "out"
    done = call("sweep", small, "--bits", "1", "--quantizers", "drive", "--no-peers", "--out", str(folder))
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == "error: no room for the next data set"
    assert len(lines_in(folder)) == 1
    assert (folder / "sweep.csv").exists()


def test_vectors_alone_are_swept(tmp_path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).standard_normal((500, 16), np.float32))
    options = ("--bits", "4", "--quantizers", "eden", "--no-peers", "--queries", "20", "--metric", "ip")
    done = call("sweep", str(tmp_path / "mine.npy"), *options, "--report", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert "mine: 480 × 16, ip, 20 queries" in done.stdout


def test_without_arguments_both_samples_and_all_cells_are_swept(monkeypatch, tmp_path):
    plans = []
    monkeypatch.setattr(run, "run", lambda plan, earlier: plans.append(plan) or iter(()))
    done = call("sweep", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    (plan,) = plans
    assert (plan.datasets, plan.quantizers) == (SAMPLES, QUICK)
    assert (plan.bits, plan.k, plan.peers) == ((1, 2, 3, 4, 8), (1, 10), True)


def test_a_failed_cell_is_said_and_makes_the_exit_code_1(small, tmp_path, monkeypatch):
    measured = measure.Bench.measure

    def picky(bench, cell):
        if cell.method == "qjl":
            raise RuntimeError("out of luck")
        return measured(bench, cell)

    monkeypatch.setattr(measure.Bench, "measure", picky)
    folder = tmp_path / "out"
    done = call("sweep", small, "--bits", "1", "--quantizers", "qjl,drive", "--no-peers", "--out", str(folder))
    assert done.exit_code == 1
    assert "small, qjl 1 bit: failed, RuntimeError: out of luck" in done.stderr
    assert [row["error"] for row in lines_in(folder)] == ["RuntimeError: out of luck", ""]
    monkeypatch.undo()
    done = call("sweep", small, "--bits", "1", "--quantizers", "qjl,drive", "--no-peers", "--out", str(folder))
    assert done.exit_code == 0
    assert [row["error"] for row in lines_in(folder)] == ["RuntimeError: out of luck", "", ""]


def test_without_matplotlib_the_rest_is_there_and_the_extra_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    folder = tmp_path / "out"
    done = call("sweep", small, "--bits", "1", "--quantizers", "drive", "--no-peers", "--out", str(folder))
    assert done.exit_code == 0
    assert "pip install 'polarindex[plot]'" in done.stderr
    assert not [path for path in folder.iterdir() if path.suffix in (".png", ".svg")]
    assert {"sweep.csv", "sweep.jsonl", "sweep.md"} <= {path.name for path in folder.iterdir()}


def test_without_faiss_it_is_said_how_to_get_it(small, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "faiss_installed", lambda: False)
    monkeypatch.setattr(peers, "faiss_installed", lambda: False)
    done = call("sweep", small, "--bits", "1", "--quantizers", "drive", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0
    assert "pip install 'polarindex[faiss]'" in done.stderr


def test_an_older_plot_does_not_stay_beside_new_numbers(small, tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    (tmp_path / "sweep.png").write_bytes(b"old")
    assert call("sweep", small, "--quantizers", "drive", "--no-peers", "--out", str(tmp_path)).exit_code == 0
    assert not (tmp_path / "sweep.png").exists()


def test_ctrl_c_leaves_what_was_measured(small, tmp_path, monkeypatch):
    steps = run.run

    def interrupted(plan, earlier):
        for step in steps(plan, earlier):
            yield step
            if step.done == 2 and step.row:
                raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupted)
    folder = tmp_path / "out"
    done = call("sweep", small, "--quantizers", "eden", "--no-peers", "--out", str(folder))
    assert done.exit_code == 130
    said, written = done.stderr.splitlines()
    assert said == f"interrupted: 2 of 5 cells in {folder / 'sweep.jsonl'}; the same command goes on"
    assert written.startswith(f"written to {folder}: sweep.jsonl, sweep.csv")
    before = lines_in(folder)
    assert len(before) == 2
    monkeypatch.undo()
    done = call("sweep", small, "--quantizers", "eden", "--no-peers", "--out", str(folder))
    assert done.exit_code == 0, done.output
    assert "has 2 cells of this plan, which are not measured again" in done.stderr
    assert lines_in(folder)[:2] == before
    assert [row["bits"] for row in lines_in(folder)] == [1, 2, 3, 4, 8]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process on Windows")
def test_a_real_ctrl_c_ends_a_real_sweep_and_leaves_a_report(small, tmp_path):
    folder = tmp_path / "out"
    some = "eden,turboquant,polarquant,qjl"
    arguments = ["sweep", small, "--quantizers", some, "--no-peers", "--out", str(folder)]
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while process.poll() is None and not lines_in(folder) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert stderr.splitlines()[0].startswith("interrupted: ")
    assert len(stderr.splitlines()) == 2
    assert 1 <= len(lines_in(folder)) < 20
    assert (folder / "sweep.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sweep nowhere.hdf5", "error: no file and no data set 'nowhere.hdf5'"),
        ("sweep --bits 1,x", "error: bits must be whole numbers between commas, got '1,x'"),
        ("sweep --bits 9", "error: bits must be from 1 to 8, got 9"),
        ("sweep --quantizers edn", "error: quantizers must be one of 'eden'"),
        ("sweep --quantizers drive --bits 2", "error: none of the quantizers exists at bits 2: drive has 1"),
        ("sweep -k 0", "error: k must be at least 1, got 0"),
        ("sweep --queries many", "error: Invalid value for '--queries'"),
        ("sweep --nonsense", "error: No such option: --nonsense"),
        ("dataset get nothing", "error: name must be one of 'fashion-mnist-784-euclidean'"),
        ("nonsense", "error: No such command 'nonsense'"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call(*arguments.split())
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_is_no_data_set_is_a_users_error(tmp_path):
    (tmp_path / "text.hdf5").write_text("not HDF5")
    done = call("sweep", str(tmp_path / "text.hdf5"), "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "text.hdf5 is not a readable .hdf5 file" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be_made_is_a_users_error(small, tmp_path):
    (tmp_path / "file").write_text("")
    done = call("sweep", small, "--out", str(tmp_path / "file"))
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_bug_is_not_hidden(monkeypatch, tmp_path):
    def broken(plan, earlier):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(run, "run", broken)
    done = call("sweep", "--out", str(tmp_path / "out"))
    assert isinstance(done.exception, ZeroDivisionError)


def test_dataset_list_names_every_data_set():
    done = call("dataset", "list")
    assert done.exit_code == 0
    assert [name for name in dataset_names() if name not in done.stdout] == []
    assert "10,000" in done.stdout


def test_dataset_get_of_a_sample_downloads_nothing():
    done = call("dataset", "get", SAMPLES[0])
    assert (done.exit_code, done.stdout) == (0, f"{SAMPLES[0]} comes with polarindex: there is nothing to download\n")


def test_dataset_get_says_where_the_file_is_and_how_far_it_is_checked(monkeypatch):
    from polarindex.sweep import download

    def fetched(name, *, force, progress):
        assert (name, force, progress) == ("glove-25-angular", True, None)
        return download.Download(Path("here.hdf5"), "abc", "matches the published checksum")

    monkeypatch.setattr(download, "download", fetched)
    done = call("dataset", "get", "glove-25-angular", "--force")
    assert done.stdout == "here.hdf5\nsha256 abc: matches the published checksum\n"


def test_warmup_says_how_long_it_took_and_where_kernels_are(monkeypatch, tmp_path):
    asked = []
    result = warmup.Warmed(("dot", "select"), 3.2, tmp_path)
    monkeypatch.setattr(warmup, "warmup", lambda isas, progress, bits: asked.append((isas, bits)) or result)
    done = call("warmup")
    assert (done.exit_code, done.stdout) == (0, f"compiled 2 kernels in 3 s; they are in {tmp_path}\n")
    result = warmup.Warmed((), 3.2, tmp_path)
    done = call("warmup", "--all-isas", "--bits", "4", "--bits", "1")
    assert done.stdout == f"all kernels were there in 3 s; they are in {tmp_path}\n"
    assert asked == [(None, None), (kernels.available(), [4, 1])]


def test_warmup_compiles_nothing_that_it_cannot_keep(monkeypatch):
    monkeypatch.setattr(kernels, "cache_folder", lambda: None)
    monkeypatch.setattr(warmup, "warmup", lambda *arguments: pytest.fail("compiled"))
    done = call("warmup")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "NUMBA_CACHE_DIR" in done.stderr


def test_python_m_polarindex_is_the_command():
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"polarindex {polarindex.__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["dataset"], ["sweep", "--help"]])
def test_help_is_shown(arguments):
    done = call(*arguments)
    assert done.exit_code == 0
    assert "Usage: polarindex" in done.stdout


def test_help_loads_no_heavy_module():
    program = "import sys, polarindex.cli; print({'numpy', 'numba', 'h5py', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.stdout == "set()\n"


def test_a_wrong_name_or_option_leaves_an_earlier_sweep_as_it_was(small, tmp_path):
    folder = tmp_path / "out"
    call("sweep", small, "--quantizers", "drive", "--no-peers", "--out", str(folder))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before
    for wrong in (["typo.hdf5"], [small, "--k", "999"], [small, "--bits", "99"]):
        assert call("sweep", *wrong, "--out", str(folder)).exit_code == 2
        assert call("sweep", *wrong, "--out", str(tmp_path / "none")).exit_code == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "none").exists()


def saved(folder, n=300_000):
    index = polarindex.FlatIndex(8)
    index.add(np.random.default_rng(0).standard_normal((n, 8), np.float32))
    index.save(folder)


def test_verify_says_that_an_index_is_whole(tmp_path):
    saved(tmp_path / "index", 50)
    done = call("verify", str(tmp_path / "index"))
    assert done.exit_code == 0, done.output
    assert "index is whole: FlatIndex(dim=8" in done.stdout and "n=50), 0.0 MB" in done.stdout


def test_verify_names_every_damaged_file_and_block(tmp_path):
    saved(tmp_path / "index")
    (segment,) = (tmp_path / "index").glob("segment-*")
    for file, places in (("scales.npy", (200,)), ("codes0.npy", (0, 2**20)), ("centre.npy", ())):
        data = bytearray((segment / file).read_bytes())
        for at in places:
            data[at] ^= 4
        (segment / file).write_bytes(bytes(data) if places else bytes(data[:-1]))
    done = call("verify", str(tmp_path / "index"))
    assert done.exit_code == 1
    told = [line.split("/")[-1] for line in done.stdout.splitlines()]
    assert sorted(told) == [
        "centre.npy is damaged: it has 159 bytes, wanted 160",
        *(f"codes0.npy is damaged: block {n} of 2 does not match its checksum" for n in (0, 1)),
        "scales.npy is damaged: block 0 of 2 does not match its checksum",
    ]
    assert "damaged: 4 findings in 3 files of" in done.stderr


@pytest.mark.parametrize("what", ["nowhere", "file", "empty"])
def test_verify_of_what_is_no_index(tmp_path, what):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    done = call("verify", str(tmp_path / what))
    if what == "nowhere":
        assert done.exit_code == 2 and done.stderr.startswith("error: ") and "nowhere" in done.stderr
    else:
        assert done.exit_code == 1 and "is not a polarindex index" in done.stdout
