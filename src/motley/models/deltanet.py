"""A gated delta rule layer (Qwen3-Next, Qwen 3.5): linear attention with a constant state per sequence.

Source: Gated Delta Networks, arXiv:2412.06464; the architecture of `Qwen3NextForCausalLM` in transformers.
"""

from motley.errors import FormatError
from motley.models.attention import residual
from motley.models.config import Config
from motley.models.loader import Loader
from motley.models.rows import RunRows
from motley.ops.protocol import Array, Batch, DeltaNet, DeltaState, DeltaWeights, Ops
from motley.shape.mixer import CacheType


class GatedDeltaNet:
    """Norm, projections, convolution and delta rule, norm per head, output gate, output, residual.

    `tiled`: see `ops.protocol.DeltaNet`. The two small projections come as one tensor, `ssm_ba`, in which each key
    head's values follow each other, or as two."""

    def __init__(self, config: Config, load: Loader, layer: int, *, tiled: bool) -> None:
        blk, keys, d = f"blk.{layer}.", config.keys, config.d_model
        self.config = config
        v_heads, inner = keys.whole("ssm.time_step_rank"), keys.whole("ssm.inner_size")
        k_heads, k_dim = keys.whole("ssm.group_count"), keys.whole("ssm.state_size")
        taps = keys.whole("ssm.conv_kernel")
        if not k_heads or not v_heads or v_heads % k_heads or inner % v_heads or not taps:
            raise FormatError(
                f"{config.architecture}.ssm.*: {v_heads} value heads over {k_heads} key heads, {inner} wide, "
                f"{taps} taps: that cannot be"
            )
        self.net = net = DeltaNet(k_heads, v_heads, k_dim, inner // v_heads, taps, 1e-6, tiled)
        self.attn_norm = load.weight(blk + "attn_norm.weight", d)
        self.attn_qkv = load.weight(blk + "attn_qkv.weight", net.channels, d)
        self.attn_gate = load.weight(blk + "attn_gate.weight", inner, d)
        if load.has(blk + "ssm_ba.weight"):
            self.small = [load.weight(blk + "ssm_ba.weight", 2 * v_heads, d)]
        else:
            self.small = [load.weight(f"{blk}ssm_{part}.weight", v_heads, d) for part in ("beta", "alpha")]
        self.weights = DeltaWeights(
            load.weight(blk + "ssm_conv1d.weight", net.channels, taps),
            load.weight(blk + "ssm_dt.bias", v_heads),
            load.weight(blk + "ssm_a", v_heads),
        )
        self.ssm_norm = load.weight(blk + "ssm_norm.weight", net.v_dim)
        self.ssm_out = load.weight(blk + "ssm_out.weight", d, inner)

    def state(self, ops: Ops, n_slots: int, context: int, cache: CacheType | None) -> DeltaState:
        return ops.delta_state(n_slots, self.net)

    def __call__(self, ops: Ops, x: Array, batch: Batch, state: DeltaState, rows: RunRows) -> Array:
        """x [T, D] -> [T, D]"""
        c, net = self.config, self.net
        h = ops.rms_norm(x, self.attn_norm, c.eps)
        qkv, z, *small = ops.linear(h, self.attn_qkv, self.attn_gate, *self.small)
        if len(small) == 1:
            each = net.v_heads // net.k_heads
            small = [ops.columns(small[0], 2 * each, i * each, (i + 1) * each) for i in (0, 1)]
        y = ops.delta_net(qkv, small[0], small[1], self.weights, state, batch)  # [T, V*M]
        y = ops.gate(ops.rms_norm(y, self.ssm_norm, c.eps), z, "silu")
        (o,) = ops.linear(y, self.ssm_out)
        return residual(ops, x, o, c)
