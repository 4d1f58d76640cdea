"""Write docs/two-terabytes.md: what one Blackwell card and nearly two terabytes of Macs would run, and how fast.

    python tools/two_terabytes.py [--engine NAME] [--seconds S] [-o FILE]

Everything comes from the package: the labs that ship, the shapes, the planner, the cost model. Nothing here was measured
on such a cluster; the page says so. About three minutes on two cores. `tests/unit/test_two_terabytes.py` holds that the
page is this script's.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import exp, log
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from motley.errors import CapacityError, UnsupportedError
from motley.lab.hardware import hardware
from motley.lab.lab import Device, Lab, Link
from motley.lab.labs import find_lab, named_labs
from motley.lab.wiring import hardware_of, kind_of
from motley.plan.plan import Plan
from motley.plan.search import find_placement
from motley.predict.cost import CostModel
from motley.predict.memory import gigabytes, kv_bytes
from motley.predict.predict import Prediction, price
from motley.predict.workload import Workload
from motley.shape.catalogue import names
from motley.shape.model import ModelShape

PAGE = Path(__file__).parent.parent / "docs" / "two-terabytes.md"

HOME = "2tb-10gbe-rdma"  # the wiring that most questions are asked of
WIRINGS = (
    "2tb-10gbe",
    "2tb-10gbe-tcp",
    "2tb-10gbe-rdma",
    "2tb-100gbe-tcp",
    "2tb-100gbe-rdma",
    "2tb-egpu-tcp",
    "2tb-egpu-rdma",
    "2tb-macs-rdma",
    "2tb-4x512-10gbe-rdma",
    "2tb-5090-10gbe-rdma",
)
RDMA_PAIRS = (
    ("2tb-10gbe-tcp", "2tb-10gbe-rdma"),
    ("2tb-100gbe-tcp", "2tb-100gbe-rdma"),
    ("2tb-egpu-tcp", "2tb-egpu-rdma"),
)
FOCUS = (
    ("kimi-k3", "q4_k_m"),
    ("kimi-k2", "q4_k_m"),
    ("kimi-k2", "q8_0"),
    ("deepseek-v3.2", "q8_0"),
    ("glm-5", "q4_k_m"),
)
QUANTS = ("bf16", "q8_0", "q6_k", "q4_k_m", "q3_k_m", "q2_k")
SPEED_QUANTS = ("q8_0", "q4_k_m", "q3_k_m")  # of those that fit, the first two are timed
CONTEXT = 33_280  # 32k and a prompt
PROMPT = 8192

SECTIONS = (
    "The cluster and its wirings",
    "Which models fit, and at which quantisation",
    "How fast they would decode and read prompts",
    "What RDMA brings, and where it brings nothing",
    "What the card brings",
    "Where attention and experts should live",
    "What limits each",
    "Which measurement would narrow the interval most",
    "How these figures were made",
)


@dataclass(frozen=True)
class Asked:
    """One model at one quantisation on one lab, planned for decode; timed at the depths and on prompts."""

    shape: ModelShape
    lab: Lab
    plan: Plan
    deep: Prediction
    prompt: Prediction
    deep_prompt: Prediction


class Answers:
    """Plans and prices, each once."""

    def __init__(self, engine: str, seconds: float) -> None:
        self.engine, self.seconds = engine, seconds
        self._found: dict[tuple[str, str, str], Asked | None] = {}

    @cache  # noqa: B019: one instance, as long as the script
    def lab(self, name: str) -> Lab:
        return find_lab(name, self.engine).lab

    def ask(self, model: str, quant: str, lab_name: str) -> Asked | None:
        """None where it does not fit, or the model is not shipped so."""
        key = model, quant, lab_name
        if key not in self._found:
            print(f"planning {model} {quant} on {lab_name}", file=sys.stderr)
            self._found[key] = self._ask(*key)
        return self._found[key]

    def _ask(self, model: str, quant: str, lab_name: str) -> Asked | None:
        shape, lab = shaped(model, quant), self.lab(lab_name)
        if shape is None or not could_fit(shape, lab.devices):
            return None
        try:
            plan = find_placement(shape, lab, Workload("decode", 64), context=CONTEXT, seconds=self.seconds)
        except CapacityError:
            return None
        timed = [
            priced(shape, lab, plan, workload)
            for workload in (
                Workload("decode", 64, depth=min(32_768, shape.context - 64)),
                Workload("prefill", PROMPT),
                Workload("prefill", 512, depth=min(32_768, shape.context - 512)),
            )
        ]
        return Asked(shape, lab, plan, *timed)


def priced(shape: ModelShape, lab: Lab, plan: Plan, workload: Workload) -> Prediction:
    return price(CostModel(shape, lab.with_stored(plan.stored), workload), plan.placement)


@cache
def shaped(model: str, quant: str) -> ModelShape | None:
    """None where that mix of precisions does not exist for the model."""
    try:
        return ModelShape.named(model, quant)
    except UnsupportedError:
        return None


def cache_bytes(shape: ModelShape) -> int:
    return kv_bytes(shape, range(shape.n_layers), min(CONTEXT, shape.context), 1)


def could_fit(shape: ModelShape, devices: Sequence[Device]) -> bool:
    return shape.n_bytes + cache_bytes(shape) <= sum(d.memory_bytes for d in devices)


def big_models() -> list[str]:
    """Those that the card alone does not hold at 4 bits; of models with one shape the first."""
    room = hardware("rtx-pro-6000").usable_bytes
    found: dict[object, str] = {}
    for name in names():
        shape = shaped(name, "q4_k_m")
        if shape is not None and shape.n_experts and shape.n_bytes > room:
            found.setdefault((shape.n_params, shape.n_active_params, shape.n_layers), name)
    return sorted(found.values(), key=lambda name: -size(name, "q4_k_m"))


def size(model: str, quant: str) -> int:
    shape = shaped(model, quant)
    return shape.n_bytes if shape else 0


# -- the page


def page(answers: Answers, models: Sequence[str], focus: Sequence[tuple[str, str]] = FOCUS) -> str:
    writers: tuple[Callable[[], Iterable[str]], ...] = (
        lambda: wirings(answers),
        lambda: fits(answers, models),
        lambda: speeds(answers, models),
        lambda: rdma(answers, focus),
        lambda: card(answers, focus),
        lambda: places(answers, focus),
        lambda: limits(answers, focus),
        lambda: uncertain(answers, focus),
        lambda: method(answers),
    )
    lines = [HEAD]
    for title, write in zip(SECTIONS, writers):
        lines += [f"## {title}", "", *write(), ""]
    return "\n".join(lines).rstrip() + "\n"


HEAD = """# Two terabytes: one Blackwell card and M3 Ultras

