"""The products of the GPU's step: by cuBLASLt, emulated, with algorithms that are timed and kept.

The real libraries are asked what they answer without a GPU.
"""

import contextlib
import ctypes
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import AVAILABLE, make_backend, ran
from cublas_on_cpu import BIAS, RELU_BIAS, Cublas, rounded, widened
from cuda_on_cpu import CpuExecutor
from test_cuda_mixed import first_state as first_mixed_state
from test_cuda_step import class_batches, compare, first_state, inputs, placed

from xpnet.errors import BackendError
from xpnet.kernels.cuda import blas_lt, matmul
from xpnet.kernels.cuda.blas import Blas, Numbers, Rest, find_library, product
from xpnet.kernels.cuda.choices import Choices, is_switched_off
from xpnet.kernels.cuda.executor import CupyExecutor
from xpnet.kernels.cuda.graphed_step import FusedStep
from xpnet.kernels.cuda.matmul import Matmul
from xpnet.nn import Dense, ReLU, Sequential, Tanh
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.optimizers import SGD
from xpnet.step.mixed_precision import Mixed

DTYPES = ["float32", "float64"]


@pytest.fixture
def choices(tmp_path):
    return Choices(tmp_path / "products", "NVIDIA H200", 130100)


def prefer(*indices):
    """Times by which the options with these indices are the fastest, the first most of all."""

    def times(count):
        seconds = [1.0 + i / 1000 for i in range(count)]
        for rank, i in enumerate(indices):
            if i < count:
                seconds[i] = 0.1 * (rank + 1)
        return seconds

    return times


def operands(executor, M, K, N, rng):
    a, b = (
        executor.placed(rng.normal(size=shape).astype(executor.dtype)) for shape in ((M, K), (K, N))
    )
    return a, b, executor.empty((M, N), executor.dtype)


def stored(executor, M=6, K=24, N=8, rng=None):
    """The bits of a product, and how it was computed."""
    rng = np.random.default_rng(3) if rng is None else rng
    a, b, out = operands(executor, M, K, N, rng)
    executor.product(a, b, out)()
    return out.tobytes()


# -- which product it is --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("M", "K", "N"), [*itertools.product([1, 2, 5], repeat=3)])
def test_products_reach_cublaslt_in_its_own_order(M, K, N, dtype, folder, rng):
    executor = CpuExecutor(dtype, folder)
    a, b = rng.normal(size=(M, K)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)
    for left in (a, a.T.copy().T):
        for right in (b, b.T.copy().T):
            out = executor.empty((M, N), dtype)
            executor.product(left, right, out)()
            np.testing.assert_allclose(out, a @ b, rtol=1e-5)
            executor.product(left, right, out, add=True)()
            np.testing.assert_allclose(out, 2 * (a @ b), rtol=1e-5)
    assert executor.cublas_lt.ran == [(0, 1)] * 8
    assert not executor.cublas.products


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("M", "K", "N"), [*itertools.product([1, 2, 5], repeat=3)])
def test_cublas_takes_the_same_products(M, K, N, dtype, rng):
    library, workspace = Cublas(), np.empty(1024, np.uint8)
    blas = Blas(library, workspace, lambda x: x.ctypes.data, Numbers(dtype))
    a, b = rng.normal(size=(M, K)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)
    for left in (a, a.T.copy().T):
        for right in (b, b.T.copy().T):
            out = np.full((M, N), np.nan, dtype)
            blas.product(left, right, out)(7)
            np.testing.assert_allclose(out, a @ b, rtol=1e-5)
    assert library.products == 4


def test_products_that_cublas_cannot_express_are_refused():
    x = np.zeros((4, 6))
    with pytest.raises(ValueError, match="contiguous matrices"):
        product(x[:, ::2], np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="no product"):
        product(x, np.zeros((5, 2)), np.zeros((4, 2)))


def test_what_cublaslt_has_no_algorithm_for_is_left_to_cublas(folder, rng):
    executor = CpuExecutor("float32", folder)
    executor.cublas_lt.kinds = ()
    a, b, out = operands(executor, 3, 4, 5, rng)
    executor.product(a, b, out)()
    np.testing.assert_allclose(out, a @ b, rtol=1e-5)
    assert executor.cublas.products == 1


# -- which algorithm ------------------------------------------------------------------------------


def test_untimed_products_take_the_first_algorithm(folder):
    executor = CpuExecutor("float32", folder)
    stored(executor)
    assert executor.cublas_lt.ran == [(0, 1)]
    assert executor.note == "products by cuBLASLt (algorithms: 1 first)"


