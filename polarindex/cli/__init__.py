"""The command `polarindex`. A command's module imports what it needs when it runs, so that --help is quick.

Law:       what the user can mend is one line on stderr that begins with "error:", and exit code 2; Ctrl-C is 130.
           Anything else that goes wrong is a bug and shows its traceback."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from polarindex.cli import bench, dataset, sweep, verify, warmup

# MissingExtraError is an ImportError, MissingDatasetError an OSError, FormatError a ValueError
_USER_ERRORS = (ValueError, TypeError, KeyError, OSError, ImportError, MemoryError)
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # typer has click's classes, but not always under click


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
            code = _said(str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error))
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False)
app.command("bench")(bench.bench)
app.command("sweep")(sweep.sweep)
app.command("verify")(verify.verify)
app.command("warmup")(warmup.warmup)
app.add_typer(dataset.app, name="dataset")


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
    """Nearest-neighbour search over vectors compressed by random rotations."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line."""
    app()


def _said(message: str) -> int:
    """Say an error in one line; the exit code."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return 2
