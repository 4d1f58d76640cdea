"""Machines of a joined cluster as processes, each with a folder of its own, by the commands that a person types."""

import os
import subprocess
import sys
import time
from pathlib import Path

NODE = [sys.executable, "-m", "motley"]


class Machines:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def say(self, machine: str, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*NODE, *words], env=self._env(machine), capture_output=True, text=True, timeout=120)

    def popen(self, machine: str, *words: str) -> "subprocess.Popen[bytes]":
        pipe = subprocess.PIPE
        return subprocess.Popen([*NODE, *words], env=self._env(machine), stdout=pipe, stderr=pipe)

    def start(self, machine: str, *words: str) -> None:
        log = (self.folder / f"{machine}.log").open("wb")
        self.nodes[machine] = subprocess.Popen([*NODE, "node", *words], env=self._env(machine), stdout=log, stderr=log)

    def told(self, machine: str) -> str:
        return (self.folder / f"{machine}.log").read_text()

    def _env(self, machine: str) -> dict[str, str]:
        return {**os.environ, "MOTLEY_DATA": str(self.folder / machine)}


def await_words(machines: Machines, machine: str, words: str) -> None:
    deadline = time.monotonic() + 30
    while words not in machines.told(machine):
        assert machines.nodes[machine].poll() is None, machines.told(machine)
        assert time.monotonic() < deadline, machines.told(machine)
        time.sleep(0.05)
