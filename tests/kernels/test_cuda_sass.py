"""The machine code of the kernels: wide loads, no division, no spills."""

import re

import pytest
from sass import machine_code
from test_cuda_sources import every_kernel, kernels_with_pads

from xpnet.kernels import formulas
from xpnet.kernels.cuda import printed
from xpnet.kernels.cuda.sources import source
from xpnet.nn import ACTIVATIONS

KINDS = {"float32": ("float32", None), "bfloat16": ("float32", "bfloat16")}
# 16-byte loads and stores of one turn of a loop, at least, by kernel. A pack of an update is four
# numbers, whose rounded copies take 8 bytes.
PACKS = {
    "sgd": (2, 1),
    "adam": (4, 3),
    "lion": (3, 2),
    "clip_factor": (1, 0),
    "find_overflow": (1, 0),
    "copied": (1, 1),
    "dropout": (1, 1),
    "bias_activation": (2, 2),
    "activation_backward": (2, 1),
    "elementwise_loss": (3, 1),
    "layer_norm": (3, 2),
    "layer_norm_backward": (4, 1),
    "softmax": (1, 1),
    "softmax_backward": (2, 1),
}


def kernels():
    """Of the activations, two: one that is cheap, and one that is not."""
    cheap_and_not = [formulas.activation(ACTIVATIONS[name]()) for name in ("relu", "gelu")]
    layers = [printed.activation("bias_activation", f) for f in cheap_and_not]
    layers += [printed.derivative("activation_backward", f) for f in cheap_and_not]
    of_layers = ("bias_activation", "activation_backward")
    return {
        k.name: k
        for k in [*layers, *every_kernel()]
        if (k in layers or k.label not in of_layers) and k not in kernels_with_pads()
    }


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def machine(kind, tmp_path_factory):
    """Each kernel's label and machine code, for an H100."""
    given = kernels()
    code = machine_code(source(given.values(), *KINDS[kind]), tmp_path_factory.mktemp("sass"))
    assert code.keys() == given.keys()
    return [(given[name].label, found) for name, found in code.items()]


def test_no_kernel_spills_registers(machine):
    assert {label: code.spills for label, code in machine if code.spills} == {}


def test_no_loop_over_memory_divides_integers(machine):
    """A division or a modulo is some twenty instructions, with a reciprocal in between."""
    loops = [(label, loop) for label, code in machine for loop in code.loops]
    divided = [label for label, loop in loops if loop.has(r"I2F\.U32\.RP|F2I")]
    assert len(loops) > 150
    assert divided == []


@pytest.mark.parametrize("label", PACKS)
def test_inner_loops_load_and_store_16_bytes(label, machine):
    loads, stores = PACKS[label]
    for code in [code for found, code in machine if found == label]:
        counts = [(len(x.has("LDG.E.128")), len(x.has("STG.E.128"))) for x in code.loops]
        assert any(x >= loads and y >= stores for x, y in counts), counts


def test_where_rows_are_apart_a_pack_of_one_row_is_loaded_at_once(kind, tmp_path):
    """What crosses the end of a row is loaded number by number, in loops within the loop."""
    update, clip = kernels_with_pads()
    found = machine_code(source([update, clip], *KINDS[kind]), tmp_path)
    for kernel, packs in ((update, 4), (clip, 1)):
        code = found[kernel.name]
        assert sum(x.startswith("LDG.E.128") for x in code.instructions) >= packs
        assert not code.spills
        assert code.resident(256) * 256 >= 1024


def test_as_many_blocks_are_resident_as_hide_the_latency(machine):
    """Of 256 threads, or of the 1024 of a launch by patches, or the 512 of a long row's loss.

    Some 32 KB must be on their way to each multiprocessor of an H200 to keep its memory busy: 1024
    threads that wait for 32 bytes, or 512 for 64.
    """
    for label, code in machine:
        patches = re.match("activation_backward|batch_norm|column_moments|norm_gradients", label)
        threads = 1024 if patches else 512 if label == "softmax_cross_entropy" else 256
        assert code.resident(threads) * threads >= (512 if threads == 512 else 1024), label
