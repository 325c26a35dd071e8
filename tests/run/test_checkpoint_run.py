"""What surrounds the checkpoints in a run folder: durable writes, the lock, the history."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from xpnet.errors import CheckpointError
from xpnet.storage import (
    CheckpointFolder,
    History,
    RunLock,
    atomic_write_text,
    durable,
    lock,
    preflight,
)

resource = pytest.importorskip("resource", reason="limits on files are POSIX")
fcntl = pytest.importorskip("fcntl", reason="locks on files are POSIX")


@contextmanager
def files_limited_to(size):
    """A real failure of write(2), for root too, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def failing(code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    return fail


def python(script, *arguments, **options):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


# -------------------------------------------------------------------------------- durable writes


def test_text_is_replaced_whole(tmp_path):
    path = tmp_path / "config.toml"
    for text in ("a = 1\n", "Ω = 'longer than before'\n", ""):
        atomic_write_text(path, text)
        assert path.read_bytes() == text.encode()
    assert os.listdir(tmp_path) == ["config.toml"]


def test_a_new_file_gets_the_ordinary_permissions(tmp_path):
    (tmp_path / "ordinary").touch()
    atomic_write_text(tmp_path / "ours", "x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, function):
    path = tmp_path / "a.json"
    atomic_write_text(path, "old")
    monkeypatch.setattr(os, function, failing(errno.ENOSPC))
    with pytest.raises(CheckpointError, match=r"cannot write .*a\.json: No space left on device"):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_interrupted_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    atomic_write_text(tmp_path / "a", "old")

    def interrupt(fd):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_content_is_flushed_before_it_is_renamed_and_the_name_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(fd):
        calls.append("folder" if os.path.isdir(f"/dev/fd/{fd}") else "file")
        fsync(fd)

    def record_replace(source, path):
        calls.append("rename")
        replace(source, path)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    atomic_write_text(tmp_path / "a", "x")
    assert calls == ["file", "rename", "folder"]


def test_the_name_of_each_new_folder_is_flushed_in_its_parent(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync

    def record(fd):
        flushed.append(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    durable.make_folder(tmp_path / "a" / "b")
    assert flushed == [tmp_path.stat().st_ino, (tmp_path / "a").stat().st_ino]


def test_a_full_disk_fails_a_save_and_keeps_the_earlier_checkpoints(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(1, {"x": np.ones(10)}, {"step": 1}, best=True)
    with files_limited_to(50_000), pytest.raises(CheckpointError, match="File too large"):
        folder.save(2, {"x": np.ones(100_000)}, {"step": 2}, best=True)
    assert sorted(os.listdir(tmp_path)) == ["best.safetensors", "step-0000000001.safetensors"]
    assert folder.newest().meta == folder.best().meta == {"step": 1}
    folder.save(2, {"x": np.ones(100_000)}, {"step": 2})  # a retry once there is space again
    assert folder.newest().meta == {"step": 2}


def test_leftovers_of_dead_writers_are_swept_and_work_in_progress_is_not(tmp_path):
    leftover = tmp_path / ".a.json.0123abcd.xpnet-tmp"
    leftover.write_text("half")
    (tmp_path / ".keep").touch()
    with durable._replacing(tmp_path / "b.json") as temporary:
        temporary.write_text("half")
        CheckpointFolder(tmp_path)
        assert temporary.exists()
        assert leftover.exists()
    CheckpointFolder(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".keep", "b.json"]
    leftover.write_text("half")
    with RunLock(tmp_path):
        assert not leftover.exists()


def test_a_folder_that_somebody_else_has_locked_is_written_to(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)  # as flock(1) does around a command
    fcntl.flock(fd, fcntl.LOCK_EX)
    atomic_write_text(tmp_path / "a", "text")
    os.close(fd)
    assert os.listdir(tmp_path) == ["a"]


def test_writes_do_without_folder_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "fcntl", None)
    folder = CheckpointFolder(tmp_path / "run")
    folder.save(1, {"x": np.ones(1)}, {}, best=True)
    assert len(os.listdir(folder.path)) == 2


def test_a_file_system_that_cannot_flush_folders_is_accepted(tmp_path, monkeypatch):
    fsync = os.fsync

    def picky_fsync(fd):
        if os.path.isdir(f"/dev/fd/{fd}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", picky_fsync)
    atomic_write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


# -------------------------------------------------------------------------------------- preflight


def test_preflight_makes_the_folder_and_leaves_it_empty(tmp_path):
    preflight(tmp_path / "a" / "b", 1000)
    assert os.listdir(tmp_path / "a" / "b") == []


def test_preflight_refuses_a_disk_that_is_too_small(tmp_path):
    with pytest.raises(CheckpointError, match=r"MB free, but .* MB are needed; free some space"):
        preflight(tmp_path, 10**18)


def test_preflight_refuses_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(CheckpointError, match=r"cannot use the folder .*run: File exists"):
        preflight(tmp_path / "run", 1)
    with pytest.raises(CheckpointError, match=r"Not a directory|File exists"):
        preflight(tmp_path / "run" / "deeper", 1)


def test_a_read_only_folder_is_refused(tmp_path):
    script = """
import os, sys
from xpnet.storage import RunLock, atomic_write_text, preflight
from xpnet.errors import CheckpointError
os.chdir(sys.argv[1])
if os.geteuid() == 0:  # root may write anywhere
    os.setuid(65534)
enter = RunLock(".").__enter__
for action in (lambda: preflight(".", 1), lambda: atomic_write_text("a", ""), enter):
    try:
        action()
    except CheckpointError as error:
        print(error)
"""
    tmp_path.chmod(0o555)
    process = python(script, tmp_path)
    said = process.communicate()[0].splitlines()
    tmp_path.chmod(0o755)
    assert said == [
        "cannot use the folder .: Permission denied",
        "cannot write a: Permission denied",
        "cannot lock run.lock: Permission denied",
    ]


def test_preflight_tells_why_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(durable.tempfile, "TemporaryFile", failing(errno.EROFS))
    with pytest.raises(CheckpointError, match="Read-only file system"):
        preflight(tmp_path, 1)


def test_preflight_takes_away_the_folder_that_it_made_for_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="are needed"):
        preflight(tmp_path / "new", 10**18)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="nothing here can take space")
def test_preflight_finds_a_quota_or_a_limit_that_the_free_space_does_not_show(tmp_path):
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from xpnet.storage import preflight\n"
        "preflight(sys.argv[1], 1, 4096)\n"
        "try: preflight(sys.argv[1], 1, 4097)\n"
        "except Exception as error: print(error)\n"
    )
    assert python(script, tmp_path).communicate()[0] == (
        f"cannot use the folder {tmp_path}: File too large\n"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes and links")
def test_what_is_written_to_is_no_pipe_and_is_reached_through_no_link(tmp_path):
    """A folder that somebody sent may have links to the files of whoever opens it."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    actions = {
        "run.lock": lambda: enter(tmp_path),
        "history.jsonl": lambda: History(tmp_path / "history.jsonl").append({}),
    }
    for name, action in actions.items():
        path = tmp_path / name
        path.symlink_to(victim)
        with pytest.raises(CheckpointError, match="symbolic links"):
            action()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(CheckpointError, match="not a regular file"):
            action()
        path.unlink()
    (tmp_path / "history.jsonl").symlink_to(victim)
    History(tmp_path / "history.jsonl").rewrite(RECORDS)
    assert not (tmp_path / "history.jsonl").is_symlink()
    assert victim.read_text() == "precious"


# ------------------------------------------------------------------------------------- the lock

HOLD = """
import sys
from xpnet.storage import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder):
    process = python(HOLD, folder, stdin=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def enter(folder):
    with RunLock(folder) as held:
        return held.taken_over


def test_a_second_training_is_refused_by_name(tmp_path):
    with holder(tmp_path) as process:
        with pytest.raises(CheckpointError) as error:
            enter(tmp_path)
        assert f"in use by pid {process.pid} on host {os.uname().nodename}" in str(error.value)
        assert "\n" not in str(error.value)
        process.communicate("")
        assert process.returncode == 0
    assert enter(tmp_path) is None


def test_the_lock_of_a_killed_training_is_taken_over_with_a_message(tmp_path):
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        taken = enter(tmp_path)
    assert taken.startswith(f"pid {process.pid} on host")
    assert taken.endswith("ended without releasing the lock")
    assert enter(tmp_path) is None


def test_one_process_cannot_hold_a_folder_twice(tmp_path):
    with RunLock(tmp_path):
        with pytest.raises(CheckpointError, match=f"pid {os.getpid()} "):
            enter(tmp_path)
        with RunLock(tmp_path / "another"):
            assert (tmp_path / "another" / "run.lock").exists()
    enter(tmp_path)


def test_an_error_in_the_block_releases_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        raise ZeroDivisionError
    assert enter(tmp_path) is None


def test_of_many_that_start_at_once_one_gets_the_lock(tmp_path):
    script = """
import sys, time
from xpnet.storage import RunLock
from xpnet.errors import CheckpointError
time.sleep(max(0, float(sys.argv[2]) - time.time()))
try:
    with RunLock(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
except CheckpointError:
    print("refused", flush=True)
"""
    start = time.time() + 1
    racers = [python(script, tmp_path, start, stdin=subprocess.PIPE) for _ in range(4)]
    assert sorted(racer.stdout.readline() for racer in racers) == ["held\n"] + ["refused\n"] * 3
    for racer in racers:
        racer.communicate("")


def write_owner(folder, **changes):
    owner = lock._this_process() | changes
    (folder / "run.lock").write_text(json.dumps(owner))


def test_without_kernel_locks_a_living_or_unknown_owner_is_respected(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "fcntl", None)
    with RunLock(tmp_path), pytest.raises(CheckpointError, match=r"or delete .*run\.lock"):
        enter(tmp_path)
    assert enter(tmp_path) is None
    write_owner(tmp_path, host="elsewhere")
    with pytest.raises(CheckpointError, match="on host elsewhere"):
        enter(tmp_path)
    for garbage in ("{", "[]", "[" * 4096, '{"pid": "1"}'):
        (tmp_path / "run.lock").write_text(garbage)
        with pytest.raises(CheckpointError, match="an unknown process"):
            enter(tmp_path)


def test_without_kernel_locks_an_owner_that_ended_is_recognised(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "fcntl", None)
    ended = python("")
    ended.communicate()
    write_owner(tmp_path, pid=ended.pid)
    assert enter(tmp_path).startswith(f"pid {ended.pid} ")


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="start times come from /proc")
def test_without_kernel_locks_a_reused_pid_is_not_taken_for_the_owner(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "fcntl", None)
    write_owner(tmp_path)
    with pytest.raises(CheckpointError, match=f"pid {os.getpid()} "):
        enter(tmp_path)
    write_owner(tmp_path, started="1")
    assert enter(tmp_path).startswith(f"pid {os.getpid()} ")


def test_a_lock_file_that_cannot_be_opened_is_explained(tmp_path):
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot lock .*run\.lock: Is a directory"):
        enter(tmp_path)


# ----------------------------------------------------------------------------------- the history

RECORDS = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "note": "a\nΩ\u2028"}, {"step": 3}]


