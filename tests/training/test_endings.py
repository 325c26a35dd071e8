"""What may come to an end around a training: its output, its terminal, its folder, its patience."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from xpnet import Dense, Trainer
from xpnet.cli.streams import TolerantStream
from xpnet.run import load
from xpnet.storage import CheckpointFolder, History
from xpnet.training.callbacks import Callback, HistoryFile, StopOnSignal
from xpnet.training.checkpointing import Checkpointing
from xpnet.training.signals import SIGNALS, Signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs the signals and devices of POSIX")

SETTINGS = ("epochs=12", "model.hidden=[8]", "backend=numpy", "checkpoint.every_steps=3")
COMMAND = [sys.executable, "-m", "xpnet", "train", "digits"]
COMMAND += [word for setting in SETTINGS for word in ("--set", setting)]


def started(out, *extra, **options):
    return subprocess.Popen([*COMMAND, "--out", str(out), *extra], text=True, **options)


def ended(out):
    """The last weights of a run that has come to its end."""
    assert json.loads((out / "run.json").read_text())["status"] == "finished"
    return {k: v.tobytes() for k, v in load(out, which="last").checkpoint.tensors.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    started(out, "--quiet", stdout=subprocess.DEVNULL).wait()
    return ended(out)


def trainer_and_data(rows=12):
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    return Trainer([Dense(2)], backend="numpy", batch_size=4), (x, y)


# ------------------------------------------------------------------------------ standard output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.long
def test_a_full_disk_under_the_log_is_reported_once_and_ends_no_training(tmp_path, whole):
    with open("/dev/full", "w") as full:
        child = started(tmp_path / "run", stdout=full, stderr=subprocess.PIPE)
        _, err = child.communicate()
    assert child.returncode == 0
    assert err == "cannot write to standard output: No space left on device; training continues\n"
    assert ended(tmp_path / "run") == whole


@pytest.mark.long
def test_a_reader_that_goes_away_ends_no_training(tmp_path, whole):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = started(tmp_path / "run", **pipes)
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == ""
    child.stderr.close()
    assert child.wait() == 0
    assert ended(tmp_path / "run") == whole


@pytest.mark.long
def test_closed_standard_streams_are_no_fault(tmp_path, whole):
    command = 'exec "$0" "$@" <&- >&- 2>&-'
    script = ["sh", "-c", command, *COMMAND, "--out", str(tmp_path / "run")]
    assert subprocess.run(script, check=False).returncode == 0
    assert ended(tmp_path / "run") == whole


def test_output_is_tried_again_after_it_failed(tmp_path):
    reported = []
    with open(tmp_path / "log", "w", encoding="ascii") as file:
        steady = TolerantStream(file, reported.append)
        steady.write("one \N{GREEK SMALL LETTER ALPHA}\n")
        write, room = steady._raw, iter([OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "gone")])

        class Full:
            def write(self, data):
                raise next(room)

        steady._raw = Full()
        steady.write("two\n")
        steady.write("three\n")
        steady._raw = write
        steady.write("four\n")
    assert (tmp_path / "log").read_text() == "one \\u03b1\nfour\n"
    assert [error.errno for error in reported] == [errno.ENOSPC]


# -------------------------------------------------------------------------------------- signals


@pytest.mark.long
def test_a_closed_terminal_saves_and_the_resumed_run_ends_with_the_same_bits(tmp_path, whole):
    master, slave = os.openpty()
    child = started(tmp_path / "run", stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    while not (tmp_path / "run" / "history.jsonl").exists():
        os.read(master, 1000)
    os.close(master)
    child.send_signal(signal.SIGHUP)  # as the kernel sends it to the session of a terminal
    assert child.wait() in (0, 130)
    if child.returncode == 130:
        status = json.loads((tmp_path / "run" / "run.json").read_text())["status"]
        assert status == "interrupted by SIGHUP"
    started(tmp_path / "run", "--resume", "--quiet", stdout=subprocess.DEVNULL).wait()
    assert ended(tmp_path / "run") == whole


@pytest.mark.long
def test_signals_that_are_ignored_stay_ignored(tmp_path, whole):
    """As below `nohup` and in the background of a script."""
    command = 'trap "" HUP INT; exec "$0" "$@"'
    script = ["sh", "-c", command, *COMMAND, "--out", str(tmp_path / "run")]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if line.startswith("epoch  3/"):
                child.send_signal(signal.SIGHUP)
                child.send_signal(signal.SIGINT)
    assert child.returncode == 0
    assert ended(tmp_path / "run") == whole


@pytest.mark.long
def test_the_same_signal_sent_twice_at_once_is_one(tmp_path, whole):
    """As `timeout` does, to the process and then to its group."""
    child = started(tmp_path / "run", stdout=subprocess.PIPE)
    for line in child.stdout:
        if line.startswith("epoch  3/"):
            for _ in range(5):
                child.send_signal(signal.SIGTERM)
            break
    child.communicate()
    assert child.returncode in (0, 130)
    started(tmp_path / "run", "--resume", "--quiet", stdout=subprocess.DEVNULL).wait()
    assert ended(tmp_path / "run") == whole


class OnEpoch(Callback):
    def __init__(self, act):
        self.act = act

    def on_epoch_end(self, trainer, record):
        if trainer.position.epoch == 2:
            self.act(trainer)


def test_a_signal_during_the_validation_stops_after_it(tmp_path):
    trainer, data = trainer_and_data()
    folder = CheckpointFolder(tmp_path)
    callbacks = [
        OnEpoch(lambda trainer: os.kill(os.getpid(), signal.SIGTERM)),
        Checkpointing(folder),
        StopOnSignal(),
    ]
    before = signal.getsignal(signal.SIGTERM)
    trainer.fit(data, epochs=9, validation=data, callbacks=callbacks)
    assert trainer.stopped == "interrupted by SIGTERM"
    assert tuple(trainer.position) == (2, 0, 6)
    assert folder.newest().meta["position"]["step"] == 6
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no SIGUSR1")
@pytest.mark.parametrize("size", ["1", "2"])
def test_one_of_several_ranks_is_asked_by_sigusr1_too(monkeypatch, size):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", size)
    others, signals = [], Signals()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: others.append(number))
    try:
        signals.begin()
        os.kill(os.getpid(), signal.SIGUSR1)
        signals.end()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (signals.received, len(others)) == ((signal.SIGUSR1, 0) if size == "2" else (None, 1))


def test_where_no_thread_can_be_started_the_signals_stay_as_they_were(monkeypatch):
    def start(self):
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr("threading.Thread.start", start)
    handlers = [signal.getsignal(s) for s in SIGNALS]
    closed = []
    close = os.close
    monkeypatch.setattr("os.close", lambda file: closed.append(file) or close(file))
    with pytest.raises(RuntimeError, match="new thread"):
        Signals().begin()
    assert [signal.getsignal(s) for s in SIGNALS] == handlers
    assert signal.set_wakeup_fd(-1) == -1
    assert len(set(closed)) == 2  # both ends of the pipe


def test_a_second_signal_ends_a_process_that_is_deep_in_one_instruction():
    script = """
