"""Pages: templates and look, for the server and the static site alike. Everything put in is escaped."""

from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from motley.bench.words import size
from motley.board import views
from motley.board.ask import seen
from motley.board.board import Board
from motley.board.links import Links
from motley.board.states import Shown, State
from motley.board.store import Filter, Kept, Request
from motley.lab.labs import named_labs
from motley.page.template import look
from motley.predict.show import number
from motley.shape.catalogue import names
from motley.shape.mix import ALL_MIXES

PAGE_SIZE = 50


class Pages:
    def __init__(self, board: Board, links: Links) -> None:
        self.board, self.links = board, links

    def render(self, name: str, **context: Any) -> str:
        settings = self.board.settings
        return environment().get_template(name).render(links=self.links, settings=settings, State=State, **context)

    def home(self, what: Filter) -> str:
        one_more = None if what.limit is None else what.limit + 1
        found = self.board.store.requests(replace(what, limit=one_more))
        shown = [views.request_view(self.board, r) for r in found[: what.limit]]
        submitted = self.board.store.results(elsewhere=True, limit=10)
        counts = self.board.store.counts()
        return self.render(
            "home.html", requests=shown, what=what, more=len(found) > len(shown), counts=counts, submitted=submitted
        )

    def request(self, request: Request) -> str:
        view = views.request_view(self.board, request)
        context = views.result_context(view.result) if view.result else {}
        events = self.board.store.events(request.id)
        visible = request.shown is Shown.SHOWN
        return self.render("request.html", view=view, events=events, visible=visible, parsed=views.parsed, **context)

    def result(self, kept: Kept) -> str:
        context = views.result_context(views.parsed(kept.json))
        return self.render("result.html", kept=kept, **context)

    def ask(self, fields: dict[str, str], told: Any = None, asked: Any = None, error: str = "") -> str:
        offers = sorted({o.name for o in self.board.offers})
        labs = [lab.name for lab in named_labs()]
        return self.render(
            "ask.html",
            fields=fields,
            told=told,
            asked=asked,
            error=error,
            offers=offers,
            shapes=names(),
            quants=ALL_MIXES,
            labs=labs,
        )

    def submit(self, error: str = "") -> str:
        return self.render("submit.html", error=error)

    def about(self) -> str:
        return self.render("about.html", offers=self.board.offers, lab=self.board.lab)

    def message(self, title: str, words: str) -> str:
        return self.render("message.html", title=title, words=words)


def style() -> str:
    """One file: the common look, the plan's pictures, the board's own."""
    plan = (files("motley.plan") / "picture" / "plan.css").read_text("utf-8")
    own = (files("motley.board") / "web" / "templates" / "board.css").read_text("utf-8")
    return look() + plan + own


@cache
def environment() -> Environment:
    found = Environment(
        loader=PackageLoader("motley.board", "web/templates"),
        autoescape=True,  # requests, notes and results are other people's text
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"number": number, "size": size, "state_words": STATE_WORDS.__getitem__, "flags": views.flags}
    return found


def _seen(value: object) -> object:
    """What others wrote neither turns nor hides what stands around it."""
    return seen(value) if isinstance(value, str) and not isinstance(value, Markup) else value


STATE_WORDS = {
    State.ASKED: "asked",
    State.PREDICTED: "predicted only",
    State.QUEUED: "queued",
    State.RUNNING: "running now",
    State.MEASURED: "measured",
    State.REFUSED: "can't run here",
}
