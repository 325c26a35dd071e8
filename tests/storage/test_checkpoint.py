"""One checkpoint file, and the folder that keeps several."""

import errno
import hashlib
import json
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xpnet.errors import CheckpointError, ConfigError, XpnetError
from xpnet.storage import Checkpoint, CheckpointFolder, load, save
from xpnet.storage.checkpoint_file import DTYPES, VERSION

SMALL = {"W": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(-0.5), "e": np.ones((0,))}


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def round_trip(folder, tensors, meta=None):
    save(folder / "a.safetensors", tensors, meta or {})
    return load(folder / "a.safetensors")


def header_of(blob):
    size = int.from_bytes(blob[:8], "little")
    return blob[8 : 8 + size], blob[8 + size :]


def forged(header, data):
    """Return a file whose header digest is right, made without the package's own code."""
    raw = json.dumps(header, separators=(",", ":")).encode()
    if (metadata := header.get("__metadata__")) and "sha256" in metadata:
        raw = raw.replace(b"0" * 64, hashlib.sha256(raw).hexdigest().encode())
    return len(raw).to_bytes(8, "little") + raw + data


def message(path):
    with pytest.raises(CheckpointError) as error:
        load(path)
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


# ------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_shape_is_restored_bit_for_bit(tmp_path, dtype, shape):
    raw = np.random.default_rng(0).integers(0, 256, 8 * math.prod(shape), dtype=np.uint8)
    bits = raw % 2 == 1 if dtype == "bool" else raw.view(dtype)  # floats include NaN payloads
    array = bits[: math.prod(shape)].reshape(shape)
    back = round_trip(tmp_path, {"x": array}).tensors["x"]
    assert same_bits(back, array)
    assert back.flags.writeable


@given(
    array=hnp.arrays(
        st.sampled_from(DTYPES).map(np.dtype), hnp.array_shapes(min_dims=0, min_side=0, max_side=4)
    ),
    name=st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=8),
)
@settings(max_examples=60)
def test_any_array_is_restored_under_any_printable_name(tmp_path_factory, array, name):
    back = round_trip(tmp_path_factory.mktemp("any"), {name: array})
    assert list(back.tensors) == [name]
    assert same_bits(back.tensors[name], array)


def test_strided_and_big_endian_arrays_are_stored_by_value(tmp_path):
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    views = {
        "transposed": x.T,
        "reversed": x[:, ::-1],
        "strided": x[..., ::2],
        "fortran": np.asfortranarray(x[0]),
        "broadcast": np.broadcast_to(x[0, 0], (5, 4)),
        "big-endian": x.astype(">f4"),
        "scalar": np.float64(0.1),
    }
    tensors = round_trip(tmp_path, views).tensors
    for name, view in views.items():
        assert tensors[name].shape == np.shape(view)
        assert np.array_equal(tensors[name], view), name
        assert tensors[name].dtype == view.dtype.newbyteorder("=")


def test_tensors_keep_their_order_and_meta_its_values(tmp_path):
    meta = {"position": {"epoch": 3, "batch": 7, "step": 2**60}, "lr": 0.1, "best": math.inf}
    meta |= {"labels": ["NaN", 'a"b\\', "Ω"], "none": None}
    back = round_trip(tmp_path, {"z": np.ones(2), "a": np.ones(3, np.int8)}, meta)
    assert isinstance(back, Checkpoint)
    assert list(back.tensors) == ["z", "a"]
    assert back.meta == meta
    assert back.path == tmp_path / "a.safetensors"


def test_a_checkpoint_may_have_no_tensors(tmp_path):
    assert round_trip(tmp_path, {}, {"a": 1}).meta == {"a": 1}


def test_other_programs_can_read_the_arrays(tmp_path):
    round_trip(tmp_path, SMALL)
    read = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert read.keys() == SMALL.keys()
    assert all(same_bits(read[name], SMALL[name]) for name in SMALL)


