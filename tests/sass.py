"""The machine code that NVRTC makes of the kernels' sources: what is in it, loop by loop."""

import ctypes
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

REGISTERS = 65536  # of a multiprocessor
# Those of cupy/cuda/compiler.py (14.2); among them, denormals become zeros.
OPTIONS = ("--std=c++17", "-ftz=true", "--device-as-default-execution-space")


@cache
def nvrtc():
    """NVRTC, from where CuPy would load it; the test is skipped if it is not installed."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        path = load_nvidia_dynamic_lib("nvrtc").abs_path
        for builtins in Path(path).parent.glob("libnvrtc-builtins.so*"):
            ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)  # or it looks for them elsewhere
        return ctypes.CDLL(path)
    except Exception as error:
        pytest.skip(f"NVRTC is not installed: {type(error).__name__}")


def cubin(text, architecture="90"):
    """Compile a source as CuPy does; an error of the compiler fails the test."""
    library, program = nvrtc(), ctypes.c_void_p()
    code = text.encode()
    created = library.nvrtcCreateProgram(ctypes.byref(program), code, b"kernels.cu", 0, None, None)
    assert created == 0
    options = [option.encode() for option in (*OPTIONS, f"-arch=sm_{architecture}")]
    array = (ctypes.c_char_p * len(options))(*options)
    status = library.nvrtcCompileProgram(program, len(options), array)
    log = ctypes.create_string_buffer(100_000)
    library.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    size = ctypes.c_size_t()
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    binary = ctypes.create_string_buffer(size.value)
    library.nvrtcGetCUBIN(program, binary)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return binary.raw


def nvdisasm():
    """The disassembler's path; the test is skipped if it is not installed."""
    try:
        import nvidia

        folders = [Path(root) / "cu13" / "bin" for root in nvidia.__path__]
    except ImportError:
        folders = []
    found = shutil.which("nvdisasm")
    paths = [*([Path(found)] if found else []), *(folder / "nvdisasm" for folder in folders)]
    for path in paths:
        if path.exists():
            return path
    pytest.skip("nvdisasm is not installed: pip install nvidia-cuda-nvdisasm")


class Loop(NamedTuple):
    """The instructions from a label to the branch back to it, such as ``LDG.E.128``."""

    instructions: tuple[str, ...]

    def has(self, pattern):
        """Those that begin with a pattern."""
        return [x for x in self.instructions if re.match(pattern, x)]


class Machine(NamedTuple):
    """The machine code of a kernel."""

    registers: int
    instructions: tuple[str, ...]
    loops: tuple[Loop, ...]  # that have no other loop inside

    def resident(self, threads):
        """How many blocks of so many threads a multiprocessor has registers for."""
        return REGISTERS // (-(-self.registers // 8) * 8 * threads)

    @property
    def spills(self):
        """Accesses of memory that a thread has to itself."""
        return [x for x in self.instructions if re.match(r"LDL|STL", x)]


def machine_code(text, folder):
    """Return what is in the machine code of a source, by kernel."""
    path = folder / "kernels.cubin"
    path.write_bytes(cubin(text))
    done = subprocess.run([nvdisasm(), str(path)], capture_output=True, text=True, check=True)
    registers = re.findall(
        r"EIATTR_REGCOUNT\n.*?index@\((\w+)\)\s+/\*\w+\*/\s+\.word\s+(0x\w+)", done.stdout, re.S
    )
    counts = {name: int(count, 16) for name, count in registers}
    sections = re.split(r"^\.text\.(\w+):\n", done.stdout, flags=re.MULTILINE)[1:]
    bodies = dict(zip(sections[::2], sections[1::2], strict=True))
    return {name: _machine(body, counts[name]) for name, body in bodies.items() if name in counts}


def _machine(body, registers):
    labels, instructions, back = {}, [], []
    for line in body.splitlines():
        if line.startswith("//---"):
            break
        if found := re.match(r"^(\.L_\w+):", line):
            labels[found[1]] = len(instructions)
        elif found := re.match(r"^\s+/\*\w{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*);", line):
            target = re.search(r"`\((\.L_\w+)\)", found[2])
            if found[1].startswith("BRA") and target and target[1] in labels:
                back.append((labels[target[1]], len(instructions)))
            instructions.append(found[1])
    loops = [
        Loop(tuple(instructions[first : last + 1]))
        for first, last in back
        if first < last  # not the trap behind the end
        and not any(first <= f and e <= last and (f, e) != (first, last) and f < e for f, e in back)
    ]
    return Machine(registers, tuple(instructions), tuple(loops))
