"""The ranks' rows of a batch, put together by their positions, are the batch of one process."""

import itertools

import numpy as np
import pytest
from thread_ranks import on_ranks

from xpnet.backends.numpy import NumpyBackend
from xpnet.data import Augment, Dataset, Scaler, Shuffle, open_rows, scan
from xpnet.errors import DataError
from xpnet.parallel import ALONE, Share
from xpnet.run import preprocessing
from xpnet.run.preprocessing import Preprocessing
from xpnet.training.loader import Loader
from xpnet.training.renewed_loader import RenewedLoader, RenewedRows
from xpnet.training.streamed_loader import StreamedLoader

RANKS = (2, 3, 5)
PARTS = (None, 8)  # of a batch whose gradient is summed in order
MICRO_BATCHES = (1, 3)


def shares(ranks, parts=None, micro_batches=1):
    return [Share(rank, ranks, parts, micro_batches) for rank in range(ranks)]


def host(backend, batch):
    # A copy: a batch may be written over by the next but one.
    return [None if a is None else np.array(backend.to_host(a)) for a in batch]


def check_batches(loader, ranks, *where, parts=None, micro_batches=1, **options):
    """Compare the batches of all ranks, put together, with those of one process."""
    backend = loader.backend
    whole = [host(backend, b) for b in loader.batches(*where, **options)]
    assert whole
    own = [
        (s, [host(backend, b) for b in loader.shared(s).batches(*where, **options)])
        for s in shares(ranks, parts, micro_batches)
    ]
    assert [len(batches) for _, batches in own] == [len(whole)] * ranks
    for number, batch in enumerate(whole):
        for k, expected in enumerate(batch):
            if expected is None:
                assert all(batches[number][k] is None for _, batches in own)
                continue
            found = np.empty_like(expected)
            filled = np.zeros(len(found), int)
            for share, batches in own:
                rows = batches[number][k]
                assert (rows.dtype, rows.shape[1:]) == (expected.dtype, expected.shape[1:])
                found[at := share.positions(len(expected))] = rows
                filled[at] += 1
            assert (filled == 1).all()
            np.testing.assert_array_equal(found, expected)


def arrays(rng, n=41):
    x = rng.normal(size=(n, 3)).astype("float32")
    return x, rng.integers(0, 3, n), rng.random(n)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("shuffle", [None, Shuffle(3, 2)])
def test_rows_of_all_ranks_are_the_batch(resident, shuffle, rng):
    loader = Loader(NumpyBackend(), *arrays(rng), resident=resident)
    for ranks, parts, micro_batches in itertools.product(RANKS, PARTS, MICRO_BATCHES):
        options = {"parts": parts, "micro_batches": micro_batches}
        check_batches(loader, ranks, 12, shuffle, **options)
        check_batches(loader, ranks, 12, shuffle, 2, reuse=True, **options)
    check_batches(loader, 5, 4, shuffle)  # some have no row of some batch
    check_batches(loader, 3, 100, shuffle)


def test_one_rank_has_the_rows_in_order_of_the_parts(rng):
    loader = Loader(NumpyBackend(), *arrays(rng))
    check_batches(loader, 1, 12, Shuffle(0, 0), parts=8)


def test_rows_are_those_of_every_library(backend32, rng):
    for resident in (True, False):
        loader = Loader(backend32, *arrays(rng), resident=resident)
        check_batches(loader, 3, 12, Shuffle(0, 1), 1)
    check_batches(loader, 3, 12)


def test_a_step_is_told_the_rows_it_gathers_itself(backend32, rng):
    loader = Loader(backend32, *arrays(rng), resident=True)
    for share in shares(3):
        own = loader.shared(share)
        given = zip(
            own.rows_of_batches(8, Shuffle(0, 0), 1), own.batches(8, Shuffle(0, 0), 1), strict=True
        )
        for rows, batch in given:
            for a, b in zip(rows.gathered(), batch, strict=True):
                np.testing.assert_array_equal(backend32.to_host(a), backend32.to_host(b))


