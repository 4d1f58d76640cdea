"""The bundled model's corpus: free text from Debian 12 packages, sorted into domains.

Owns the list of sources with their licences, and the way from a `.deb` to plain text. Refuses
copyleft sources, so that the model can be given away under any terms.
Needs `apt-get`, `dpkg-deb` and `groff-base`; nothing is installed, packages are only unpacked.

    python tools/bundled/corpus.py --work build/bundled      # writes corpus/*.txt and sources.json
"""

import argparse
import gzip
import html
import json
import re
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

HELD_OUT_EVERY = 25
"""One document piece of this many is kept away from training (4 %)."""
PIECE_CHARS = 12_000
"""A document is cut into pieces of about this length before the held-out ones are drawn."""


@dataclass(frozen=True)
class Source:
    """One Debian package as text: which files, read how, under which licence."""

    domain: str
    package: str
    licence: str
    files: str  # glob below the unpacked package
    read: Callable[[Path], Iterator[str]]
    every: int = 1  # take one file of this many: some packages would drown the rest
    show: bool = False  # its held-out text may stand in the package (short and permissive notice)


def r_strings(path: Path) -> Iterator[str]:
    """The character vectors of an R lazy-load database: Jane Austen's novels, a line a string."""
    data = path.read_bytes()
    at = 0
    while at < len(data):
        stream = zlib.decompressobj()
        blob = stream.decompress(data[at + 4 :])  # 4 bytes of length, then a zlib stream
        at = len(data) - len(stream.unused_data)
        count, here = struct.unpack(">I", blob[27:31])[0], 31  # after the XDR header: STRSXP
        lines = []
        for _ in range(count):
            size = struct.unpack(">I", blob[here + 4 : here + 8])[0]
            lines.append(blob[here + 8 : here + 8 + size].decode())
            here += 8 + size
        yield unwrap("\n".join(lines))


def unwrap(text: str) -> str:
    """Hard-wrapped paragraphs as one line each, so that the model need not learn line lengths."""
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n\n".join(" ".join(p.split()) for p in paragraphs if p.strip())


def sword_books(path: Path) -> Iterator[str]:
    """The books of a SWORD zText module (`path` is its `.bzs` index), markup taken off."""
    index, data = path.read_bytes(), path.with_suffix(".bzz").read_bytes()
    for start, size, _ in struct.iter_unpack("<III", index):
        if not size:
            continue
        text = zlib.decompress(data[start : start + size]).decode("utf-8", "replace")
        text = re.sub(r"<note.*?</note>", " ", text, flags=re.S)
        text = re.sub(r'<div [^>]*type="x-p"/>|<title[^>]*>|</title>|<chapter[^>]*>', "\n\n", text)
        text = re.sub(r"<[^>]*>", "", text)
        yield re.sub(r" ([,.;:?!])", r"\1", unwrap(html.unescape(text)))


