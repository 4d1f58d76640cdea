"""This process's MPI: started when it is first needed, never finalised, and how other processes are reached through it
(`agreed`).

Two ways. A world that a site's `srun` or `mpiexec` gave (`given`) is used as it is. Any two other processes, started by
anything, connect: one opens a port, whose name travels over an authenticated link, the other calls it.

Threads: MPI_THREAD_MULTIPLE. Each link is looked at by the thread that uses it, as a socket is; a thread for progress
alone would hand every frame over to another, which costs more than the exchange itself. MPI is never finalised, and no
communicator freed: both may wait for processes that are gone.
"""

import importlib.util
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec

from motley.cluster.agreed import Facts, Means, Transport, read
from motley.cluster.mpi_link import MpiLink, last_line
from motley.cluster.tcp_link import TcpLink
from motley.errors import ClusterError, LinkError

START_S = 20.0
CONNECT_S = 5  # whole seconds: MPICH's own unit
REMEDY = "pip install 'motley-moe[rdma]' on each machine"
# UCX's shared memory: a process that is killed while it sends ends its reader (CMA) or stops all of the reader's
# other links (its queue). Processes of one machine have the `local` link.
NOT_IN_MEMORY = "^sm"
# UCX sends half of a large message by TCP beside the card where it takes the two for about as fast (seen on soft-RoCE).
ONE_RAIL = "1"
# UCX locks some 10 MB for each purpose, and all large messages. Where that is refused it does not fail but asks again,
# without end and without a word to MPI (seen on soft-RoCE with 8 MB, which is what Debian gives to users).
LOCKED_BYTES = 1 << 30  # as `motley doctor` has it (MEMLOCK)
CAP_IPC_LOCK = 1 << 14  # linux/capability.h: who has it is held to no limit
VERBS = Path("/dev/infiniband")
LAUNCHERS = ("PMI_RANK", "PMIX_RANK", "SLURM_PROCID")  # srun and mpiexec set one of them in what they start
REHEARSAL = """
import mpi4py
mpi4py.rc.initialize = mpi4py.rc.finalize = False
from mpi4py import MPI
MPI.Init_thread(MPI.THREAD_MULTIPLE)
"""


class Route(NamedTuple):
    """One other process: its rank in a communicator that it shares with this one."""

    comm: Any
    rank: int


def installed() -> bool:
    """Nothing is loaded to find it out."""
    return importlib.util.find_spec("mpi4py") is not None


def given() -> bool:
    """Whether a launcher started this process as one of several."""
    return any(name in os.environ for name in LAUNCHERS)


class MpiFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    world: str
    rank: int
    port: str = ""


