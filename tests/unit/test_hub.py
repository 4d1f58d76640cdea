"""`hf:` names against a stand-in for the hub on loopback, in processes of their own: `huggingface_hub` reads its
settings once. Those with equal settings share one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_folders import f32, write_folder
from hf_golden import GOLDEN, golden_config, golden_state
from hf_tokenizers import engine, write_tokenizer
from hub_stand_in import GATED, PRIVATE, Hub, hub

pytest.importorskip("huggingface_hub", reason="the hub's client: pip install 'motley-moe[hub]'")

GGUF = (GOLDEN / "olmoe.gguf").read_bytes()
SPLIT = {f"Q4_K_M/m-Q4_K_M-{no:05}-of-00002.gguf": GGUF[:1000] + bytes([no]) for no in (1, 2)}
FILES = {"README.md": b"#", "m-Q8_0.gguf": GGUF, "m-F16.gguf": GGUF[:5000], **SPLIT}


def repos(tmp_path: Path) -> dict[str, dict[str, bytes]]:
    """A model with one file, one with many, one in two safetensors files with what is not needed beside them."""
    folder = write_tokenizer(tmp_path / "source", "gpt2")
    size = engine("gpt2").get_vocab_size()
    state = {name: f32(values) for name, values in golden_state("qwen3moe").items()}
    rows = f32(np.random.default_rng(4).standard_normal((size, 64)))
    names = list(state := state | dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), rows))
    halves = [{name: state[name] for name in half} for half in (names[::2], names[1::2])]
    write_folder(folder, golden_config("qwen3moe") | {"vocab_size": size}, *halves)
    (folder / "generation_config.json").write_text('{"eos_token_id": 5}')
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    whole |= {"pytorch_model.bin": b"no", "consolidated.safetensors": b"no", "original/model.safetensors": b"no"}
    return {"one/gguf": {"m.gguf": GGUF, "README.md": b"#"}, "many/ggufs": FILES, "some/folder": whole, GATED: FILES}


def environment(tmp_path: Path, address: str, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    places = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "MOTLEY_DATA": str(tmp_path / "data")}
    return {**kept, **places, "HF_HUB_DISABLE_TELEMETRY": "1", **more}


def motley(tmp_path: Path, server: Hub | str, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    address = server if isinstance(server, str) else server.address
    command = [sys.executable, "-m", "motley", *words]
    env = environment(tmp_path, address, **more)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


DOWNLOAD = """
import sys
from motley.errors import UsageError
from motley.formats.hub import download
for spec in sys.argv[1:]:
    try:
        print(download(spec))
    except UsageError as error:
        print("refused:", error)
