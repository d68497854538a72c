"""The one error of the library: a sentence that a tired person can act on."""

from __future__ import annotations


class BackstayError(Exception):
    """What failed, what was seen and what was expected, what to do next: in one sentence.

    `exit_code` is what the `backstay` command ends with: 1 for a failure, 2 for bad input refused before
    anything was touched, 3 for a refusal by a gate (nothing changed), 4 when somebody else holds the lock.
    `lines` are evidence for people, such as the last log lines of a candidate; never secrets.
    """

    def __init__(self, message: str, *, exit_code: int = 1, lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.lines = lines


class InputError(BackstayError):
    """Bad input, refused before anything is touched."""

    def __init__(self, message: str, *, lines: tuple[str, ...] = ()) -> None:
        super().__init__(message, exit_code=2, lines=lines)


class GateRefused(BackstayError):
    """A gate said no: what was live and warm is untouched."""

    def __init__(self, message: str, *, lines: tuple[str, ...] = ()) -> None:
        super().__init__(message, exit_code=3, lines=lines)


class Busy(BackstayError):
    """Another transaction holds the application's lock."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=4)
