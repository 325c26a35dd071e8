"""The Python API in 30 lines: it runs, and what it trains is good."""

from xpnet.examples import train_digits


def test_the_digits_are_learnt(capsys):
    train_digits.main()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("test accuracy ")
    assert float(last.split()[-1]) >= 0.97
