"""What every device asks of the tensors that it is given: as many bytes as their dimensions say, and matrices that fit
each other."""

from math import prod

from motley.formats.tensor import QuantTensor


def check_tensor(tensor: QuantTensor, *ranks: int) -> None:
    """ValueError for a size that is not that of the dimensions, columns that are no whole blocks, or a number of
    dimensions that is not one of `ranks`."""
    dims, quant = tensor.dims, tensor.quant
    expected = quant.n_bytes(prod(dims))
    if tensor.n_bytes != expected or dims[-1] % quant.block:
        raise ValueError(
            f"tensor {tensor.name} {list(dims)} as {quant.name} takes {expected} bytes, not {tensor.n_bytes}"
        )
    if len(dims) not in ranks:
        wanted = " or ".join(map(str, ranks))
        raise ValueError(f"tensor {tensor.name} {list(dims)} has {len(dims)} dimensions: {wanted} are needed")


def check_experts(gate: QuantTensor, up: QuantTensor, down: QuantTensor) -> None:
    """ValueError unless gate and up are [E, F, D] and down is [E, D, F], each of its size."""
    for tensor in (gate, up, down):
        check_tensor(tensor, 3)
    n_experts, d_expert, d_model = gate.dims
    if up.dims != gate.dims or down.dims != (n_experts, d_model, d_expert):
        raise ValueError(
            f"experts' dimensions do not fit: gate {list(gate.dims)}, up {list(up.dims)}, down {list(down.dims)}"
        )
