"""The page: its questions in order, a table and a few sentences each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from math import exp

from answers import PROMPT, Answers, Asked, cache_bytes, shaped
from text import interval, number, percent, prose, table
from uncertain import EXCHANGE, EXPERTS, LAUNCHES, how, swings

from motley.lab.hardware import hardware
from motley.lab.labs import named_labs
from motley.lab.links import link_kind
from motley.lab.wiring import hardware_of
from motley.predict.memory import gigabytes

HOME = "2tb-10gbe-rdma"  # the wiring that most questions are asked of
WIRINGS = tuple(named.name for named in named_labs() if named.name.startswith("2tb"))
CARD_AT = {"10gbe": "10 GbE", "100gbe": "100 GbE", "egpu": "eGPU"}
CARD_LABS = (
    ("2tb-macs-rdma", "Macs alone"),
    ("2tb-5090-10gbe-rdma", "an RTX 5090 at 10 GbE"),
    ("2tb-10gbe-rdma", "the card at 10 GbE"),
    ("2tb-100gbe-rdma", "at 100 GbE"),
    ("2tb-egpu-rdma", "as an eGPU"),
    ("2tb-4x512-10gbe-rdma", "10 GbE, 4 x 512 GB"),
)
Focus = Sequence[tuple[str, str]]
FOCUS = (
    ("kimi-k3", "q4_k_m"),
    ("kimi-k2", "q8_0"),
    ("kimi-k2", "q4_k_m"),
    ("deepseek-v3.2", "q8_0"),
    ("glm-5", "q4_k_m"),
    ("qwen3-235b-a22b", "q8_0"),
)
QUANTS = ("bf16", "q8_0", "q6_k", "q4_k_m", "q3_k_m", "q2_k")
TIMED = ("q8_0", "q4_k_m", "q3_k_m")  # the first two of these that fit

HEAD = """# Two terabytes: one Blackwell card and M3 Ultras

