"""Quantisation labels as people publish them, turned into the name of a mix."""

from motley.shape.mix import ALL_MIXES


def mix_named(label: str) -> str | None:
    """`Q4_K_M (ollama default)` -> `q4_k_m`; None where the label says no precision that Motley can count."""
    name = label.strip().lower().replace("-", "_")
    return name if name in ALL_MIXES else None