import ctypes, os, signal, threading, time
from xpnet.training.signals import Signals
def twice():
    for _ in range(2):
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=twice).start()
signals = Signals()
signals.begin()
print("busy", flush=True)
libc = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(64)
libc.pthread_mutex_init(mutex, None)
libc.pthread_mutex_lock(mutex)
libc.pthread_mutex_lock(mutex)  # waits for ever, in C, whatever signals come
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - began < 30


# --------------------------------------------------------------------------------- the run folder


def test_a_run_folder_that_is_taken_away_is_told_and_not_made_again(tmp_path):
    trainer, data = trainer_and_data()
    run, said = tmp_path / "run", []
    saving = Checkpointing(CheckpointFolder(run / "checkpoints"), report=said.append)
    history = HistoryFile(run / "history.jsonl", said.append)
    taken = OnEpoch(lambda trainer: shutil.move(run, tmp_path / "elsewhere"))
    trainer.fit(data, epochs=3, validation=data, callbacks=[taken, history, saving])
    assert not run.exists()
    assert sum("checkpoint not saved, training continues" in line for line in said) >= 2
    assert sum("history not written, training continues" in line for line in said) >= 2
    assert saving.failure
    assert history.failure
    assert (
        CheckpointFolder(tmp_path / "elsewhere" / "checkpoints").newest().meta["position"]["epoch"]
        == 1
    )


def test_a_history_that_is_taken_away_is_written_anew(tmp_path):
    trainer, data = trainer_and_data()
    history = HistoryFile(tmp_path / "history.jsonl")
    taken = OnEpoch(lambda trainer: history.history.path.unlink())
    trainer.fit(data, epochs=3, callbacks=[taken, history])
    assert [r["epoch"] for r in History(history.history.path).read()] == [1, 2, 3]