@pytest.mark.parametrize("share", [Share(), Share(micro_batches=4)])
def test_a_share_that_is_whole_costs_nothing(share, rng):
    loader = Loader(NumpyBackend(), *arrays(rng))
    assert loader.shared(share) is loader


def test_a_shared_loader_speaks_of_all_rows(rng):
    x, y, weight = arrays(rng)
    shared = Loader(NumpyBackend(), x, y, weight).shared(Share(1, 2))
    assert shared.rows == 41
    np.testing.assert_array_equal(np.concatenate(list(shared.targets())), y)
    np.testing.assert_allclose(shared.weights(), weight, rtol=1e-6, atol=0)
    assert len(shared.sample(50).x) == 50


def test_a_value_that_is_not_finite_is_named_by_its_row_of_all(rng):
    x, y, _ = arrays(rng)
    x[25, 1] = np.nan
    shared = Loader(NumpyBackend(), x, y).shared(Share(1, 2))
    with pytest.raises(DataError, match=r"^row 25 of x is not finite"):
        shared.check_finite(10)
    Loader(NumpyBackend(), x, y).shared(Share(0, 2)).check_finite(10)


@pytest.mark.parametrize("augment", [Augment(shift=1, flip=True), Augment(flip=True, noise=0.2)])
def test_a_row_is_augmented_in_the_same_way_whatever_the_number_of_ranks(augment, rng):
    x = rng.integers(0, 255, (41, 6, 5)).astype(np.uint8)
    loader = Loader(
        NumpyBackend(), x, rng.integers(0, 3, 41), transform=lambda x: x / 255, augment=augment
    )
    for ranks, parts in itertools.product((*RANKS, 41), PARTS):
        check_batches(loader, ranks, 12, Shuffle(0, 3), 1, parts=parts)


def test_what_is_placed_is_transformed_once_for_the_ranks_of_a_host(backend32, rng):
    x, y, weight = rng.integers(0, 255, (41, 3)), rng.integers(0, 3, 41), rng.random(41)
    calls = []

    def transform(x):
        calls.append(len(x))
        return x / 255

    def of(comm):
        return Loader(backend32, x, y, weight, transform=transform, resident=True, comm=comm)

    alone = of(ALONE)
    for loader in on_ranks(3, of):
        for name, expected in alone.arrays.items():
            found = loader.arrays[name]
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(*map(backend32.to_host, (found, expected)))
    assert calls == [41, 41]


def test_a_run_checks_and_scales_once_for_the_ranks_of_a_host(rng, monkeypatch):
    x, y, _ = arrays(rng)
    rows, calls = Dataset(x, y, ("a", "b", "c"), "t"), []
    kept = Preprocessing(Scaler(np.ones(3), np.full(3, 2.0)), (3,), 3, ("a", "b", "c"))
    monkeypatch.setattr(preprocessing, "check", lambda *_, **__: calls.append("check"))
    monkeypatch.setattr(
        Scaler, "apply", lambda self, rows, dtype: calls.append("scale") or rows.astype(dtype) / 2
    )
    found = on_ranks(3, lambda comm: kept.loader(NumpyBackend(), rows, comm=comm))
    assert calls == ["check", "scale"]
    for loader in found:
        np.testing.assert_array_equal(loader.arrays["x"], x / 2)


def test_an_error_in_the_rows_is_one_of_all_ranks(rng):
    x, y, _ = arrays(rng)
    kept = Preprocessing(Scaler(np.ones(4), np.ones(4)), (4,), 3, ("a", "b", "c"))
    rows = Dataset(x, y, ("a", "b", "c"), "t")

    def on_rank(comm):
        with pytest.raises(DataError, match="shape"):
            kept.loader(NumpyBackend(), rows, comm=comm)

    on_ranks(2, on_rank)


def test_the_ranks_have_their_data_in_the_same_place(rng):
    x, y, _ = arrays(rng)

    def of(comm):
        return Loader(NumpyBackend(), x, y, resident=comm.rank > 0, comm=comm).resident

    assert on_ranks(2, of) == [False, False]