def test_the_fastest_algorithm_is_taken_and_remembered(folder, choices):
    """Of those that are deterministic: 0, 1, 3, 5 and 7 of the emulated ones."""
    first = CpuExecutor("float32", folder, choices=choices, times=prefer(2))
    bits = stored(first)
    assert first.cublas_lt.ran == [(i, 1) for i in (0, 1, 3, 5, 7, 3)]  # one of them fails
    assert first.note == "products by cuBLASLt (algorithms: 1 measured)"
    again = CpuExecutor("float32", folder, choices=choices, times=prefer(1))
    assert stored(again) == bits
    assert again.cublas_lt.ran == [(3, 1)]
    assert again.note == "products by cuBLASLt (algorithms: 1 remembered)"
    assert stored(CpuExecutor("float32", folder)) != bits  # the first gives others


def test_a_product_is_timed_once_for_all_its_calls(folder, choices, rng):
    executor = CpuExecutor("float32", folder, choices=choices, times=prefer(1))
    a, b, out = operands(executor, 6, 24, 8, rng)
    calls = [executor.product(a, b, out, lane=lane) for lane in (0, 1)]
    for call in [*calls, *calls]:
        call()
    assert [i for i, _ in executor.cublas_lt.ran[5:]] == [1] * 4
    assert executor.cublas_lt.asked == 1


def test_a_tie_is_the_first_of_them(folder, choices):
    def times(count):
        return [1.02, 1.0, 0.995][:count] + [2.0] * (count - 3)

    executor = CpuExecutor("float32", folder, choices=choices, times=times)
    stored(executor)
    assert executor.cublas_lt.ran[-1] == (0, 1)


def test_algorithms_that_need_more_alignment_than_there_is_are_not_asked_for(folder, choices, rng):
    executor = CpuExecutor("float32", folder, choices=choices)
    a, b, out = operands(executor, 6, 24, 8, rng)
    flat = executor.empty((24 * 8 + 1,), "float32")
    flat[1:] = b.ravel()
    executor.product(a, flat[1:].reshape(24, 8), out)()
    assert 5 not in {i for i, _ in executor.cublas_lt.ran}
    assert len(executor.cublas_lt.ran) == 5
    np.testing.assert_allclose(out, a @ b, rtol=1e-4, atol=1e-5)


def test_timing_leaves_what_is_added_to_as_it_is(folder, choices, rng):
    executor = CpuExecutor("float32", folder, choices=choices, times=prefer(3))
    a, b, out = operands(executor, 6, 24, 8, rng)
    out[...] = 1.0
    executor.product(a, b, out, add=True)()
    assert len(executor.cublas_lt.ran) == 6
    np.testing.assert_allclose(out, a @ b + 1, rtol=1e-4, atol=1e-5)
    executor.check_guards()


def test_in_a_capture_nothing_is_timed_and_the_first_is_settled_for(folder, choices, rng):
    executor = CpuExecutor("float32", folder, choices=choices, times=prefer(2))
    a, b, out = operands(executor, 6, 24, 8, rng)
    call = executor.product(a, b, out)
    executor.can_measure = lambda: False
    call()
    del executor.can_measure
    call()
    assert executor.cublas_lt.ran == [(0, 1)] * 2


def test_an_algorithm_that_fails_is_not_taken_and_if_all_do_that_is_an_error(folder, choices):
    executor = CpuExecutor("float32", folder, choices=choices, times=prefer(4))
    stored(executor)  # the fifth is the one that fails
    assert executor.cublas_lt.ran[-1] == (0, 1)
    executor.cublas_lt.kinds = executor.cublas_lt.kinds[6:7] * 2
    with pytest.raises(BackendError, match="cublasLtMatmul returned status 13"):
        stored(executor, 7)


# -- what is kept ---------------------------------------------------------------------------------


def kept_files(choices):
    return sorted(choices._folder.iterdir())


