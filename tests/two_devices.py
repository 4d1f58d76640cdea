"""A lab of two devices on this machine with figures that need no probing, the first of any size."""


def small_and_big(small_bytes: int) -> str:
    """TOML; `small_bytes`: the memory of the first device."""
    return f"""
[[device]]
name = "small"
node = "small"
kind = "cpu"
memory_bytes = {small_bytes}
threads = 1
read_gb_s = 10.0
int8_gops = 100.0
f32_gflops = 50.0
op_overhead_us = 5.0

[[device]]
name = "big"
node = "big"
kind = "cpu"
memory_bytes = 1_000_000_000
threads = 1
read_gb_s = 5.0
int8_gops = 50.0
f32_gflops = 25.0
op_overhead_us = 5.0

[[link]]
a = "small"
b = "big"
transport = "tcp"
rtt_us = 50.0
gb_s = 1.0
"""
