"""The command `polarindex`. A command's module imports what it needs when it runs, so that --help is quick.

Law:       what the user can mend is one line on stderr that begins with "error:", and exit code 2; Ctrl-C is 130, a
           reader of the output that went away 141, in silence. Anything else that goes wrong is a bug and shows its
           traceback. Results are on stdout, everything about the run is on stderr."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from polarindex.cli import bench, build, change, dataset, info, query, serve, sweep, upkeep, verify, warmup
from polarindex.errors import NotFittedError, ShardError

# MissingExtraError is an ImportError, MissingDatasetError and LockedError an OSError, FormatError a ValueError
_USER_ERRORS = (ValueError, TypeError, KeyError, OSError, ImportError, MemoryError, NotFittedError, ShardError)
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # typer has click's classes, but not always under click
_MENDED: dict[int | None, str] = {  # what can be done about an error of the system
    errno.ENOSPC: "free some space, or choose another disk",
    errno.EDQUOT: "free some space, or choose another disk",
    errno.EFBIG: "no file may be so large here: see ulimit -f",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose another place",
}
_EXIT_CODES = (
    "Exit codes: 0 fine; 1 what was checked is bad (verify, sweep, warmup); 2 an error of yours, said in one line on "
    "stderr; 130 Ctrl-C."
)


class Commands(TyperGroup):
    """The commands, with errors as this module's law wants them."""

    def main(self, args: Sequence[str] | None = None, *positional: Any, **options: Any) -> NoReturn:
        try:
            code = super().main(args, *positional, **(options | {"prog_name": "polarindex", "standalone_mode": False}))
        except _USAGE_ERROR as error:
            code = _said(error.format_message())  # type: ignore[attr-defined]
        except (KeyboardInterrupt, typer.Abort):
            code = 130
        except _USER_ERRORS as error:
            code = _said(_message(error))
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, context: Any) -> Any:
        """Run a command; where its output has no reader any more, nobody is to be told."""
        try:
            result = super().invoke(context)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            with open(os.devnull, "wb") as nowhere:  # for what Python writes when it ends
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            return 141


app = typer.Typer(cls=Commands, pretty_exceptions_enable=False, epilog=_EXIT_CODES, rich_markup_mode="markdown")
app.command("build")(build.build)
app.command("query")(query.query)
app.command("serve-shards")(serve.serve_shards)
app.command("add")(change.add)
app.command("upsert")(change.upsert)
app.command("remove")(change.remove)
app.command("info")(info.info)
app.command("tune")(upkeep.tune)
app.command("compact")(upkeep.compact)
app.command("rebalance")(upkeep.rebalance)
app.command("verify")(verify.verify)
app.command("sweep")(sweep.sweep)
app.command("bench")(bench.bench)
app.add_typer(dataset.app, name="dataset")
app.command("warmup")(warmup.warmup)


def _show_version(wanted: bool) -> None:
    if wanted:
        from polarindex import __version__

        typer.echo(f"polarindex {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def polarindex(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Nearest-neighbour search over vectors compressed by random rotations.

    Begin with: polarindex build embeddings.npy -o my-index, then: polarindex query my-index queries.npy
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line."""
    app()


def _message(error: BaseException) -> str:
    """What an error says to somebody who reads no Python."""
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error) or type(error).__name__
    what = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    number = errno.ENOSPC if error.errno is None and "full" in what else error.errno  # SQLite tells no number
    return f"{what}; {_MENDED[number]}" if number in _MENDED else what


def _said(message: str) -> int:
    """Say an error in one line; the exit code."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return 2