Written by `tools/two_terabytes.py`; don't edit. An RTX PRO 6000 with 96 GB has the compute and the bandwidth, M3 Ultras
have the memory: together nearly two terabytes, for models that no single machine at home holds. **Nothing on this page
was measured on such a cluster.** Every figure is a prediction from catalogues: p50, and in brackets the interval that
four of five measurements are expected in. `docs/prediction.md` says how, and how well that does where there are
measurements.
"""


def wirings(answers: Answers) -> Iterator[str]:
    about = {n.name: n for n in named_labs()}
    rows = []
    for name in WIRINGS:
        lab = answers.lab(name)
        room = sum(d.memory_bytes for d in lab.devices)
        watts = sum(h.watts or 0 for d in lab.devices if (h := hardware_of(d)))
        rows.append([f"`{name}`", about[name].about, f"`{about[name].shorthand}`", gigabytes(room), f"{watts:,.0f} W"])
    yield from table(["lab", "wiring", "shorthand", "usable", "devices at full load"], rows)
    yield ""
    yield "Any of them: `motley plan kimi-k2 --quant q4_k_m --lab 2tb-10gbe-rdma`; others in one line of shorthand"
    yield "(docs/labs.md). Usable memory takes nine tenths of a Mac's, with `iogpu.wired_limit_mb` raised. No supported"
    yield "RDMA joins a Mac to a Linux box: whatever the Macs do among themselves, the card in a Linux box talks TCP."


def fits(answers: Answers, models: Sequence[str]) -> Iterator[str]:
    steps = ladder(answers)
    rows = [[model, *(fit_cell(model, quant, steps) for quant in QUANTS)] for model in models]
    yield "The fewest of the lab's machines whose memory holds the weights and a cache of 32k tokens; in brackets the"
    yield "weights. Of models with equal shapes the first is listed."
    yield ""
    yield from table(["model", *QUANTS], rows)


def ladder(answers: Answers) -> list[tuple[str, int]]:
    """(what, usable bytes), ascending."""
    devices = answers.lab(HOME).devices
    cards = [d for d in devices if d.kind == "cuda"]
    macs = sorted((d for d in devices if d.kind == "metal"), key=lambda d: -d.memory_bytes)
    steps = [("the card", sum(d.memory_bytes for d in cards))]
    for n in range(1, len(macs) + 1):
        room = sum(d.memory_bytes for d in macs[:n])
        many = f"{n} Mac{'s'[: n > 1]}"
        steps += [(many, room), (f"card, {many}", room + steps[0][1])]
    return steps


def fit_cell(model: str, quant: str, steps: Sequence[tuple[str, int]]) -> str:
    shape = shaped(model, quant)
    if shape is None:
        return "-"
    need = (shape.n_bytes + cache_bytes(shape)) * 1.01  # what is left over on each machine
    what = next((what for what, room in steps if room >= need), None)
    missing = gigabytes(need - steps[-1][1])
    return f"{what} ({gigabytes(shape.n_bytes)})" if what else f"**no**, {missing} missing ({gigabytes(shape.n_bytes)})"


def speeds(answers: Answers, models: Sequence[str]) -> Iterator[str]:
    rows = []
    for model in models:
        found = [(q, a) for q in SPEED_QUANTS if (a := answers.ask(model, q, HOME))]
        for quant, asked in found[:2]:
            ttft = PROMPT / asked.prompt.p50
            rows.append(
                [
                    model,
                    quant,
                    interval(asked.plan.prediction),
                    interval(asked.deep),
                    interval(asked.prompt),
                    interval(asked.deep_prompt),
                    f"{ttft:.3g} s",
                ]
            )
    yield f"On `{HOME}`, one sequence, {answers.engine} as the engine; tokens/s."
    yield ""
    head = ["model", "quant", "decode", "decode, 32k deep", f"prompt of {PROMPT}", "prompt, 32k deep", "first token"]
    yield from table(head, rows)
    yield ""
    yield f"The placement is chosen for decode; the first token comes after a prompt of {PROMPT} tokens."


def rdma(answers: Answers, focus: Sequence[tuple[str, str]]) -> Iterator[str]:
    rows, gains = [], []
    for model, quant in focus:
        for tcp, over in RDMA_PAIRS:
            slow, fast = answers.ask(model, quant, tcp), answers.ask(model, quant, over)
            if slow is None or fast is None:
                continue
            gain = fast.plan.prediction.p50 / slow.plan.prediction.p50 - 1
            reading = fast.prompt.p50 / slow.prompt.p50 - 1
            gains.append((gain, f"{model} {quant}, {over}"))
            rows.append(
                [
                    f"{model} {quant}",
                    over.removeprefix("2tb-").removesuffix("-rdma"),
                    interval(slow.plan.prediction),
                    interval(fast.plan.prediction),
                    percent(gain),
                    percent(reading),
                    exchanges(fast),
                ]
            )
    head = [
        "model",
        "the card at",
        "decode, Macs on TCP",
        "Macs on RDMA",
        "gain",
        "gain on prompts",
        "what crosses RDMA",
    ]
    yield from table(head, rows)
    yield ""
    if gains:
        most, least = max(gains), min(gains)
        yield f"- RDMA brings most for {most[1]}: {percent(most[0])}; least for {least[1]}: {percent(least[0])}."
    yield "- It shortens waiting, not reading: what it brings is the share of a step that exchanges between Macs take. A"
    yield "  split of layers crosses a link once a Mac, experts spread over Macs once a layer: RDMA is for the second."
    yield "- Between the card in a Linux box and the Macs there is none. Prompts move megabytes at a time: there the"
    yield "  link's bandwidth counts, and every Thunderbolt link has enough."


def exchanges(asked: Asked) -> str:
    """How often a step crosses links between Macs, at the most."""
    fast = {link.source for link in asked.lab.links if link.transport == "jaccl"}
    macs = {d.name for d in asked.lab.devices if d.kind == "metal"}
    if not fast:
        return "nothing"
    layers = sum(
        layer.home in macs and bool({*layer.experts} & macs - {layer.home}) for layer in asked.plan.placement.layers
    )
    homes = [layer.home for layer in asked.plan.placement.layers]
    hops = sum(a != b and {a, b} <= macs for a, b in zip(homes, homes[1:]))
    parts = [f"experts of {layers} layers"] * (layers > 0) + [f"{hops} hop{'s'[: hops > 1]} of activations"] * (
        hops > 0
    )
    return ", ".join(parts) or "nothing"


def card(answers: Answers, focus: Sequence[tuple[str, str]]) -> Iterator[str]:
    labs = (
        "2tb-macs-rdma",
        "2tb-5090-10gbe-rdma",
        "2tb-10gbe-rdma",
        "2tb-100gbe-rdma",
        "2tb-egpu-rdma",
        "2tb-4x512-10gbe-rdma",
    )
    rows = []
    for model, quant in focus:
        found = [answers.ask(model, quant, name) for name in labs]
        rows.append([f"{model} {quant}", "decode", *(interval(a.plan.prediction) if a else "no" for a in found)])
        rows.append(["", f"prompt of {PROMPT}", *(interval(a.prompt) if a else "no" for a in found)])
    head = [
        "Macs alone",
        "an RTX 5090 at 10 GbE",
        "the card at 10 GbE",
        "at 100 GbE",
        "as an eGPU",
        "10 GbE, 4 x 512 GB",
    ]
    yield "Tokens/s; the Macs on RDMA in all of them."
    yield ""
    yield from table(["model", "", *head], rows)
    yield ""
    yield "As an eGPU the card is driven through a Mac's Thunderbolt port (tinygrad has the driver); the speed here takes"
    yield f"{answers.engine}'s kernels for granted there. The published run of an RTX 5090 so reached 33 GB/s of its 1,792"
    yield "(https://www.techspot.com/news/112082-someone-finally-got-rtx-5090-running-mac-no.html): kernels first, cables later."


def places(answers: Answers, focus: Sequence[tuple[str, str]]) -> Iterator[str]:
    rows = []
    for model, quant in focus:
        for name in ("2tb-10gbe-rdma", "2tb-egpu-rdma"):
            asked = answers.ask(model, quant, name)
            if asked:
                rows.append([f"{model} {quant}", name, *shares(asked), "; ".join(asked.plan.reason[2:4])])
    yield from table(["model", "lab", "attention (layers at home)", "experts", "what decided"], rows)


def shares(asked: Asked) -> tuple[str, str]:
    layers = asked.plan.placement.layers
    homes = [layer.home for layer in layers]
    experts = [device for layer in layers for device in layer.experts]
    return counted(homes, lambda n: f"{n}"), counted(experts, lambda n: f"{100 * n / max(1, len(experts)):.0f} %")


def counted(devices: Sequence[str], show: Callable[[int], str]) -> str:
    found = {name: devices.count(name) for name in dict.fromkeys(devices)}
    return ", ".join(f"{show(n)} {name}" for name, n in sorted(found.items(), key=lambda item: -item[1])) or "none"


def limits(answers: Answers, focus: Sequence[tuple[str, str]]) -> Iterator[str]:
    rows = []
    for model, quant in focus:
        for name in ("2tb-10gbe-rdma", "2tb-egpu-rdma"):
            asked = answers.ask(model, quant, name)
            if asked:
                rows.append([f"{model} {quant}", name, f"{asked.plan.prediction.ms_per_step:.3g} ms", *terms(asked)])
    yield "A decode step's largest parts, and what each waits for."
    yield ""
    yield from table(["model", "lab", "a step", "first", "second", "third"], rows)


def terms(asked: Asked) -> list[str]:
    p = asked.plan.prediction
    largest = sorted(p.terms, key=lambda t: -t.ms)[:3]
    texts = [f"{t.name} on {t.device}, {100 * t.ms / p.ms_per_step:.0f} % ({t.limited_by})" for t in largest]
    return texts + [""] * (3 - len(texts))


def uncertain(answers: Answers, focus: Sequence[tuple[str, str]]) -> Iterator[str]:
    rows = []
    totals: dict[str, float] = {}
    for model, quant in focus:
        asked = answers.ask(model, quant, HOME)
        if asked is None:
            continue
        found = sorted(swings(asked), key=lambda pair: -pair[1])
        whole = sum(s * s for _, s in found) or 1.0
        for what, swing in found:
            totals[what] = totals.get(what, 0.0) + swing * swing / whole / len(focus)
        rows.append([f"{model} {quant}", *(f"{what}: {100 * s * s / whole:.0f} %" for what, s in found[:4])])
    yield "Each figure is moved by one standard deviation of what is believed of it, the placement stays. Shares of the"
    yield f"variance of the decode speed on `{HOME}`:"
    yield ""
    yield from table(["model", "first", "second", "third", "fourth"], rows)
    yield ""
    best = sorted(totals.items(), key=lambda item: -item[1])[:3]
    ways = {what: how for what, _, _, how in FIGURES}
    for n, (what, share) in enumerate(best, 1):
        yield f"{n}. {what}, {100 * share:.0f} % on average: {ways.get(what, 'a checked ping-pong on that link')}."


Move = Callable[[Device, float], Device]

# What may be off on a kind of device, by which factor (one sigma, None: the device's own), and who would measure it.
FIGURES: tuple[tuple[str, str, Move, str], ...] = (
    (
        "reading weights on the Macs",
        "metal",
        lambda d, f: replace(d, read_gb_s=d.read_gb_s * f, cache_gb_s=d.cache_gb_s * f),
        "decode of any MoE model on one M3 Ultra, at two depths",
    ),
    (
        "reading weights on the card",
        "cuda",
        lambda d, f: replace(d, read_gb_s=d.read_gb_s * f, cache_gb_s=d.cache_gb_s * f),
        "decode of gpt-oss-120b or a like model on the card",
    ),
    (
        "chosen experts on the Macs",
        "metal",
        lambda d, f: replace(d, expert_share=d.expert_share * f),
        "decode of a MoE model beside a dense one of equal active bytes, on one M3 Ultra",
    ),
    (
        "launches on the Macs",
        "metal",
        lambda d, f: launches(d, f),
        "decode of a small MoE model on one M3 Ultra, at two numbers of layers",
    ),
    ("launches on the card", "cuda", lambda d, f: launches(d, f), "decode of a small MoE model on the card"),
    (
        "software of an exchange",
        "",
        lambda d, f: replace(d, exchange_us=d.exchange_us * f),
        "two machines, all experts on the other one: `motley bench --nodes 2`",
    ),
)
LAUNCH_SIGMA, EXCHANGE_SIGMA, EXPERT_SIGMA = 0.4, 0.7, 0.2


def launches(d: Device, f: float) -> Device:
    return replace(d, step_us=d.step_us * f, layer_us=d.layer_us * f, routed_us=d.routed_us * f)


def swings(asked: Asked) -> list[tuple[str, float]]:
    """(figure, what one sigma of it does to the logarithm of the speed)"""
    found = []
    for what, kind, move, _ in FIGURES:
        if any(d.kind == kind or not kind for d in asked.lab.devices):
            found.append(
                (what, swing(asked, lambda f, k=kind, m=move: moved(asked.lab, k, m, f), sigma(asked.lab, what, kind)))
            )
    for key in dict.fromkeys(k.key for link in asked.lab.links if (k := kind_of(link))):
        found.append((f"round trip of {key}", link_swing(asked, key, "rtt_us")))
        found.append((f"bandwidth of {key}", link_swing(asked, key, "gb_s")))
    return found


def sigma(lab: Lab, what: str, kind: str) -> float:
    if what.startswith("launches"):
        return LAUNCH_SIGMA
    if what.startswith("chosen"):
        return EXPERT_SIGMA
    if what.startswith("software"):
        return EXCHANGE_SIGMA
    return max((d.sigma or 0.3) for d in lab.devices if d.kind == kind)


def swing(asked: Asked, lab_at: Callable[[float], Lab], sigma: float) -> float:
    low, high = (step_ms(asked, lab_at(exp(sign * sigma))) for sign in (-1, 1))
    return abs(log(high / low)) / 2


def link_swing(asked: Asked, key: str, figure: str) -> float:
    """Half of the interval's ends, as a sigma: they are about tenths."""
    times = []
    for end in ("low", "high"):
        links = tuple(at_end(link, key, figure, end) for link in asked.lab.links)
        times.append(step_ms(asked, Lab(asked.lab.devices, links)))
    return abs(log(times[1] / times[0])) / 2.56


