"""Offers: the models that this host may run, from its settings: the bundled one, files in folders, allowed downloads.

Nothing that a visitor writes is ever a path: names are compared with what is offered, and only an offer has a path.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from motley.bench.facts import expert_quant
from motley.board.settings import Models
from motley.bundled import model_path, routes_path
from motley.errors import MotleyError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.predict.routes import Routes
from motley.shape.catalogue import find, plain
from motley.shape.mix import is_mix
from motley.shape.model import ModelShape

_QUANT = re.compile(r"[-_.]((?:UD-)?I?Q\d\w*|MXFP4\w*|NVFP4|BF16|F16|F32|FP8)(?:-\d{5}-of-\d{5})?$", re.IGNORECASE)
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class Offer:
    """A model that may be run. `model`: the catalogue's name where it is known there, else its own."""

    kind: str  # "bundled", "file" or "download"
    name: str
    model: str
    quant: str
    arguments: tuple[str, ...]  # of `motley bench`
    shape: ModelShape | None  # None: of a download, not known before

    @property
    def spellings(self) -> frozenset[str]:
        return frozenset(plain(name) for name in (self.name, self.model, *self.arguments[:1]) if name)

    @property
    def routes(self) -> Routes | None:
        return Routes.load(routes_path()) if self.kind == "bundled" else None


def offers(models: Models, base: Path) -> tuple[Offer, ...]:
    """Folders of models are relative to `base`; files of theirs have whole paths, wherever they will be run."""
    found = [_bundled()] if models.bundled else []
    for folder in models.folders:
        found += _of_folder((base / Path(folder).expanduser()).absolute())
    return (*found, *map(_download, models.downloads))


@lru_cache
def _bundled() -> Offer:
    shape = shape_of(open_checkpoint(model_path()))
    return Offer("bundled", "motley-8m", "motley-8m", "q8_0", (), shape)


def _of_folder(folder: Path) -> Iterator[Offer]:
    """A file that can't be read is not offered."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for path in entries:
        whole = path.suffix == ".gguf" and path.is_file() and not _LATER_PART.search(path.stem)
        if whole or (path / "config.json").is_file():
            try:
                yield _of_file(path, path.stat().st_mtime_ns)
            except (MotleyError, OSError):
                continue


@lru_cache(maxsize=1024)
def _of_file(path: Path, _changed_ns: int) -> Offer:
    shape = shape_of(open_checkpoint(path))
    name = path.stem if path.suffix == ".gguf" else path.name
    quant = _named_quant(name) or expert_quant(shape)
    return Offer("file", name, find(name) or shape.name, quant, (str(path),), shape)


def _download(name: str) -> Offer:
    """Its speed can be predicted before it is there only where the catalogue knows the model."""
    owner_name, _, file = name.removeprefix("hf:").partition(":")
    title = Path(file).stem if file else owner_name
    model, quant = find(title) or find(owner_name), _named_quant(title)
    shape = ModelShape.named(model, quant) if model and quant else None
    return Offer("download", title, model or title, quant or "", (name,), shape)


def _named_quant(name: str) -> str | None:
    match = _QUANT.search(name)
    quant = match[1].lower().replace("-", "_") if match else ""
    return quant if is_mix(quant) else None


def chosen(found: Sequence[Offer], model: str, quant: str) -> Offer | None:
    """The offer that `model` and `quant` mean, if one does: by its own name first, then by the catalogue's."""
    wanted = {plain(model), plain(find(model) or model)} if model else {"motley-8m"}
    fitting = [o for o in found if o.spellings & wanted and quant in ("", o.quant)]
    own = [o for o in fitting if plain(o.name) == plain(model)]
    return next(iter([*own, *fitting]), None)
