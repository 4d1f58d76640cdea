"""Guest: a Linux of its own in QEMU for what takes kernel modules; its root is this machine's, read-only.

Nothing is installed in it and nothing downloaded: the kernel is one of this machine's /boot, the programs and Python
are this machine's, through 9p. Only /run is writable; the command's results are files in /run/out. Where there is no
KVM it is emulated, some ten to thirty times slower than the machine: what works in it is known, how fast is not.
"""

import functools
import gzip
import lzma
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

QEMU, BUSYBOX = "qemu-system-x86_64", Path("/bin/busybox")
PROGRAMS = {  # -> Debian's package
    QEMU: "qemu-system-x86",
    "modprobe": "kmod",
    "ip": "iproute2",
    "rdma": "iproute2",
}
FIRST_MODULES = ("virtio_pci", "9pnet_virtio", "9p")  # for the root; with that, modprobe finds the others
OUT = Path("/run/out")  # in the guest
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
$b mkdir /dev/shm; $b mount -t tmpfs shm /dev/shm
for module in $($b cat /modules/order); do $b insmod /modules/$module; done
options=trans=virtio,version=9p2000.L,msize=524288
$b mount -t 9p -o ro,cache=loose,$options root /root && $b mount -t tmpfs run /root/run || exit 1
$b mkdir /root/run/out /root/run/home /root/run/tmp && $b chmod 1777 /root/run/tmp
$b mount -t 9p -o $options out /root/run/out || exit 1
for tree in proc sys dev; do $b mount -o move /$tree /root/$tree; done
$b timeout -k 5 {limit_s} $b chroot /root /bin/sh /run/out/command
echo $? > /root/run/out/status
$b poweroff -f
"""

# The kernel calls it for modules that it finds to need, in its own root, which is the first one.
MODPROBE = """#!/bin/busybox sh
exec /bin/busybox chroot /root /sbin/modprobe "$@"
"""


@dataclass(frozen=True)
class Kernel:
    image: Path
    modules: Path  # /lib/modules/VERSION


@dataclass(frozen=True)
class Outcome:
    status: int | None  # of the command; None: the guest ended, or was ended, before it
    console: str


def why_not() -> str:
    """What is missing to start one, and how to get it; "" if nothing is."""
    missing = {package for program, package in PROGRAMS.items() if not _program(program)}
    if not _is_static(BUSYBOX):
        missing.add("busybox-static")
    if kernel() is None:
        missing.add("linux-image-amd64")
    if not missing:
        return ""
    return f"the guest needs what is not here: apt install --no-install-recommends {' '.join(sorted(missing))}"


@functools.cache
def kernel() -> Kernel | None:
    """The newest of /boot that has soft-RoCE and that may be read."""
    found = []
    for modules in Path("/lib/modules").glob("*"):
        image = Path("/boot") / f"vmlinuz-{modules.name}"
        if os.access(image, os.R_OK) and any((modules / "kernel/drivers/infiniband/sw/rxe").glob("rdma_rxe.ko*")):
            found.append(Kernel(image, modules))
    return max(found, key=lambda kernel: kernel.image.stat().st_mtime, default=None)


def run(words: Sequence[str], out: Path, limit_s: int, variables: Mapping[str, str] | None = None) -> Outcome:
    """`words` in the guest, as root; `out` (an empty folder) is its /run/out. It is gone when this returns: at the
    latest after limit_s, or when this process is interrupted. Should this process be killed, the guest's own limit
    ends it."""
    chosen = kernel()
    assert chosen, why_not()
    initramfs = out / "initramfs"
    initramfs.write_bytes(_initramfs(chosen, limit_s))
    (out / "command").write_text(_script(words, variables or {}))
    command = _qemu(chosen, initramfs, out)
    with (out / "console").open("wb") as console:
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT)
        try:
            machine.wait(limit_s + 60)  # to start and to end
        except subprocess.TimeoutExpired:
            pass
        finally:
            machine.kill()
            machine.wait()
    status = out / "status"
    text = (out / "console").read_text(errors="replace")
    return Outcome(int(status.read_text()) if status.exists() else None, text)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _is_static(program: Path) -> bool:
    """No interpreter is named in its first page, where the headers of a program are."""
    return program.exists() and b"/ld-linux" not in program.read_bytes()[:4096]


def _script(words: Sequence[str], variables: Mapping[str, str]) -> str:
    given = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/run/home", "TMPDIR": "/run/tmp", **variables}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in given.items())
    return f"{exports}exec {shlex.join(words)}\n"


def _qemu(chosen: Kernel, initramfs: Path, out: Path) -> list[str]:
    share = "local,id={0},path={1},security_model=none,multidevs=remap{2}"
    return [
        *(QEMU, "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"),
        *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3G"),
        *("-kernel", str(chosen.image), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 quiet panic=-1"),  # -1: at once, and -no-reboot ends it
        *("-fsdev", share.format("root", "/", ",readonly=on"), "-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
        *("-fsdev", share.format("out", out, ""), "-device", "virtio-9p-pci,fsdev=out,mount_tag=out"),
    ]


def _initramfs(chosen: Kernel, limit_s: int) -> bytes:
    modules = list(_modules(chosen))
    folders = dict.fromkeys(("bin", "sbin", "modules", "proc", "sys", "dev", "root"), b"")
    files = {
        "init": INIT.format(limit_s=limit_s).encode(),
        "sbin/modprobe": MODPROBE.encode(),
        "bin/busybox": BUSYBOX.read_bytes(),
        "modules/order": "\n".join(name for name, _ in modules).encode(),
        **{f"modules/{name}": content for name, content in modules},
    }
    entries = [_entry(name, 0o040755, content) for name, content in folders.items()]
    entries += [_entry(name, 0o100755, content) for name, content in files.items()]
    return b"".join([*entries, _entry("TRAILER!!!", 0, b"")])


def _entry(name: str, mode: int, content: bytes) -> bytes:
    """Of a cpio archive ("newc"; Documentation/driver-api/early-userspace/buffer-format.rst of Linux)."""
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name.encode() + b"\0"
    return _padded(head) + _padded(content)


def _padded(part: bytes) -> bytes:
    return part + bytes(-len(part) % 4)


def _modules(chosen: Kernel) -> Iterator[tuple[str, bytes]]:
    """(name, content) of FIRST_MODULES and what they need, in the order in which they load. What is built into the
    kernel is in no file."""
    needs = {}
    for line in (chosen.modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    of_name = {Path(path).name.partition(".")[0].replace("-", "_"): path for path in needs}
    done = set()
    for name in FIRST_MODULES:
        if name not in of_name:
            continue
        for path in [*reversed(needs[of_name[name]]), of_name[name]]:
            if path not in done:
                done.add(path)
                yield Path(path).name.partition(".")[0], _unpacked(chosen.modules / path)


def _unpacked(module: Path) -> bytes:
    content = module.read_bytes()
    match module.suffix:
        case ".xz":
            return lzma.decompress(content)
        case ".gz":
            return gzip.decompress(content)
        case ".zst":
            return subprocess.run(["zstd", "-dc", module], check=True, capture_output=True).stdout
    return content
