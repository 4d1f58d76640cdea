"""The tests of `tests/parity/test_cuda_kernels.py` on the GPU itself, launched by tinygrad; skipped with the reason
where there is none. Run alone: pytest tests/gpu."""

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

from motley.errors import UnsupportedError
from motley.ops.tinygrad import adapter
from motley.ops.tinygrad.source import Kernel


class Gpu:
    """As `cuda_emulation.emulator.Emulator`, for arrays of the host."""

    def __init__(self) -> None:
        self.device = adapter.open_device("CUDA")

    def run(self, kernel: Kernel, *arrays: np.ndarray) -> None:
        tensors = [adapter.upload(a, self.device) for a in arrays]
        adapter.realize(adapter.launch(kernel, kernel.source, self.device, *tensors))
        for array, tensor in zip(arrays, tensors):
            if array.flags.writeable:
                array[...] = adapter.read(tensor)


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    try:
        return Gpu()
    except UnsupportedError as error:
        pytest.skip(str(error))
