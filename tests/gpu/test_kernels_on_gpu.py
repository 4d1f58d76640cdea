"""The tests of `tests/parity/test_cuda_kernels.py` on the GPU itself, launched by tinygrad: each kernel one time, and
repeated on the same inputs, where other bits than the first time's are a race. Skipped with the reason where there is
no GPU. Run alone: pytest tests/gpu [-k single]."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tinygrad", reason="tinygrad is not installed (extra [tinygrad])")

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
from test_cuda_kernels import (  # noqa: F401  # the tests run here anew
    test_a_block_behind_a_norm_of_its_own_beside_experts_whose_input_is_scaled,
    test_a_dense_block_by_the_experts_kernel,
    test_a_gated_delta_rule,
    test_attention_over_the_cache,
    test_attention_whose_values_are_the_keys_first_elements,
    test_columns_of_a_wider_row_that_fill_no_block_of_32_and_a_bias,
    test_experts_down_and_their_sum,
    test_experts_gate_and_up,
    test_four_matrices_behind_one_norm,
    test_grouped_product_on_tensor_cores,
    test_heads,
    test_latent_queries_and_the_caches_row,
    test_more_columns_than_are_staged_and_a_residual,
    test_one_matrix_a_head,
    test_one_row_a_group_of_every_format,
    test_router,
    test_tiles_hold_every_pair_once_and_one_expert_each,
    test_what_a_product_is_multiplied_with_and_normed_by,
    test_what_all_tokens_use_beside_the_experts,
)
from tinygrad import Tensor, dtypes

from motley.errors import UnsupportedError
from motley.ops.tinygrad import adapter
from motley.ops.tinygrad.source import Kernel


class Gpu:
    """As `cuda_emulation.emulator.Emulator`, for arrays of the host: `times` runs of each kernel in the same memory,
    each on the same arrays as the first."""

    def __init__(self, times: int, device: str = "CUDA") -> None:
        self.device, self.times = adapter.open_device(device), times

    def launch(self, kernel: Kernel, *tensors: Tensor) -> list[Tensor]:
        return adapter.launch(kernel, kernel.source, self.device, *tensors)

    def run(self, kernel: Kernel, *arrays: np.ndarray) -> None:
        tensors = [adapter.upload(a, self.device) for a in arrays]
        graph = adapter.Graph(self.launch(kernel, *tensors))
        found: list[bytes] = []
        for turn in range(self.times):
            for array, tensor in zip(arrays, tensors):
                adapter.write(tensor, array)
            graph.run({})
            now = [adapter.read(tensor) for tensor in tensors]
            bits = [values.tobytes() for values in now]
            assert bits == (found := found or bits), f"{kernel.name}: other bits in run {turn + 1} than in the first"
        for array, values in zip(arrays, now):
            if array.flags.writeable:
                array[...] = values


@pytest.fixture(scope="module", params=[1, 20], ids=["single", "repeated"])
def gpu(request: pytest.FixtureRequest) -> Gpu:
    try:
        return Gpu(request.param)
    except UnsupportedError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("step", [0, 1], ids=["the same", "others"])
def test_other_bits_than_the_first_times_are_noticed(step: int) -> None:
    """Without a GPU: a kernel that writes how often it ran, by memory that nobody puts back."""
    repeated = Gpu(3, "PYTHON")
    count, first = (adapter.zeros((1, 1), repeated.device, kind) for kind in (dtypes.float32, dtypes.int32))

    def launch(kernel: Kernel, out: Tensor) -> list[Tensor]:
        return [adapter.put(out, first, adapter.put(count, first, count + step))]

    repeated.launch = launch  # type: ignore[method-assign, assignment]
    kernel, out = Kernel("counts", (), (1, 1, 1), 1, outs=1), np.full((1, 1), 9, np.float32)
    if step:
        with pytest.raises(AssertionError, match="counts_: other bits in run 2"):
            repeated.run(kernel, out)
    else:
        repeated.run(kernel, out)
        assert out == 0
