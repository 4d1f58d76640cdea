"""EnduringEngine: an engine whose sequences outlive the nodes that compute them.

A step that fails has sampled nothing. The keeper finds out who is lost and gives a new runner; every running sequence
is computed anew from its tokens, and goes on with the token that it would have had: a token's bits depend on nothing
but its own sequence, so a greedy stream is the same as an undisturbed one.
"""

from motley.engine.engine import Engine, Stream
from motley.engine.keeper import Keeper
from motley.errors import ClusterError
from motley.predict.workload import STEP_TOKENS


class EnduringEngine(Engine):
    def __init__(self, keeper: Keeper, chunk: int = STEP_TOKENS) -> None:
        if keeper.runner is None:
            raise ValueError("the keeper has no model loaded: enter it first")
        super().__init__(keeper.runner, chunk)
        self._keeper = keeper

    def step(self) -> list[Stream]:
        """As `Engine.step`; without streams where the step was lost. NodeLost if those left can't hold the model."""
        try:
            if better := self._keeper.improve():
                self.rebuild(better)
            with self._keeper.watching():
                return super().step()
        except ClusterError as error:
            self.rebuild(self._keeper.recover(error))
            return []
