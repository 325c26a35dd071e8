"""The kernels' sources compile for GPUs, and a launch accepts only the kernel's arguments."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from sass import cubin

from xpnet.kernels import formulas
from xpnet.kernels.cuda import printed
from xpnet.kernels.cuda.sources import (
    FILES,
    MOST_WORDS,
    WRITTEN,
    arguments,
    contained,
    given,
    now,
    source,
    text,
)
from xpnet.nn import ACTIVATIONS
from xpnet.nn.losses import LOSSES, ElementwiseLoss
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import OPTIMIZERS

NORMS = ("norm_gradients", "batch_norm_backward", "layer_norm_backward")


def every_kernel():
    """Those written by hand, and those printed for every activation, loss and rule."""
    clip = Clip(norm=1.0, value=0.5)
    layers = [cls() for cls in ACTIVATIONS.values() if getattr(cls, "elementwise", False)]
    elements = [formulas.activation(layer) for layer in layers]
    kernels = [printed.activation("bias_activation", f) for f in elements]
    kernels += [printed.derivative("activation_backward", f) for f in elements]
    kernels += [printed.activation(frame, elements[-1]) for frame in ("batch_norm", "layer_norm")]
    kernels += [printed.derivative(frame, elements[-1]) for frame in NORMS]
    for loss in [cls() for cls in LOSSES.values() if issubclass(cls, ElementwiseLoss)]:
        kernels.append(printed.element_loss(formulas.element_loss(loss)))
    for name, rule in OPTIMIZERS.items():
        formula = formulas.update(rule(), clip, divided=True)
        kernels.append(printed.update(formula, name))
    kernels += [printed.cross_entropy(1, block=False), printed.cross_entropy(16, block=True)]
    kernels.append(printed.cross_entropy(0, block=False))
    kernels += [printed.labelled_rows(16, packed=p, block=True) for p in (True, False)]
    kernels.append(printed.labelled_rows(32, packed=True, block=False))
    kernels.append(printed.labelled_rows(1, packed=False, block=False))
    return [*WRITTEN.values(), *kernels, printed.clip_factor(clip), *kernels_with_pads()]


def kernels_with_pads():
    """Of the update, those for tensors that are apart."""
    rule, clip = OPTIMIZERS["adam"](), Clip(norm=1.0, value=0.5)
    update = printed.update(formulas.update(rule, clip, divided=True), "adam", apart=True)
    return [update, printed.clip_factor(clip, apart=True)]


ARCHITECTURES = ["75", "80", "90"]
KINDS = [("float32", None), ("float64", None), ("float32", "float16"), ("float32", "bfloat16")]


@pytest.mark.long_but(architecture=["90"], narrow=["float16"])
@pytest.mark.parametrize(("dtype", "narrow"), KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvcc_compiles_every_kernel_without_a_warning(dtype, narrow, architecture, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    (tmp_path / "kernels.cu").write_text(source(every_kernel(), dtype, narrow))
    command = ["nvcc", "-ptx", f"-arch=sm_{architecture}", "-Werror", "all-warnings"]
    done = subprocess.run(
        [*command, "-o", "kernels.ptx", "kernels.cu"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    entries = re.findall(r"\.visible \.entry (\w+)", (tmp_path / "kernels.ptx").read_text())
    assert sorted(entries) == sorted({kernel.name for kernel in every_kernel()})


@pytest.mark.long_but(architecture=["90"], narrow=["float16"])
@pytest.mark.parametrize(("dtype", "narrow"), KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_them_as_cupy_will(dtype, narrow, architecture):
    """NVRTC has no standard headers, so a source that nvcc takes may fail here."""
    assert cubin(source(every_kernel(), dtype, narrow), architecture)


def test_no_kernel_uses_what_makes_runs_differ_or_breaks_a_graph():
    text = re.sub(r"//.*", "", source(every_kernel(), "float32"))
    counting = r"atomicInc\(turns, others\)|atomicAdd\(count, found\)"  # last_block, graph_check.py
    assert len(re.findall(counting, text)) == len(re.findall("atomic", text)) == 2
    assert "unsigned long long found = 0;" in text  # integers: the same sum in any order
    assert "printf" not in text
    assert "<<<" not in text


def test_the_sources_are_ascii():
    """CuPy writes them to a file in the encoding of the locale (cupy/cuda/compiler.py)."""
    assert source(every_kernel(), "float32").isascii()


def test_a_unit_contains_what_is_needed_and_nothing_else():
    relu = printed.activation("bias_activation", formulas.activation(ACTIVATIONS["relu"]()))
    code = source([relu], "float32")
    assert {name for name in FILES if text(name).partition("\n")[0] in code} == {
        "common.cuh", "narrow.cuh", "elementwise.cu"
    }  # fmt: skip
    assert [kernel.name for kernel in contained([relu])] == ["column_sums", relu.name]
    assert re.findall(r"^KERNEL\S* (\w+)", code, re.MULTILINE) == ["column_sums", relu.name]


def test_settings_share_a_text_and_their_numbers_are_arguments():
    a, b = (
        printed.activation("bias_activation", formulas.activation(ACTIVATIONS["leaky_relu"](slope)))
        for slope in (0.1, 0.3)
    )
    assert a.printed == b.printed
    assert (a.numbers, b.numbers) == ((0.1,), (0.3,))


def test_a_launch_accepts_the_arguments_of_its_kernel_and_nothing_else():
    x = np.zeros(3, "float32")
    good = arguments(WRITTEN["column_sums"], (x, x, 1, 3, 0), "float32")
    assert [type(a) for a in good] == [np.ndarray, np.ndarray, np.int32, np.int32, np.int32]
    assert arguments(WRITTEN["dropout"], (x, x, None, 3, 0, 1.0, 0, 3, 0), "float32")[
        2
    ] == np.uint64(0)
    assert (
        arguments(WRITTEN["dropout"], (x, x, None, 3, 0, 1.0, 0, 3, 0), "float32")[5].dtype
        == np.float32
    )
    stored = np.zeros(3, "uint16")
    assert arguments(WRITTEN["narrowed"], (x, stored, 3), "float32", "uint16")[1] is stored
    with pytest.raises(TypeError, match="takes a contiguous uint16 array as y; got float32"):
        arguments(WRITTEN["narrowed"], (x, x, 3), "float32", "uint16")
    with pytest.raises(TypeError, match="column_sums takes 5 arguments; got 3"):
        arguments(WRITTEN["column_sums"], (x, x, 1), "float32")
    with pytest.raises(TypeError, match="takes a contiguous float64 array as x; got float32"):
        arguments(WRITTEN["column_sums"], (x, x, 1, 3, 0), "float64")
    with pytest.raises(TypeError, match="takes a contiguous float32 array as out"):
        arguments(
            WRITTEN["column_sums"], (x, np.zeros((3, 2), "float32")[:, 0], 1, 3, 0), "float32"
        )
    with pytest.raises(TypeError, match="int32 array as keys; got float32"):
        arguments(WRITTEN["dropout"], (x, x, x, 3, 0, 1.0, 0, 3, 0), "float32")
    numbers = [given(), None, 0, 2, 1, *[None] * 5, 0, None, 5, 5, None, None, 1, None, 3]
    assert arguments(WRITTEN["begin_step"], tuple(numbers), "float32")[0] is numbers[0]
    for wrong in (given()["words"], given()[()], 1.0):
        with pytest.raises(TypeError, match=r"begin_step takes sources.given\(\) as given; got"):
            arguments(WRITTEN["begin_step"], (wrong, *numbers[1:]), "float32")


def test_the_numbers_of_a_step_lie_as_in_c():
    """The struct, then coefficients, then keys, each aligned; and no more than go by value."""
    c = text("begin.cu")
    assert int(re.search(r"#define MOST_WORDS (\d+)", c)[1]) == MOST_WORDS
    assert MOST_WORDS * 8 + 512 <= 4096
    assert "unsigned long long cost, x, stored, y, weight, order;\n  int step, skipped;" in c
    for dtype, size in (("float32", 4), ("float64", 8)):
        for numbers, keys in ((1, 0), (3, 4), (8 * 3, 2)):
            layout = now(dtype, numbers, keys)
            words = np.zeros(layout.size, "uint8")
            values = [float(i) for i in range(numbers)], [-i for i in range(keys)]
            layout.pack_into(words, 0, *range(1, 9), *values[0], *values[1])
            assert layout.size % 8 == 0
            assert words[:48].view("uint64").tolist() == [1, 2, 3, 4, 5, 6]
            assert words[48:56].view("int32").tolist() == [7, 8]
            end = 56 + numbers * size
            assert words[56:end].view(dtype).tolist() == values[0]
            assert words[end : end + 4 * keys].view("int32").tolist() == values[1]
