"""What can go wrong, by kind: each class has a reason code, its docstring is its message."""

from __future__ import annotations

from typing import Any


class ContimgError(Exception):
    """The conversion could not be done.

    Parameters
    ----------
    message
        One line: what is wrong, where, both numbers where there are two, and what to do.
    code
        Reason code for scripts (kebab-case); the class's own code when not given.
    path
        The file or directory concerned, if there is one.

    Notes
    -----
    Retry is decided by class (`retryable`), never by text. Errors cross process boundaries: they
    pickle with all three fields.
    """

    code = "internal-error"
    retryable = False

    def __init__(
        self, message: str | None = None, *, code: str | None = None, path: str | None = None
    ) -> None:
        super().__init__(message or (type(self).__doc__ or "").splitlines()[0])
        self.code = code or type(self).code
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.code, self.path)


def _rebuild(kind: type[ContimgError], message: str, code: str, path: str | None) -> ContimgError:
    return kind(message, code=code, path=path)


class UsageError(ContimgError):
    """The command or call was used wrongly."""

    code = "usage"


class NotFoundError(UsageError):
    """There is no such thing."""

    code = "not-found"


class InputError(ContimgError):
    """An input file cannot be used."""

    code = "unreadable-input"


class DisagreementError(InputError):
    """The subband files of one group do not fit together."""

    code = "subbands-disagree"


class OutputError(ContimgError):
    """The output directory cannot be written."""

    code = "unwritable-output"


class NoSpaceError(OutputError):
    """There is not enough space for the product."""

    code = "no-space"


class TargetOccupiedError(OutputError):
    """Something else already stands where the product belongs."""

    code = "target-occupied"


class VerificationError(ContimgError):
    """The staged Measurement Set does not hold what the input holds."""

    code = "verification-failed"


class WorkerLostError(ContimgError):
    """A worker process died while it worked on the group."""

    code = "worker-lost"
    retryable = True


class SchedulerLostError(WorkerLostError):
    """The scheduler went away, and with it everything that was in flight."""

    code = "scheduler-lost"


class CancelledError(ContimgError):
    """Somebody has asked for the group not to be converted."""

    code = "cancelled"


class AttemptGoneError(ContimgError):
    """The attempt was given up while a step of it was still to run."""

    code = "attempt-gone"
    retryable = True


class ExchangeError(OutputError):
    """The file system cannot exchange two directories."""

    code = "no-exchange"


class QuicklookError(ContimgError):
    """A product has no quick-look that can be read."""

    code = "no-quicklook"


class ClusterError(ContimgError):
    """The Dask cluster cannot be used."""

    code = "cluster"


class CatalogueError(ContimgError):
    """The catalogue cannot be used."""

    code = "catalogue"
