"""The one exception a user is meant to read."""

from __future__ import annotations


class CxrError(Exception):
    """A fault of the input, in one sentence that names the file or key and the mend.

    The command line and the bundles print it as a single line and exit with 1; anything else is a defect of the
    program and keeps its traceback.
    """


def user_error(error: BaseException | None) -> CxrError | None:
    """The `CxrError` among an error and its causes, however deep a library has wrapped it; `None` if there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, CxrError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