Written by `tools/two_terabytes`; don't edit. An RTX PRO 6000 with 96 GB has compute and bandwidth, M3 Ultras have
memory: together nearly two terabytes, for models that no single machine at home holds. **Nothing on this page was
measured on such a cluster.** Every speed is a prediction from catalogues: the median, and in brackets the interval that
four of five measurements are expected in. [prediction.md](prediction.md) says how it is made, and how well it does
where others have measured.
"""

SECTIONS: dict[str, "Callable[[Answers, Sequence[str], Focus], Iterable[str]]"] = {
    "The cluster and its wirings": lambda a, models, focus: wirings(a),
    "Which models fit, and at which quantisation": lambda a, models, focus: fits(a, models),
    "How fast they would decode and read prompts": lambda a, models, focus: speeds(a, models),
    "What RDMA brings, and where it brings nothing": lambda a, models, focus: rdma(a, focus),
    "What the card brings": lambda a, models, focus: card(a, focus),
    "Where attention and experts should live": lambda a, models, focus: places(a, focus),
    "What limits each": lambda a, models, focus: limits(a, focus),
    "Which measurement would narrow the interval most": lambda a, models, focus: uncertain(a, focus),
    "Beside what others measured on such machines": lambda a, models, focus: beside(a),
    "How these figures were made": lambda a, models, focus: method(a),
}


def page(answers: Answers, models: Sequence[str], focus: Focus = FOCUS) -> str:
    for model, quant in focus:
        answers.share(model, quant, WIRINGS)
    lines = [HEAD]
    for title, write in SECTIONS.items():
        lines += [f"## {title}", "", *write(answers, models, focus)]
        lines += [""] * bool(lines[-1])
    return "\n".join(lines).rstrip() + "\n"


def wirings(answers: Answers) -> Iterator[str]:
    about = {n.name: n for n in named_labs()}
    rows = []
    for name in WIRINGS:
        lab = answers.lab(name)
        room = gigabytes(sum(d.memory_bytes for d in lab.devices))
        watts = sum(h.watts or 0 for d in lab.devices if (h := hardware_of(d)))
        rows.append([f"`{name}`", about[name].about, f"`{about[name].shorthand}`", room, f"{watts:,.0f} W"])
    yield from table(["lab", "wiring", "shorthand", "usable", "at full load"], rows)
    yield from prose(
        "Any of them: `motley plan kimi-k2 --quant q4_k_m --lab 2tb-10gbe-rdma`; others in a line of shorthand "
        "([labs.md](labs.md)). Of a Mac's memory nine tenths are taken, with `iogpu.wired_limit_mb` raised. No "
        "supported RDMA joins a Mac to a Linux box: whatever the Macs do among themselves, a card in a Linux box "
        "talks TCP."
    )
    keys = ("rtx-pro-6000", "rtx-5090", "m3-ultra-512", "m3-ultra-256")
    known = [
        (h, f"{h.price_usd:,.0f} USD ({h.price_date})" if h.price_usd else "not known") for h in map(hardware, keys)
    ]
    said = "; ".join(f"{h.key} {price}" for h, price in known)
    yield from prose(f"List prices, where a source is known: {said}. Watts and prices are the devices' own.")


def fits(answers: Answers, models: Sequence[str]) -> Iterator[str]:
    steps = ladder(answers)
    yield from prose(
        "The fewest of the lab's machines whose memory holds the weights and a cache of 32k tokens; in brackets the "
        "weights. Of models with equal shapes the first is listed."
    )
    rows = [[model, *(cell(model, quant, steps) for quant in QUANTS)] for model in models]
    yield from table(["model", *QUANTS], rows)
    lighter = [model for model in models if n_bytes(model, "q8_0") < n_bytes(model, "q6_k")]
    if lighter:
        yield from prose(f"Experts that are released at 4 bits stay so in a q8_0 file: {', '.join(lighter)}.")


def n_bytes(model: str, quant: str) -> int:
    shape = shaped(model, quant)
    return shape.n_bytes if shape else 0


def ladder(answers: Answers) -> list[tuple[str, int]]:
    """(what, usable bytes), ascending."""
    devices = answers.lab(HOME).devices
    card = sum(d.memory_bytes for d in devices if d.kind == "cuda")
    macs = sorted((d.memory_bytes for d in devices if d.kind == "metal"), reverse=True)
    steps = [("the card", card)]
    for n in range(1, len(macs) + 1):
        many = f"{n} Mac{'s'[: n > 1]}"
        steps += [(many, sum(macs[:n])), (f"card, {many}", sum(macs[:n]) + card)]
    return steps


def cell(model: str, quant: str, steps: Sequence[tuple[str, int]]) -> str:
    shape = shaped(model, quant)
    if shape is None:
        return "-"
    need = (shape.n_bytes + cache_bytes(shape)) * 1.01  # buffers, and what is left over on each machine
    what = next((what for what, room in steps if room >= need), None)
    if what is None:
        return f"**no**: {gigabytes(need - steps[-1][1])} missing ({gigabytes(shape.n_bytes)})"
    return f"{what} ({gigabytes(shape.n_bytes)})"


def speeds(answers: Answers, models: Sequence[str]) -> Iterator[str]:
    rows = []
    for model in models:
        for asked, quant in islice(((a, q) for q in TIMED if (a := answers.ask(model, q, HOME))), 2):
            timed = (asked.plan.prediction, asked.deep, asked.prompt, asked.deep_prompt)
            first = f"{number(PROMPT / asked.prompt.p50)} s"
            rows.append([model, quant, *map(interval, timed), first])
    yield from prose(
        f"On `{HOME}`, one sequence, tokens/s, with {answers.engine} as the engine. Placed for decode; the first token "
        f"comes after a prompt of {PROMPT:,} tokens."
    )
    head = ["decode", "decode, 32k deep", f"prompt of {PROMPT:,}", "prompt, 32k deep", "first token"]
    yield from table(["model", "quant", *head], rows)


def rdma(answers: Answers, focus: Focus) -> Iterator[str]:
    rows, gains = [], []
    for model, quant in focus:
        for where in CARD_AT:
            slow, fast = (answers.ask(model, quant, f"2tb-{where}-{over}") for over in ("tcp", "rdma"))
            if slow is None or fast is None:
                continue
            gain = fast.plan.prediction.p50 / slow.plan.prediction.p50 - 1
            gains.append((gain, f"{model} {quant}, the card {'as an' if where == 'egpu' else 'at'} {CARD_AT[where]}"))
            speed = [interval(slow.plan.prediction), interval(fast.plan.prediction), percent(gain)]
            rows.append(
                [
                    f"{model} {quant}",
                    CARD_AT[where],
                    *speed,
                    percent(fast.prompt.p50 / slow.prompt.p50 - 1),
                    crossing(fast),
                ]
            )
    head = ["model", "card at", "decode, Macs on TCP", "Macs on RDMA", "gain", "gain on prompts", "what crosses RDMA"]
    yield from table(head, rows)
    if gains:
        most, nothing = max(gains), sum(abs(gain) < 0.02 for gain, _ in gains)
        yield from prose(
            f"RDMA brings most for {most[1]}: {percent(most[0])}. In {nothing} of {len(gains)} cases it brings less "
            "than 2 %: there the best placement hardly uses it.",
            bullet=True,
        )
    yield from prose(
        "It shortens waiting, not reading: what it brings is the share of a step that exchanges over it take. A split "
        "of layers crosses a link once a Mac, experts spread over machines once a layer: RDMA is for the second.",
        bullet=True,
    )
    yield from prose(
        "Between the card in a Linux box and the Macs there is none; an eGPU's exchanges go over the Macs' cables.",
        bullet=True,
    )
    rates = ", ".join(f"{link_kind(key).gb_s.p50:g} by {key}" for key in ("10gbe", "100gbe", "tb5-tcp", "tb5-rdma"))
    yield from prose(
        f"Prompts move megabytes at a time: there a link's bandwidth counts. GB/s: {rates}. Placements are chosen for "
        "decode: where the faster link brings another one, prompts may lose by it.",
        bullet=True,
    )


def crossing(asked: Asked) -> str:
    """What of a step crosses RDMA links."""

    def over_rdma(a: str, b: str) -> bool:
        return a != b and asked.lab.link(a, b).transport == "jaccl"

    layers = asked.plan.placement.layers
    spread = sum(any(over_rdma(layer.home, d) for d in set(layer.experts)) for layer in layers)
    hops = sum(over_rdma(a.home, b.home) for a, b in pairwise(layers))
    parts = [f"experts of {spread} layer{'s'[: spread > 1]}"] if spread else []
    parts += [f"{hops} hop{'s'[: hops > 1]} between layers"] if hops else []
    return ", ".join(parts) or "nothing"


def card(answers: Answers, focus: Focus) -> Iterator[str]:
    rows = []
    for model, quant in focus:
        found = [answers.ask(model, quant, name) for name, _ in CARD_LABS]
        rows.append([f"{model} {quant}", "decode", *(interval(a.plan.prediction) if a else "no" for a in found)])
        rows.append(["", f"prompt of {PROMPT:,}", *(interval(a.prompt) if a else "no" for a in found)])
    yield from prose("Tokens/s, the Macs on RDMA. Placements are chosen for decode: a prompt may lose by it.")
    yield from table(["model", "", *(what for _, what in CARD_LABS)], rows)
    yield from prose(
        "As an eGPU the card is driven through a Mac's Thunderbolt port, for which tinygrad has a driver. The speeds "
        f"here take {answers.engine}'s kernels for granted there; a published run of an RTX 5090 so reached 33 of its "
        "1,792 GB/s (https://www.techspot.com/news/112082-someone-finally-got-rtx-5090-running-mac-no.html): kernels "
        "come first, cables later."
    )


def places(answers: Answers, focus: Focus) -> Iterator[str]:
    rows, on_card = [], []
    for model, quant in focus:
        for where in CARD_AT:
            asked = answers.ask(model, quant, f"2tb-{where}-rdma")
            if asked:
                layers = asked.plan.placement.layers
                homes = [layer.home for layer in layers]
                experts = [d for layer in layers for d in layer.experts]
                on_card.append(all(asked.is_card(home) for home in homes))
                found = number(asked.plan.prediction.p50)
                rows.append(
                    [
                        f"{model} {quant}",
                        CARD_AT[where],
                        shares(asked, homes),
                        shares(asked, experts),
                        found,
                        *simpler(asked),
                    ]
                )
    yield from prose("What was found, and the best of each simpler arrangement, in tokens/s; the Macs on RDMA.")
    head = ["model", "card at", "attention", "experts", "decode", "attention on the card", "on a Mac", "layers split"]
    yield from table(head, rows)
    yield from prose(
        f"In {sum(on_card)} of {len(on_card)} cases all attention lives on the card, with the experts it has room for, "
        "and the others on the Macs. In the other cases a Mac has attention too: layers are split, so that less is "
        "exchanged, or one Mac holds nearly everything."
    )


def simpler(asked: Asked) -> list[str]:
    """Best speed with attention on the card, with attention on one Mac, and with layers split; experts anywhere."""
    found: dict[str, float] = {}
    for other in asked.plan.alternatives:
        if other.tokens_per_s is not None:
            at = next((d.name for d in asked.lab.devices if f"on {d.name}" in other.name), "")
            kind = "split" if other.name.startswith("layers split") else "card" if asked.is_card(at) else "mac"
            found[kind] = max(found.get(kind, 0.0), other.tokens_per_s)
    return [number(found[kind]) if kind in found else "-" for kind in ("card", "mac", "split")]


def shares(asked: Asked, devices: Sequence[str]) -> str:
    """`76 % on 2 Macs, 24 % on the card`"""
    if not devices:
        return "none"
    cards = sum(map(asked.is_card, devices))
    macs = {name for name in devices if not asked.is_card(name)}
    parts = [(cards, "the card"), (len(devices) - cards, f"{len(macs)} Mac{'s'[: len(macs) > 1]}")]
    return ", ".join(f"{max(1, round(100 * n / len(devices)))} % on {where}" for n, where in sorted(parts)[::-1] if n)


def limits(answers: Answers, focus: Focus) -> Iterator[str]:
    rows = []
    for model, quant in focus:
        for where in CARD_AT:
            asked = answers.ask(model, quant, f"2tb-{where}-rdma")
            if asked:
                rows.append(
                    [
                        f"{model} {quant}",
                        CARD_AT[where],
                        f"{number(asked.plan.prediction.ms_per_step)} ms",
                        *terms(asked),
                    ]
                )
    yield from prose("A decode step's largest parts, and what each waits for; the Macs on RDMA.")
    yield from table(["model", "card at", "a step", "first", "second", "third"], rows)


def terms(asked: Asked) -> list[str]:
    """The largest three; equal parts on several Macs are one."""
    p = asked.plan.prediction
    sums: dict[tuple[str, str, str], float] = {}
    for t in p.terms:
        key = t.name, "the card" if asked.is_card(t.device) else "Macs", t.limited_by
        sums[key] = sums.get(key, 0.0) + t.ms
    largest = sorted(sums.items(), key=lambda item: -item[1])[:3]
    by = {"link": "the link"}
    texts = [
        f"{name} {'to' if name == 'link' else 'on'} {where}, {100 * ms / p.ms_per_step:.0f} % ({by.get(limit, limit)})"
        for (name, where, limit), ms in largest
    ]
    return texts + [""] * (3 - len(texts))


def uncertain(answers: Answers, focus: Focus) -> Iterator[str]:
    rows = []
    totals: dict[str, float] = {}
    for model, quant in focus:
        asked = answers.ask(model, quant, HOME)
        if asked is None:
            continue
        found = swings(asked)
        whole = sum(s * s for _, s in found) or 1.0
        for what, swing in found:
            totals[what] = totals.get(what, 0.0) + swing * swing / whole
        rows.append([f"{model} {quant}", *(f"{what}: {100 * s * s / whole:.0f} %" for what, s in found[:4])])
    yield from prose(
        "Each figure is moved by one standard deviation of what is believed of it; the placement stays. For reading "
        "that is the profile's spread, for links the catalogue's range. For launches, the rate of chosen experts and "
        f"the software of an exchange it is a judgement: factors of {exp(LAUNCHES):.1f}, {exp(EXPERTS):.1f} and "
        f"{exp(EXCHANGE):.1f}. Shares of the variance of the decode speed on `{HOME}`:"
    )
    yield from table(["model", "first", "second", "third", "fourth"], rows)
    for what, share in sorted(totals.items(), key=lambda item: -item[1])[:4]:
        yield from prose(f"{what}, {100 * share / len(rows):.0f} % on average: {how(what)}.", bullet=True)


MEASURED = (
    (
        "qwen3-235b-a22b",
        "q8_0",
        "2x m3-ultra-512 + 2x m3-ultra-256 @tb5-rdma",
        "31.9 (15.2 without RDMA)",
        "exo, every matrix split over four: https://www.adwaitx.com/?p=10695, of "
        "https://www.jeffgeerling.com/blog/2025/15-tb-vram-on-mac-studio-rdma-over-thunderbolt-5; precision not stated",
    ),
    (
        "kimi-k2",
        "q4_k_m",
        "4x m3-ultra-512 @tb5-rdma",
        "about 34",
        "exo, likewise: https://aiexpert.news/en/article/"
        "the-10k-sovereign-ai-cluster-how-smbs-are-running-100b-parameter-models-on-apple; precision not stated",
    ),
    (
        "deepseek-v3",
        "q4_k_m",
        "4x m3-ultra-512 @tb5-rdma",
        "about 25",
        "exo, likewise: the same page",
    ),
    (
        "deepseek-v3",
        "q4_k_m",
        "m3-ultra-512",
        "17 to 18",
        "one Mac: https://gpu.name/posts/m3-ultra-chip-handles-deepseek-r1-model-with-671-billion-parameters",
    ),
    (
        "glm-5.2",
        "q4_k_m",
        "2x m3-ultra-512 @tb5-rdma",
        "17",
        "engine, link and precision not stated: https://github.com/antirez/ds4/issues/445",
    ),
)


def beside(answers: Answers) -> Iterator[str]:
    rows = []
    for model, quant, lab, measured, source in MEASURED:
        asked = answers.ask(model, quant, lab)
        rows.append(
            [f"{model} {quant}", f"`{lab}`", measured, interval(asked.plan.prediction) if asked else "no", source]
        )
    yield from prose(
        "Decode, tokens/s. Others' engines split otherwise: exo gives every Mac a part of each matrix, so that all "
        "their bandwidths add up at every weight; Motley's placements give each device whole layers or whole experts. "
        "A plausibility check, not a validation: that is in [prediction.md](prediction.md)."
    )
    yield from table(["model", "lab", "measured", "predicted for Motley's splits", "by whom, and how"], rows)


def method(answers: Answers) -> Iterator[str]:
    again = "" if answers.engine == "motley" else f" --engine {answers.engine}"
    for text in (
        f"Devices: the hardware catalogue (`motley plan --devices`), and what the engine `{answers.engine}` reaches of "
        "each class of hardware (`src/motley/lab/profiles.toml`). Links: the link catalogue (`motley plan --links`).",
        "Shapes: the catalogue of shapes, every tensor at its stored precision. Experts are chosen uniformly, as no "
        "route trace is at hand: popular experts on the card would make it faster.",
        "Placement: `motley plan`, for decode with one sequence and room for 33k tokens of context; the search looks "
        f"{answers.looks:,} times at its clock, without its beam. Wirings of the same devices share placements before "
        "they are compared.",
        "Not in it: the Linux box around the card, switches and cables; what a Mac does beside; heat; splits of every "
        "matrix over the Macs (tensor parallelism), which exo does over RDMA and Motley does not.",
        f"Again: `python tools/two_terabytes{again}`.",
    ):
        yield from prose(text, bullet=True)
