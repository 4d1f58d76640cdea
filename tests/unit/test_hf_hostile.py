"""Configs with nonsense in them: a sentence, whatever is wrong where; nothing that a config makes up is counted to."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from hf_golden import golden_config
from motley.errors import MotleyError
from motley.shape.model import ModelShape

NONSENSE: list[Any] = [None, -1, 0, 1 << 40, "x", [1, 2], {"a": []}, float("nan")]
FAMILIES = ["deepseek2-v3", "gemma4", "llama", "llama4", "qwen35moe"]


def places(table: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from places(value, (*before, key))


@pytest.mark.parametrize("family", FAMILIES)
def test_nonsense_is_refused_in_a_sentence_or_changes_nothing(family: str) -> None:
    config, said = golden_config(family), []
    for *way, last in places(config):
        for value in NONSENSE:
            changed = table = json.loads(json.dumps(config))
            for key in way:
                table = table[key]
            table[last] = value
            try:
                ModelShape.from_hf_config(changed, "q8_0")
            except MotleyError as error:
                said.append(str(error))
    assert len(said) > 100
    assert max(map(len, said)) < 900
