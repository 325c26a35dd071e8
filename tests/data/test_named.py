"""Data sets by name: where they are searched for, and the error if they are not found."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from xpnet.data import load_named, read
from xpnet.data.named import FILES, SOURCES
from xpnet.errors import DataError

SHARED = Path(
    os.environ.get("XPNET_DATA_DIR") or Path(__file__).resolve().parents[3] / "shared" / "data"
)


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """Provide no data set in the environment or the cache, and no network."""
    monkeypatch.delenv("XPNET_DATA_DIR", raising=False)
    monkeypatch.setenv("XPNET_CACHE_DIR", str(tmp_path / "cache"))

    def retrieve(url, **kwargs):
        raise ConnectionError(url)

    monkeypatch.setattr("pooch.retrieve", retrieve)


def put(folder, compressed=True, edit=()):
    """Write four files of the right shapes whose values are mostly 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in FILES.items():
        shape = dict(edit).get(name, shape)
        data = np.zeros(shape, np.uint8)
        if data.ndim == 1:
            data[:] = np.arange(len(data)) % 10
        raw = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data.tobytes()
        path = folder / (name + ".gz" * compressed)
        path.write_bytes(gzip.compress(raw, 1) if compressed else raw)


def test_the_digits_are_part_of_the_package():
    train, test = load_named("digits")
    assert (train.x.shape, train.x.dtype, train.x.max()) == ((1797, 64), np.uint8, 16)
    assert np.bincount(train.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert train.classes == tuple("0123456789")
    assert (train.name, test) == ("digits", None)


@pytest.mark.parametrize("name", SOURCES)
def test_the_real_files_are_read(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"no {name} in {SHARED}; set XPNET_DATA_DIR")
    train, test = load_named(name, SHARED)
    assert (train.x.shape, test.x.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert train.x.dtype == np.uint8
    assert train.y.dtype == np.int32
    assert np.bincount(test.y).min() > 800
    assert len(train.classes) == 10
    images = SHARED / name / "t10k-images-idx3-ubyte.gz"
    np.testing.assert_array_equal(read(images).y, test.y)


@pytest.mark.parametrize("where", ["argument", "variable", "cache"])
@pytest.mark.parametrize("layout", ["mnist", "."])
def test_files_are_searched_for_in_three_places(tmp_path, monkeypatch, where, layout):
    folder = tmp_path / ("cache" if where == "cache" else "mine")
    put(folder / ("mnist" if where == "cache" else layout), compressed=layout == "mnist")
    if where == "variable":
        monkeypatch.setenv("XPNET_DATA_DIR", str(folder))
    train, test = load_named("mnist", folder if where == "argument" else None)
    assert (len(train), len(test), train.name, test.name) == (60_000, 10_000, "mnist", "mnist test")


def test_without_files_and_network_the_error_names_the_searched_folders_and_the_remedy(tmp_path):
    with pytest.raises(DataError) as caught:
        load_named("fashion-mnist", tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (tmp_path / "fashion-mnist", tmp_path / "cache", "data_dir=", "ConnectionError"):
        assert str(part) in message
    assert "with --data-dir or XPNET_DATA_DIR" in caught.value.at_command_line
    with pytest.raises(DataError, match="downloads are off"):
        load_named("mnist", tmp_path, download=False)


def test_downloads_try_each_mirror_and_check_the_digest(tmp_path, monkeypatch):
    put(tmp_path / "remote")
    calls = []

    def retrieve(url, known_hash, fname, path, downloader):
        calls.append((url, known_hash))
        if url.startswith(SOURCES["mnist"].mirrors[0]):
            raise ValueError(known_hash)
        assert path == tmp_path / "cache" / "mnist"
        return str(tmp_path / "remote" / fname)

    monkeypatch.setattr("pooch.retrieve", retrieve)
    assert len(load_named("mnist")[0]) == 60_000
    assert len(calls) == 8
    assert calls[1][1] == "sha256:" + SOURCES["mnist"].sha256[0]


def test_the_digests_are_those_of_the_real_files():
    if not (SHARED / "SHA256SUMS").is_file():
        pytest.skip(f"no SHA256SUMS in {SHARED}; set XPNET_DATA_DIR")
    lines = (line.split() for line in (SHARED / "SHA256SUMS").read_text().splitlines())
    sums = {name: digest for digest, name in lines}
    for name, source in SOURCES.items():
        assert source.sha256 == tuple(sums[f"{name}/{file}.gz"] for file in FILES)


def test_a_file_with_another_shape_is_named(tmp_path):
    put(tmp_path / "mnist", edit={"t10k-labels-idx1-ubyte": (9_999,)})
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz: uint8 of shape \(9999,\)"):
        load_named("mnist", tmp_path)


def test_an_incomplete_folder_is_named(tmp_path):
    put(tmp_path / "mnist")
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"mnist: has train-images.* lacks train-labels-idx1-ubyte"):
        load_named("mnist", tmp_path)


def test_unknown_names_and_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="unknown data set 'mnits'; did you mean 'mnist'"):
        load_named("mnits")
    with pytest.raises(DataError, match=r"absent: no such folder"):
        load_named("mnist", tmp_path / "absent")
