"""``--ranks``, ``--launcher`` and ``--max-restarts``: what is started, and what after a crash."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from xpnet.cli import launching, supervisor
from xpnet.cli.main import main
from xpnet.parallel import failure, launcher

# Takes the place of mpiexec: notes the command that it would start, and ends with the next code.
LAUNCHER = """
import json, sys
from pathlib import Path
here = Path(__file__).parent
calls = here / "calls.json"
called = json.loads(calls.read_text()) if calls.exists() else []
calls.write_text(json.dumps([*called, sys.argv[1:]]))
codes = json.loads((here / "codes.json").read_text())
sys.exit(codes[len(called)])
"""


@pytest.fixture(autouse=True)
def _not_apart(monkeypatch):
    """Whatever a test before this one has asked for: engine "none" is for the whole process."""
    monkeypatch.setattr(failure, "_apart", [])


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Call xpnet with a launcher that ends with these codes; return its code and the commands."""
    pytest.importorskip("mpi4py", reason="mpi4py connects the ranks")
    script, waited = tmp_path / "launch.py", []
    script.write_text(LAUNCHER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervisor, "_interrupted", lambda seconds: waited.append(seconds))

    def run(codes, *words):
        (tmp_path / "codes.json").write_text(json.dumps(codes))
        with pytest.raises(SystemExit) as ended:
            main([*words, "--launcher", f"'{sys.executable}' launch.py"])
        return ended.value.code, json.loads((tmp_path / "calls.json").read_text()), waited

    return run


def test_the_command_is_what_was_typed_but_for_the_supervisor_and_names_the_folder(calls):
    (_, [command], _) = calls(
        [0],
        *("train", "my table.csv", "--ranks", "3", "--label", "a b", "--label", "c", "--quiet"),
        *("--mlflow", "sqlite:///x", "--set", "optimizer.lr=0.5", "--max-restarts", "2"),
    )
    assert command[:2] == ["-n", "3"]
    assert command[2] == sys.executable
    words = command[command.index("-m") :]
    assert words[:3] == ["-m", "xpnet", "train"]
    out = words.index("--out")
    assert words[out + 1].startswith("runs/my table-")
    assert words[out + 2 :] == ["--", "my table.csv"]
    assert sorted(words[3:out]) == sorted(
        ["--label=a b", "--label=c", "--quiet", "--mlflow=sqlite:///x", "--set=optimizer.lr=0.5"]
    )


def test_plugins_and_debug_are_handed_on(calls, tmp_path):
    (tmp_path / "own.py").write_text("")
    _, [command], _ = calls([0], "--plugin", "own.py", "train", "--debug", "--ranks=2", "--out=r")
    words = command[command.index("-m") :]
    assert words == ["-m", "xpnet", "--plugin", "own.py", "--debug", "train", "--out", "r"]


@pytest.mark.parametrize(
    ("codes", "restarts", "last", "said"),
    [
        ([0], 3, 0, []),
        ([2, 0], 3, 2, []),
        ([130, 0], 3, 130, []),
        ([143, 0], 3, 143, []),
        ([9, 1, 0], 3, 0, ["exit code 9 (SIGKILL, which is what happens where memory runs out); "
                           "restart 1 of 3", "exit code 1; restart 2 of 3"]),
        ([9, 2], 3, 2, ["restart 1 of 3"]),
        ([139, 134], 1, 134, ["exit code 139 (SIGSEGV); restart 1 of 1",
                              "exit code 134 (SIGABRT), after 1 restart; resume with: xpnet train "
                              "--out 'a run' --resume --ranks 2"]),
        ([3], 0, 3, ["exit code 3; resume with"]),
    ],
)  # fmt: skip
def test_a_crash_is_resumed_and_what_would_come_again_is_not(
    calls, capsys, codes, restarts, last, said
):
    words = ("train", "--ranks=2", "--out", "a run", "--max-restarts", str(restarts))
    code, commands, waited = calls(codes, *words)
    assert code == last
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said)
    for line, text in zip(lines, said, strict=True):
        assert line.startswith("the training has crashed: ")
        assert text in line
    tried = [command[command.index("--out") :] for command in commands]
    again = [["--out", "a run", "--resume"]] * (len(commands) - 1)
    assert tried == [["--out", "a run"], *again]
    assert len(waited) == len(commands) - 1


def test_it_waits_twice_as_long_while_nothing_is_saved(calls, tmp_path, monkeypatch):
    steps = iter([{4: 0}, {4: 0}, {4: 0}, {8: 0}])
    monkeypatch.setattr(supervisor.CheckpointFolder, "steps", lambda folder: next(steps))
    _, _, waited = calls([9] * 5, "train", "--ranks=2", "--out=r", "--max-restarts=4")
    assert waited == [1.0, 2.0, 4.0, 1.0]


@pytest.mark.parametrize(("code", "last"), [(9, 130), (15, 130), (143, 143), (0, 0)])
def test_a_stop_that_was_asked_for_is_no_crash(monkeypatch, code, last):
    commands = []
    monkeypatch.setattr(supervisor, "_run", lambda c, **how: commands.append(c) or (code, True))
    with pytest.raises(SystemExit) as ended:
        main(["train", "--max-restarts", "3", "--out", "r"])
    assert (ended.value.code, len(commands)) == (last, 1)