def test_some_rows_are_shared_as_they_are_taken(rng):
    taken = Loader(NumpyBackend(), *arrays(rng)).take(np.arange(30, 3, -1))
    check_batches(taken, 3, 10, Shuffle(0, 0))


def test_rows_that_are_others_in_each_epoch_are_shared(rng):
    epochs = [arrays(rng) for _ in range(3)]
    renewed = RenewedLoader(NumpyBackend(), RenewedRows(lambda n: epochs[n], 0, epochs[0]))
    for epoch in range(3):
        check_batches(renewed, 3, 12, Shuffle(0, epoch))
        found = next(renewed.shared(Share(2, 3)).batches(5, Shuffle(0, epoch))).x
        np.testing.assert_array_equal(found, epochs[epoch][0][Shuffle(0, epoch).order(41)[[2]]])


def write_table(path, x, y):
    pa = pytest.importorskip("pyarrow", reason="it reads tables")
    columns = {f"f{j}": x[:, j] for j in range(x.shape[1])} | {"label": y.astype(str)}
    if path.suffix == ".csv":
        pytest.importorskip("pyarrow.csv").write_csv(pa.table(columns), path)
    else:
        pytest.importorskip("pyarrow.parquet").write_table(
            pa.table(columns), path, row_group_size=50
        )


@pytest.fixture(params=["npz", "npy", "csv", "parquet"])
def streamed(request, tmp_path, rng):
    """A part of a file, in windows that are smaller than an epoch."""
    x, y = rng.normal(size=(700, 3)).astype(np.float32), np.sort(rng.integers(0, 3, 700))
    path, label = tmp_path / f"t.{request.param}", "auto"
    if request.param == "npz":
        np.savez(path, x=x, y=y)
    elif request.param == "npy":
        np.save(path, np.column_stack([x[:, :2], y, x[:, 2]]))
        label = 2
    else:
        write_table(path, x, y)
    return scan(open_rows(path, label), (0.8, 0.2), window_bytes=2000).parts[0]


@pytest.mark.parametrize("shuffle", [None, Shuffle(3, 2)])
def test_streamed_rows_of_all_ranks_are_the_batch(streamed, shuffle):
    loader = StreamedLoader(NumpyBackend(), streamed, transform=lambda x: x * 2)
    for ranks, parts, micro_batches in [(2, None, 1), (3, 8, 1), (5, None, 3), (1, 8, 2)]:
        options = {"parts": parts, "micro_batches": micro_batches}
        check_batches(loader, ranks, 64, shuffle, 3, **options)
    check_batches(loader, 5, 4, shuffle)  # one has no row of any batch
    check_batches(loader, 2, 1000, shuffle)  # of which each window has a part


def test_streamed_rows_are_augmented_and_prefetched(tmp_path, backend32, rng):
    np.savez(tmp_path / "t.npz", x=rng.normal(size=(300, 4)), y=rng.integers(0, 3, 300))
    part = scan(open_rows(tmp_path / "t.npz"), window_bytes=2000).parts[0]
    for augment in (Augment(), Augment(noise=0.5)):
        loader = StreamedLoader(backend32, part, augment=augment)
        check_batches(loader, 3, 50, Shuffle(0, 3), 1)


def test_a_streamed_target_that_is_wrong_is_named_by_its_place_in_the_file(tmp_path, rng):
    y = np.arange(300.0)
    np.savez(tmp_path / "t.npz", x=rng.normal(size=(300, 4)), y=y)
    part = scan(open_rows(tmp_path / "t.npz"), task="regression").parts[0]

    def check(y, where):
        if (bad := y == 211).any():
            raise DataError(where(int(bad.argmax())))

    loader = StreamedLoader(NumpyBackend(), part).checked(check)
    (rank,) = np.flatnonzero([s.owns(np.array(211 % 8)) for s in shares(3)])
    with pytest.raises(DataError, match=r"row 211$"):
        list(loader.shared(shares(3)[rank]).batches(8))
    list(loader.shared(shares(3)[rank - 1]).batches(8))
