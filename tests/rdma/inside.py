"""What runs in the guest, as root: soft-RoCE on a virtual cable, and Motley over it. `test_soft_roce` starts it.

It judges nothing: each step leaves what it found in /run/out/found.json under its name, and what ended it as "failed".
eth0, one end of the cable (veth), carries rxe0. Both nodes are processes of this machine and meet at eth0's address, so
each packet is made, checked and acknowledged by rxe0, and turned around inside it: none leaves through the cable.

Every command of Motley's is a process of its own, forked from this one, which has imported all of it: under emulation
that alone takes a process ten seconds. For the same reason MPI gets more time than on a machine, and nodes say of
themselves what nobody measured: one figure alone took longer than the minute that a head waits for it.
"""

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import motley.cli.bench
import motley.cli.cluster
import motley.cli.doctor
import motley.cli.node  # noqa: F401  # all of them before the first fork
from motley.cli import session
from motley.cli.main import main as motley_main
from motley.cluster import agreed, choice, mpi_process
from motley.doctor import memory, rdma
from motley.doctor.system import System
from motley.errors import ClusterError

OUT, DATA = Path("/run/out"), Path("/run/home")
HOST = "10.9.0.1"
MEMORY = "112MB"  # of each node: none holds the bundled model alone
MPI = ("--cluster", "--link", "mpi")
PORT = Path("/sys/class/infiniband/rxe0/ports/1")
PATIENCE_S = 200.0


class NoMeter:
    """For `ops.meter.NativeMeter`: all figures are 1, but for the wait behind a device, which a processor has not."""

    def __init__(self, *_: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., float]:
        return lambda *_: float(name != "step_us")


def main() -> None:
    found: dict[str, Any] = {}
    mpi_process.START_S = agreed.BUSY_S = choice.PROOF_S = PATIENCE_S
    mpi_process.CONNECT_S = 60
    mpi_process.MpiProcess.proof_s = PATIENCE_S
    session.NativeMeter = NoMeter  # type: ignore[assignment,misc]
    try:
        for step in (no_device, device, memlock):
            found[step.__name__] = timed(step)
        with cluster() as found["nodes"]:
            for step in (doctor, bench):
                before = packets()
                found[step.__name__] = timed(step)
                found[step.__name__]["packets"] = packets() - before
    except BaseException:
        found["failed"] = traceback.format_exc()
        raise
    finally:
        (OUT / "found.json").write_text(json.dumps(found, indent=1))


def timed(step: Callable[[], Any]) -> Any:
    began = time.monotonic()
    found = step()
    print(f"{step.__name__}: {time.monotonic() - began:.1f} s", flush=True)
    return found


def no_device() -> dict[str, str]:
    return findings()


def device() -> dict[str, dict[str, str]]:
    """What the doctor says at each stage of its making."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    run("modprobe", "rdma_rxe")
    run("rdma", "link", "add", "rxe0", "type", "rxe", "netdev", "eth0")
    said = {"down": findings()}
    run("ip", "link", "set", "eth0", "up")
    run("ip", "link", "set", "eth1", "up")
    run("ip", "addr", "add", f"{HOST}/24", "dev", "eth0")
    await_that(lambda: "ACTIVE" in read(PORT / "state") and "v2" in read(PORT / "gid_attrs/types/1"))
    said["small packets"] = findings()
    run("ip", "link", "set", "eth0", "mtu", "9000")
    run("ip", "link", "set", "eth1", "mtu", "9000")
    said["ready"] = findings()
    return said


def memlock() -> dict[str, str]:
    """With the 8 MB that Debian gives to users: as root, whom the kernel holds to no limit, and as somebody else."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
    told, tell = os.pipe()
    process = os.fork()
    if not process:
        os.setuid(65534)
        try:
            agreed.started("mpi")
        except ClusterError as error:
            os.write(tell, json.dumps([locked(), str(error)]).encode())
        os._exit(0)
    os.close(tell)
    assert status_of(process) == 0
    doctor, mpi = json.loads(os.read(told, 4000))
    return {"root": locked(), "somebody": doctor, "mpi": mpi}


def locked() -> str:
    return next(f"{x.severity}: {x.sentence}" for x in memory.check(System()) if x.code == "MEMLOCK")


@contextlib.contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Two joined nodes; a's process is the cluster's first, and a is where the head's commands are said."""
    token = re.search(r"motley1-\S+", said("a", "cluster", "init", "--name", "a", "--host", HOST))
    assert token
    node = ("node", "--link", "mpi", "--threads", "1", "--memory", MEMORY)
    logs = {"a": start("a", *node)}
    await_that(lambda: "listens on" in read(log_of("a")))
    logs["b"] = start("b", *node, "--name", "b", "--join", token[0])
    await_that(lambda: "listens on" in read(log_of("b")))
    told: dict[str, str] = {}
    try:
        yield told
    finally:
        for process in logs.values():
            os.kill(process, signal.SIGTERM)
        for name, process in logs.items():
            told[name] = f"{read(log_of(name))}\nstatus {status_of(process)}"


def doctor() -> dict[str, Any]:
    text = said("a", "doctor", *MPI, "--json", str(OUT / "doctor.json"), fine=(0, 1))
    return {"text": text, "found": json.loads((OUT / "doctor.json").read_text())}


def bench() -> dict[str, Any]:
    sizes = ("--pp", "8", "--tg", "4", "--repeat", "1", "--threads", "1", "--memory", MEMORY)
    text = said("a", "bench", *MPI, *sizes, "--json", str(OUT / "bench.json"))
    return {"text": text, "result": json.loads((OUT / "bench.json").read_text())}


def said(machine: str, *words: str, fine: tuple[int, ...] = (0,)) -> str:
    """All that a command printed."""
    process = start(machine, *words, log=f"{machine}.{words[0]}")
    status, text = status_of(process), read(log_of(f"{machine}.{words[0]}"))
    assert status in fine, f"motley {' '.join(words)}: status {status}\n{text}"
    return text


def start(machine: str, *words: str, log: str = "") -> int:
    """A command as a process of its own: its id."""
    sys.stdout.flush()
    if process := os.fork():
        return process
    try:
        os.environ.update(MOTLEY_DATA=str(DATA / machine), MOTLEY_CACHE=str(DATA / machine / "cache"))
        text = os.open(log_of(log or machine), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(text, 1)
        os.dup2(text, 2)
        status = motley_main(words)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    finally:
        traceback.print_exc()
        os._exit(99)


def status_of(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def log_of(name: str) -> Path:
    return OUT / f"{name}.log"


def findings() -> dict[str, str]:
    """Code -> severity and sentence, of what the doctor says of RDMA on this machine."""
    system = System()
    found = [x for part in (memory, rdma) for x in part.check(system)]
    return {x.code: f"{x.severity}: {x.sentence}" for x in found if x.code not in ("MEMORY-LOW", "HUGE-PAGES")}


def packets() -> int:
    """Sent by rxe0 so far."""
    time.sleep(0.1)  # the kernel keeps what it told for a while (`lifespan`, 12 ms)
    return int(read(PORT / "hw_counters/sent_pkts"))


def run(*words: str) -> None:
    subprocess.run(words, check=True)


def read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def await_that(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


if __name__ == "__main__":
    main()
