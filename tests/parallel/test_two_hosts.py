"""Two network namespaces as two hosts: what is between them is a cable, which can be pulled.

Each has its own numbers of processes, and its own shared memory, as well: MPI would take that of a
process of the other one if it saw it.
"""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from xpnet.storage import CheckpointFolder

pytest.importorskip("mpi4py", reason="needs MPI")
pytestmark = pytest.mark.long

ADDRESSES = ("10.97.0.1", "10.97.0.2")
# As ssh is called, with a host and a command in words for a shell.
LAUNCH = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift
exec ip netns exec "NAME-$host" UNSHARE sh -c "$*"
"""
UNSHARE = "unshare --ipc --pid --uts --fork --mount-proc --kill-child"
MORE = ("--set=epochs=3", "--set=dtype=float64", "--set=report=false", "--set=tracking.norms=false")


def ip(*words):
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=10)
    return done.stdout


class Hosts:
    def __init__(self, folder):
        self.name, self.mpiexec = f"xpnet{os.getpid()}", shutil.which("mpiexec")
        self.launcher = folder / "launch"
        self.launcher.write_text(LAUNCH.replace("NAME", self.name).replace("UNSHARE", UNSHARE))
        self.launcher.chmod(0o755)

    def connect(self):
        ends = [f"{self.name}-{a}" for a in ADDRESSES]
        for end in ends:
            ip("netns", "add", end)
            ip("-n", end, "link", "set", "lo", "up")
        a, b = ends
        ip("-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b)
        for end, address in zip(ends, ADDRESSES, strict=True):
            ip("-n", end, "addr", "add", f"{address}/24", "dev", "cable")
            ip("-n", end, "link", "set", "cable", "up")

        deadline = time.monotonic() + 10
        while not all(" UP " in ip("-n", end, "-br", "link", "show", "cable") for end in ends):
            assert time.monotonic() < deadline, "the cable carries nothing after 10 s"
            time.sleep(0.05)

    def disconnect(self):
        for address in ADDRESSES:
            subprocess.run(
                ["ip", "netns", "del", f"{self.name}-{address}"], check=False, capture_output=True
            )

    def pull(self):
        ip("-n", f"{self.name}-{ADDRESSES[1]}", "link", "set", "cable", "down")

    def start(self, out, *more):
        """Start two ranks on each host that train the digits into ``out``."""
        command = ["ip", "netns", "exec", f"{self.name}-{ADDRESSES[0]}", *UNSHARE.split()]
        command += [self.mpiexec]
        command += ["-launcher", "ssh", "-launcher-exec", str(self.launcher)]
        command += ["-hosts", ",".join(ADDRESSES), "-n", "4", "-ppn", "2"]
        command += [sys.executable, "-m", "xpnet", "train", "--out", str(out), *MORE, *more]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def hosts(tmp_path):
    missing = [name for name in ("mpiexec", "ip", "unshare") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip("namespaces need root, and MPICH's mpiexec, ip and unshare")
    made = Hosts(tmp_path)
    try:
        try:
            made.connect()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield made
    finally:
        made.disconnect()


def finished(process, seconds=60):
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out = process.communicate()[0]
        pytest.fail(f"still running after {seconds} s: {out}")


def losses(folder):
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_two_hosts_train_as_one_process_does(hosts, tmp_path):
    process = hosts.start(tmp_path / "two")
    out = finished(process)
    assert process.returncode == 0, out
    assert "4 ranks on 2 hosts" in out, out
    alone = [sys.executable, "-m", "xpnet", "train", "--out", str(tmp_path / "one"), *MORE]
    subprocess.run(alone, check=True, capture_output=True, timeout=60)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-12)


def test_a_cable_that_is_pulled_ends_the_job(hosts, tmp_path):
    out = tmp_path / "run"
    often = ("--set=epochs=100000", "--set=checkpoint.min_seconds=0")
    process = hosts.start(out, *often, "--set=parallel.timeout=3")
    saved, deadline = CheckpointFolder(out / "checkpoints"), time.monotonic() + 60
    while not saved.path.exists() or saved.newest() is None:
        assert time.monotonic() < deadline, "no checkpoint in 60 s"
        time.sleep(0.1)
    hosts.pull()
    began = time.monotonic()
    said = finished(process, 40)
    assert process.returncode != 0, said
    assert "has waited" in said, said
    assert time.monotonic() - began < 30
    assert saved.newest() is not None