@pytest.mark.parametrize(
    ("tensors", "meta", "message"),
    [
        ({"x": np.ones(2, np.complex128)}, {}, "'x' must be a NumPy array"),
        ({"x": np.array(["a"])}, {}, "<U1"),
        ({"x": np.array([None])}, {}, "object"),
        ({"x": [1.0]}, {}, "list"),
        ({"__metadata__": np.ones(1)}, {}, "cannot be named"),
        ({"\ud800": np.ones(1)}, {}, "cannot be named"),
        ({3: np.ones(1)}, {}, "cannot be named 3"),
        ({}, {"x": np.float32(1)}, "JSON"),
        ({}, {"x": object()}, "JSON"),
    ],
)
def test_unsupported_values_are_refused_and_leave_no_file(tmp_path, tensors, meta, message):
    with pytest.raises(CheckpointError, match=message):
        save(tmp_path / "a.safetensors", tensors, meta)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------ torn and altered


def test_a_file_truncated_at_any_byte_is_refused(tmp_path):
    round_trip(tmp_path, SMALL, {"step": 3})
    blob = (tmp_path / "a.safetensors").read_bytes()
    path = tmp_path / "truncated.safetensors"
    for size in range(len(blob)):
        path.write_bytes(blob[:size])
        assert "is torn" in message(path), size
    path.write_bytes(blob + b"\0")
    assert "has been altered" in message(path)


def test_any_flipped_bit_is_refused(tmp_path):
    round_trip(tmp_path, SMALL, {"step": 3})
    blob = bytearray((tmp_path / "a.safetensors").read_bytes())
    path = tmp_path / "flipped.safetensors"
    for position in range(len(blob)):
        for bit in range(8):
            blob[position] ^= 1 << bit
            path.write_bytes(blob)
            message(path)
            blob[position] ^= 1 << bit
    path.write_bytes(blob)
    assert load(path).meta == {"step": 3}


def test_an_altered_value_is_reported_with_the_name_of_its_tensor(tmp_path):
    round_trip(tmp_path, {"params/0.dense.W": np.ones(4), "stats/n": np.ones(4, np.int32)})
    path = tmp_path / "a.safetensors"
    header, _ = header_of(path.read_bytes())
    start = json.loads(header)["stats/n"]["data_offsets"][0]
    blob = bytearray(path.read_bytes())
    blob[8 + len(header) + start] ^= 1
    path.write_bytes(blob)
    assert message(path).endswith("has been altered: the digest of tensor 'stats/n' differs")


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_random_bytes_are_refused(tmp_path_factory, noise):
    path = tmp_path_factory.getbasetemp() / "noise.safetensors"
    for blob in (noise, len(noise).to_bytes(8, "little") + noise):
        path.write_bytes(blob)
        message(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x80\x04\x95pickle or anything else")
    assert "is not a safetensors file" in message(path)
    path.write_bytes((10**12).to_bytes(8, "little") + b"{}")
    assert "is not a safetensors file" in message(path)
    safetensors.numpy.save_file({"x": np.ones(2)}, path)
    assert "is not an xpnet checkpoint" in message(path)
    assert "No such file" in message(tmp_path / "missing.safetensors")
    assert "cannot read" in message(tmp_path)


def test_a_link_is_followed_where_a_user_names_it_alone(tmp_path):
    (tmp_path / "link").symlink_to("x.safetensors")
    save(tmp_path / "link", {"x": np.ones(2)}, {}, output=True)
    assert (tmp_path / "link").is_symlink()
    np.testing.assert_array_equal(load(tmp_path / "x.safetensors").tensors["x"], np.ones(2))
    save(tmp_path / "link", {"x": np.zeros(2)}, {})
    assert not (tmp_path / "link").is_symlink()
    np.testing.assert_array_equal(load(tmp_path / "x.safetensors").tensors["x"], np.ones(2))


def test_a_folder_that_is_missing_is_named(tmp_path):
    place = tmp_path / "none" / "x.safetensors"
    with pytest.raises(CheckpointError) as error:
        save(place, {"x": np.ones(2)}, {})
    assert str(error.value) == f"cannot write {place}: there is no folder {str(place.parent)!r}"


def manifest(**changes):
    fields = {"kind": "checkpoint", "version": VERSION, "nbytes": 0, "sha256": {}, "meta": {}}
    return json.dumps(fields | changes)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"__metadata__": {"xpnet": manifest(version=VERSION + 1)}}, "newer than"),
        ({"__metadata__": {"xpnet": manifest(kind="corpus")}}, "not an xpnet checkpoint"),
        ({"__metadata__": {"xpnet": manifest(version=None)}}, "not an xpnet checkpoint"),
        ({"__metadata__": {"xpnet": manifest(meta=[])}}, "manifest is incomplete"),
        ({"__metadata__": {"xpnet": manifest(nbytes="many")}}, "manifest is incomplete"),
        ({"__metadata__": {"xpnet": manifest(nbytes=10**30)}}, "is torn"),
        ({"__metadata__": {"xpnet": manifest(sha256={"x": "0"})}}, "not those of its manifest"),
        ({"__metadata__": {"xpnet": manifest() + "x"}}, "no readable manifest"),
        ({"__metadata__": {"xpnet": "[" * 100_000}}, "no readable manifest"),
        ({"__metadata__": {"xpnet": "1" * 5000}}, "no readable manifest"),
        ({"__metadata__": {"xpnet": 3}}, "no readable manifest"),
        ({"__metadata__": {}}, "no readable manifest"),
        ({"x": 3, "__metadata__": {"xpnet": manifest()}}, "has been altered"),
        (
            {
                "x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 0]},
                "__metadata__": {"xpnet": manifest(sha256={"x": "0"})},
            },
            "has been altered",
        ),
        (
            {
                "x": {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]},
                "__metadata__": {"xpnet": manifest(sha256={"x": "0"})},
            },
            "has been altered",
        ),
    ],
)
def test_a_hostile_header_with_a_right_digest_is_refused_without_a_traceback(
    tmp_path, header, expected
):
    path = tmp_path / "x.safetensors"
    header["__metadata__"]["sha256"] = "0" * 64
    path.write_bytes(forged(header, b""))
    assert expected in message(path)