class _Text(HTMLParser):
    """HTML's body text; paragraphs on one line, `pre` as it stands."""

    skipped = frozenset({"script", "style", "head", "nav"})
    blocks = frozenset({"p", "div", "h1", "h2", "h3", "h4", "h5", "li", "dt", "dd", "tr", "table", "dl", "pre", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.skip = self.pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        css = dict(attrs).get("class") or ""
        if tag in self.skipped:
            self.skip += 1
        self.pre += tag == "pre"
        if tag in self.blocks and not ("title" in css and tag == "div"):
            self.parts.append("\n\n" if tag not in {"br", "li", "tr"} else "\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.skipped:
            self.skip -= 1
        self.pre -= tag == "pre"
        if tag in self.blocks:
            self.parts.append("\n\n" if tag in {"p", "pre", "h1", "h2", "h3"} else "\n")

    def handle_data(self, data: str) -> None:
        if not self.skip:
            self.parts.append(data if self.pre else re.sub(r"\s+", " ", data))


def html_page(path: Path) -> Iterator[str]:
    """One HTML page as text, without DocBook's navigation lines."""
    page = read_text(path)
    page = re.sub(r'<div[^>]*class="nav(header|footer)".*?</table>', "", page, flags=re.S)
    parser = _Text()
    parser.feed(page)
    yield tidy("".join(parser.parts))


def pod_page(path: Path) -> Iterator[str]:
    """Perl's documentation with its formatting codes taken off."""
    text = read_text(path)
    text = re.sub(r"\n=(begin|for)\b.*?(\n=end[^\n]*|\n\n)", "\n\n", text, flags=re.S)
    text = re.sub(r"\n=(head\d|item) *", "\n", text)
    text = re.sub(r"\n=\w+[^\n]*", "\n", text)
    for _ in range(3):  # codes nest
        text = re.sub(r"[BCFILSXE]<+ ?([^<>|]*\|)?([^<>]*?) ?>+", r"\2", text)
    yield tidy(text)


def rst_page(path: Path) -> Iterator[str]:
    """Python's documentation: reStructuredText, roles and directives' marks taken off."""
    if path.stat().st_size > 800_000:
        return  # the list of every change ever made
    text = read_text(path)
    text = re.sub(r":[\w:+-]+:`[~!]?([^`<]*?)( <[^`>]*>)?`", r"\1", text)
    text = re.sub(r"(?m)^\.\. (_|index|include|highlight|toctree|sectionauthor)[^\n]*\n(   .*\n)*", "", text)
    yield tidy(text.replace("``", "`"))


def man_page(path: Path) -> Iterator[str]:
    """A manual page as a terminal of 78 columns shows it."""
    if path.is_symlink() or path.stat().st_size < 1200:
        return  # an alias of another page
    run = subprocess.run(
        ["groff", "-t", "-Kutf8", "-mandoc", "-Tutf8", "-P-cbou", "-rLL=78n", "-rHY=0"],
        input=read_text(path).encode(),
        capture_output=True,
        check=False,
    )
    text = run.stdout.decode("utf-8", "replace").replace("‐", "-").replace("−", "-")
    yield tidy(text)


def python_file(path: Path) -> Iterator[str]:
    """A module of the standard library, as it is."""
    tables = {"test", "encodings", "pydoc_data"}  # not code that anyone reads
    if not tables & set(path.parts) and path.stat().st_size < 200_000:
        yield read_text(path)


def dictionary(path: Path) -> Iterator[str]:
    """A dictd database: its entries, without the header's paragraphs about the database."""
    text = read_text(path)
    text = re.sub(r"(?m)^00-?database.*\n(\s.*\n|\n)*", "", text)
    yield tidy(re.sub(r"\n(?=\S)", "\n\n", text))


def read_text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8", "replace")


def tidy(text: str) -> str:
    text = re.sub(r"[ \t\xa0]+\n", "\n", text.replace("\r", ""))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


PSF, PG, PD = "PSF-2.0", "PostgreSQL", "public domain"
SOURCES = [
    Source("novel", "r-cran-janeaustenr", PD, "**/data/Rdata.rdb", r_strings, show=True),
    Source("scripture", "sword-text-web", PD, "**/*.bzs", sword_books, show=True),
    Source("docs", "postgresql-doc-15", PG, "**/html/*.html", html_page, show=True),
    Source("docs", "perl-doc", "Artistic-1.0-Perl or GPL-1.0+", "**/pod/*.pod", pod_page),
    Source("docs", "python3.11-doc", PSF, "**/_sources/**/*.rst.txt", rst_page),
    Source("man", "freebsd-manpages", "BSD (2- to 4-clause)", "**/man/man[2-9]/*.gz", man_page, every=6),
    Source("man", "libssl-doc", "Apache-2.0", "**/man/man3/*.gz", man_page, every=2),
    Source("man", "tcl8.6-doc", "TCL (BSD-like)", "**/man/man3/*.gz", man_page),
    Source("man", "postgresql-doc-15", PG, "**/man/man*/*.gz", man_page, show=True),
    Source("man", "postgresql-client-15", PG, "**/man/man*/*.gz", man_page, show=True),
    Source("code", "libpython3.11-stdlib", PSF, "**/python3.11/**/*.py", python_file, show=True),
    Source("code", "libpython3.11-minimal", PSF, "**/python3.11/**/*.py", python_file, show=True),
    Source("dictionary", "dict-wn", "WordNet-3.0 (BSD-like)", "**/*.dict.dz", dictionary),
    Source("dictionary", "dict-jargon", PD, "**/*.dict.dz", dictionary, show=True),
    Source("dictionary", "dict-devil", PD, "**/*.dict.dz", dictionary, show=True),
]
DOMAINS = list(dict.fromkeys(source.domain for source in SOURCES))


def unpack(work: Path) -> None:
    """Download and unpack every package below `work/debs`, once."""
    debs = work / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    for package in dict.fromkeys(source.package for source in SOURCES):
        if not (debs / package).exists():
            subprocess.run(["apt-get", "download", "-q", package], cwd=debs, check=True)
            deb = next(debs.glob(f"{package}_*.deb"))
            subprocess.run(["dpkg-deb", "-x", str(deb), package], cwd=debs, check=True)


def pieces(document: str) -> Iterator[str]:
    """Cut a document at blank lines into pieces of about `PIECE_CHARS`."""
    piece = ""
    for paragraph in document.split("\n\n"):
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
        if len(piece) >= PIECE_CHARS:
            yield piece
            piece = ""
    if len(piece) > 200:
        yield piece


def documents(source: Source, work: Path) -> Iterator[str]:
    files = sorted(p for p in (work / "debs" / source.package).glob(source.files) if p.is_file())
    with ThreadPoolExecutor(2) as pool:
        for texts in pool.map(lambda path: list(source.read(path)), files[:: source.every]):
            yield from texts


def version(work: Path, package: str) -> str:
    return next((work / "debs").glob(f"{package}_*.deb")).name.split("_")[1].replace("%3a", ":")


def build(work: Path) -> None:
    """Write `corpus/DOMAIN.{train,held,show}.jsonl` (a piece a line) and `sources.json`."""
    unpack(work)
    out = work / "corpus"
    out.mkdir(exist_ok=True)
    split: dict[str, dict[str, list[str]]] = {d: {"train": [], "held": [], "show": []} for d in DOMAINS}
    rows = []
    for source in SOURCES:
        train_bytes = held_bytes = number = 0
        for document in documents(source, work):
            for piece in pieces(document):
                number += 1
                if number % HELD_OUT_EVERY == 12:
                    split[source.domain]["show" if source.show else "held"].append(piece)
                    held_bytes += len(piece.encode())
                else:
                    split[source.domain]["train"].append(piece)
                    train_bytes += len(piece.encode())
        rows.append(
            {
                "domain": source.domain,
                "package": source.package,
                "version": version(work, source.package),
                "licence": source.licence,
                "train_bytes": train_bytes,
                "held_out_bytes": held_bytes,
            }
        )
        print(rows[-1], flush=True)
    for domain, parts in split.items():
        for part, texts in parts.items():
            lines = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
            (out / f"{domain}.{part}.jsonl").write_text(lines)
    (work / "sources.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/bundled"))
    build(parser.parse_args().work)