@pytest.fixture
def history(tmp_path):
    made = History(tmp_path / "history.jsonl")
    for record in RECORDS:
        made.append(record)
    return made


def test_records_come_back_in_order(history, tmp_path):
    assert history.read() == RECORDS
    assert History(tmp_path / "absent.jsonl").read() == []


def test_non_finite_numbers_are_valid_json_and_come_back_as_numbers(history):
    history.append({"step": 4, "loss": math.nan, "by": {"max": [math.inf, -math.inf, 1.0]}})
    lines = history.path.read_text().splitlines()

    def refuse(constant):
        raise AssertionError(constant)

    raw = json.loads(lines[-1], parse_constant=refuse)
    assert raw == {"step": 4, "loss": "NaN", "by": {"max": ["Infinity", "-Infinity", 1.0]}}
    last = history.read()[-1]
    assert math.isnan(last["loss"])
    assert last["by"] == {"max": [math.inf, -math.inf, 1.0]}


def test_a_history_cut_at_any_byte_reads_as_its_whole_lines_and_grows_from_there(history):
    text = history.path.read_bytes()
    for size in range(len(text)):
        history.path.write_bytes(text[:size])
        whole = RECORDS[: text[:size].count(b"\n")]
        assert history.read() == whole
        history.append({"step": 9})
        assert history.read() == [*whole, {"step": 9}]


