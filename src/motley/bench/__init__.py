"""Measurements: what a placement does, beside what was predicted, with the proof that its answer is right.

`run.run_bench` composes the rest: `measure` (speed), `check` (exactness), `peer_llamacpp` (a rival on the same
file), into a `result.Result`, which `store` keeps, `table` prints and `report` draws.
"""
