"""The errors that a user can cause, and the one base class that a command line catches.

Broken invariants are `assert`; everything that comes from a file, a flag or a machine is one of these.
"""

from __future__ import annotations

from collections.abc import Sequence


class FairfaceError(Exception):
    """A problem that its message explains: what, where, the value, what is accepted, what to do.

    Args:
        problems: One line of text per problem. Checks collect every problem before they raise.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        assert self.problems, "an error without a message explains nothing"
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[FairfaceError], tuple[tuple[str, ...]]]:
        """Keep `problems` whole when the error crosses a process border (Ray pickles it)."""
        return type(self), (self.problems,)


class ConfigError(FairfaceError):
    """A flag, a config field or a search space that cannot be accepted."""


class DataError(FairfaceError):
    """A CSV, a label or an image that cannot be accepted, or a data folder that is not there."""


class CacheError(FairfaceError):
    """A decoded-image cache that is damaged or cannot be built."""


class CheckpointError(FairfaceError):
    """A weights or state file that is damaged, foreign or of another configuration."""


class WeightsError(FairfaceError):
    """Pretrained weights that are absent and cannot be downloaded, or do not fit."""


class StorageError(FairfaceError):
    """A folder or object store that refuses a read or a write."""

    exit_code = 1


class TrainingDiverged(FairfaceError):
    """A loss or a metric that is not finite. Carries the epoch, counted from 1."""

    exit_code = 1
