"""What is asked, and what the host allows: spellings, limits, refusals; no visitor names a path or a download."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from board_fakes import GROWING, HOSTILE, board
from motley.board.ask import Ask, clean, from_fields, from_values, line
from motley.board.board import Board
from motley.board.forecast import Forecast
from motley.board.runner import Runner
from motley.board.settings import Limits, load_settings
from motley.board.states import State
from motley.bundled import model_path
from motley.errors import MotleyError, UsageError


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return board(tmp_path_factory.mktemp("board"))


def test_a_request_for_this_host_is_predicted_and_queued(there: Board) -> None:
    id, _ = there.ask(Ask(model="OLMoE", pp=64, tg=16, depth=100, batch=2))
    found = there.store.get(id)
    assert found.forecast
    assert (found.state, found.model, found.quant, found.hardware) == (State.QUEUED, "olmoe-1b-7b", "q4_k", "")
    assert [s.test for s in found.forecast.speeds] == ["pp64@d100x2", "tg16@d100x2"]
    assert all(s.p10 < s.p50 < s.p90 for s in found.forecast.speeds)
    assert found.width == max(s.width for s in found.forecast.speeds) > 0
    assert found.forecast.picture.startswith("<svg")


def test_other_hardware_is_predicted_only(there: Board) -> None:
    id, _ = there.ask(Ask(model="deepseek-v2-lite", hardware="rtx-pro-6000"))
    found = there.store.get(id)
    assert (found.state, found.reason) == (
        State.PREDICTED,
        "predicted only here: this host does not have the hardware",
    )
    assert found.hardware.startswith("NVIDIA RTX PRO 6000 Blackwell")


def test_what_does_not_fit_is_refused_with_what_is_missing(there: Board) -> None:
    id, _ = there.ask(Ask(model="deepseek-v3"))
    found = there.store.get(id)
    assert found.state is State.REFUSED
    assert "missing" in found.reason


@pytest.mark.parametrize(
    ("settings", "ask", "words"),
    [
        ("[limits]\nmodel_gb = 1", Ask(model="olmoe-1b-7b"), "this host runs up to 1 GB"),
        ("[limits]\ntokens = 100", Ask(), "512 tokens, and this host runs up to 100"),
        ("[limits]\nsequences = 2", Ask(batch=3), "up to 2 sequences at once"),
        ("[models]\nsynthetic = false", Ask(model="olmoe-1b-7b"), "the host offers no file of it"),
        ("", Ask(model="qwen3-0.6b", quant="iq4_xs"), "Motley writes no iq4_xs"),
        ("", Ask(model="kimi-linear-48b-a3b", quant="iq1_s"), "is predicted only: Motley runs"),
    ],
)
def test_what_the_host_does_not_allow_is_predicted_only(tmp_path: Path, settings: str, ask: Ask, words: str) -> None:
    there = board(tmp_path, settings)
    asked = there.understand(ask)
    assert asked.arguments is None
    assert words in asked.why_not
    assert isinstance(there.tell(asked), Forecast | str)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (Ask(model="no-such-model-anywhere"), "unknown model shape"),
        (Ask(quant="q17"), "unknown quantisation"),
        (Ask(hardware="a toaster"), "toaster"),
        (Ask(hardware="17x rtx-5090"), "17 devices; the board predicts for up to 16"),
        (Ask(pp=0, tg=0), "nothing to measure"),
        (Ask(pp=1_000_000), "the model was made for"),
        (Ask(model="hf:owner/name"), "unknown model shape"),
    ],
)
def test_what_means_nothing_is_not_filed(there: Board, ask: Ask, words: str) -> None:
    with pytest.raises(MotleyError, match=words):
        there.ask(ask)


def test_names_are_never_paths(there: Board, tmp_path: Path) -> None:
    """A file that exists is not read by its name, as model or as hardware."""
    model, lab = tmp_path / "secret.gguf", tmp_path / "secret.toml"
    model.symlink_to(model_path())
    lab.write_text((there.folder / "lab.toml").read_text())
    for ask in (Ask(model=str(model)), Ask(hardware=str(lab)), Ask(hardware=str(there.folder / "lab.toml"))):
        with pytest.raises(MotleyError):
            there.understand(ask)


def test_files_in_allowed_folders_are_offered_by_name(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "my-own-model-Q8_0.gguf").symlink_to(model_path())
    (models / "broken.gguf").write_bytes(b"GGUF nonsense")
    there = board(tmp_path / "b", f'[models]\nbundled = false\nsynthetic = false\nfolders = ["{models}"]')
    assert [(o.name, o.quant) for o in there.offers] == [("my-own-model-Q8_0", "q8_0")]
    asked = there.understand(Ask(model="My-own-model-Q8_0"))
    assert (asked.source, asked.arguments) == ("file", (str(models / "my-own-model-Q8_0.gguf"),))
    assert there.understand(Ask(model="olmoe-1b-7b")).arguments is None
    with pytest.raises(MotleyError):
        there.understand(Ask(model="broken"))


def test_the_hosts_paths_are_relative_to_the_boards_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the shell stands: the run is started in the board's folder."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine-Q8_0.gguf").symlink_to(model_path())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    there = board(Path("b"), 'lab = "~/mine.toml"\n[models]\nbundled = false\nfolders = ["../models"]')
    (there.folder / "lab.toml").rename("mine.toml")
    ask = Ask(model="mine-Q8_0")
    asked = there.understand(ask)
    assert asked.arguments
    assert Path(asked.arguments[0]).is_absolute()
    assert Path(asked.arguments[0]).is_file()
    command = Runner(there, print).command(asked, there.store.get(there.ask(ask)[0]))
    assert command[command.index("--lab") + 1] == str(tmp_path / "mine.toml")


def test_only_named_downloads_are_allowed(tmp_path: Path) -> None:
    allowed = "hf:someone/OLMoE-1B-7B-GGUF:OLMoE-1B-7B-Q4_K_M.gguf"
    there = board(tmp_path, f'[models]\nsynthetic = false\ndownloads = ["{allowed}"]')
    asked = there.understand(Ask(model="olmoe-1b-7b", quant="q4_k_m"))
    assert (asked.source, asked.arguments) == ("download", (allowed,))
    assert there.understand(Ask(model="olmoe-1b-7b", quant="q8_0")).arguments is None


def test_the_host_changes_its_mind(tmp_path: Path) -> None:
    there = board(tmp_path, "[models]\nsynthetic = false")
    id, _ = there.ask(Ask(model="olmoe-1b-7b"))
    assert there.store.get(id).state is State.PREDICTED
    there = board(tmp_path, "")
    there.reconsider()
    assert there.store.get(id).state is State.QUEUED
    there = board(tmp_path, "[limits]\nmodel_gb = 0.1")
    there.reconsider()
    found = there.store.get(id)
    assert found.state is State.PREDICTED
    assert "up to 0.1 GB" in found.reason


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_text_is_cleaned(text: str) -> None:
    for found in (clean(text), line(text)):
        found.encode()
        assert not set(found) & {chr(c) for c in (0, 7, 0x1B, 0x200B, 0x202E, 0x2066)}
        assert len(found) < 600 or text is GROWING


@pytest.mark.parametrize("text", [*HOSTILE, "\u0958" * 500, "x" * 1000 + "\n" * 9], ids=lambda text: ascii(text[:12]))
@pytest.mark.parametrize("name", ["model", "quant", "hardware", "note"])
def test_what_is_taken_can_be_read_again(name: str, text: str) -> None:
    ask = Ask()
    with suppress(UsageError):
        ask = from_values({name: text})
    assert msgspec.json.decode(msgspec.json.encode(ask), type=Ask) == ask


def test_a_text_after_accents_stays() -> None:
    assert clean("e\u0301\u0302\u0303\u0304 \u0438") == "\u00e9\u0302\u0303 \u0438"
    assert clean("e\u0301\u0302\u0303\u0438") == "\u00e9\u0302\u0303\u0438"


@pytest.mark.parametrize("fields", [{"pp": "-1"}, {"pp": "1e3"}, {"tg": "9999999"}, {"batch": "0"}, {"pp": "٣"}])
def test_numbers_are_numbers(fields: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(fields))):
        from_fields(fields)


@pytest.mark.parametrize("values", [[], 3, None, {"model": 3}, {"unknown": 1}, {"note": "x" * 1001}, {"pp": 1.5}])
def test_json_is_strict(values: object) -> None:
    with pytest.raises(UsageError):
        from_values(values)


@pytest.mark.parametrize(
    ("hours", "hour", "open_"),
    [("", 3, True), ("22:00-06:00", 3, True), ("22:00-06:00", 12, False), ("09:00-17:00", 17, False)],
)
def test_hours(hours: str, hour: int, open_: bool) -> None:
    assert Limits(hours=hours).open_at(datetime(2026, 1, 1, hour)) is open_


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense = 1", "nonsense"),
        ("[limits]\nminutes = 0", "minutes"),
        ("[limits]\nhours = 'always'", "must look like 22:00-06:00"),
        ("[models]\ndownloads = ['http://x']", "must be hf:owner"),
        ("[limits", "board.toml"),
    ],
)
def test_settings_say_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "board.toml").write_text(text)
    with pytest.raises(UsageError, match=words):
        load_settings(tmp_path / "board.toml")


def test_no_board() -> None:
    with pytest.raises(UsageError, match="motley board init"):
        Board(Path("/nowhere"))
