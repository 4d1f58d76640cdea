"""Assignment: what one device of a node shall hold and run. The head makes it from a placement and sends it in `Load`.

Checked when made and when decoded, so that a node never loads half of something impossible. Whether the layers and
experts exist in the model is checked where the model is opened.
"""

import itertools
import math

import msgspec

from motley.errors import LinkError, UsageError
from motley.shape.mixer import CacheType

MAX_LAYER = 4096
MAX_EXPERT = 1 << 16
MOST_REMEMBERED_TOKENS = 16  # steps of so many run from memory (`engine.remembered`), with no weights that change


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    device: str  # the receiving device, as in the placement
    model: str  # path, on the node's machine
    hash: str  # of the checkpoint: the node refuses a file that differs
    context: int  # positions a KV slot holds
    slots: int  # sequences at once
    step_tokens: int = 512  # the most that a step carries; as `predict.workload` has it
    cache: CacheType | None = None  # how keys and values are stored; None: the device's own choice
    epoch: int = 0  # a later load has a larger one: what a node that slept still had to read must not undo a newer
    source: tuple[str, int] | None = None  # who serves the file to whoever does not have it
    holders: tuple[tuple[str, int], ...] = ()  # who else may have parts of it, by then or from before
    repack: bool = True  # the weights into the device's own order; False: they stay in the mapped file
    home_layers: tuple[int, ...] = ()  # ascending; the first layer's home has the embedding, the last one's the head
    experts: dict[int, tuple[int, ...]] = {}  # layer -> global expert ids held here, for home layers and others
    head_rows: tuple[int, int] | None = None  # [first, end) of the output matrix; None: whole, where the last layer is
    head_elsewhere: dict[str, tuple[int, int]] = {}  # other device -> its rows; at the last layer's home
    projections: dict[int, tuple[int, int]] = {}  # layer whose q, k and v are split -> [first, end) of their rows here
    projections_elsewhere: dict[int, dict[str, tuple[int, int]]] = {}  # home layer -> other device -> its rows
    elsewhere: dict[int, dict[str, tuple[int, ...]]] = {}  # home layer -> other device -> ids it holds
    paces: dict[
        int, tuple[tuple[str, float, float, float], ...]
    ] = {}  # home layer whose experts have copies -> of every
    # holder, this device first: device, and the microseconds of a Pace
    # home layer whose large steps compute here what others hold -> from how many tokens on, experts at a time, whose
    streams: dict[int, tuple[int, int, tuple[str, ...]]] = {}
    peers: dict[str, tuple[str, int]] = {}  # each device with a part elsewhere -> host and port of its node's listener

    def __post_init__(self) -> None:
        _need(self.context >= 1 and self.slots >= 1, f"context {self.context} and slots {self.slots} must be positive")
        _need(self.step_tokens >= 1, f"steps of {self.step_tokens} tokens carry none")
        _need(bool(self.device and self.model), "device and model must be named")
        _ascending(self.home_layers, MAX_LAYER, "home_layers")
        for layer, ids in self.experts.items():
            _ascending((layer,), MAX_LAYER, "experts")
            _ascending(ids, MAX_EXPERT, f"experts of layer {layer}")
        for layer, owners in self.elsewhere.items():
            _need(layer in self.home_layers, f"elsewhere names layer {layer}, whose home is not here")
            for device, ids in owners.items():
                _need(device in self.peers, f"elsewhere names {device}, which has no address in peers")
                _ascending(ids, MAX_EXPERT, f"experts of layer {layer} on {device}")
        for device, (first, end) in [("here", self.head_rows or (0, 1)), *self.head_elsewhere.items()]:
            _need(0 <= first < end < 1 << 31, f"the head's rows {first} to {end} on {device} are none")
        for device in self.head_elsewhere:
            _need(device in self.peers, f"head_elsewhere names {device}, which has no address in peers")
        for layer, rows in self.projections.items():
            _ascending((layer,), MAX_LAYER, "projections")
            _need(0 <= rows[0] < rows[1] < 1 << 31, f"rows {rows[0]} to {rows[1]} of layer {layer} are none")
        for layer, parts in self.projections_elsewhere.items():
            _need(layer in self.home_layers, f"projections_elsewhere names layer {layer}, whose home is not here")
            every = sorted([*parts.values(), *([self.projections[layer]] if layer in self.projections else [])])
            _need(
                layer in self.projections and [0, *(end for _, end in every)][:-1] == [first for first, _ in every],
                f"rows of layer {layer} must follow each other from 0, some of them here",
            )
            for device in parts:
                _need(device in self.peers, f"projections_elsewhere names {device}, which has no address in peers")
        for layer, paces in self.paces.items():
            others = [device for device, *_ in paces[1:]]
            named = bool(paces) and paces[0][0] == self.device and len({*others}) == len(others)
            _need(
                named and {*others} == {*self.elsewhere.get(layer, {})},
                f"paces of layer {layer} must name this device first, then each one elsewhere once",
            )
            sound = all(math.isfinite(n) and n >= 0 for _, *numbers in paces for n in numbers)
            _need(sound, f"paces of layer {layer} must be finite and zero or more: {str(paces)[:80]}")
        for layer, (tokens, at_once, devices) in self.streams.items():
            _need(
                tokens > MOST_REMEMBERED_TOKENS and at_once >= 1,
                f"streams of layer {layer} begin at {tokens} tokens, {at_once} experts at a time: give more than "
                f"{MOST_REMEMBERED_TOKENS} and at least one",
            )
            _need(
                bool(devices) and {*devices} <= {*self.elsewhere.get(layer, {})} and layer not in self.paces,
                f"streams of layer {layer} must name devices with experts of it, without copies: {str(devices)[:80]}",
            )
        for device, (host, port) in self.peers.items():
            _need(bool(host) and 0 < port < 1 << 16, f"peer {device} has the address {host}:{port}")

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @staticmethod
    def from_json(data: bytes | memoryview) -> "Assignment":
        try:
            return msgspec.json.decode(data, type=Assignment)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise LinkError(f"malformed assignment: {error}") from None


class _Impossible(UsageError, ValueError):
    """A UsageError to who makes an assignment; a ValueError to msgspec, which reports it while decoding."""


def _need(condition: bool, sentence: str) -> None:
    if not condition:
        raise _Impossible(f"impossible assignment: {sentence}")


def _ascending(numbers: tuple[int, ...], limit: int, what: str) -> None:
    sound = all(0 <= n < limit for n in numbers) and all(a < b for a, b in itertools.pairwise(numbers))
    _need(sound, f"{what} must ascend from 0 up to {limit - 1}, without repeats: {str(list(numbers))[:80]}")