def test_the_digests_follow_the_documented_formula(tmp_path):
    round_trip(tmp_path, {"x": np.arange(3, dtype=np.int16)}, {})
    header, data = header_of((tmp_path / "a.safetensors").read_bytes())
    metadata = json.loads(header)["__metadata__"]
    unsigned = header.replace(metadata["sha256"].encode(), b"0" * 64)
    assert metadata["sha256"] == hashlib.sha256(unsigned).hexdigest()
    expected = hashlib.sha256(b"int16 (3,) " + data).hexdigest()
    assert json.loads(metadata["xpnet"])["sha256"] == {"x": expected}


# ----------------------------------------------------------------------------------- the folder


def fill(folder, *steps, best=()):
    for step in steps:
        folder.save(step, {"x": np.full(3, step)}, {"step": step}, best=step in best)


def tear(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_the_last_few_and_the_best_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path / "new" / "run", keep=2)
    fill(folder, 10, 20, 30, 40, best=[20])
    names = sorted(path.name for path in folder.path.iterdir())
    assert names == [
        "best.safetensors",
        "step-0000000030.safetensors",
        "step-0000000040.safetensors",
    ]
    assert folder.newest().meta == {"step": 40}
    assert folder.best().meta == {"step": 20}
    assert folder.best().tensors["x"].tolist() == [20, 20, 20]
    assert folder.skipped == []


