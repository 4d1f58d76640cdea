"""What `plan` and `predict` have in common: the arguments that say which model is placed on which lab, and what they
mean. Imports no kernels and no file formats until a file is read."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from motley.cli.listing import add_lists
from motley.cli.options import cache_type, no_repack, output_file, positive, step_tokens, writing
from motley.errors import UsageError
from motley.lab.lab import Lab
from motley.lab.labs import find_lab
from motley.predict.routes import Routes
from motley.predict.workload import Workload
from motley.shape.catalogue import find
from motley.shape.model import ModelShape


def add_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Not `required`: the command has something to do without a model and a lab, and checks for itself."""
    many = None if required else "?"
    parser.add_argument("model", nargs=many, metavar="MODEL_OR_SHAPE", help="a file, or a name of the catalogue")
    parser.add_argument("--quant", default="q4_k", metavar="Q", help="of a catalogue shape (default: %(default)s)")
    lab = "a lab file (`motley probe` writes one), a name of --labs, or shorthand: 'rtx-5090 + 2x m3-ultra-512 @10gbe'"
    parser.add_argument("--lab", required=required, metavar="LAB", help=lab)
    engine = "whose speeds devices of the catalogue have: see --engines (default: %(default)s)"
    parser.add_argument("--engine", type=str.lower, default="motley", metavar="NAME", help=engine)
    save = "write the lab as a file, to be edited: what shorthand and engine made of it"
    parser.add_argument("--save-lab", type=output_file, metavar="FILE", help=save)
    add_lists(parser)
    parser.add_argument("--context", type=positive, default=4096, help="of a sequence (default: %(default)s)")
    parser.add_argument("--slots", type=positive, default=1, help="sequences at once (default: %(default)s)")
    parser.add_argument("--home", action="append", metavar="DEVICE", help="attention only here (default: anywhere)")
    parser.add_argument("--routes", type=Path, metavar="FILE", help="a route trace (.npz): which experts are popular")
    parser.add_argument("--copies", action="store_true", help="experts twice where memory is left and it pays")
    rows = (
        "the output matrix, and attention's q, k and v, by rows over devices where it pays: Motley's own nodes do that"
    )
    parser.add_argument("--split-rows", action="store_true", help=rows)
    cache_type(parser)
    step_tokens(parser)
    no_repack(parser)


@dataclass(frozen=True)
class Question:
    """What is to be placed, and on what."""

    shape: ModelShape
    lab: Lab
    routes: Routes | None
    notes: tuple[str, ...] = ()  # what reading the lab had to say


def question(args: argparse.Namespace) -> Question:
    shape = model_shape(args.model, args.quant).with_cache(args.cache_type)
    found = find_lab(args.lab, args.engine)
    notes = [*found.notes, *_capped(shape, args.context)]
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if args.save_lab:
        with writing(args.save_lab):
            found.lab.save(args.save_lab)
    return Question(shape, found.lab, Routes.load(args.routes) if args.routes else None, tuple(notes))


def _capped(shape: ModelShape, context: int) -> list[str]:
    if context <= shape.context:
        return []
    return [f"--context {context:,}: {shape.name} was made for {shape.context:,} positions, and these are planned for"]


def check_length(shape: ModelShape, workloads: Sequence[Workload]) -> None:
    """Raises UsageError for a workload of more positions than the model was made for: the rule of every command."""
    for workload in workloads:
        if why := workload.too_long(shape.context):
            raise UsageError(f"{shape.name}, {workload.name}: {why}")


def model_shape(model: str, quant: str) -> ModelShape:
    """Of a file where there is one of that name, else of the catalogue."""
    if not _is_model(model):
        _check_name(model)
        return ModelShape.named(model, quant=quant)
    from motley.formats.checkpoint import open_checkpoint
    from motley.formats.shape_of import shape_of

    return shape_of(open_checkpoint(model))


def _is_model(name: str) -> bool:
    """A file, or a Hugging Face directory."""
    try:
        return Path(name).is_file() or (Path(name) / "config.json").is_file()
    except OSError:  # too long a name
        return False


def _check_name(model: str) -> None:
    """Raises UsageError for what can only mean a file: a shape's name may have an owner (`Qwen/Qwen3-30B-A3B`)."""
    if not model.strip():
        raise UsageError("the model's name is empty: give a GGUF file, or a name of --shapes")
    owned = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model) and find(model)
    if model.lower().endswith(".gguf") or ("/" in model and not owned):
        what = "is a folder: name a GGUF file in it" if Path(model).is_dir() else "is not there"
        raise UsageError(f"cannot read {model}: it {what}")
