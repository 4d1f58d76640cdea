"""The config.json files that publishers ship, as far as they say what a model computes.

    git clone https://github.com/ai-dynamo/aiconfigurator && git -C aiconfigurator checkout 095f58a51c4c
    python tools/golden/published_configs.py aiconfigurator

That repository (Apache-2.0) keeps many as they are on the Hugging Face hub. Writes tests/golden/published_configs.json:
by file, the config without what Motley does not look at.
"""

import argparse
import json
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[2] / "tests" / "golden" / "published_configs.json"
FOLDER = "aic-core/src/aiconfigurator_core/model_configs"
FILES = (
    "MiniMaxAI--MiniMax-M2.5",
    "Qwen--Qwen3-30B-A3B",
    "Qwen--Qwen3-32B",
    "Qwen--Qwen3.5-35B-A3B",
    "Qwen--Qwen3.5-397B-A17B",
    "deepseek-ai--DeepSeek-V3",
    "deepseek-ai--DeepSeek-R1",
    "google--gemma-4-26B-A4B",
    "meta-llama--Llama-4-Maverick-17B-128E-Instruct",
    "meta-llama--Llama-4-Scout-17B-16E-Instruct",
    "meta-llama--Meta-Llama-3.1-70B",
    "mistralai--Mixtral-8x7B-v0.1",
    "moonshotai--Kimi-K2-Instruct",
    "moonshotai--Kimi-K2.5",
    "openai--gpt-oss-20b",
    "openai--gpt-oss-120b",
)
NOT_READ = (
    *(
        "vision_config",
        "audio_config",
        "quantization_config",
        "auto_map",
        "torch_dtype",
        "dtype",
        "transformers_version",
    ),
    *("id2label", "label2id", "attn_type_list", "bad_words_ids", "task_specific_params"),
)


def read_part(table: dict[str, Any]) -> dict[str, Any]:
    """Without what only generation, training or other senses use."""
    kept = {key: read_part(value) if isinstance(value, dict) else value for key, value in table.items()}
    return {
        key: value for key, value in kept.items() if key not in NOT_READ and not key.endswith(("_token_id", "_coef"))
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path)
    folder = parser.parse_args().clone / FOLDER
    found = {name: read_part(json.loads((folder / f"{name}_config.json").read_text())) for name in FILES}
    lines = (f"{json.dumps(name)}: {json.dumps(config)}" for name, config in found.items())
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")
