"""polarindex serve-shards: a sharded index in a Ray cluster, for polarindex query and other programs."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

_PATH = "The directory of a sharded index, which every node sees under this name."
_NAME = "What it is served as; default: the directory's name."
_ADDRESS = "Of a Ray cluster, HOST:PORT; default: the one that runs here, else a new one of this machine."
_DETACH = "Leave it with the cluster, which serves it on; --stop ends that."


def serve_shards(
    path: Annotated[Path | None, typer.Argument(metavar="PATH", help=_PATH)] = None,
    name: Annotated[str | None, typer.Option("--name", help=_NAME)] = None,
    address: Annotated[str | None, typer.Option("--address", help=_ADDRESS)] = None,
    replicas: Annotated[int, typer.Option("--replicas", help="Processes a shard, the first of which writes.")] = 1,
    threads: Annotated[int, typer.Option("--threads", help="Cores that a process scans with.")] = 1,
    read_only: Annotated[bool, typer.Option("--read-only", help="Only search; others may have it open.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds after which a change without an answer is an error.")] = 60.0,
    detach: Annotated[bool, typer.Option("--detach", help=_DETACH)] = False,
    stop: Annotated[str | None, typer.Option("--stop", metavar="NAME", help="End what is served as NAME.")] = None,
) -> None:
    """Serve a sharded index until Ctrl-C, by a process for each shard.

    Then, in the same cluster: polarindex query ray:///NAME queries.npy
    """
    from polarindex.cli.screen import remark
    from polarindex.distributed import actors, layout, served

    if (path is None) == (stop is None):
        raise ValueError("give PATH, to serve it, or --stop NAME")
    if stop is not None:
        actors.connected(address or "auto")
        served.stop(stop)
        return
    if path is None:
        return
    layout.read(path)  # what is not one starts no cluster
    called = name or path.resolve().name
    actors.connected(address or ("auto" if detach else None))  # a cluster of this command's own ends with it
    options: dict[str, Any] = {"replicas": replicas, "threads": threads, "read_only": read_only, "timeout": timeout}
    end = served.serve(path, called, detached=detach, **options)
    if detach:
        return
    over = threading.Event()
    try:
        signal.signal(signal.SIGTERM, lambda *_: over.set())
        remark(f"serving {path} as {called} in the Ray cluster at {actors.cluster_address()}; Ctrl-C ends it")
        while not over.wait(1):
            pass
    finally:
        end()
