"""MlxExperts: the experts of one layer that are on an MLX device, and their sum for a step's tokens.

T tokens, D model width, E experts, A active experts, F expert width, n pairs of a token and an expert.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from motley.formats.tensor import QuantTensor
from motley.ops.mlx.matrix import Matrix
from motley.ops.protocol import ExpertBiases, Upload

Array = Any  # mx.array

_SORTED = 64  # pairs from which on each expert's weights are read once for all its tokens


class MlxExperts:
    """gate, up [owned, F, D], down [owned, D, F]."""

    def __init__(
        self,
        gate: QuantTensor,
        up: QuantTensor,
        down: QuantTensor,
        owned: Sequence[int],
        upload: Upload,
        activate: Callable[[Array, Array], Array],
        biases: ExpertBiases | None,
    ) -> None:
        n, ids = gate.dims[0], [int(e) for e in owned]
        self._all = ids == list(range(n))
        self._place = np.full(n + 1, -1, np.int32)  # of each expert here; nobody's id, -1, finds the last
        self._place[ids] = np.arange(len(ids))
        self._matrices = [Matrix(t, ids, upload) for t in (gate, up, down)] if ids else []
        self._activate = activate
        self._biases = [mx.array(b.decode()[ids]) for b in biases] if biases else None

    def sums(self, x: Array, ids: Array, weights: Array) -> Array:
        """x [T, D], ids int32 [T, A] (numpy's, or MLX's: of a router), weights [T, A] -> float32 [T, D]"""
        if self._all and not isinstance(ids, np.ndarray):
            return self._of_all(x, ids, weights)
        return self._of_some(x, np.asarray(ids), weights)

    def _of_all(self, x: Array, ids: Array, weights: Array) -> Array:
        """Every pair is ours: the host need not know which they are."""
        tokens, used = ids.shape
        which = ids.reshape(-1)
        if tokens * used < _SORTED:
            y = self._outputs(mx.repeat(x, used, axis=0), which, ascending=False)
        else:
            order = mx.argsort(which)
            y = self._outputs(x[order // used], which[order], ascending=True)[mx.argsort(order)]
        return (y.reshape(tokens, used, -1) * weights[..., None]).sum(axis=1)

    def _of_some(self, x: Array, ids: NDArray[np.int32], weights: Array) -> Array:
        tokens, used = ids.shape
        which = self._place[ids].reshape(-1)
        pairs = np.argsort(which, kind="stable")
        pairs = pairs[which[pairs] >= 0].astype(np.int32)  # ours, by expert
        if not len(pairs):
            return mx.zeros((tokens, x.shape[1]))
        y = self._outputs(x[mx.array(pairs // used)], mx.array(which[pairs]), ascending=True)
        y = y * weights.reshape(-1)[mx.array(pairs)][:, None]
        y = mx.concatenate([y, mx.zeros((1, x.shape[1]))])  # the last row stands for pairs of others
        row = np.full(tokens * used, len(pairs), np.int32)
        row[pairs] = np.arange(len(pairs))
        return y[mx.array(row.reshape(tokens, used))].sum(axis=1)

    def _outputs(self, x: Array, which: Array, ascending: bool) -> Array:
        """x [n, D] -> [n, D], each through the expert `which` [n] says."""
        gate, up = (matrix.of_each(x, which, ascending) for matrix in self._matrices[:2])
        if self._biases:
            gate, up = gate + self._biases[0][which], up + self._biases[1][which]
        y = self._matrices[2].of_each(self._activate(gate, up), which, ascending)
        return y + self._biases[2][which] if self._biases else y