"""


def downloads(tmp_path: Path, server: Hub | str, *specs: str, **more: str) -> list[str]:
    """What `download` returns for each, or "refused: " and its one sentence."""
    env = environment(tmp_path, server if isinstance(server, str) else server.address, **more)
    command = [sys.executable, "-c", DOWNLOAD, *specs]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(specs)
    return lines


def fetched(tmp_path: Path, server: Hub | str, spec: str, **more: str) -> Path:
    (line,) = downloads(tmp_path, server, spec, **more)
    assert not line.startswith("refused")
    return Path(line)


def said(done: "subprocess.CompletedProcess[str]") -> str:
    """The one sentence of a command that failed."""
    assert done.returncode == 2, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_gguf_is_downloaded_once_and_found_offline(tmp_path: Path) -> None:
    with hub(repos(tmp_path)) as server:
        first, again = downloads(tmp_path, server, "hf:one/gguf", "hf:one/gguf:m.gguf")
        path = Path(first)
        assert (path.name, path.read_bytes()) == ("m.gguf", GGUF)
        assert again == first
        assert server.downloads("m.gguf") == [None]
        assert server.downloads("README.md") == []
        address = server.address
    assert fetched(tmp_path, address, "hf:one/gguf", HF_HUB_OFFLINE="1") == path
    assert "was not downloaded from" in said(motley(tmp_path, address, "run", "hf:one/gguf", "-p", "x"))


def test_offline_without_the_files_is_said(tmp_path: Path) -> None:
    with hub(repos(tmp_path)) as server:
        (empty,) = downloads(tmp_path, server, "hf:one/gguf", HF_HUB_OFFLINE="1")
        assert "refused: one/gguf is not in this machine's cache, and HF_HUB_OFFLINE is set" in empty
        fetched(tmp_path, server, "hf:many/ggufs:m-F16.gguf")
        empty, other = downloads(tmp_path, server, "hf:one/gguf", "hf:many/ggufs:m-Q8_0.gguf", HF_HUB_OFFLINE="1")
        assert "refused: one/gguf is not in this machine's cache" in empty
        assert "refused: many/ggufs has no file m-Q8_0.gguf" in other


def test_only_the_named_parts_are_downloaded(tmp_path: Path) -> None:
    with hub(repos(tmp_path)) as server:
        specs = [f"hf:many/ggufs{file}" for file in (":q4_k_m", f":{next(iter(SPLIT))}", "", ":q5_k")]
        *found, several, none = downloads(tmp_path, server, *specs)
        for path in map(Path, found):
            assert path.name == "m-Q4_K_M-00001-of-00002.gguf"
            assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == {
                Path(n).name: d for n, d in SPLIT.items()
            }
        assert not server.downloads("m-Q8_0.gguf")
        assert "many/ggufs has several GGUF files: name one, as hf:many/ggufs:FILE, of m-Q8_0.gguf, m-F16" in several
        assert "many/ggufs has no file q5_k" in none


def test_a_folder_is_downloaded_without_what_is_not_needed_and_runs(tmp_path: Path) -> None:
    with hub(repos(tmp_path)) as server:
        done = motley(tmp_path, server, "run", "hf:some/folder", "-p", "Hello", "-n", "4", "--threads", "1")
        assert done.returncode == 0, done.stderr
        assert "prompt " in done.stderr
        (config,) = (tmp_path / "home").rglob("config.json")
        folder = config.parent
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        offline = motley(
            tmp_path, server, "run", "hf:some/folder", "-p", "Hello", "-n", "4", "--threads", "1", HF_HUB_OFFLINE="1"
        )
        assert offline.stdout == done.stdout
        (folder / "model-00002-of-00002.safetensors").unlink()
        (gone,) = downloads(tmp_path, server, "hf:some/folder", HF_HUB_OFFLINE="1")
        assert "refused: model-00002-of-00002.safetensors is not there" in gone


LARGE = np.random.default_rng(8).bytes(24 << 20)
BREAK = 15 << 20


def start_of(span: str | None) -> int:
    return int((span or "bytes=0-").removeprefix("bytes=").partition("-")[0])


def test_a_connection_that_breaks_is_taken_up_where_it_broke(tmp_path: Path) -> None:
    with hub({"one/large": {"large.gguf": LARGE}}) as server:
        server.cut_at["large.gguf"] = BREAK
        assert fetched(tmp_path, server, "hf:one/large").read_bytes() == LARGE
        first, second = server.downloads("large.gguf")
        assert first is None
        assert 0 < start_of(second) <= BREAK


def test_an_interrupted_download_goes_on_the_next_time(tmp_path: Path) -> None:
    with hub({"one/large": {"large.gguf": LARGE}}) as server:
        server.stall_at["large.gguf"] = BREAK
        command = [sys.executable, "-m", "motley", "run", "hf:one/large", "-p", "x"]
        env = environment(tmp_path, server.address)
        running = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert server.stalled.wait(60)
        (part,) = (tmp_path / "home").rglob("*.part")
        while not part.stat().st_size:  # the first piece is on its way to the disk
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        assert "interrupted" in running.communicate(timeout=60)[1]
        assert running.returncode == 130
        kept = part.stat().st_size
        assert 0 < kept <= BREAK
        assert fetched(tmp_path, server, "hf:one/large").read_bytes() == LARGE
        assert start_of(server.downloads("large.gguf")[-1]) == kept
        assert not part.exists()


def test_what_the_hub_refuses_is_one_sentence(tmp_path: Path) -> None:
    with hub(repos(tmp_path)) as server:
        absent = ("nobody/nothing", PRIVATE)
        specs = [*(f"hf:{repo}" for repo in absent), f"hf:{GATED}:m-F16.gguf", "hf:noslash"]
        *refused, gated, no_name = downloads(tmp_path, server, *specs)
        for repo, sentence in zip(absent, refused):
            assert f"there is no model {repo} at {server.address}/{repo}, or it is private" in sentence
        assert f"{GATED} is gated: accept its terms at {server.address}/{GATED}" in gated
        assert "is no name on the hub" in no_name
        assert fetched(tmp_path, server, f"hf:{GATED}:m-F16.gguf", HF_TOKEN="hf_secret").name == "m-F16.gguf"
        assert "is gated" in said(motley(tmp_path, server, "bench", f"hf:{GATED}:m-F16.gguf"))


def test_without_the_client_the_command_to_install_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    done = motley(tmp_path, "http://127.0.0.1:1", "run", "hf:a/b", "-p", "x", PYTHONPATH=path)
    assert "pip install 'motley-moe[hub]'" in said(done)
