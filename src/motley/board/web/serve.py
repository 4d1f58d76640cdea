"""`motley board serve`: the pages alone, on the server of `motley serve`, with the runner beside them if asked for."""

import subprocess
import sys

from motley.board import leash
from motley.board.board import Board
from motley.board.web.app import application
from motley.serve.guard import names_of
from motley.serve.listen import bound, is_loopback, listen


def serve(board: Board, host: str, port: int, *, also_run: bool) -> None:
    """Until Ctrl-C. Prints the address when it is ready to answer."""
    here = is_loopback(host)
    hosts = names_of(host, keyed=board.settings.public.behind_proxy) if here else None
    board.catch_up()
    with bound(host, port) as listener:
        shown = f"[{host.strip('[]')}]" if ":" in host else host
        print(f"{board.settings.title}: http://{shown}:{listener.getsockname()[1]}/", flush=True)
        if not here and not board.settings.public.moderated:
            print("Not moderated: whatever is filed is shown at once.", flush=True)
        runner = _runner(board) if also_run else None
        try:
            listen(application(board, hosts), listener)
        finally:
            if runner and runner.stdin:
                runner.stdin.close()
                runner.wait(2 * leash.GRACE_S)


def _runner(board: Board) -> "subprocess.Popen[bytes]":
    """In a process of its own, which ends with this one."""
    python = [sys.executable, "-m"]
    words = [*python, leash.__name__, *python, "motley", "board", "run", "--watch", "--board", str(board.folder)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
