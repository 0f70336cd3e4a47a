"""Whether an error of a statement is PostgreSQL's answer, or the lack of one."""

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

# Classes of SQLSTATE: connection exceptions; statements cancelled by a timeout, and servers that start or shut down.
_NO_ANSWER = ("08", "57")


def is_answer(error: Exception) -> bool:
    """Whether PostgreSQL was reached and has refused the statement; not so for lost connections and timeouts."""
    if isinstance(error, PoolTimeoutError):
        return False
    if not isinstance(error, DBAPIError):
        return True
    if error.connection_invalidated:
        return False
    if (state := getattr(error.orig, "sqlstate", None)) is not None:
        return not state.startswith(_NO_ANSWER)
    return not isinstance(error, OperationalError | InterfaceError)


def first_line(error: Exception) -> str:
    """Return the error's type and the first line of its message, without the statement."""
    cause = getattr(error, "orig", None) or error
    words = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {words[0]}" if words else type(cause).__name__
