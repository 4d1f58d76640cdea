"""`motley plan`: where attention and every expert would live, how fast that is, and what decided."""

import argparse
import json
from collections.abc import Callable

from motley.cli import placing
from motley.cli.options import output_file, positive, writing
from motley.errors import UsageError
from motley.lab.changes import Change
from motley.plan.objective import NAMES, PROMPT, Objective
from motley.plan.plan import Plan
from motley.plan.search import find_placement
from motley.plan.show import plan_json, plan_text, step_size_json
from motley.plan.whatif import Question, what_if, what_if_json, what_if_text

_CHANGES = (
    ("add", "SHORTHAND", "with these machines, such as '2x m3-ultra-512 @tb5-rdma'"),
    ("drop", "NAME", "without this device, or these (a pattern, a node, a device of the catalogue)"),
    ("swap", "OLD->NEW", "'tcp->rdma', '10gbe->100gbe', 'rtx-4090->rtx-5090'"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    placing.add_arguments(parser)
    workload = "pp512, tg64@d1024, ...; pp512+tg64: one after the other (default: %(default)s)"
    parser.add_argument("--workload", default="tg64", metavar="W", help=workload)
    objective = "what shall be fast: a token, all tokens of a batch, or the first token (default: as the workload says)"
    parser.add_argument("--objective", choices=NAMES, help=objective)
    parser.add_argument("--batch", type=positive, default=1, help="sequences of the workload (default: %(default)s)")
    prompt = f"tokens before the first one comes, for --objective ttft and what-if (default: {PROMPT})"
    parser.add_argument("--prompt", type=positive, metavar="N", help=prompt)
    for verb, metavar, example in _CHANGES:
        parser.add_argument(
            f"--{verb}",
            dest="changes",
            action="append",
            type=_change(verb),
            metavar=metavar,
            help=f"what if: {example}; repeatable, and with the others",
        )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the plan for programs")
    parser.add_argument("--html", type=output_file, metavar="FILE", help="draw the plan as a page")


def _change(verb: str) -> Callable[[str], Change]:
    return lambda text: Change(verb, text)


def run(args: argparse.Namespace) -> int:
    asked = placing.question(args)
    if args.changes and args.html:
        raise UsageError("--html draws one plan: leave it out, or the changes (--add, --drop, --swap)")
    objective = Objective.parse(args.workload, args.objective, args.batch, args.prompt or PROMPT, args.step_tokens)
    _check_prompt(args, objective)
    placing.check_length(asked.shape, objective.workloads)
    if args.changes:
        return _what_if(args, asked, objective)
    shape, lab, context = asked.shape, asked.lab, max(args.context, objective.context)
    plan = find_placement(
        shape,
        lab,
        None,
        asked.routes,
        context,
        args.slots,
        homes=args.home,
        repack=args.repack,
        objective=objective,
        copies=args.copies,
        split_rows=args.split_rows,
    )
    if args.json:  # files first: whoever reads the text may stop reading it
        with writing(args.json):
            args.json.write_text(json.dumps(plan_json(plan, shape, lab, context, args.slots), indent=1) + "\n")
    if args.html:
        _draw(args, asked, plan, context)
    print(plan_text(plan, shape, lab, context, args.slots))
    if args.html:
        print(f"\npage: {args.html}")
    return 0


def _check_prompt(args: argparse.Namespace, objective: Objective) -> None:
    """A prompt that nothing reads is refused."""
    if args.prompt and objective.first_token and objective.workload.tokens != args.prompt:
        raise UsageError(f"{args.workload} says the prompt, {objective.workload.tokens} tokens: leave out --prompt")
    if args.prompt and not (objective.first_token or args.changes):
        raise UsageError("--prompt is for --objective ttft and what-if (--add, --drop, --swap): leave it out")


def _draw(args: argparse.Namespace, asked: placing.Question, plan: Plan, context: int) -> None:
    from rich.console import Console

    from motley.cli.show import shown
    from motley.plan.picture.facts import Asked
    from motley.plan.picture.page import write_page

    drawn = Asked(asked.shape, asked.lab, plan, asked.routes, context, args.slots)
    with shown(Console(stderr=True)) as progress, writing(args.html):
        write_page(drawn, args.html, asked.notes, progress)


def _what_if(args: argparse.Namespace, asked: placing.Question, objective: Objective) -> int:
    from rich.console import Console

    from motley.cli.show import shown

    question = Question(
        asked.shape,
        objective.workload,
        args.prompt or PROMPT,
        args.context,
        args.slots,
        args.engine,
        asked.routes,
        args.home,
        args.repack,
        objective=objective,
        copies=args.copies,
        split_rows=args.split_rows,
    )
    placing.check_length(asked.shape, question.first.workloads)
    with shown(Console(stderr=True)) as progress:
        found = what_if(question, asked.lab, args.changes, progress)
    if args.json:
        document = {"model": asked.shape.name, **step_size_json(objective), "what_if": what_if_json(found)}
        with writing(args.json):
            args.json.write_text(json.dumps(document, indent=1) + "\n")
    print(what_if_text(found, question))
    return 0
