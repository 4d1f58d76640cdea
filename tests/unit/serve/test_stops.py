"""Stop strings: whatever the pieces are cut like, the text ends before the first one and nothing of it was shown."""

from hypothesis import given
from hypothesis import strategies as st

from motley.serve.text import Stops

LETTERS = st.text("ab<|", max_size=30)


def obvious(text: str, stops: list[str]) -> tuple[str, str]:
    """A character at a time, with all that came: the first stop string that is complete, the longest if several."""
    for end in range(len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return text, ""


@given(LETTERS, st.lists(st.text("ab<|", min_size=1, max_size=5), max_size=4), st.data())
def test_pieces_do_not_matter(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    finder, shown = Stops(stops), ""
    for a, b in zip([0, *cuts], [*cuts, len(text)]):
        shown += finder.push(text[a:b])
        expected, found = obvious(text[:b], stops)
        assert expected.startswith(shown)
        if found:
            break
    expected, found = obvious(text, stops)
    assert (shown + finder.end(), finder.found) == (expected, found)


def test_what_can_not_become_a_stop_string_is_shown_at_once() -> None:
    finder = Stops(["\n\nUser:"])
    assert finder.push("Hello\n") == "Hello"
    assert finder.push("there") == "\nthere"
    assert finder.push("\n\nUse") == ""
    assert finder.push("r: x") == ""
    assert finder.found == "\n\nUser:"
    assert finder.push("more") == ""
