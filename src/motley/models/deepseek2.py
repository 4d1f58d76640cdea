"""DeepSeek V2, V3, R1, Kimi K2, Moonlight, GLM-4.7-Flash (GGUF `deepseek2`): latent attention, leading dense layers,
shared experts; V2 scores by softmax and takes the best of groups, V3 by sigmoid with a prior and the two best of each
group.

Source: the architectures of `DeepseekV2ForCausalLM`, `DeepseekV3ForCausalLM` and `Glm4MoeLiteForCausalLM` in
transformers.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from motley.models.attention import LatentAttention
from motley.models.config import Config, read_config
from motley.models.feed_forward import feed_forward
from motley.models.layers import Layer
from motley.models.loader import Loader
from motley.models.rope import yarn_mscale


def config(metadata: Mapping[str, Any]) -> Config:
    c = read_config(metadata, "deepseek2", rope="interleaved", normalize=False, score=_score(metadata))
    c.keys.expect("rope.scaling.yarn_log_multiplier")
    group_sum = 2 if c.routing.score == "sigmoid" else 1
    return replace(
        c,
        routing=replace(c.routing, group_sum=group_sum),
    )


def layer(config: Config, load: Loader, index: int) -> Layer:
    keys, turned = config.keys, config.heads.rope
    assert turned is not None
    head_dim = keys.whole("attention.key_length_mla", config.heads.head_dim)
    rope = replace(turned, start=head_dim - turned.dim, magnitude=1.0)  # DeepSeek scales the scores in its place
    attention = LatentAttention(config, load, index, rope, head_dim**-0.5 * yarn_mscale(keys) ** 2)
    return Layer(attention, feed_forward(config, load, index))


def _score(metadata: Mapping[str, Any]) -> Literal["softmax", "sigmoid"]:
    """Files of GLM-4.7-Flash, alone with 47 layers, do not say that they score by sigmoid."""
    return "sigmoid" if metadata.get("deepseek2.block_count") in (47, 48) else "softmax"
