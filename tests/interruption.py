"""Interrupt xpnet at any line or bytecode instruction of its own."""

import os
import sys
from pathlib import Path

import xpnet
from xpnet.backends.threads import blas_threads

SOURCES = str(Path(xpnet.__file__).parent) + os.sep


class Interruption(BaseException):
    """What no library catches by accident."""


class Tracer:
    """Raise at the n-th line, or bytecode instruction, of xpnet or of one function of it."""

    def __init__(self, at, event, function=None):
        self.at, self.event, self.function, self.seen = at, event, function, 0

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        if self.function not in (None, frame.f_code.co_name):
            return None
        frame.f_trace_opcodes = self.event == "opcode"
        self.seen += event == self.event
        if self.seen == self.at:
            raise Interruption
        return self


def interrupted(call, at, event, function=None):
    """Call until then, and return how many lines or instructions that were."""
    tracer, before = Tracer(at, event, function), sys.gettrace()
    sys.settrace(tracer)
    try:
        call()
    except Interruption:
        pass
    finally:
        sys.settrace(before)
        _give_back()
    return tracer.seen


def _give_back():
    """Release what a with statement still holds that was interrupted at its exit.

    Only a tracer comes there: for a signal CPython looks after calls and jumps, whose exceptions
    the statement sees. Another thread would wait for the lock forever.
    """
    pool = blas_threads()
    while pool and pool._lock._is_owned():
        pool._lock.release()
