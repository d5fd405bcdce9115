"""Ctrl-C and SIGTERM: one line, exit status 130 or 143, within two seconds.

Whatever is on disk is whole at every moment (see :mod:`condense.files`), so a process may end anywhere. The gentle way
is an exception in the main thread. Python raises it only between two of its own instructions, so a thread watches too
and ends the process where a long computation does not come back in time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["Stopped", "stoppable"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 1.0
MESSAGE = "stopped; finished work is kept, run the same command again to go on"
SHOW_CURSOR = "\x1b[?25h"  # a progress bar may have hidden it


class Stopped(BaseException):
    """A signal asked the process to end. Not an Exception, so that no handler of faults takes it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM end the process as this module says. For the main thread of a program of its own."""
    owner, said = os.getpid(), threading.Event()

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        if os.getpid() != owner:  # a forked worker inherits this handler; its parent does the talking
            os._exit(128 + number)
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # once is enough: the watching thread sees to the rest
        raise Stopped(number)

    arrived, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    for each in SIGNALS:
        signal.signal(each, stop)
    threading.Thread(target=_end_if_late, args=(arrived, said), daemon=True, name="stopping").start()
    try:
        yield
    except Stopped as stopped:
        said.set()
        sys.stderr.write(f"{MESSAGE}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + stopped.number)  # everything is unwound; taking apart the interpreter would take seconds


def _end_if_late(arrived: int, said: threading.Event) -> None:
    """Wait for one of the signals on the pipe, give the main thread its time, then end the process."""
    number = 0
    while number not in SIGNALS:
        number = os.read(arrived, 1)[0]
    time.sleep(PATIENCE_S)
    if not said.is_set():
        os.write(2, f"{SHOW_CURSOR if sys.stderr.isatty() else ''}\n{MESSAGE}\n".encode())
    os._exit(128 + number)
