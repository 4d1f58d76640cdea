"""Models from the Hugging Face hub: `hf:owner/name`, or `hf:owner/name:FILE.gguf`, to files on this machine.

`huggingface_hub` does the work: cache, progress, resuming, HF_HUB_OFFLINE, HF_ENDPOINT, the token from its usual place.
This file chooses what is needed and turns what goes wrong into one sentence. Motley asks a server on the internet for
nothing but this, when a name begins with `hf:`.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from motley.errors import MotleyError, UsageError
from motley.formats.folder import CONFIG
from motley.formats.hf_tokenizer import FILES, TEMPLATES
from motley.formats.hub_resume import fetch_large
from motley.formats.safetensors import INDEX, weight_map

PREFIX = "hf:"
WHOLE = "model.safetensors"
_SPEC = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<file>.+))?")
_PART = re.compile(r"(?P<stem>.*)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf")

Get = Callable[[str], Path]  # a file's name in the repository -> where it is on this machine


def download(spec: str) -> Path:
    """The GGUF file (the first of a split set) or the folder that `spec` names, complete.

    After the second colon stands a GGUF file's name, or a precision that only one of them has in its name (`Q4_K_M`).
    Without one: the safetensors checkpoint with config and tokenizer, or the only GGUF file. UsageError for what the
    hub refuses or does not have.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UsageError(f"{spec} is no name on the hub: write hf:owner/name, or hf:owner/name:FILE.gguf")
    return _fetched(match["repo"], match["file"], _Hub(match["repo"]))


def _fetched(repo: str, file: str | None, hub: "_Hub") -> Path:
    names = hub.names()
    ggufs = [name for name in names if name.endswith(".gguf")]
    if file is None and CONFIG in names and any(name.endswith(".safetensors") for name in names):
        return _folder(names, hub.get)
    if not ggufs:
        raise UsageError(f"{repo} has neither a GGUF file nor a checkpoint in safetensors{hub.where}")
    parts = _parts(_named(repo, file, ggufs), names)
    paths = [hub.get(part) for part in parts]
    return paths[0]


def _named(repo: str, file: str | None, ggufs: Sequence[str]) -> str:
    """The GGUF file that is meant; of a split set its first part."""
    firsts = [name for name in ggufs if not (part := _PART.fullmatch(name)) or int(part["no"]) == 1]
    if file is not None and file in ggufs:
        return file
    found = firsts
    if file is not None:
        label = re.compile(rf"(^|[-._/]){re.escape(file)}([-._/]|$)", re.IGNORECASE)
        found = [name for name in firsts if label.search(name)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(found or firsts)
    what = f"{repo} has no file {file}" if file is not None and not found else f"{repo} has several GGUF files"
    raise UsageError(f"{what}: name one, as hf:{repo}:FILE, of {listed[:600]}")


def _parts(name: str, names: Sequence[str]) -> list[str]:
    part = _PART.fullmatch(name)
    if part is None:
        return [name]
    count = int(part["count"])
    found = [f"{part['stem']}-{no:05}-of-{count:05}.gguf" for no in range(1, min(count, len(names)) + 1)]
    if len(found) != count or not set(found) <= set(names):
        raise UsageError(f"{name} is one of {count} parts, and not all of them are there: download them again")
    return found


def _folder(names: Sequence[str], get: Get) -> Path:
    """Config first, so that a folder that is half there is seen to be one; then the weights that belong together."""
    small = [name for name in names if name in FILES or Path(name).parent.name == TEMPLATES]
    paths = [get(CONFIG), *(get(name) for name in small)]
    paths += [get(name) for name in _weights(names, get)]
    folder = paths[0].parent
    if any(not path.is_relative_to(folder) for path in paths):
        raise UsageError("the model changed on the hub while it was downloaded: run the command again")
    return folder


def _weights(names: Sequence[str], get: Get) -> list[str]:
    if INDEX in names:
        needed = sorted(set(weight_map(get(INDEX)).values()))
        missing = [name for name in needed if name not in names]
        if missing:
            raise UsageError(f"{missing[0]} is not there, but {INDEX} names it: download the model again")
        return needed
    if WHOLE in names:
        return [WHOLE]
    return [name for name in names if name.endswith(".safetensors") and "/" not in name]


class _Hub:
    """One repository, as `huggingface_hub` sees it."""

    def __init__(self, repo: str) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import constants, errors
        except ImportError:
            raise UsageError(
                f"hf:{repo} is downloaded by huggingface_hub, which is not installed: pip install 'motley-moe[hub]'"
            ) from None
        self._hub: Any = huggingface_hub
        self._errors: Any = errors
        self._repo = repo
        self._address = f"{constants.ENDPOINT}/{repo}"
        self._offline = bool(constants.HF_HUB_OFFLINE)

    @property
    def where(self) -> str:
        """For the end of a sentence about what was not found."""
        return " in this machine's cache (HF_HUB_OFFLINE is set)" if self._offline else ""

    def names(self) -> list[str]:
        """Of all files there are: on the hub, or offline in the cache."""
        if self._offline:
            return self._cached()
        info = self._guarded(lambda: self._hub.HfApi().model_info(self._repo))
        return [str(sibling.rfilename) for sibling in info.siblings or ()]

    def get(self, name: str) -> Path:
        return Path(self._guarded(lambda: self._downloaded(name)))

    def _downloaded(self, name: str) -> str:
        if not self._offline:
            fetch_large(self._hub, self._repo, name)
        return str(self._hub.hf_hub_download(self._repo, name))

    def _cached(self) -> list[str]:
        try:
            repos = self._hub.scan_cache_dir().repos
        except self._errors.CacheNotFound:
            repos = []
        for repo in repos:
            for revision in repo.revisions if (repo.repo_type, repo.repo_id) == ("model", self._repo) else ():
                if "main" in revision.refs:
                    base = revision.snapshot_path
                    return sorted(file.file_path.relative_to(base).as_posix() for file in revision.files)
        raise UsageError(f"{self._repo} is not in this machine's cache, and HF_HUB_OFFLINE is set: unset it once")

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """`huggingface_hub` changes the HTTP library below it, and with that its exceptions: so all are caught here."""
        errors = self._errors
        try:
            return work()
        except MotleyError:
            raise
        except errors.GatedRepoError:
            raise UsageError(
                f"{self._repo} is gated: accept its terms at {self._address}, then `hf auth login`, or set HF_TOKEN"
            ) from None
        except errors.RepositoryNotFoundError:
            raise UsageError(
                f"there is no model {self._repo} at {self._address}, or it is private: check the name; for a private "
                "one `hf auth login`, or set HF_TOKEN"
            ) from None
        except errors.HFValidationError as error:
            raise UsageError(f"{self._repo}: {_first_line(error)}") from None
        except errors.EntryNotFoundError as error:
            raise UsageError(f"{self._repo}: a file is missing: {_first_line(error)}") from None
        except Exception as error:
            raise UsageError(
                f"{self._repo} was not downloaded from {self._address}: {_first_line(error)}; run the command again: "
                "it goes on where it stopped (with HF_HUB_OFFLINE=1 it uses what is there)"
            ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