def at_end(link: Link, key: str, figure: str, end: str) -> Link:
    kind = kind_of(link)
    if kind is None or kind.key != key:
        return link
    return replace(link, **{figure: getattr(getattr(kind, figure), end)})


def moved(lab: Lab, kind: str, move: Move, factor: float) -> Lab:
    return Lab(tuple(move(d, factor) if d.kind == kind or not kind else d for d in lab.devices), lab.links)


def step_ms(asked: Asked, lab: Lab) -> float:
    return priced(asked.shape, lab, asked.plan, Workload("decode", 64)).ms_per_step


def method(answers: Answers) -> Iterator[str]:
    yield f"- Devices: the hardware catalogue (`motley plan --devices`), and what the engine `{answers.engine}` reaches of"
    yield "  each class of hardware (`src/motley/lab/profiles.toml`). Links: the link catalogue (`motley plan --links`)."
    yield "- Shapes: the catalogue of shapes, every tensor at its stored precision; experts are chosen uniformly, as no"
    yield "  route trace is at hand. Popular experts on the card would make it faster."
    yield "- Placement: `motley plan`, for decode with one sequence, 33k tokens of context reserved, "
    yield f"  {answers.seconds:g} s of search each."
    yield "- Not in it: the Linux box around the card, switches and cables; what a Mac does beside; heat."


# -- small things


def interval(p: Prediction) -> str:
    return f"{p.p50:.3g} ({p.p10:.3g} to {p.p90:.3g})"


def percent(gain: float) -> str:
    return "0 %" if abs(gain) < 0.005 else f"{100 * gain:+.0f} %"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="motley", help="whose speeds the devices have (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of search for each plan (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=PAGE, help="default: docs/two-terabytes.md")
    args = parser.parse_args()
    text = page(Answers(args.engine, args.seconds), big_models())
    args.output.write_text(text, encoding="utf-8")
    print(f"wrote {args.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