def test_a_choice_is_a_file_that_says_what_it_is_of(folder, choices):
    stored(CpuExecutor("float32", folder, choices=choices, times=prefer(2)))
    (path,) = kept_files(choices)
    record = json.loads(path.read_text())
    assert record["gpu"] == "NVIDIA H200"
    assert record["cublasLt"] == 130100
    assert "shape (8, 6, 24)" in record["product"]
    assert len(record["algorithm"]) == 2 * 64
    assert record["us"][2] == 1e5
    assert record["us"][4] is None  # of the one that failed


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: text.replace("H200", "H100"),
        lambda text: text.replace("130100", "130200"),
        lambda text: text.replace('"algorithm": "60a1', '"algorithm": "61a1'),
        lambda text: text.replace('"algorithm": "60a1', '"algorithm": "a1'),
        lambda text: text.replace('"algorithm": "', '"algorithm": "xx'),
        lambda text: text.replace("algorithm", "other"),
        lambda text: json.dumps({**json.loads(text), "algorithm": ""}),
    ],
)
def test_a_damaged_file_is_named_and_the_first_algorithm_is_taken(damage, folder, choices, caplog):
    """Not another one by timing, which could differ from run to run."""
    bits = stored(CpuExecutor("float32", folder, choices=choices, times=prefer(2)))
    (path,) = kept_files(choices)
    path.write_text(damage(path.read_text()))
    executor = CpuExecutor("float32", folder, choices=choices, times=prefer(1))
    assert stored(executor) != bits
    assert executor.cublas_lt.ran == [(0, 1)]
    assert f"not all are timed: {path}" in caplog.text
    assert "once it is deleted, it is made again" in executor.note
    stored(executor, 7)  # others are timed all the same
    assert len(executor.cublas_lt.ran) > 5


def test_another_version_or_gpu_times_again(folder, tmp_path):
    found = []
    for gpu, version in (("A", 1), ("A", 2), ("B", 1), ("A", 1)):
        choices = Choices(tmp_path, gpu, version)
        executor = CpuExecutor("float32", folder, choices=choices)
        stored(executor)
        found.append(len(executor.cublas_lt.ran))
    assert found == [6, 6, 6, 1]


def test_of_two_processes_the_first_one_chooses(folder, choices):
    """Both have timed, and only then either keeps what it found."""
    slow = CpuExecutor("float32", folder, choices=choices)

    def times(count):
        stored(CpuExecutor("float32", folder, choices=choices, times=prefer(1)))
        return prefer(2)(count)

    slow.times = times
    stored(slow)
    assert slow.cublas_lt.ran[-1] == (1, 1)
    assert len(kept_files(choices)) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_a_reason_not_to_time(folder, choices, tmp_path):
    tmp_path.chmod(0o500)
    executor = CpuExecutor("float32", folder, choices=choices, times=prefer(2))
    stored(executor)
    assert executor.cublas_lt.ran == [(0, 1)]


def test_a_folder_that_cannot_be_made_is_a_reason_not_to_time(folder, choices, tmp_path, caplog):
    (tmp_path / "products").write_text("a file")
    executor = CpuExecutor("float32", folder, choices=choices, times=prefer(2))
    stored(executor)
    stored(executor, 7)
    assert executor.cublas_lt.ran == [(0, 1)] * 2
    assert "cannot be made: File exists" in executor.note
    assert len(caplog.records) == 1


def test_a_choice_that_cannot_be_kept_is_not_made(folder, choices, monkeypatch):
    def write(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write)
    executor = CpuExecutor("float32", folder, choices=choices, times=prefer(2))
    stored(executor)
    assert executor.cublas_lt.ran[-1] == (0, 1)
    assert "cannot be written: No space left on device" in executor.note
    assert not kept_files(choices)


def test_a_choice_is_kept_where_there_are_no_links(folder, choices, monkeypatch):
    def link(*given):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    stored(CpuExecutor("float32", folder, choices=choices, times=prefer(2)))
    (path,) = kept_files(choices)
    assert path.suffix == ".json"


def test_timing_is_switched_off_by_a_variable(monkeypatch):
    for value, off in (("0", True), ("off", True), ("FALSE", True), ("1", False), ("", False)):
        monkeypatch.setenv("XPNET_TIME_PRODUCTS", value)
        assert is_switched_off() is off


def test_what_a_checkpoint_has_comes_before_what_is_kept(folder, choices):
    first = CpuExecutor("float32", folder, choices=choices, times=prefer(2))
    bits, algorithms = stored(first), first.algorithms
    (path,) = kept_files(choices)
    path.write_text("damaged")
    for again in (
        CpuExecutor("float32", folder, choices=choices),
        CpuExecutor("float32", folder, choices=None),  # which times nothing
    ):
        again.lt._choices = choices
        assert not again.prefer(algorithms)
        assert stored(again) == bits
        assert again.note == "products by cuBLASLt (algorithms: 1 remembered)"
        assert again.algorithms == algorithms
        assert not again.prefer({})
        assert again.prefer(dict.fromkeys(algorithms, ""))  # there is another one now
        assert not again.algorithms


