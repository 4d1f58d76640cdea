"""Write docs/cli.md from the command line's own parser: `python tools/cli_docs.py`.

The text is put together here rather than by argparse's formatter, whose layout changes between Python versions.
`tests/unit/test_cli_docs.py` fails when the page is out of date.
"""

import argparse
from pathlib import Path

from motley.cli.main import build_parser

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

HEAD = """# The command line

Written by `tools/cli_docs.py`; don't edit. Exit status of every command: 0 done, 1 a check failed, 2 wrong use or bad
input, 130 interrupted.

| environment variable | names |
|---|---|
| `MOTLEY_DATA` | the folder of the results store and the reports (default: where this system keeps a user's data) |
| `MOTLEY_CACHE` | the folder of what can be made again, such as synthetic models (default: this system's cache) |
| `MOTLEY_API_KEY` | the key that `motley serve` asks of its clients |
"""


def document(parser: argparse.ArgumentParser) -> str:
    """The whole page."""
    parts = [HEAD]
    for name, command in _commands(parser).items():
        parts += _section("##", name, command)
        for action, inner in _commands(command).items():
            parts += _section("###", f"{name} {action}", inner)
    return "\n".join(parts)


def _section(level: str, name: str, command: argparse.ArgumentParser) -> list[str]:
    """Description, usage and arguments; of a command with actions they follow, each with a section of its own."""
    parts = [f"{level} motley {name}\n\n{command.description}\n"]
    if not _commands(command):
        parts[0] += f"\n```\n{_usage(name, command)}\n```\n"
    rows = [f"| {_spelled(action)} | {_meaning(action)} |" for action in _arguments(command)]
    if rows and not _commands(command):
        parts.append("| argument | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return parts


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Positional ones first; without --help."""
    shown = [a for a in parser._actions if not isinstance(a, argparse._HelpAction) and a.help != argparse.SUPPRESS]
    return sorted(shown, key=lambda action: bool(action.option_strings))


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    """`motley plan MODEL --lab LAB [options]`: what must be given, and what stands in a place."""
    words = ["motley", name]
    optional = False
    for action in _arguments(parser):
        value = _value(action)
        if not action.option_strings:
            many = "..." if action.nargs in ("*", "+") else ""
            words.append(f"[{value}{many}]" if action.nargs in ("?", "*") else value + many)
        elif action.required:
            words.append(f"{max(action.option_strings, key=len)} {value}".strip())
        else:
            optional = True
    return " ".join([*words, "[options]"] if optional else words)


def _spelled(action: argparse.Action) -> str:
    """`-o`, `--output FILE`"""
    value = _value(action)
    if not action.option_strings:
        return f"`{value}`"
    *short, last = action.option_strings
    return ", ".join([*(f"`{s}`" for s in short), f"`{last} {value}`" if value else f"`{last}`"])


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.choices:
        return "|".join(map(str, action.choices))
    if isinstance(action.metavar, str):
        return action.metavar
    return action.dest if not action.option_strings else action.dest.upper()


def _meaning(action: argparse.Action) -> str:
    values = {**vars(action), "prog": "motley"}
    if action.dest == "threads" and action.default is not None:
        values["default"] = "all cores"  # the page must not depend on the machine that writes it
    text = ((action.help or "") % values).replace("|", "\\|")
    return f"(required) {text}".strip() if action.required and action.option_strings else text


if __name__ == "__main__":
    PAGE.write_text(document(build_parser()), encoding="utf-8")
    print(f"wrote {PAGE}")
