"""Streaming: in sum the same text as decode, no split character, constant work per token."""

import time

from golden_vocabularies import NAMES, STRINGS, text_of, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st


def streamed(name: str, ids: list[int], **how: bool) -> list[str]:
    stream = tokenizer(name).stream(**how)
    return [*(stream.push(id) for id in ids), stream.end()]


ANY_IDS = st.lists(st.integers(0, 1400), max_size=60)
HARD_TEXT = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(STRINGS)), max_size=4).map("".join)
HOW = st.fixed_dictionaries({"special": st.booleans(), "continues": st.booleans()})


@given(st.sampled_from(NAMES), ANY_IDS, HOW)
@settings(max_examples=500, deadline=None)
def test_pushes_and_end_equal_decode(name: str, ids: list[int], how: dict[str, bool]) -> None:
    text = "".join(streamed(name, ids, **how))
    assert text == tokenizer(name).decode(ids, **how)
    if how["continues"]:  # nothing taken away: exactly the tokens' bytes
        ours = tokenizer(name)
        kept = [id for id in ids if how["special"] or not ours.is_control(id)]
        dropped = any(ours.starts_text(id) for id in ids)
        if not dropped:
            assert text == b"".join(ours.token_bytes(id) for id in kept).decode(errors="replace")


@given(st.sampled_from(NAMES), HARD_TEXT)
@settings(max_examples=500, deadline=None)
def test_no_character_is_split(name: str, text: str) -> None:
    text = text_of(name, text)
    ids = tokenizer(name).encode(text)
    pushes = streamed(name, ids)
    assert "".join(pushes) == text
    assert "".join(pushes).count("\ufffd") == text.count("\ufffd")
    assert pushes[-1] == ""


def test_a_cut_character_is_held_back_and_ends_as_one_replacement() -> None:
    ours = tokenizer("olmo")
    ids = [ours.encode("\U0002ebf0")[0]]
    assert streamed("olmo", ids) == ["", "\ufffd"]
    assert ours.decode(ids) == "\ufffd"


def test_streaming_is_constant_work_per_token() -> None:
    ours = tokenizer("olmo")
    ids = ours.encode("Once upon a time 🙂 ") * 200

    def seconds(times: int) -> float:
        stream, start = ours.stream(), time.perf_counter()
        for id in ids * times:
            stream.push(id)
        return time.perf_counter() - start

    short, long = min(seconds(1) for _ in range(5)), min(seconds(20) for _ in range(3))
    assert long < 20 * short * 4  # a quadratic decoder would need 400 times
