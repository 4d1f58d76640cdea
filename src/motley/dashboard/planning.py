"""What-if for the page: the question is checked here, and answered by `planner` in a process of its own.

A search is a minute of one core at worst, and in this process the streams would wait for it. One at a time; ended when
it takes too long or when nobody waits for it any more.
"""

import asyncio
import sys
from typing import Annotated, Any

import msgspec

from motley.dashboard.view import Shown
from motley.errors import UsageError
from motley.serve.problems import Problem

SECONDS = 60.0
MOST_CHANGES = 8

Text = Annotated[str, msgspec.Meta(max_length=300)]


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The page's question. An empty `model` is the served one, an empty `lab` the pool that serves."""

    model: Text = ""
    quant: Text = "q4_k"
    lab: Text = ""
    changes: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MOST_CHANGES)] = ()
    context: Annotated[int, msgspec.Meta(ge=1, le=2**24)] = 4096
    slots: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What the planner reads: the question, and what it needs to know of this server."""

    asked: Asked
    file: str
    here: Any  # the pool's lab, as plain data; None where it was not measured
    step_tokens: int  # the most that a step of the server carries


class Planning:
    def __init__(self, shown: Shown) -> None:
        self._shown, self._busy = shown, asyncio.Lock()

    async def answer(self, body: bytes) -> dict[str, Any]:
        """The planner's answer. Raises UsageError for what can't be planned, Problem."""
        try:
            asked = msgspec.json.decode(body, type=Asked)
        except msgspec.MsgspecError as error:
            raise UsageError(f"the question can't be read: {error}") from None
        placed = self._shown.placed()
        if not asked.lab and placed is None:
            raise UsageError(
                "this server's machine was not measured: name a lab, or serve with --nodes, --lab or --cluster"
            )
        if self._busy.locked():
            raise Problem(429, "another plan is being searched: try again in some seconds", retry_s=10)
        here = msgspec.to_builtins(placed.lab) if placed else None
        work = Work(asked=asked, file=self._shown.model, here=here, step_tokens=self._shown.step_tokens)
        async with self._busy:
            return await _planned(msgspec.json.encode(work))


async def _planned(work: bytes) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "motley.dashboard.planner"]
    pipe = asyncio.subprocess.PIPE
    planner = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        said, _ = await asyncio.wait_for(planner.communicate(work), SECONDS)
    except TimeoutError:
        raise UsageError(f"no plan was found within {SECONDS:.0f} s: ask for fewer machines or changes") from None
    finally:
        if planner.returncode is None:
            planner.kill()
            await planner.wait()
    if planner.returncode:
        raise Problem(500, "the planner failed: the server's log says why", code="planner")
    found: dict[str, Any] = msgspec.json.decode(said)
    if "error" in found:
        raise UsageError(found["error"])
    return found
