"""Role: what a tensor is for; placement and cost depend on it."""

from enum import StrEnum


class Role(StrEnum):
    EMBED = "embed"
    ATTENTION = "attention"
    NORM = "norm"
    ROUTER = "router"
    EXPERT = "expert"
    DENSE_FFN = "dense_ffn"
    SHARED_EXPERT = "shared_expert"
    HEAD = "head"