def test_one_process_is_supervised_without_a_launcher(monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(supervisor, "_run", lambda c, **how: commands.append(c) or (0, False))
    with pytest.raises(SystemExit) as ended:
        main(["train", "--max-restarts", "1", "--resume", "--out", "r"])
    assert ended.value.code == 0
    [command] = commands
    assert command[0] == sys.executable
    assert command[-3:] == ["--out", "r", "--resume"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--launcher=x"], "--launcher starts the processes of --ranks: add --ranks N"),
        (["--ranks=2", "--sweep=auto"], "a sweep has its processes by sweep.parallel"),
        (["--max-restarts=2", "--resume"], "to resume, name the run folder: add --out DIR"),
        (["--ranks=2", "--launcher=no-such-program x"], "there is no program 'no-such-program'"),
        (["--ranks=0"], "0 is not in the range x>=1"),
    ],
)
def test_what_cannot_be_started_is_refused(xpnet, words, says):
    pytest.importorskip("mpi4py", reason="mpi4py connects the ranks")
    code, out, err = xpnet("train", *words)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_what_is_not_installed_is_named(xpnet, monkeypatch):
    monkeypatch.setattr(launching.shutil, "which", lambda *where, **path: None)
    monkeypatch.setattr(launching.importlib.util, "find_spec", lambda name: True)
    code, _, err = xpnet("train", "--ranks=2")
    assert (code, "pip install mpich, or name what starts ranks" in err) == (2, True)
    monkeypatch.setattr(launching.importlib.util, "find_spec", lambda name: None)
    code, _, err = xpnet("train", "--ranks=2")
    assert (code, "--ranks needs mpi4py, and an MPI: pip install 'mpi4py" in err) == (2, True)


# What waits for signals, and says which ones came.
WAITING = """
import signal, sys, time
got = []
def handle(number, frame):
    got.append(number)
    open(sys.argv[1] + str(len(got)), "w").close()
for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
    signal.signal(getattr(signal, name), handle)
open(sys.argv[1] + "0", "w").close()
end = time.monotonic() + 30
while len(got) < int(sys.argv[2]) and time.monotonic() < end:
    time.sleep(0.01)
print(*[signal.Signals(n).name for n in got], file=open(sys.argv[1], "w"))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("sent", "ranks", "got"),
    [
        (["SIGINT"], False, "SIGINT"),
        (["SIGTERM"], False, "SIGTERM"),
        (["SIGHUP"], False, "SIGTERM"),
        (["SIGINT", "SIGINT"], True, "SIGUSR1 SIGINT"),
        (["SIGHUP", "SIGTERM"], True, "SIGUSR1 SIGTERM"),
    ],
)
def test_a_signal_is_handed_on_and_ends_the_supervision(tmp_path, sent, ranks, got):
    before = signal.getsignal(signal.SIGINT)

    def send():
        for n, name in enumerate(sent):
            while not (tmp_path / f"got{n}").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), getattr(signal, name))

    threading.Thread(target=send).start()
    command = [sys.executable, "-S", "-c", WAITING, str(tmp_path / "got"), str(len(sent))]
    assert supervisor._run(command, ranks=ranks) == (0, True)
    assert (tmp_path / "got").read_text().split() == got.split()
    assert signal.getsignal(signal.SIGINT) is before


def test_what_cannot_be_run_is_said(tmp_path):
    from xpnet.errors import BackendError

    with pytest.raises(BackendError, match=r"cannot start .*: Permission denied"):
        supervisor._run([str(tmp_path)])


# --------------------------------------------------------------------------- under a launcher


@pytest.fixture(params=[variables[1:] for variables in launcher.VARIABLES], ids=lambda v: v[0])
def started(request, monkeypatch):
    """Start this process as one of three ranks, with no MPI to connect them."""
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    rank, size = request.param

    def start(number):
        monkeypatch.setenv(rank, str(number))
        monkeypatch.setenv(size, "3")

    return start


@pytest.mark.parametrize(
    "words",
    [["evaluate", "r"], ["backends"], ["train", "--sweep=auto"], ["train", "--ranks=3"]],
    ids=lambda words: words[-1],
)
def test_what_is_for_one_process_is_refused_once_under_a_launcher(xpnet, started, words):
    for rank in (0, 1, 2):
        started(rank)
        code, out, err = xpnet(*words)
        assert (code, out) == (2, "")
        assert err.count("\n") == (rank == 0)
        assert rank or "has started 3 processes" in err


def test_a_training_says_what_connects_ranks(xpnet, started):
    for rank in (0, 1):
        started(rank)
        code, out, err = xpnet("train", "--epochs=1")
        assert (code, out) == (2, "")
        assert err.count("\n") == (rank == 0)
        assert rank or "to train together they need mpi4py and an MPI" in err


def test_a_launcher_of_one_process_changes_nothing(xpnet, monkeypatch, tmp_path):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "1")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    out = tmp_path / "run"
    quick = ("--step=portable", "--set=model.hidden=[4]", "--set=report=false")
    code, said, _ = xpnet("train", "--epochs=1", *quick, "--out", out)
    assert (code, "ranks" in said) == (0, False)
    assert "ranks" not in json.loads((out / "run.json").read_text())
