"""Which bytes of a model's files a device's part of it is made of. Pure, but for the model that it is asked of."""

from bisect import bisect_right
from itertools import accumulate

import numpy as np

from motley.cluster.assignment import Assignment
from motley.cluster.ranges import Range, merged
from motley.formats.shape_of import role_of
from motley.formats.tensor import AssembledTensor, Checkpoint, QuantTensor
from motley.models.loader import EXPERT_PARTS
from motley.models.rows import cuts
from motley.shape.model import PROJECTIONS


def ranges_of(checkpoint: Checkpoint, assignment: Assignment, n_layers: int) -> list[Range]:
    """Of tensors only: home layers whole but for their experts and rows elsewhere, owned experts and rows, experts of
    others that are computed here at times, embedding and head with their layers. All files one behind the other."""
    places = _Places(checkpoint)
    home, projected = set(assignment.home_layers), _projected(checkpoint, assignment)
    ends = bool(home & {0, n_layers - 1})
    output = "output.weight" if "output.weight" in checkpoint.tensors else "token_embd.weight"
    experts = _experts(assignment)
    found: list[Range] = []
    for name, tensor in checkpoint.tensors.items():
        _, layer = role_of(name)
        if name == output and assignment.head_rows and not (name == "token_embd.weight" and 0 in home):
            found += places.rows(tensor, *assignment.head_rows)
        elif name in projected:
            found += [at for first, end in projected[name] for at in places.rows(tensor, first, end)]
        elif layer is None:
            found += places.of(tensor) if ends or (home and name == "rope_freqs.weight") else []
        elif name.removeprefix(f"blk.{layer}.").removesuffix(".weight") in EXPERT_PARTS:
            found += [at for expert in experts.get(layer, ()) for at in places.of(tensor, expert)]
        elif name.removeprefix(f"blk.{layer}.").removesuffix(".bias") in EXPERT_PARTS:
            found += places.of(tensor) if experts.get(layer) else []
        elif layer in home:
            found += places.of(tensor)
    return merged(found)


def _experts(assignment: Assignment) -> dict[int, tuple[int, ...]]:
    """By layer, whose weights are read here."""
    found = dict(assignment.experts)
    for layer, (_, _, devices) in assignment.streams.items():
        found[layer] = (*found.get(layer, ()), *(e for d in devices for e in assignment.elsewhere[layer][d]))
    return found


def _projected(checkpoint: Checkpoint, assignment: Assignment) -> dict[str, list[tuple[int, int]]]:
    """By name, the rows that are wanted of matrices that are split: one run, or none."""
    wanted: dict[str, list[tuple[int, int]]] = {}
    for layer, (first, end) in assignment.projections.items():
        names = [f"blk.{layer}.{part}.weight" for part in PROJECTIONS]
        if all(name in checkpoint.tensors for name in names):
            heights = [checkpoint.tensors[name].dims[0] for name in names]
            wanted |= {name: [] for name in names}
            for matrix, *rows in cuts(heights, range(first, end)):
                wanted[names[matrix]] = [(rows[0], rows[1])]
    return wanted


class _Places:
    """Where bytes of mapped files stand in them, found by their addresses."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        mapped = [np.frombuffer(file.data, np.uint8) for file in checkpoint.files]
        starts = [0, *accumulate(len(data) for data in mapped)]
        self._files = sorted((data.ctypes.data, len(data), start) for data, start in zip(mapped, starts))
        self._addresses = [address for address, _, _ in self._files]

    def of(self, tensor: QuantTensor, part: int | None = None) -> list[Range]:
        """What follows from the metadata is in no file."""
        found = []
        for data in tensor.sources(part):
            at = data.ctypes.data
            address, size, start = self._files[bisect_right(self._addresses, at) - 1]
            if address <= at < address + size:
                found.append((start + at - address, start + at - address + data.nbytes))
        return found

    def rows(self, tensor: QuantTensor, first: int, end: int) -> list[Range]:
        """An assembled tensor is put together whole, whatever is wanted of it."""
        return self.of(tensor if isinstance(tensor, AssembledTensor) else tensor.rows(first, end))