def test_of_a_checkpoint_an_algorithm_is_taken_that_cublaslt_names_no_more(
    folder, choices, monkeypatch
):
    first = CpuExecutor("float32", folder, choices=choices, times=prefer(2))
    bits, algorithms = stored(first), first.algorithms
    all_of_them = Matmul.algorithms
    monkeypatch.setattr(Matmul, "algorithms", lambda self, handle: all_of_them(self, handle)[:1])
    again = CpuExecutor("float32", folder, choices=None)
    again.lt._choices = choices
    again.prefer(algorithms)
    assert stored(again) == bits
    assert again.note == "products by cuBLASLt (algorithms: 1 remembered)"
    assert again.algorithms == algorithms


def test_of_a_checkpoint_only_what_cublaslt_takes_is_taken(folder, choices, caplog):
    executor = CpuExecutor("float32", folder, choices=choices, times=prefer(1))
    stored(executor)
    ((name, algorithm),) = executor.algorithms.items()
    for text in ("", "no hexadecimal", "ff" * 64, algorithm[:-2]):
        executor = CpuExecutor("float32", folder, choices=choices)
        executor.prefer({name: text})
        stored(executor)
        assert executor.cublas_lt.ran == [(1, 1)]  # what is kept
        assert "the checkpoint has an algorithm that cuBLASLt does not take here" in executor.note


# -- bias and ReLU --------------------------------------------------------------------------------


def affine(executor, dtype, *, relu, bias_of=None):
    rng = np.random.default_rng(5)
    arrays = [rng.normal(size=shape) for shape in ((6, 24), (24, 8), (8,))]
    a, b, bias = (executor.placed(rounded(x, np.dtype(dtype))) for x in arrays)
    if bias_of is not None:
        bias[...] = bias_of
    out = executor.empty((6, 8), dtype)

    def apart():
        executor.count("apart")
        z = widened(out, "f4") + widened(bias, "f4")
        out[...] = rounded(np.maximum(z, 0) if relu else z, out.dtype)

    product, rest = executor.affine(a, b, bias, out, relu=relu, apart=apart)
    product()
    rest()
    wanted = widened(a, "f8") @ widened(b, "f8") + widened(bias, "f8")
    return widened(out, "f4"), np.maximum(wanted, 0) if relu else wanted, rest


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("dtype", "rtol"), [("float32", 1e-4), ("float16", 4e-3), ("uint16", 3e-2)]
)
def test_a_product_adds_the_bias_and_applies_relu(dtype, rtol, relu, folder, choices):
    for times, in_one in ((prefer(1), True), (prefer(0), False)):
        executor = CpuExecutor("float32", folder, choices=choices, times=times)
        found, wanted, rest = affine(executor, dtype, relu=relu)
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol)
        assert rest.is_done() is in_one
        assert executor.cublas_lt.ran[-1][1] == ((RELU_BIAS if relu else BIAS) if in_one else 1)
        for path in kept_files(choices):
            path.unlink()


def test_the_choice_of_one_launch_or_two_is_remembered(folder, choices):
    for times, apart in ((prefer(0), 1), (prefer(1), 1)):
        executor = CpuExecutor("float32", folder, choices=choices, times=times)
        affine(executor, "float32", relu=True)
        assert executor.counts["apart"] >= apart
        assert executor.cublas_lt.ran[-1][1] == 1
    assert executor.counts["apart"] == 1


def test_an_algorithm_whose_relu_hides_nan_is_not_taken(folder, choices):
    """It is the third, number 3 of the emulated ones; the others are in the places 1, 2, 4, 5."""
    executor = CpuExecutor("float32", folder, choices=choices, times=prefer(3))
    found, _, rest = affine(executor, "float32", relu=True, bias_of=np.nan)
    assert rest.is_done()
    assert executor.cublas_lt.ran[-1] == (5, RELU_BIAS)
    assert np.isnan(found).all()
    tried = [i for i, epilogue in executor.cublas_lt.ran if epilogue == RELU_BIAS]
    assert tried.count(3) == 1  # and then it is not timed


