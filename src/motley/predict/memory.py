"""What a placement asks of each device's memory: weights, KV cache, and the buffers of a step."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

from motley.errors import CapacityError
from motley.lab.lab import Device, Lab
from motley.lab.placement import LayerPlacement, Placement
from motley.predict.workload import STEP_TOKENS
from motley.shape.model import ModelShape, Role
from motley.shape.quant import Quant

REMEMBERED_TOKENS = 48  # of the steps that engine.remembered keeps, with arrays of their own for each layer
# Experts that a home brings for a step (engine.streaming): 64 MB of the file at a time, so that it takes longer than to
# start it, and an eighth of a layer's at least, as each group's sums stay on the device until the layer ends.
_GROUP_BYTES = 64 << 20
_MOST_GROUPS = 8
_GROUPS_HELD = 3  # two are there at a time, and some layouts take half as much again as the file
RESERVE_BYTES = 96 << 20  # a node's interpreter and libraries (65 to 80 MB measured), alignment and small buffers


@dataclass(frozen=True)
class Need:
    """Bytes on one device."""

    weights: int = 0
    kv: int = 0
    work: int = 0  # buffers of a step, and the reserve

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.work


def kv_bytes(shape: ModelShape, layers: Iterable[int], context: int, slots: int) -> int:
    """What `layers` keep of `slots` sequences of `context` tokens."""
    return slots * round(sum(shape.kv_kept_bytes(i, context) for i in layers))


def work_bytes(shape: ModelShape, tokens: int, home: bool) -> int:
    """Buffers of a step of `tokens`: activations in and out, float64 partial sums, one expert's inner row; a home
    also has queries, keys, values, attention's output, one row of logits, and remembers small steps."""
    per_token = 4 * (2 * shape.d_model + 2 * shape.d_expert) + 8 * shape.d_model
    if not home:
        return RESERVE_BYTES + tokens * per_token
    per_token += 4 * (2 * shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim + 4 * shape.n_experts
    remembered = REMEMBERED_TOKENS * (shape.n_layers * per_token + 4 * shape.vocab_size)
    return RESERVE_BYTES + tokens * per_token + 4 * shape.vocab_size + remembered


def at_once(shape: ModelShape, layer: int) -> int:
    """How many experts of a layer are brought at a time, however many are: layers of a kind share buffers."""
    n = shape.experts_in(layer)
    return min(n, max(_GROUP_BYTES // max(shape.expert_bytes(layer), 1), ceil(n / _MOST_GROUPS)))


def streaming_bytes(shape: ModelShape, streams: Mapping[int, tuple[int, int]], step_tokens: int) -> int:
    """Buffers of a home that brings experts. `streams`: by layer, how many at a time, and of how many."""
    groups = {(n, shape.expert_bytes(layer)) for layer, (n, _) in streams.items()}
    sums = max((ceil(whole / n) for n, whole in streams.values()), default=0)
    return _GROUPS_HELD * sum(n * size for n, size in groups) + sums * step_tokens * 8 * shape.d_model


def _streams_at(placement: Placement, device: str) -> dict[int, tuple[int, int]]:
    """As `streaming_bytes` has them."""
    layers = {i: placement.layers[i] for i in placement.home_layers(device)}
    return {
        i: (layer.streaming.at_once, sum(d in layer.streaming.devices for d in layer.experts))
        for i, layer in layers.items()
        if layer.streaming
    }


@dataclass(frozen=True)
class Weights:
    """Bytes of weights on one device."""

    home: int = 0
    experts: int = 0


def head_bytes(shape: ModelShape, placement: Placement) -> dict[str, int]:
    """Of the output matrix on each device that has rows of it."""
    if not placement.head:
        return {placement.layers[-1].home: shape.head_bytes}
    return {part.device: shape.head_bytes * (part.end - part.first) // shape.vocab_size for part in placement.head}


def projection_bytes(shape: ModelShape, index: int, layer: LayerPlacement) -> dict[str, int]:
    """Of the rows of a layer's projections on each device that they are asked of."""
    projections = shape.projections(index)
    others = [part for part in layer.projections if projections and part.device != layer.home]
    return {p.device: projections.n_bytes * (p.end - p.first) // projections.n_rows for p in others if projections}


def weights_on(shape: ModelShape, placement: Placement) -> dict[str, Weights]:
    """By device name. A tied model's table counts twice, once as a lookup and once as the head: the two need not be
    stored alike."""
    home: dict[str, int] = {}
    experts: dict[str, int] = {}
    for i, layer in enumerate(placement.layers):
        home[layer.home] = home.get(layer.home, 0) + shape.home_bytes(i)
        for device, n_bytes in projection_bytes(shape, i, layer).items():
            home[device] = home.get(device, 0) + n_bytes
            home[layer.home] -= n_bytes
        for device, n in Counter([*layer.experts, *(device for _, device in layer.copies)]).items():
            experts[device] = experts.get(device, 0) + n * shape.expert_bytes(i)
    home[placement.layers[0].home] += shape.embed_bytes
    for device, n_bytes in head_bytes(shape, placement).items():
        home[device] = home.get(device, 0) + n_bytes
    return {device: Weights(home.get(device, 0), experts.get(device, 0)) for device in {**home, **experts}}


def memory_needed(
    shape: ModelShape, placement: Placement, context: int, slots: int = 1, step_tokens: int = STEP_TOKENS
) -> dict[str, Need]:
    """By device name."""
    homes = [layer.home for layer in placement.layers]
    at_home = {device: [i for i, home in enumerate(homes) if home == device] for device in homes}
    return {
        device: Need(
            held.home + held.experts,
            kv_bytes(shape, at_home.get(device, []), context, slots),
            work_bytes(shape, step_tokens, device in homes)
            + streaming_bytes(shape, _streams_at(placement, device), step_tokens),
        )
        for device, held in weights_on(shape, placement).items()
    }


# Formats without kernels of their own take the tiles of one that holds their weights exactly: (which, bytes per
# weight), as native/formats.h says.
_AS_INT8 = {
    **dict.fromkeys(("iq1_s", "iq2_xxs", "iq3_xxs", "iq3_s", "iq4_xs"), 576 / 512),  # a float32 scale for 32 weights,
    **dict.fromkeys(("iq1_m", "iq2_xs", "iq2_s", "nvfp4"), 640 / 512),  # for 16,
    **dict.fromkeys(("q4_1", "q5_1"), 640 / 512),  # with a minimum for 32,
    "q2_k": 768 / 512,  # and for 16
}
KEPT_AS: dict[str, tuple[str, float]] = {
    **{name: ("int8", per_weight) for name, per_weight in _AS_INT8.items()},
    "q5_0": ("Q8_0", 1088 / 1024),
    "iq4_nl": ("Q8_0", 1088 / 1024),
    "q3_k": ("Q6_K", 3392 / 4096),
}

# Bytes of a quantisation repacked for the kernels over bytes stored. Of K-quants, 6-bit scales become bytes.
_OWN = {"q4_k": 2368 / 2304, "q5_k": 2880 / 2816, "q6_k": 3392 / 3360}
PACKED = {**_OWN, **{n: size * Quant.named(n).block / Quant.named(n).block_bytes for n, (_, size) in KEPT_AS.items()}}

# MLX's groups of 32 have a scale and a bias in float32; 16 weights of one scale take a group of their own. What is not
# here becomes float32, as ops/mlx/layouts.py says.
_MLX = {"q4_0": 24, "q4_1": 24, "q4_k": 24, "q5_0": 28, "q5_1": 28, "q5_k": 28, "q8_0": 40, "iq4_nl": 40, "iq4_xs": 40}
_MLX |= {"q2_k": 32, "q3_k": 40, "q6_k": 64, "mxfp4": 17, "nvfp4": 18}  # bytes of 32 weights
MLX = {q.name.lower(): _MLX.get(q.name.lower(), 128) * q.block / q.block_bytes / 32 for q in Quant}

# tinygrad's devices keep some formats as the file has them, and decode the others when they are uploaded: to half
# precision if that holds every value, as it does NVFP4's, else to float32, as ops/tinygrad/planes.py says.
_TINYGRAD = dict.fromkeys(("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q5_k", "q6_k", "mxfp4"), 0)
_TINYGRAD |= {"nvfp4": 2}  # bytes of a weight; 0: the file's
TINYGRAD = {q.name.lower(): _TINYGRAD.get(q.name.lower(), 4) * q.block / q.block_bytes or 1.0 for q in Quant}


def kept_as_stored(shape: ModelShape, kernels: "Kernels") -> bool:
    """Whether a device can bring a group of experts into the memory of another: tinygrad's only where it keeps the
    bytes of the file, as decoded ones differ in their kind from group to group."""
    if kernels != "tinygrad":
        return True
    quants = {t.quant.name.lower() for t in shape.tensors if t.role is Role.EXPERT}
    return all(_TINYGRAD.get(quant, 4) == 0 for quant in quants)


MUCH_MORE = 1.5  # of the file's bytes: said when such a model is placed there

Kernels = Literal["native", "mlx", "tinygrad", "other"]
_FACTORS: dict[Kernels, dict[str, float]] = {"native": PACKED, "mlx": MLX, "tinygrad": TINYGRAD, "other": _OWN}
ONE_LAYOUT: frozenset[Kernels] = frozenset({"mlx", "tinygrad"})  # their weights are never left as the file has them


def packed_bytes(shape: ModelShape, stored: int, kernels: Kernels = "native") -> int:
    """What `stored` bytes of this model take once they are in a device's own order, by its mix of precisions. Rounded
    up: parts never sum to less than the whole. `kernels`: whose (`kernels_of`); others than Motley's are taken to have
    some for every precision."""
    factors = _FACTORS[kernels]
    packed = round(sum(n * factors.get(quant.name.lower(), 1.0) for quant, n in shape.bytes_by_quant.items()))
    return -(-stored * packed // shape.n_bytes)


def kernels_of(device: Device) -> Kernels:
    """Whose kernels run there, where they were measured. What is in the catalogue may be anything."""
    if not device.kernels:
        return "other"
    kinds: dict[str, Kernels] = {"cpu": "native", "mlx": "mlx", **dict.fromkeys(("cuda", "rocm", "metal"), "tinygrad")}
    return kinds.get(device.kind, "other")


def kernels_named(ops: str) -> Kernels:
    """Of a device's operations, by their name: `native-avx2`, `mlx-gpu`, `tinygrad-cuda`."""
    kinds: dict[str, Kernels] = {"native": "native", "mlx": "mlx", "tinygrad": "tinygrad"}
    return kinds.get(ops.split("-")[0], "other")


def runs_native(device: Device) -> bool:
    return kernels_of(device) == "native"


def without_kernels(shape: ModelShape, repack: bool) -> list[str]:
    """A sentence for each precision of the model for which Motley's own devices have no kernel."""
    said = []
    for quant in shape.bytes_by_quant:
        if (name := quant.name.lower()) in KEPT_AS:
            kept = f"kept as {KEPT_AS[name][0]} with their exact values, {PACKED[name]:.1f} times the file's bytes"
            how = kept if repack else "unpacked from the file at every use, which makes them several times slower"
            said.append(f"{quant.name} has no kernel of its own: its weights are {how}")
    return said


def takes_much_more(shape: ModelShape, kernels: Kernels) -> list[str]:
    """A sentence for each precision of the model that takes much more room on such a device than in the file; none for
    those that can leave it as it is."""
    if kernels not in ONE_LAYOUT:
        return []
    said, whose = [], "MLX" if kernels == "mlx" else "tinygrad"
    for quant in shape.bytes_by_quant:
        if (factor := _FACTORS[kernels].get(quant.name.lower(), 1.0)) > MUCH_MORE:
            known = _MLX if kernels == "mlx" else _TINYGRAD
            kept = "in a layout of more room" if quant.name.lower() in known else "as float32"
            said.append(f"{whose} keeps {quant.name} exactly {kept}: {factor:.1f} times the file's bytes")
    return said


def check_fits(lab: Lab, needs: dict[str, Need]) -> None:
    """Raises CapacityError naming each device that is too small and by how much."""
    short = []
    for name, need in needs.items():
        have = lab.device(name).memory_bytes
        if need.total > have:
            short.append(
                f"{name} needs {gigabytes(need.total)}, has {gigabytes(have)}: {gigabytes(need.total - have)} missing"
            )
    if short:
        raise CapacityError("the placement does not fit: " + "; ".join(short))


def gigabytes(n_bytes: float) -> str:
    """For people: `1.83 TB`, `3.94 GB`, `9.1 MB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"