def test_an_empty_or_missing_folder_has_no_newest_and_no_best(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        folder = CheckpointFolder(path)
        assert folder.newest() is None
        assert folder.best() is None
    assert not (tmp_path / "missing").exists()


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(ConfigError, match="keep must be >= 1; got 0"):
        CheckpointFolder(tmp_path, keep=0)


@pytest.mark.parametrize("seen", ["the old one", "neither"])
def test_a_reader_beside_a_writer_with_keep_1_finds_a_checkpoint(seen, tmp_path, monkeypatch):
    """The writer saves and deletes between the reader's listing and its reading, twice."""
    writer, reader = CheckpointFolder(tmp_path, keep=1), CheckpointFolder(tmp_path)
    writer.save(1, SMALL, {})
    listing, step = CheckpointFolder.steps, 1

    def steps(folder):
        nonlocal step
        found = listing(folder)
        if folder is reader and step < 3:
            step += 1
            writer.save(step, SMALL, {"step": step})
            return found if seen == "the old one" else {}
        return found

    monkeypatch.setattr(CheckpointFolder, "steps", steps)
    if seen == "neither":
        step = 2  # one listing that caught neither; a folder of nothing is listed twice
    assert reader.newest().meta == {"step": 3}
    assert reader.skipped == []
    assert CheckpointFolder(tmp_path / "empty").newest() is None


def test_newest_skips_torn_files(tmp_path):
    folder = CheckpointFolder(tmp_path)
    fill(folder, 1, 2, 3)
    paths = folder.steps()
    tear(paths[3])
    paths[2].write_bytes(b"")
    assert folder.newest().meta == {"step": 1}
    assert [str(paths[3]) in folder.skipped[0], str(paths[2]) in folder.skipped[1]] == [True, True]
    tear(paths[1])
    assert folder.newest() is None
    assert len(folder.skipped) == 3


def test_the_best_is_the_last_resort(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=1)
    fill(folder, 1, 2, best=[1])
    tear(folder.steps()[2])
    assert folder.newest().meta == {"step": 1}
    assert len(folder.skipped) == 1


def test_resuming_from_an_earlier_step_deletes_later_ones_but_not_the_new_file(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=1)
    fill(folder, 100, 300)
    tear(folder.steps()[300])
    fill(folder, 200)
    assert list(folder.steps()) == [200]
    assert folder.newest().meta == {"step": 200}
    assert folder.skipped == []


def test_steps_are_sorted_as_numbers_beyond_ten_digits(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    fill(folder, 9_999_999_999, 10_000_000_000)
    assert list(folder.steps()) == [9_999_999_999, 10_000_000_000]
    assert folder.newest().meta == {"step": 10_000_000_000}


def test_the_same_step_may_be_saved_again_as_the_best(tmp_path):
    folder = CheckpointFolder(tmp_path)
    fill(folder, 5, 5, best=[5])
    assert os.path.samefile(folder.best_path, folder.steps()[5])
    assert sorted(os.listdir(tmp_path)) == ["best.safetensors", "step-0000000005.safetensors"]


def test_the_best_is_copied_if_links_are_not_supported(tmp_path, monkeypatch):
    def no_links(source, path):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    folder = CheckpointFolder(tmp_path)
    fill(folder, 1, 2, best=[1, 2])
    assert not os.path.samefile(folder.best_path, folder.steps()[2])
    assert folder.best().meta == {"step": 2}


def test_nothing_is_deleted_when_the_new_file_cannot_be_read_back(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path, keep=1)
    fill(folder, 1, best=[1])
    whole_replace = os.replace

    def lossy_replace(source, path):
        tear(source)
        whole_replace(source, path)

    monkeypatch.setattr(os, "replace", lossy_replace)
    with pytest.raises(CheckpointError, match="is torn"):
        fill(folder, 2, best=[2])
    assert list(folder.steps()) == [1, 2]
    assert folder.best().meta == {"step": 1}
    assert folder.newest().meta == {"step": 1}


def test_nothing_is_deleted_before_the_new_file_is_written(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path)
    fill(folder, 2, 3)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match="No space left"):
        fill(folder, 1)  # resumed from before step 2, which would be deleted after the save
    assert list(folder.steps()) == [2, 3]


KILLED_WRITERS = """
import os, random, signal, sys, time
import numpy as np
from xpnet.storage import CheckpointFolder

path, rounds, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draw = random.Random(seed)
last = 0
for _ in range(rounds):
    ready, written = os.pipe()
    writer = os.fork()
    if writer == 0:
        folder, step = CheckpointFolder(path, keep=2), last
        while True:
            step += 1
            folder.save(step, {"x": np.full(100_000, step)}, {"step": step}, best=step % 3 == 0)
            os.write(written, b"x")
    os.read(ready, 1)
    time.sleep(draw.uniform(0, 0.03))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    folder = CheckpointFolder(path, keep=2)
    newest = folder.newest()
    assert folder.skipped == [], folder.skipped
    assert newest.meta["step"] > last, (newest.meta, last)
    assert (newest.tensors["x"] == newest.meta["step"]).all()
    assert folder.best() is None or folder.best().meta["step"] % 3 == 0
    assert not [name for name in os.listdir(path) if name.startswith(".")], os.listdir(path)
    assert len(folder.steps()) <= 3, folder.steps()
    last = newest.meta["step"]
print(last)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9")
def test_a_writer_killed_at_any_moment_leaves_only_intact_checkpoints(tmp_path):
    seed = random.randrange(10**6)
    command = [sys.executable, "-c", KILLED_WRITERS, str(tmp_path / "run"), "20", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    assert int(done.stdout) >= 20


def test_checkpoint_errors_are_xpnet_errors():
    assert issubclass(CheckpointError, XpnetError)
