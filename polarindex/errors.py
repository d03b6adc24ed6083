"""The errors that callers may want to catch by name; arguments raise TypeError, ValueError and KeyError."""

from __future__ import annotations


class FormatError(ValueError):
    """A file or directory is not a readable index: foreign, damaged, or of an unknown version."""


class NotFittedError(RuntimeError):
    """The index has to learn something from data (`fit`) before this call."""


class LockedError(OSError):
    """Somebody else has the index open for writing; the message names who."""


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


class GpuError(RuntimeError):
    """The GPU cannot do what was asked: there is none, its driver or kind does not fit, or its memory is full."""


class ShardError(RuntimeError):
    """Shards of a sharded index did not answer in time, or are gone.

    Attributes
    ----------
    shards : their numbers
    """

    def __init__(self, message: str, shards: tuple[int, ...] = ()) -> None:
        super().__init__(message, shards)
        self.shards = shards

    def __str__(self) -> str:
        return str(self.args[0])


class MissingDatasetError(FileNotFoundError):
    """A data set is not on this machine; the message says how to get it."""


def first_line(error: BaseException) -> str:
    """What an error says, on one line; its name where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
