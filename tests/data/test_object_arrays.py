"""Arrays of Python objects: plain values are read as NumPy reads them, and nothing is executed."""

import gc
import io
import os
import pickle
import pickletools
import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import xpnet.data.arrays
from xpnet.data import read, read_parts
from xpnet.data.object_arrays import MAX_MARKS, read_objects
from xpnet.errors import DataError

PLAIN = st.one_of(
    st.text(max_size=300),
    st.binary(max_size=300),
    st.integers(-(2**200), 2**200),
    st.floats(),
    st.booleans(),
    st.none(),
)


def objects(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def same(a, b):
    """Whether two lists hold the same values of the same types; NaN is NaN."""
    return [(type(v), repr(v)) for v in a] == [(type(v), repr(v)) for v in b]


@settings(max_examples=200)
@given(values=st.lists(PLAIN, min_size=1, max_size=20), protocol=st.integers(2, 5))
def test_plain_values_are_read_as_pickle_reads_them(values, protocol):
    array = objects(*values, *values[:3])  # the same objects twice: from the memo
    got = read_objects(pickle.dumps(array, protocol), array.shape, "a")
    assert same(got, array)


def as_numpy_1(data):
    """The same pickle as NumPy 1 writes it: another module's name."""
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    assert new in data
    return data.replace(bytes([len(new)]) + new, bytes([len(old)]) + old).replace(new, old)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_the_names_of_numpy_1_are_known(protocol):
    array = objects("ant", "bee")
    data = as_numpy_1(pickle.dumps(array, protocol))
    assert read_objects(data, (2,), "a").tolist() == ["ant", "bee"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_matrix_has_its_order(order):
    array = np.array([["a", 1, None], ["b", 2.5, True]], object, order=order)
    got = read_objects(pickle.dumps(array, 4), array.shape, "a").reshape(array.shape)
    assert same(got.ravel(), array.ravel())


def test_more_values_than_pickle_writes_at_once():
    array = np.array([f"class {i % 7} of {i}" for i in range(5000)], object)
    assert read_objects(pickle.dumps(array, 4), (5000,), "a").tolist() == array.tolist()


def test_object_labels_are_classes(tmp_path):
    x = np.arange(12.0).reshape(6, 2)
    np.save(tmp_path / "x.npy", x)
    labels = objects("cat", "dog", "cat", b"dog", "eel", "cat")
    np.save(tmp_path / "names.npy", labels, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=labels, x_test=x[:2], y_test=labels[:2, None])
    for got in (read(tmp_path / "x.npy", label="names.npy"), read(tmp_path / "a.npz")):
        assert (got.y.tolist(), got.classes) == ([0, 1, 0, 1, 2, 0], ("cat", "dog", "eel"))
    assert read_parts(tmp_path / "a.npz").test.y.tolist() == [0, 1]
    np.save(tmp_path / "x.npy", x[:5])
    np.save(tmp_path / "names.npy", objects(3, 1.0, 3, 1, 20), allow_pickle=True)
    assert read(tmp_path / "x.npy", label="names.npy").classes == ("1", "3", "20")
    targets = read(tmp_path / "x.npy", label="names.npy", task="regression")
    assert targets.y.tolist() == [3, 1, 3, 1, 20]
    np.save(tmp_path / "names.npy", objects(3, 1.5, 0.1, 1, 20), allow_pickle=True)
    assert read(tmp_path / "x.npy", label="names.npy").y.tolist() == [3, 1.5, 0.1, 1, 20]
    np.save(tmp_path / "names.npy", objects("a", None, "b", np.nan, "a"), allow_pickle=True)
    with pytest.raises(DataError, match=r"names.npy: row 1: the label is missing"):
        read(tmp_path / "x.npy", label="names.npy")
    got = read(tmp_path / "x.npy", label="names.npy", missing_labels="drop")
    assert got.y.tolist() == [0, 1, 0]


# --- what is not plain is refused, and nothing is executed


class Call:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def refused(data, shape=(1,)):
    with pytest.raises(DataError) as caught:
        read_objects(data, shape, "a.npy")
    message = str(caught.value)
    assert message.startswith("a.npy: an array of Python objects, ")
    assert "np.load(OLD, allow_pickle=True)" in message
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("protocol", range(6))
def test_a_function_is_never_called(tmp_path, protocol):
    for function, argument in (
        (os.system, f"touch {tmp_path}/made"),
        (os.mkdir, str(tmp_path / "made")),
        (exec, f"open({str(tmp_path / 'made')!r}, 'w')"),
        (eval, "1 / 0"),
        (getattr, "x"),
    ):
        for array in (objects(Call(function, argument)), Call(function, argument)):
            refused(pickle.dumps(array, protocol))
    assert list(tmp_path.iterdir()) == []


def test_objects_that_are_not_plain_are_refused():
    for value, what in (
        ((1, 2), "holds a tuple"),
        (frozenset("a"), "instruction"),
        (np.float64(1), "numpy._core.multiarray.scalar"),
        (complex(1), "builtins.complex"),
        (range(3), "builtins.range"),
        (time.struct_time(range(9)), "time.struct_time"),
        (np.dtype("f4"), "calls dtype"),
        (int, "builtins.int"),
        (2**3000, "instruction"),
    ):
        assert what in refused(pickle.dumps(objects(value), 4))
    for value in ([1], {"a": 1}, bytearray(b"a"), {1}, np.zeros(2), np.array(["a"], object)):
        for protocol in range(2, 6):
            refused(pickle.dumps(objects(value), protocol))


def test_the_shape_in_the_pickle_is_that_of_the_header():
    data = pickle.dumps(objects("a", "b"), 4)
    for shape in ((3,), (1,), (2, 1), (1, 2), ()):
        assert "of another shape" in refused(data, shape)


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
OF_OBJECTS = b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR"


def crafted(values, shape=b"(K\x01t"):
    """A pickle of an array (1,) whose list of values is pushed by other instructions."""
    return b"\x80\x03" + RECONSTRUCT + b"(K\x01" + shape + OF_OBJECTS + b"\x89" + values + b"tb."


def test_the_crafted_pickle_is_one_that_can_be_read():
    assert read_objects(crafted(b"](X\x01\x00\x00\x00ae"), (1,), "a").tolist() == ["a"]


TWICE = b"q\x00h\x00\x86"  # remember what is on the stack, push it again, and pair the two
LAUGHS = b"(X\x01\x00\x00\x00at" + TWICE * 31  # a tuple of 2^31 letters, in 100 bytes


@pytest.fixture(scope="module")
def collected():
    """Nothing is left to be collected of what came before: with many libraries that takes long."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize(
    "data",
    [
        crafted(b"(" + LAUGHS + b"l"),
        crafted(b"](" + LAUGHS + b"e"),
        crafted(b"](" + LAUGHS + b"R" + b"e"),
        crafted(b"](" + LAUGHS + b"X\x01\x00\x00\x00a\x93e"),  # as the name of a module
        crafted(b"](cnumpy\ndtype\n(" + LAUGHS + b"tRe"),  # as the argument of a call
        crafted(b"](e", shape=LAUGHS),  # as the shape
        LAUGHS + b".",
        b"\x80\x04" + b"(" * 10**5 + b".",
        b"\x80\x04)" + b"\x85" * 10**5 + b".",
        b"\x80\x04" + b"]" * 10**5 + b".",
        b"\x80\x04N" + b"\x94" * 10**5 + b".",
        b"\x80\x04" + b"N" * 10**5 + b".",
        b"\x80\x04" + b"\x8c\x02ab" * 10**5 + b".",
        b"\x80\x04" + OF_OBJECTS[:-1] + b"q\x01" + b"h\x00h\x01R" * 10**5 + b".",
        b"\x80\x04]q\x00" + b"h\x00a" * 10**5 + b".",  # a list in itself
        b"\x80\x04]q\x00(" + b"h\x00" * 10**5 + b"e.",
        b"\x80\x04r\xff\xff\xff\xffN.",
        b"\x80\x04Nr\xff\xff\xff\xff.",  # pickle takes 32 GiB for its memo
        b"\x80\x04X\xff\xff\xff\xffa.",
        b"\x80\x04\x8d" + b"\xff" * 8 + b"a.",
        b"\x80\x04B\xff\xff\xff\xffa.",
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0fa.",
        b"\x80\x05\x96" + b"\xff" * 7 + b"\x0fa.",
        b"\x80\x04\x8b\xff\xff\xff\x7fa.",
        b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
        b"\x80\x04X\x01\x00\x00\x00\xff.",
        b"\x80\x04I" + b"9" * 10**5 + b"\n.",
        b"\x80\x04cos\nsystem\n(X\x02\x00\x00\x00ls\x85R.",
        b"\x80\x04c" + b"a" * 10**5 + b"\n\n.",
        b"\x80\x04c\xff\n\n.",
        b"\x80\x04h\x05.",
        crafted(b"](X\x01\x00\x00\x00aq\x01h\x00e"),
        b"\x80\x04b.",
        b"\x80\x04a.",
        b"\x80\x04e.",
        b"\x80\x04t.",
        b"\x80\x04\x94.",
        b"\x80\x04R.",
        b".",
        b"",
        b"\x80",
        crafted(b"N"),
        crafted(b"]"),
        crafted(b"](K\x01K\x02e"),
        crafted(b"](cnumpy\nndarray\ne"),
        crafted(OF_OBJECTS),
        RECONSTRUCT + b".",
        RECONSTRUCT + b"X\x05\x00\x00\x00abcdeb.",
    ],
)
def test_a_hostile_pickle_costs_neither_time_nor_memory(data, collected):
    tracemalloc.start()
    before = time.process_time()
    refused(data)
    assert time.process_time() - before < 20  # some of these would never end
    assert tracemalloc.get_traced_memory()[1] < 24 * len(data) + 2**20
    tracemalloc.stop()


def test_marks_are_few():
    assert "too many marks" in refused(b"\x80\x04" + b"(" * (MAX_MARKS + 1) + b".")
    assert "too many marks" not in refused(b"\x80\x04" + b"(" * MAX_MARKS + b".")


GOOD = [pickle.dumps(objects("ant", 1, 2.5, None, b"x", True), protocol) for protocol in (2, 3, 4)]
PIECES = [bytes([ord(op.code)]) for op in pickletools.opcodes if len(op.code) == 1]


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(
    data=st.one_of(
        st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=4)), max_size=40).map(
            lambda pieces: b"\x80\x04" + b"".join(pieces) + b"."
        ),
        st.tuples(
            st.sampled_from(GOOD), st.integers(0, 300), st.integers(0, 3), st.binary(max_size=3)
        ).map(lambda t: t[0][: t[1]] + t[3] + t[0][t[1] + t[2] :]),
    )
)
def test_any_bytes_are_plain_values_or_a_data_error(data):
    try:
        got = [type(value) for value in read_objects(data, (6,), "a.npy")]
    except DataError as error:
        got = str(error)
    assert "\n" not in got
    if isinstance(got, list):
        assert {*got} <= {str, bytes, int, float, bool, type(None)}


def test_a_pickle_above_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    np.save(tmp_path / "y.npy", objects("a", "b"), allow_pickle=True)
    np.save(tmp_path / "x.npy", np.eye(2))
    monkeypatch.setattr(xpnet.data.arrays, "MAX_PICKLE", 100)
    with pytest.raises(DataError, match=r"y\.npy: an array of Python objects of \d+ bytes, more"):
        read(tmp_path / "x.npy", label="y.npy")


def test_a_declared_shape_costs_nothing(tmp_path):
    file = io.BytesIO()
    np.save(file, objects("a", "b"), allow_pickle=True)
    content = file.getvalue().replace(b"(2,), }      ", b"(2000000000,)}")
    size = struct.unpack("<H", content[8:10])[0]
    (tmp_path / "y.npy").write_bytes(content[:10] + content[10 : 10 + size] + content[10 + size :])
    np.save(tmp_path / "x.npy", np.eye(2))
    with pytest.raises(DataError, match=r"y\.npy: "):
        read(tmp_path / "x.npy", label="y.npy")
