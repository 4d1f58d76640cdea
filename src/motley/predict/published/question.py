"""Question: what a published row asks of the cost model: a shape, a lab of catalogue devices, a placement, a workload.

Raises Refused, with a reason in one sentence, where a row does not say enough, or says what the model does not know.
How devices are described (`device_of`) is the caller's choice, so that fitting can put its own in.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from motley.errors import MotleyError, UsageError
from motley.lab.group import grouped
from motley.lab.hardware import Hardware, hardware
from motley.lab.lab import Device, Lab
from motley.lab.links import link_kind
from motley.lab.placement import LayerPlacement, Placement
from motley.lab.profile import driver
from motley.predict.memory import memory_needed
from motley.predict.published import words
from motley.predict.published.rows import Row
from motley.predict.published.shapes import Stated, stated_shape
from motley.predict.workload import Workload

DeviceOf = Callable[[Hardware, str, str], Device]  # hardware, engine, backend

_FILLED = 0.92  # of the cards' memory, where as many experts as fit live there
_SPILL = 1.03  # a file may exceed what the shape says by so much and still be said to fit
_CARDS = frozenset({"consumer_nvidia", "ws_nvidia", "dc_nvidia", "consumer_amd", "ws_amd", "dc_amd", "ws_intel"})
_SERVED = 256  # sequences that a server runs at once, at the most
_SERVERS = frozenset({"vllm", "sglang", "tensorrt-llm"})
_CHUNK, _SERVER_CHUNK = 512, 8192  # tokens of a prompt in one step: llama.cpp's default, and what servers take
_DEEPEST = 20_000_000
_DEFAULT_PROMPT = 512
_DESKTOP = "ryzen-7950x"  # two channels of DDR5: what stands for a host that is only called a host
_NO_DEPTH = 256  # a short chat, where a row does not say


class Refused(MotleyError):
    """A row that is not predicted; the text says why."""


@dataclass(frozen=True)
class Question:
    row: Row
    stated: Stated  # the shape, and how far the row's bytes are from it
    engine: str
    split: str
    members: tuple[tuple[int, Hardware], ...]  # processors last
    link: str
    workload: Workload
    prompt: Workload | None = None  # what a server does beside decoding
    doubts: tuple[str, ...] = field(default=())  # what widens the interval

    @property
    def n_devices(self) -> int:
        return sum(n for n, _ in self.members)

    @property
    def steps(self) -> tuple[tuple[float, Workload], ...]:
        """What takes the time: how many steps of each kind. A server processes each sequence's prompt once for all the
        tokens that it then generates."""
        w, prompt = self.workload, self.prompt
        if prompt is None:
            return ((1.0, w),)
        return (1.0, w), (w.batch * prompt.tokens / prompt.step_tokens / w.tokens, prompt)

    @property
    def tokens(self) -> int:
        """That the steps produce or read, of all sequences together."""
        return self.workload.step_tokens

    @property
    def same(self) -> tuple[object, ...]:
        """What decides the price of its steps: questions alike in this cost the same."""
        stated, row = self.stated, self.row
        away = words.layers_on_processor(row.parallelism, row.notes, row.engine)
        shape = (stated.shape.name, stated.shape.n_bytes, stated.factor, stated.size, bool(stated.doubt))
        return (
            *shape,
            self.engine,
            words.backend(row.backend),
            self.split,
            self.members,
            self.link,
            away,
            self.workload,
        )

    def lab(self, device_of: DeviceOf, reduce_us: float = 0.0) -> tuple[Lab, Placement]:
        """With each device as `device_of` describes it. Raises Refused where the model does not fit."""
        devices = self._devices(device_of, reduce_us)
        joint = link_kind(self.link)
        links = [joint.between(a.name, b.name) for i, a in enumerate(devices) for b in devices[i + 1 :]]
        lab = Lab(tuple(_scaled(d, self.stated) for d in devices), tuple(links))
        placement = self._placement(devices)
        self._check_fits(lab, placement)
        return lab, placement

    def _devices(self, device_of: DeviceOf, reduce_us: float) -> list[Device]:
        joint, backend = link_kind(self.link), words.backend(self.row.backend)
        every = [(h, device_of(h, self.engine, driver(h, backend)), i) for n, h in self.members for i in range(n)]
        devices = [replace(d, name=f"{h.key}-{i + 1}", node=f"{h.key}-{i + 1}") for h, d, i in every]
        cards = [d for (h, _, _), d in zip(every, devices) if h.cls not in ("cpu", "sbc")]

        def together(members: list[Device]) -> Device:
            """Every matrix is split between them."""
            return grouped("group", members, reduce_us + joint.rtt_us.p50 / 2, joint.gb_s.p50)

        if self.split == "tensor":
            return [together(devices)]
        if self.split == "hybrid":
            return [together(cards) if len(cards) > 1 else cards[0], devices[-1]]
        return devices

    def _placement(self, devices: list[Device]) -> Placement:
        shape, names = self.stated.shape, [d.name for d in devices]
        if self.split == "hybrid":
            away, first = self._layers_away(devices[0].memory_bytes)
            kept = [names[0]] * (shape.n_layers - away)
            owners = [names[1]] * away + kept if first else kept + [names[1]] * away
            return _placed([names[0]] * shape.n_layers, owners, shape.experts_in)
        homes = _runs(names, [d.memory_bytes for d in devices], shape.n_layers)
        return _placed(homes, homes, shape.experts_in)

    def _layers_away(self, memory: int) -> tuple[int, bool]:
        """How many layers' experts the processor computes, and whether the first ones: as stated; all, as KTransformers
        has them; or those that do not fit the cards."""
        shape, w = self.stated.shape, self.workload
        stated = words.layers_on_processor(self.row.parallelism, self.row.notes, self.row.engine)
        if stated is not None:
            return min(stated[0], shape.n_layers), stated[1]
        if self.engine == "ktransformers":
            return shape.n_layers, True
        kept = sum(shape.kv_kept_bytes(i, w.context) for i in range(shape.n_layers)) * w.batch
        room = memory * _FILLED - kept - (shape.n_bytes - self._expert_bytes()) * self.stated.size
        each = self._expert_bytes() * self.stated.size / shape.n_layers
        return min(shape.n_layers, max(0, shape.n_layers - int(room / each))), True

    def _expert_bytes(self) -> int:
        shape = self.stated.shape
        return sum(shape.expert_bytes(i) * shape.experts_in(i) for i in range(shape.n_layers))

    def _check_fits(self, lab: Lab, placement: Placement) -> None:
        w = self.workload
        needs = memory_needed(self.stated.shape, placement, w.context, w.batch)
        for name, need in needs.items():
            device = lab.device(name)
            asked = need.weights * self.stated.size + need.kv
            if asked > device.memory_bytes * _SPILL:
                raise Refused(
                    f"does not fit: {name} needs {asked / 1e9:.1f} GB and has "
                    f"{device.memory_bytes / 1e9:.1f} GB; where the rest would live is not stated"
                )


def ask(row: Row) -> Question:
    """Raises Refused."""
    if row.mode not in ("pp", "tg", "tg_serving"):
        raise Refused(f"mode {row.mode!r} is not known: pp, tg or tg_serving")
    for name in ("total_params_b", "active_params_b", "bits_per_weight", "model_file_gib"):
        if (value := getattr(row, name)) is not None and not 1e-4 < value < 1e6:
            raise Refused(f"{name} = {value:g} is not possible")
    if max(row.context_depth or 0, row.prompt_tokens or 0, row.gen_tokens or 0) > _DEEPEST:
        raise Refused(f"more than {_DEEPEST:,} tokens in one sequence")
    if row.spec_decode.lower() not in ("", "no", "not stated", "suspected"):
        raise Refused("speculative decoding: how many drafted tokens are accepted depends on the text")
    if row.arch == "diffusion":
        raise Refused("not autoregressive: a diffusion model has no step per token")
    stated = stated_shape(row)
    if stated is None:
        raise Refused(f"the model {row.model!r} is not in the catalogue, and its parameters are not stated")
    doubts = [stated.doubt] if stated.doubt else []
    engine = words.engine(row.engine)
    if engine is None:
        engine = "llama.cpp"
        doubts.append(f"engine {row.engine!r} is not known: taken as llama.cpp")
    split = words.split(row.parallelism, row.engine)
    if split is None:
        raise Refused(f"an uneven tensor split ({row.parallelism}): not in the model")
    on_card = words.layers_on_card(row.parallelism)
    if on_card is not None and 0 < on_card < stated.shape.n_layers:
        raise Refused(f"{on_card} of {stated.shape.n_layers} layers on the card: where the others are is not stated")
    members = _members(row, split, doubts)
    split = _sensible(split, members, engine)
    workload, prompt = _workloads(row, engine, doubts)
    joint = words.link(row.link) or _usual_link(split, members)
    if words.link(row.link) is None and sum(n for n, _ in members) > 1:
        doubts.append(f"the link is not stated: taken as {joint}")
    if (words.count(row.batch or "1") or 0) > _SERVED:
        doubts.append(f"a batch of {row.batch}: taken as {_SERVED} at a time")
    return Question(row, stated, engine, split, members, joint, workload, prompt, tuple(doubts))


def _usual_link(split: str, members: tuple[tuple[int, Hardware], ...]) -> str:
    if members[0][1].cls == "apple":
        return "tb5-tcp"
    return "10gbe" if split == "rpc" else "pcie4x16"


# -- which devices


def _members(row: Row, split: str, doubts: list[str]) -> tuple[tuple[int, Hardware], ...]:
    n = words.count(row.n_devices)
    if n is None or n < 1:
        raise Refused(f"the number of devices ({row.n_devices or 'not stated'}) is not one number")
    on_processor = row.backend.lower() == "cpu" or words.layers_on_card(row.parallelism) == 0
    known = _known(row.hw_key)
    if known is not None and split != "hybrid" and (not on_processor or known.cls not in _CARDS):
        return ((n, known),)
    named = _named(row, doubts if split == "hybrid" else None)
    processors = tuple((count, h) for count, h in named if h.cls in ("cpu", "sbc"))
    cards = tuple((count, h) for count, h in named if h.cls not in ("cpu", "sbc"))
    if split == "hybrid":
        if not processors or not cards:
            raise Refused(f"experts on a processor, but {row.hardware!r} does not name a card and a processor")
        return (*cards, *processors[:1])
    return processors[:1] if on_processor and processors else cards or processors


def _named(row: Row, doubts: list[str] | None) -> list[tuple[int, Hardware]]:
    """The devices that the row's text names. `doubts`: where a host without a name may be taken as a desktop."""
    found: list[tuple[int, Hardware]] = []
    for count, text in words.terms(row.hardware):
        together = _find(f"{count}x {text}")  # sockets of one host
        device = together if together is not None and together.sockets > 1 else _find(text)
        if device is None and doubts is not None and re.search(r"\bhost\b|x86", text):
            device = _find(_DESKTOP)
            doubts.append("the host's processor is not stated: taken as a desktop with two channels of memory")
        if device is None:
            raise Refused(f"the hardware {text!r} is not in the catalogue")
        found.append((1 if device is together and device.sockets > 1 else count, device))
    if not found:
        raise Refused("the hardware is not stated")
    return found


