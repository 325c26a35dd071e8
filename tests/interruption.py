"""Interrupt xpnet at any line or bytecode instruction of its own."""

import os
import sys
from pathlib import Path

import xpnet

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
    return tracer.seen
