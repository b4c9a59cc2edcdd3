"""Errors that are written for the person who has to act on them."""

from __future__ import annotations


class So8tError(Exception):
    """A failure with three parts: what failed, why, and what to do next.

    Attributes:
        what: the sentence that names the failure.
        why: the cause, or an empty string where it is part of ``what``.
        next_step: what the user can do about it.
        exit_code: the process exit code for the command line.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", next_step: str = "") -> None:
        self.what = what
        self.why = why
        self.next_step = next_step
        super().__init__(" ".join(part for part in (what, why, next_step) if part))


class SpecError(So8tError):
    """A job specification that cannot be used."""

    exit_code = 2


class DataError(So8tError):
    """A dataset that cannot be read or does not fit the job."""

    exit_code = 3


class BaseModelError(So8tError):
    """A base model that is missing, incomplete or not supported."""

    exit_code = 4


class WorkspaceError(So8tError):
    """A workspace, persona or run on disk that cannot be used as asked."""

    exit_code = 5


class ResourceError(So8tError):
    """Too little memory, disk space or device capability."""

    exit_code = 6
