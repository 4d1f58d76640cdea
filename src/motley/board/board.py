"""Board: what may be done with a board, by its visitors, its host and its runner. Owns its folder.

board.toml      what the host allows (motley.board.settings)
lab.toml        the host's devices and links, as `motley probe` measured them
board.sqlite    requests, votes, results
admin-token     for approving over HTTP
runs/           what a run in progress writes
"""

import hmac
import secrets
from collections import OrderedDict
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from motley.bench.result import Result, from_json, to_json
from motley.board.ask import Ask, clean, line, seen
from motley.board.forecast import Forecast, forecast
from motley.board.offers import Offer, offers
from motley.board.question import Understood, understand
from motley.board.settings import Settings, load_settings
from motley.board.states import Shown, State
from motley.board.store import Filter, Store
from motley.errors import CapacityError, MotleyError, UsageError
from motley.lab.lab import Lab
from motley.shape.catalogue import find

HOST = "host"  # the voter behind the command line
_REMEMBERED = 256

Told = Forecast | str  # or why there is none


class Board:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: Settings = load_settings(folder / "board.toml")
        self.store = Store(folder / "board.sqlite")
        self._told: OrderedDict[str, Told] = OrderedDict()

    @cached_property
    def lab_path(self) -> Path:
        return self.folder / Path(self.settings.lab).expanduser()

    @cached_property
    def lab(self) -> Lab:
        return Lab.load(self.lab_path)

    @property
    def offers(self) -> tuple[Offer, ...]:
        return offers(self.settings.models, self.folder)

    # -- asking
    def understand(self, ask: Ask) -> Understood:
        return understand(ask, self.settings, self.offers, self.lab)

    def tell(self, asked: Understood) -> Told:
        """The forecast, or in one sentence why it can't run."""
        key = asked.question.key
        if key not in self._told:
            try:
                self._told[key] = forecast(asked)
            except CapacityError as error:
                self._told[key] = str(error)
            while len(self._told) > _REMEMBERED:
                self._told.popitem(last=False)
        return self._told[key]

    def ask(self, ask: Ask, voter: str = HOST) -> tuple[int, bool]:
        """(id, whether it was new). With its prediction when this returns. UsageError for what means nothing here."""
        asked = self.understand(ask)
        if voter != HOST:
            if self.store.shown_of(asked.question.key) is Shown.HIDDEN:
                raise UsageError("the host does not want this request")
            self._require_room()
        shown = Shown.WAITING if self.settings.public.moderated and voter != HOST else Shown.SHOWN
        id, new = self.store.file(asked, ask, shown, voter)
        if new:
            self.predict(id, asked)
        elif voter == HOST and self.store.get(id).shown is Shown.WAITING:
            self.store.show("request", id, Shown.SHOWN)
        return id, new

    def predict(self, id: int, asked: Understood) -> None:
        """asked -> predicted -> queued, or refused."""
        told = self.tell(asked)
        if isinstance(told, str):
            self.store.move(id, State.REFUSED, told)
        else:
            self.store.predicted(id, told, asked.why_not)

    def catch_up(self) -> None:
        """Predict what was filed by a process that ended before it had."""
        for request in self.store.requests(Filter(states=(State.ASKED,), shown=tuple(Shown))):
            try:
                self.predict(request.id, self.understand(request.ask))
            except MotleyError as error:
                self.store.move(request.id, State.REFUSED, str(error))

    def reconsider(self) -> None:
        """After the host changed its files or limits: queue what can run now, and only that."""
        for request in self.store.requests(Filter(states=(State.PREDICTED, State.QUEUED), shown=tuple(Shown))):
            try:
                why_not = self.understand(request.ask).why_not
            except MotleyError as error:
                why_not = str(error)
            if bool(why_not) is (request.state is State.QUEUED):
                self.store.move(request.id, State.PREDICTED if why_not else State.QUEUED, why_not)

    def retry(self, id: int) -> None:
        """By the host: a refused or measured request once more."""
        self.store.retried(id)
        self.catch_up()

    # -- results of others
    def submit(self, data: bytes, note: str = "", voter: str = HOST) -> tuple[int, bool]:
        """(id, whether it was new). FormatError names what is wrong with the JSON."""
        if len(data) > self.settings.public.result_mb * 1e6:
            raise UsageError(f"the result is over this board's {self.settings.public.result_mb:g} MB")
        if voter != HOST:
            self._require_room()
        result = _seen(from_json(data, "the result"))
        written = to_json(result)
        model = find(result.model.name.removeprefix("synthetic ")) or line(result.model.name)  # as `synth` calls files
        shown = Shown.WAITING if self.settings.public.moderated and voter != HOST else Shown.SHOWN
        digest = sha256(written).hexdigest()
        id, new = self.store.submit(digest, shown, model, line(result.model.quant), clean(note)[:1000], written)
        if voter != HOST and self.store.result(id).shown is Shown.HIDDEN:
            raise UsageError("the host does not want this result")
        return id, new

    def _require_room(self) -> None:
        if self.store.waiting() >= self.settings.public.most_open:
            raise UsageError("the board is full for now: too many requests wait; vote for one of them instead")

    # -- who
    @cached_property
    def _secret(self) -> bytes:
        return self.store.secret

    def voter(self, address: str) -> str:
        """An address, so that it can be told from others but not read."""
        return hmac.new(self._secret, address.encode(), sha256).hexdigest()[:24]

    def is_admin(self, token: str) -> bool:
        try:
            right = (self.folder / "admin-token").read_text("utf-8").strip()
        except OSError:
            return False
        return bool(right) and hmac.compare_digest(right.encode(), token.encode("utf-8", "replace"))


def _seen(result: Result) -> Result:
    """The same, without what in its texts would turn or hide what stands around them."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, str):
            return seen(value)
        if isinstance(value, dict):
            return {cleaned(key): cleaned(inner) for key, inner in value.items()}
        return [cleaned(inner) for inner in value] if isinstance(value, list | tuple) else value

    return from_json(msgspec.json.encode(cleaned(msgspec.to_builtins(result))), "the result")


def make_admin_token(folder: Path) -> None:
    path = folder / "admin-token"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(32) + "\n", encoding="utf-8")
