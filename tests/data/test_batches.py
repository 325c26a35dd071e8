"""The order of rows: every row once, and resumable."""

from xpnet.data import Shuffle


def test_an_order_has_every_row_once_and_depends_on_seed_and_epoch_alone():
    orders = {(s, e): Shuffle(s, e).order(50).tolist() for s in range(3) for e in range(3)}
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len(set(map(tuple, orders.values()))) == 9
    assert Shuffle(1, 2).order(50).tolist() == orders[1, 2]


def test_each_window_of_an_epoch_has_its_own_order():
    orders = {tuple(Shuffle(0, 0).order(20, *window)) for window in [(), (1,), (2,)]}
    assert len(orders) == 3
    assert Shuffle(0, 1).order(20, 2).tolist() != Shuffle(0, 2).order(20, 1).tolist()