def _known(key: str) -> Hardware | None:
    try:
        return hardware(key) if key else None
    except UsageError:
        return None


def _find(text: str) -> Hardware | None:
    for spelling in (text, text.removeprefix("CPU "), text.removeprefix("NVIDIA ").removeprefix("GeForce ")):
        if (found := _known(spelling)) is not None:
            return found
    return None


def _sensible(split: str, members: tuple[tuple[int, Hardware], ...], engine: str) -> str:
    """`one` of several devices means what the engine does with several."""
    if split == "one" and sum(n for n, _ in members) > 1:
        return "tensor" if engine in _SERVERS else "layers"
    return split


# -- what is timed


def _workloads(row: Row, engine: str, doubts: list[str]) -> tuple[Workload, Workload | None]:
    """What to price, and for a server's throughput the prompts that share its time."""
    batch = words.count(row.batch or "1")
    if batch is None:
        raise Refused(f"a throughput whose batch is not stated ({row.batch})")
    generated = max(1, round(row.gen_tokens or 128))
    if row.mode == "pp":
        tokens = round(row.prompt_tokens or 0)
        if not tokens:
            tokens = _DEFAULT_PROMPT
            doubts.append("the prompt's length is not stated: taken as 512 tokens")
        chunk = words.micro_batch(row.notes) or (_SERVER_CHUNK if engine in _SERVERS else _CHUNK)
        before = 0 if row.context_depth == row.prompt_tokens else round(row.context_depth or 0)
        return Workload("prefill", tokens, before, min(batch, _SERVED), chunk), None
    depth = row.context_depth if row.context_depth is not None else row.prompt_tokens
    if depth is None:
        depth = _NO_DEPTH
        doubts.append("the depth is not stated: taken as a short chat")
    if "incl. prefill" in row.notes or (row.mode == "tg_serving" and batch > 1):
        prompt = Workload("prefill", max(1, round(row.prompt_tokens or _DEFAULT_PROMPT)), 0, 1, _SERVER_CHUNK)
        return Workload("decode", generated, round(row.prompt_tokens or depth), min(batch, _SERVED)), prompt
    return Workload("decode", generated, round(depth), min(batch, _SERVED)), None


# -- where things live


def _runs(names: list[str], memory: list[int], n_layers: int) -> list[str]:
    """Contiguous layers in proportion to memory, as llama.cpp splits them."""
    total, owed = sum(memory), 0.0
    homes: list[str] = []
    for name, has in zip(names, memory):
        owed += n_layers * has / total
        homes += [name] * (round(owed) - len(homes))
    return homes


def _placed(homes: list[str], owners: list[str], experts_in: Callable[[int], int]) -> Placement:
    return Placement(tuple(LayerPlacement(h, (o,) * experts_in(i)) for i, (h, o) in enumerate(zip(homes, owners))))


def _scaled(device: Device, stated: Stated) -> Device:
    """Slower by the row's bytes over the shape's; at computing too, where another model stands for the row's."""
    work = stated.factor if stated.doubt else 1.0
    return replace(
        device,
        read_gb_s=device.read_gb_s / stated.factor,
        int8_gops=device.int8_gops / work,
        f32_gflops=device.f32_gflops / work,
    )