class MpiProcess(Means):
    """Of each process there is one: `agreed.started`."""

    transport: ClassVar[Transport] = "mpi"
    proof_s: ClassVar[float] = 5.0 + CONNECT_S  # an MPI's first message between two processes makes its own connection

    def __init__(self) -> None:
        super().__init__()
        self.mpi = mpi = _loaded()
        self.routes: dict[str, Route] = {}  # by the other's id
        self.rank: int = mpi.COMM_WORLD.Get_rank()
        self.size: int = mpi.COMM_WORLD.Get_size()
        self.world: str = mpi.COMM_WORLD.bcast(self.id) if self.size > 1 else self.id
        # MPICH numbers ports from 0, and confuses two connections that one process is making: `meeting` is held.
        self._patience = mpi.Info.Create({"timeout": str(CONNECT_S)})
        self._port = ""

    def reached(self) -> tuple[str, ...]:
        return tuple(self.routes)

    def route(self, other: str, facts: Facts) -> Route | None:
        said = read(facts, MpiFacts)
        if self.size > 1 and said.world == self.world:
            if not 0 <= said.rank < self.size:
                raise LinkError(f"there is no rank {said.rank} in a world of {self.size}")
            return Route(self.mpi.COMM_WORLD, said.rank)
        return self.routes.get(other)

    def facts(self, link: TcpLink) -> Facts:
        return msgspec.structs.asdict(MpiFacts(self.world, self.rank, self._port))

    def open(self, link: TcpLink, said: Facts) -> Facts:
        """ClusterError where this MPI can't wait for somebody and give up at some time."""
        if not self.mpi.Get_library_version().startswith("MPICH"):
            raise ClusterError("only MPICH connects processes that no launcher started together")
        self._port = str(self._translated(self.mpi.Open_port))
        return self.facts(link)

    def accept(self, other: str, said: Facts, told: Facts) -> Route:
        """Whoever calls that port, within CONNECT_S."""
        return self._met(other, self._translated(self.mpi.COMM_SELF.Accept, self._port, self._patience))

    def shut(self) -> None:
        port, self._port = self._port, ""
        self._translated(self.mpi.Close_port, port)

    def call(self, link: TcpLink, other: str, told: Facts, said: Facts) -> Route:
        return self._met(other, self._translated(self.mpi.COMM_SELF.Connect, read(said, MpiFacts).port, self._patience))

    def drop(self, route: Route) -> None:
        """Nothing of MPI's is ever ended."""

    def link(self, route: Route, tag: int, beside: TcpLink) -> MpiLink:
        return MpiLink(self.mpi, route.comm, route.rank, tag, beside)

    def _met(self, other: str, comm: Any) -> Route:
        comm.Set_errhandler(self.mpi.ERRORS_RETURN)
        self.routes[other] = route = Route(comm, 0)
        return route

    def _translated(self, work: Any, *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except self.mpi.Exception as error:
            raise ClusterError(f"MPI: {last_line(error)}") from error


def _loaded() -> Any:
    if not installed():
        raise ClusterError(f"the mpi link needs mpi4py and an MPI: {REMEDY}")
    if "UCX_TLS" not in os.environ:
        _expect_lockable()
        os.environ["UCX_TLS"] = NOT_IN_MEMORY
    os.environ.setdefault("UCX_MAX_RNDV_RAILS", ONE_RAIL)
    if not given():
        _rehearse()
    import mpi4py

    mpi4py.rc.initialize = mpi4py.rc.finalize = False
    try:
        from mpi4py import MPI

        if not MPI.Is_initialized():
            MPI.Init_thread(MPI.THREAD_MULTIPLE)
    except (ImportError, RuntimeError) as error:
        raise ClusterError(f"MPI does not start: {last_line(error)}") from error
    for comm in (MPI.COMM_WORLD, MPI.COMM_SELF):
        comm.Set_errhandler(MPI.ERRORS_RETURN)
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise ClusterError("this MPI can't be used by several threads (MPI_THREAD_MULTIPLE)")
    return MPI


def held_to_no_limit(status: str) -> bool:
    """Whether a process may lock any memory, whatever its limits say: from its /proc/PID/status."""
    privileges = re.search(r"^CapEff:\s+([0-9a-f]+)$", status, re.MULTILINE)
    return bool(privileges and int(privileges[1], 16) & CAP_IPC_LOCK)


def _expect_lockable(status: Path = Path("/proc/self/status")) -> None:
    """ClusterError where verbs would be used and can't lock what they need."""
    if not any(os.access(device, os.R_OK | os.W_OK) for device in VERBS.glob("uverbs*")):
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY or limit >= LOCKED_BYTES or held_to_no_limit(status.read_text()):
        return
    raise ClusterError(
        f"RDMA locks what it sends from, and only {limit >> 10} KiB may be locked: put `* - memlock unlimited` into "
        "/etc/security/limits.conf and log in anew, or set UCX_TLS=tcp,self to go without RDMA"
    )


def _rehearse() -> None:
    """An MPI that can't start ends its process, or hangs: let that be another's, first."""
    try:
        done = subprocess.run([sys.executable, "-c", REHEARSAL], capture_output=True, text=True, timeout=START_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"MPI does not start: {error}") from error
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise ClusterError(f"MPI does not start: {words[-1]}; {REMEDY}")
