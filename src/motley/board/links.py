"""Where pages lie: below the address that the board is mounted at, or as a site's files, relative to the page."""

from dataclasses import dataclass
from urllib.parse import urlencode


@dataclass(frozen=True)
class Links:
    """`base`: what stands before a path; `ending`: of a page's file."""

    base: str = ""
    ending: str = ""
    static: bool = False

    @classmethod
    def served(cls, root: str) -> "Links":
        return cls(root.rstrip("/") + "/")

    @classmethod
    def of_file(cls, depth: int) -> "Links":
        """`depth`: folders between the page and the site's own folder."""
        return cls("../" * depth, ".html", static=True)

    def home(self, **query: object) -> str:
        given = {name: str(value) for name, value in query.items() if value}
        page = f"{self.base}index.html" if self.static else self.base
        return page + (f"?{urlencode(given)}" if given else "")

    def page(self, name: str) -> str:
        return f"{self.base}{name}{self.ending}"

    def request(self, id: int) -> str:
        return f"{self.base}requests/{id}{self.ending}"

    def result(self, id: int) -> str:
        return f"{self.base}results/{id}{self.ending}"

    def file(self, name: str) -> str:
        """Not a page: `board.css`, `results/3.json`."""
        return f"{self.base}{name}"
