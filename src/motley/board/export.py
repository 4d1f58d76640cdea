"""Export: the board as a static site, by the same templates. Links are relative, nothing is written outside."""

from pathlib import Path

from motley.board import tables
from motley.board.board import Board
from motley.board.links import Links
from motley.board.pages import Pages, style
from motley.board.store import Filter
from motley.errors import UsageError


def export(board: Board, folder: Path) -> int:
    """The number of files. What was shown before and is hidden now is removed."""
    if folder.exists() and not (folder / "board.css").is_file() and any(folder.iterdir()):
        raise UsageError(f"{folder} holds something else: name an empty folder, or one that an export made")
    files: dict[str, str | bytes] = {"board.css": style(), "requests.csv": tables.csv_of(board)}
    top, below = Pages(board, Links.of_file(0)), Pages(board, Links.of_file(1))
    files["index.html"] = top.home(Filter())
    files["about.html"] = top.about()
    for request in board.store.requests(Filter()):
        files[f"requests/{request.id}.html"] = below.request(request)
    for kept in board.store.results():
        files[f"results/{kept.id}.html"] = below.result(kept)
        files[f"results/{kept.id}.json"] = kept.json
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for old in [*folder.glob("requests/*"), *folder.glob("results/*")]:
        if old.relative_to(folder).as_posix() not in files:
            old.unlink()
    return len(files)
