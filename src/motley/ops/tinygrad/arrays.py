"""What the operations hand to each other: tensors whose rows are padded to a few lengths, so that few kernels are
compiled; the host's arrays as inputs of a graph; and which of them somebody still holds."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor

from motley.ops.protocol import Batch


def padded(n: int) -> int:
    """The next power of two: rows beyond the n that count hold anything finite or not, and nobody reads them."""
    return 1 << max(n - 1, 0).bit_length()


def padded_rows(values: NDArray[Any], fill: float = 0) -> NDArray[Any]:
    n = len(values)
    out = np.full((padded(n), *values.shape[1:]), fill, values.dtype)
    out[:n] = values
    return out


def remembered_rows(batch: Batch, taps: int, n_slots: int) -> tuple[NDArray[np.int32], ...]:
    """For a convolution over each token and the `taps` inputs before it, of which `taps` a slot are remembered: the
    rows each token reads [P * (taps + 1)], and where the new ones go and come from [P * taps], of slots' rows
    [(n_slots + 1) * taps], then the batch's [P], then one of zeros."""
    P = padded(len(batch))
    first = (n_slots + 1) * taps
    zeros = first + P
    reads = np.full((P, taps + 1), zeros, np.int32)
    into, left = np.full(P * taps, n_slots * taps, np.int32), np.full(P * taps, zeros, np.int32)
    latest: dict[int, list[int]] = {}  # by slot, the oldest first
    for t, (slot, position) in enumerate(zip(batch.slots.tolist(), batch.positions.tolist())):
        before = latest.get(slot, [slot * taps + i for i in range(taps)])
        window = [*([zeros] * taps if position == 0 else before), first + t]
        reads[t], latest[slot] = window, window[1:]
    for i, (slot, window) in enumerate(latest.items()):
        into[i * taps : (i + 1) * taps] = slot * taps + np.arange(taps)
        left[i * taps : (i + 1) * taps] = window
    return reads.reshape(-1), into, left


class Rows:
    """[n, W] on the device, with padded(n) rows. float64 where it says so: experts' sums."""

    __slots__ = ("__weakref__", "_tensor", "double", "n")

    def __init__(self, tensor: Tensor, n: int, double: bool = False) -> None:
        self._tensor, self.n, self.double = tensor, n, double

    @property
    def tensor(self) -> Tensor:
        return self._tensor

    @property
    def pending(self) -> Tensor | None:
        """What a graph that ends now must compute, as this is still held."""
        return self._tensor

    def __len__(self) -> int:
        return self.n


class HostRows(Rows):
    """An array of the host that goes to the device when an operation first reads it, and in a remembered program again
    at every run. May be written to (`rows[:] = ...`)."""

    __slots__ = ("_fetch", "host")

    def __init__(self, host: NDArray[Any], fetch: Callable[[NDArray[Any]], Tensor]) -> None:
        self.host, self._fetch = host, fetch
        self.n, self.double = len(host), host.dtype == np.float64

    @property
    def tensor(self) -> Tensor:
        return self._fetch(self.host)

    @property
    def pending(self) -> None:
        return None

    def __setitem__(self, where: Any, values: Any) -> None:
        self.host[where] = values
