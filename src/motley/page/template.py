"""Templates of pages, with everything that is put in escaped."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(package: str, folder: str, name: str, filters: Mapping[str, Any], **context: Any) -> str:
    """The template `name` in `folder` of `package`; `style` is there for it beside the context."""
    environment = _environment(package, folder)
    environment.filters |= filters
    own = files(package) / folder / f"{name.split('.')[0]}.css"
    style = look() + (own.read_text("utf-8") if own.is_file() else "")
    return environment.get_template(name).render(style=Markup(style), **context)


@cache
def look() -> str:
    return (files("motley.page") / "look.css").read_text("utf-8")


@cache
def _environment(package: str, folder: str) -> Environment:
    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,  # names, commands and submitted results are other people's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