def test_without_timing_the_bias_is_added_apart(folder):
    executor = CpuExecutor("float32", folder)
    found, wanted, rest = affine(executor, "float32", relu=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert not rest.is_done()
    assert executor.cublas_lt.ran == [(0, 1)]


def test_where_there_is_no_epilogue_the_bias_is_added_apart(folder, choices):
    executor = CpuExecutor("float64", folder, choices=choices, times=prefer(1))
    found, wanted, rest = affine(executor, "float64", relu=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert not rest.is_done()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("option", [0, 1, 2])
def test_a_step_is_the_portable_one_with_any_algorithm(option, dtype, folder, choices, rng):
    executor = CpuExecutor(dtype, folder, choices=choices, times=prefer(option))
    layers = [Dense(24), ReLU(), Dense(16), Tanh(), Dense(7), ReLU(), Dense(5)]
    batches = [*class_batches(rng, dtype, [12] * 4), *class_batches(rng, dtype, [7])]
    fused, _ = compare(executor, layers, (6,), batches, SoftmaxCrossEntropy(), SGD())
    assert "equal to the eager step; products by cuBLASLt" in fused.note
    relu = {epilogue for i, epilogue in executor.cublas_lt.ran if i == 1}
    assert (RELU_BIAS in relu) == (dtype == "float32")


def test_a_padded_layer_takes_its_bias_along(folder, choices, rng):
    """Its bias is padded, too, and so are the zeros behind it after ReLU."""
    executor = CpuExecutor("float32", folder, pack=8, choices=choices, times=prefer(1))
    layers = [Dense(9), ReLU(), Dense(7), ReLU(), Dense(5)]
    batches = class_batches(rng, "float32", [12] * 4)
    fused, _ = compare(executor, layers, (6,), batches, SoftmaxCrossEntropy(), SGD())
    assert "padded to multiples of 8, equal to the eager step" in fused.note
    names = [json.loads(path.read_text())["product"] for path in kept_files(choices)]
    joined = {name.split("; ")[3] for name in names if name.endswith(f"epilogue {RELU_BIAS}")}
    assert joined == {"shape (16, 12, 8)", "shape (8, 12, 16)"}
    program = next(iter(fused.programs.values())).program
    assert sum(isinstance(call.run, Rest) and call.run.is_done() for call in program.calls) == 2
    pads = [x.reshape(12, width)[:, used:] for x, width, used in (
        (program._matrices[program.task.plan.forward[0].z.buffer][:12 * 16], 16, 9),
        (program._matrices[program.task.plan.forward[2].z.buffer][:12 * 8], 8, 7),
    )]  # fmt: skip
    assert not any(map(np.any, pads))


def test_a_graph_has_a_launch_less_where_the_product_adds_the_bias(folder, tmp_path, rng):
    notes = []
    for option in (0, 1):
        choices = Choices(tmp_path / str(option), "GPU", 1)
        executor = CpuExecutor("float32", folder, choices=choices, times=prefer(option))
        batches = class_batches(rng, "float32", [12] * 4)
        layers = [Dense(9), ReLU(), Dense(5)]
        notes.append(compare(executor, layers, (6,), batches, SoftmaxCrossEntropy(), SGD())[0].note)
    assert "CUDA graph of 9 launches" in notes[0]
    assert "CUDA graph of 8 launches" in notes[1]


@pytest.mark.parametrize("option", [0, 1])
def test_nan_in_the_batch_reaches_the_loss(option, folder, choices, rng):
    executor = CpuExecutor("float32", folder, choices=choices, times=prefer(option))
    batches = list(class_batches(rng, "float32", [12] * 4))
    batches[-1].x[3, 2] = np.nan
    with np.errstate(invalid="ignore"):
        _, state = compare(
            executor, [Dense(9), ReLU(), Dense(5)], (6,), batches, SoftmaxCrossEntropy(), SGD()
        )
    assert np.isnan(state.totals.loss)


@pytest.mark.skipif("cupy" not in AVAILABLE, reason="CuPy sees no GPU")
@pytest.mark.parametrize("narrow", [None, "bfloat16"])
@pytest.mark.parametrize("tf32", [False, True])
def test_a_step_of_cupy_remembers_its_algorithms(tf32, narrow, tmp_path, monkeypatch, rng):
    """An executor with those of another takes the same steps, bit for bit, and NaN survives."""
    monkeypatch.setenv("XPNET_TIME_PRODUCTS", "1")
    monkeypatch.setenv("XPNET_CACHE_DIR", str(tmp_path))
    model, rule = Sequential([Dense(512), ReLU(), Dense(256), ReLU(), Dense(10)]), SGD()
    model = model.build((784,))
    mixed = None if narrow is None else Mixed(narrow)
    batches = list(class_batches(rng, "float32", [128] * 5, n=784, K=10))
    batches[-1].x[3, 2] = np.nan
    found = []
    for how in ("measured", "remembered"):
        device = make_backend("cupy", "float32").device
        executor = CupyExecutor(device, "float32", tf32=tf32, narrow=narrow)
        step = FusedStep(executor, model, SoftmaxCrossEntropy(), rule, mixed=mixed)
        first = first_state(model, rule, "float32")
        state = placed(executor, first if mixed is None else first_mixed_state(model, rule, mixed))
        losses = []
        for i, batch in enumerate(batches):
            state, cost = step(state, placed(executor, batch), inputs(i, model, rule))
            losses.append(float(executor.to_host(cost)))
        assert how in step.note
        assert "equal to the eager step" in step.note
        assert np.isnan(losses).tolist() == [False] * 4 + [True]
        found.append(losses[:4])
    assert found[0] == found[1]
    assert [*tmp_path.glob("products/*.json")]
    ran["cupy"] += 1


# -- the libraries --------------------------------------------------------------------------------


def real(name):
    try:
        return find_library(name)
    except BackendError:
        pytest.skip("cuBLAS is not installed")


def without_gpu(function):
    """CUBLAS_STATUS_NOT_INITIALIZED, where there is none."""
    if "cupy" in AVAILABLE:
        return contextlib.nullcontext()
    return pytest.raises(BackendError, match=f"{function} returned status 1")


def test_the_real_cublas_takes_the_calls_or_says_that_there_is_no_gpu():
    library, workspace = real("cublas"), np.empty(1024, np.uint8)
    with without_gpu("cublasCreate_v2"):
        Blas(library, workspace, lambda x: x.ctypes.data, Numbers("float32"))
    assert library.cublasGemmEx(*[None] + [0] * 18) == library.cublasSetMathMode(None, 16) == 1


def test_the_real_cublaslt_takes_the_descriptors_or_says_that_there_is_no_gpu(choices):
    library = real("cublasLt")
    assert matmul.version(library) >= 120000
    with without_gpu("cublasLtCreate"):
        blas_lt.CublasLt(library, None, Numbers("float32"), choices)
    x = np.zeros((8, 8), np.float32)
    declared = matmul.Library(library, matmul.SIGNATURES)
    made = Matmul(declared, lambda x: x.ctypes.data, Numbers("float32"), x, x.T, x, x[0], relu=True)
    for attribute, wanted in ((3, 1), (4, 0), (7, 6), (8, x.ctypes.data)):
        size = ctypes.sizeof(ctypes.c_uint64 if attribute == 8 else ctypes.c_uint32)
        found, written = ctypes.c_uint64(), ctypes.c_size_t()
        get = library.cublasLtMatmulDescGetAttribute
        get.argtypes = [ctypes.c_void_p, ctypes.c_int, *[ctypes.c_void_p] * 1, ctypes.c_size_t,
                        ctypes.c_void_p]  # fmt: skip
        at = ctypes.addressof(found), size, ctypes.addressof(written)
        assert get(made.descriptor, attribute, *at) == 0
        assert (found.value, written.value) == (wanted, size)
    with pytest.raises(BackendError, match="cublasLtMatmulAlgoGetHeuristic returned status"):
        made.algorithms(ctypes.c_void_p())


def test_what_a_handle_made_is_destroyed_with_it(folder, rng):
    executor = CpuExecutor("float32", folder)
    a, b, out = operands(executor, 3, 4, 5, rng)
    library, call = executor.cublas_lt, executor.product(a, b, out)
    assert library.alive("MatmulPreference") == 0
    assert (library.alive("MatmulDesc"), library.alive("MatrixLayout")) == (1, 3)
    del call
    assert (library.alive("MatmulDesc"), library.alive("MatrixLayout")) == (0, 0)


def test_a_lane_has_a_workspace_of_its_own(folder, choices, rng):
    executor = CpuExecutor("float32", folder, choices=choices, times=prefer(1))
    a, b, out = operands(executor, 6, 24, 8, rng)
    seen, run = [], executor.cublas_lt.cublasLtMatmul
    spy = lambda *given: (seen.append(given[13]), run(*given))[1]  # noqa: E731
    run.argtypes = matmul.SIGNATURES["cublasLtMatmul"]
    executor.cublas_lt.cublasLtMatmul = spy
    for lane in (0, 1):
        executor.product(a, b, out, lane=lane)()
    assert len(set(seen)) == 2
