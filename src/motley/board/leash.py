"""`python -m motley.board.leash COMMAND...`: runs a command that ends when whoever started it ends.

The starter holds the other end of standard input: when that closes, by whatever kind of death, the command's process
group gets SIGTERM, and SIGKILL if that does not help. No run outlives its runner and disturbs the next one.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys

GRACE_S = 10.0
_LOOK_S = 0.2


def run(command: list[str]) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # the starter's end decides, not who else is told to end
        signal.signal(number, signal.SIG_IGN)
    while child.poll() is None:
        readable, _, _ = select.select([0], [], [], _LOOK_S)
        if readable and not os.read(0, 1024):
            return _end(child)
    return child.returncode


def _end(child: "subprocess.Popen[bytes]") -> int:
    _signal(child, signal.SIGTERM)
    try:
        return child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        _signal(child, signal.SIGKILL)
        return child.wait()


def _signal(child: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    status = run(sys.argv[1:])
    sys.exit(128 - status if status < 0 else status)