def test_a_resumed_run_makes_any_history_say_what_it_remembers(history):
    whole = history.path.read_bytes()
    damaged = [whole[:cut] for cut in range(len(whole))]
    damaged += [whole + b'{"step": 9}\n', b"\0" * 99, b"[]\n" + whole, whole.replace(b"1", b"2")]
    for content in damaged:
        history.path.write_bytes(content)
        history.rewrite(RECORDS)
        assert history.path.read_bytes() == whole
    history.path.unlink()
    history.rewrite(RECORDS[:1])
    assert history.read() == RECORDS[:1]
    assert os.listdir(history.path.parent) == ["history.jsonl"]


def test_a_history_that_is_right_is_left_alone_and_an_empty_one_makes_no_file(history, tmp_path):
    before = history.path.stat()
    history.rewrite(RECORDS)
    assert history.path.stat() == before
    History(tmp_path / "none.jsonl").rewrite([])
    assert os.listdir(tmp_path) == ["history.jsonl"]


@pytest.mark.parametrize("line", [b"{", b"[1]", b"\xff", b"[" * 100_000, b"a\rb"])
def test_a_damaged_line_in_the_middle_is_named(history, line):
    first, rest = history.path.read_bytes().split(b"\n", 1)
    history.path.write_bytes(first + b"\n" + line + b"\n" + rest)
    with pytest.raises(CheckpointError, match="line 2 is not a JSON object"):
        history.read()


def test_a_record_that_is_not_json_is_refused_and_nothing_is_written(history):
    with pytest.raises(CheckpointError, match="must be JSON data"):
        history.append({"loss": np.float32(1)})
    assert history.read() == RECORDS


def test_a_full_disk_fails_an_append_and_the_next_one_mends_the_line(history):
    size = history.path.stat().st_size
    with files_limited_to(size + 5), pytest.raises(CheckpointError, match="cannot append to"):
        history.append({"step": 4})
    assert history.path.stat().st_size == size + 5
    assert history.read() == RECORDS
    history.append({"step": 4})
    assert history.read() == [*RECORDS, {"step": 4}]
