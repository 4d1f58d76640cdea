"""Make tests/golden/templates/cases.json.gz: what `transformers` renders, for chat templates as they are published.

    /work/golden/bin/python tools/golden/make_templates.py LLAMA_CPP/models/templates

The folder is that of llama.cpp's source (in llama-cpp-python's sdist, vendor/llama.cpp), which keeps models' templates
as published; those with a free licence are taken, and NOTICE.md beside the cases says whose they are. The rest of the
cases are templates in our own words (`template_cases.py`). The clock stands still. The tests need neither.
"""

import gzip
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
import transformers
from template_cases import CONVERSATIONS, DEFAULT_OPTIONS, FEW, OPTIONS, OWN, TOKENS
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

OUT = Path(__file__).parents[2] / "tests/golden/templates"
NOW = datetime(2026, 8, 4, 12, 34, 56)
# File: model, licence of the model and its files, as its page states it.
TAKEN = {
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "MIT"),
    "deepseek-ai-DeepSeek-V3.1": ("deepseek-ai/DeepSeek-V3.1", "MIT"),
    "Qwen-Qwen2.5-7B-Instruct": ("Qwen/Qwen2.5-7B-Instruct", "Apache-2.0"),
    "Qwen-Qwen3-0.6B": ("Qwen/Qwen3-0.6B", "Apache-2.0"),
    "Qwen3-Coder": ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "Apache-2.0"),
    "Qwen3.5-4B": ("Qwen/Qwen3.5-4B", "Apache-2.0"),
    "moonshotai-Kimi-K2": ("moonshotai/Kimi-K2-Instruct, as first published", "Modified MIT"),
    "Kimi-K2-Instruct": ("moonshotai/Kimi-K2-Instruct", "Modified MIT"),
    "Kimi-K2-Thinking": ("moonshotai/Kimi-K2-Thinking", "Modified MIT"),
    "GLM-4.6": ("zai-org/GLM-4.6", "MIT"),
    "GLM-4.7-Flash": ("zai-org/GLM-4.7-Flash", "MIT"),
    "MiniMax-M2": ("MiniMaxAI/MiniMax-M2", "MIT"),
    "openai-gpt-oss-120b": ("openai/gpt-oss-120b", "Apache-2.0"),
    "ibm-granite-granite-3.3-2B-Instruct": ("ibm-granite/granite-3.3-2b-instruct", "Apache-2.0"),
    "ibm-granite-granite-4.0": ("ibm-granite/granite-4.0-h-small", "Apache-2.0"),
    "mistralai-Mistral-Nemo-Instruct-2407": ("mistralai/Mistral-Nemo-Instruct-2407", "Apache-2.0"),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("mistralai/Ministral-3-14B-Reasoning-2512", "Apache-2.0"),
    "google-gemma-4-31B-it": ("google/gemma-4-31B-it", "Apache-2.0"),
    "inclusionai-ling-3.0-flash": ("inclusionAI/Ling-3.0-flash", "MIT"),
}


class StandingClock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return NOW


def tokens_of(name: str) -> tuple[str, str]:
    return next(pair for family, pair in TOKENS.items() if family.lower() in name.lower())


def render(source: str, tokens: tuple[str, str], conversation: dict[str, Any], options: dict[str, Any]) -> str:
    marks = {key: text for key, text in zip(("bos_token", "eos_token"), tokens, strict=True) if text}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), **marks)
    messages, more = conversation["messages"], {k: v for k, v in conversation.items() if k != "messages"}
    settings = {"add_generation_prompt": True, **marks, **more, **options}
    settings |= {key: "" for key, text in zip(("bos_token", "eos_token"), tokens, strict=True) if not text}
    text: str = tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **settings)
    return text


def case(name: str, source: str, told: str, options: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"template": name, "conversation": told, "options": options}
    try:
        return made | {"text": render(source, tokens_of(name), CONVERSATIONS[told], options)}
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        return made | {"error": type(error).__name__}


def cases(name: str, source: str) -> list[dict[str, Any]]:
    first, *others = OPTIONS.get(name, DEFAULT_OPTIONS)
    made = [case(name, source, told, first) for told in CONVERSATIONS]
    return made + [case(name, source, told, options) for options in others for told in FEW]


def notice() -> str:
    rows = [f"| `{file}` | {model} | {licence} |" for file, (model, licence) in TAKEN.items()]
    return "\n".join(
        [
            "# Whose the templates in cases.json.gz are",
            "",
            "Chat templates are published with models, as part of their tokenizers' files. These are unchanged,",
            "taken from llama.cpp's `models/templates` (MIT) in the sdist of llama-cpp-python 0.3.36, and used",
            "as data: to test that they render as the reference does. Licences are those of the models' pages.",
            "",
            "| file there | model | licence |",
            "|---|---|---|",
            *rows,
            "",
            "Templates named `... style` are this project's own.",
            "",
        ]
    )


def main() -> None:
    chat_template_utils.datetime = StandingClock  # type: ignore[attr-defined]
    folder = Path(sys.argv[1])
    sources = {name: (folder / f"{name}.jinja").read_text() for name in TAKEN} | OWN
    made = [one for name, source in sources.items() for one in cases(name, source)]
    OUT.mkdir(parents=True, exist_ok=True)
    data = {
        "transformers": transformers.__version__,
        "now": NOW.isoformat(),
        "templates": {name: {"source": text, "tokens": tokens_of(name)} for name, text in sources.items()},
        "conversations": CONVERSATIONS,
        "cases": made,
    }
    packed = gzip.compress(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode(), 9, mtime=0)
    (OUT / "cases.json.gz").write_bytes(packed)
    (OUT / "NOTICE.md").write_text(notice())
    refused = [one for one in made if "error" in one]
    print(f"{len(made) - len(refused)} texts and {len(refused)} refusals, {len(packed)} bytes")
    for name in sources:
        print(
            name,
            sum(one["template"] == name for one in made),
            [o["conversation"] for o in refused if o["template"] == name],
        )


if __name__ == "__main__":
    main()
