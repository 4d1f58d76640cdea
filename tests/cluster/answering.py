"""A `motley run` over a cluster, once it answers."""

import os
import re
import subprocess


def a_node_of(head: subprocess.Popen[bytes], own: str = "a") -> tuple[bytes, str]:
    """The first byte of its answer, and a node that it uses beside its own. What follows stays in its pipes, for
    `communicate`, which does not know what a buffered reader has taken: so byte by byte, past any buffer."""
    assert head.stdout
    assert head.stderr
    told = b""
    while not (b"the model is on" in told and told.endswith(b"\n")):
        byte = os.read(head.stderr.fileno(), 1)
        assert byte, told
        told += byte
    first = os.read(head.stdout.fileno(), 1)
    used = re.search(rb"the model is on (.*)", told)
    assert used
    return first, next(name for name in used[1].decode().split(", ") if name != own)
