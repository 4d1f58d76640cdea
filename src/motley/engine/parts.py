"""Which bytes of a model file a device's part of the model is made of. Pure, but for the file that it is asked of."""

import numpy as np

from motley.cluster.assignment import Assignment
from motley.cluster.weights import Range, merged
from motley.formats.gguf_reader import GGUFFile
from motley.formats.shape_of import role_of
from motley.formats.tensor import QuantTensor
from motley.models.loader import EXPERT_PARTS


def ranges_of(file: GGUFFile, assignment: Assignment, n_layers: int) -> list[Range]:
    """Of tensors only: home layers whole but for their experts, owned experts, embedding and head with their layers."""
    base = np.frombuffer(file.bytes, np.uint8).ctypes.data

    def place(tensor: QuantTensor) -> Range:
        start = tensor.data.ctypes.data - base
        return start, start + tensor.n_bytes

    home = set(assignment.home_layers)
    ends = bool(home & {0, n_layers - 1})
    output = "output.weight" if "output.weight" in file.tensors else "token_embd.weight"
    found = []
    for name, tensor in file.tensors.items():
        _, layer = role_of(name)
        if name == output and assignment.head_rows and not (name == "token_embd.weight" and 0 in home):
            found.append(place(tensor.rows(*assignment.head_rows)))
        elif layer is None:
            found += [place(tensor)] if ends or (home and name == "rope_freqs.weight") else []
        elif name.removeprefix(f"blk.{layer}.").removesuffix(".weight") in EXPERT_PARTS:
            found += [place(tensor.part(expert)) for expert in assignment.experts.get(layer, ())]
        elif name.removeprefix(f"blk.{layer}.").removesuffix(".bias") in EXPERT_PARTS:
            found += [place(tensor)] if assignment.experts.get(layer) else []
        elif layer in home:
            found.append(place(tensor))
    return merged(found)
