"""Look again and again, and say once what is wrong."""

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


def repeat(look: Callable[[], None], every: float, stop: threading.Event, what: str) -> None:
    """Call a function until told to stop; what it raises is said when it is another problem.

    Args:
      look: the function, which leaves what it knew in place where it raises.
      every: seconds between calls.
      stop: ends it.
      what: is looked at, for the log.
    """
    problem = None
    while True:
        try:
            look()
        except Exception as error:
            if problem != (problem := str(error)):
                _log.warning('%s cannot be read, and what it held stays in use: %s', what, error,
                             exc_info=None if isinstance(error, OSError) else error)
        else:
            if problem is not None:
                _log.info('%s can be read again', what)
                problem = None
        if stop.wait(every):
            return
