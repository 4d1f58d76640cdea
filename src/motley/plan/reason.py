"""What decided, in words with numbers: where things live, what was gained over simpler arrangements, what limits.

Of many devices, those of equal figures and links are spoken of together.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from motley.lab.placement import Placement
from motley.plan.names import between, listed
from motley.plan.objective import Objective
from motley.plan.plan import Alternative
from motley.plan.state import Pricer, State
from motley.predict.memory import gigabytes
from motley.predict.predict import Prediction, Term, price, stages
from motley.predict.show import duration, number

_FEW = 6  # devices, runs or links that are each worth a word
_ALONE = 4  # devices alone that are compared with


def reasons(
    pricer: Pricer,
    state: State,
    prediction: Prediction,
    alternatives: Sequence[Alternative],
    objective: Objective,
    speed: float,
    head: str | None = None,
) -> list[str]:
    """`speed`: the plan's tokens per second, of all the objective's steps, as those of the alternatives are."""
    return [
        *_where(pricer, state),
        *_compared(pricer, state, objective, speed, alternatives),
        *_links(pricer, state, prediction, head),
        _limit(pricer, prediction),
    ]


def _where(pricer: Pricer, state: State) -> list[str]:
    names = [d.name for d in pricer.devices]
    homes = [p.home for p in state]
    runs = [home for home, _ in stages(homes)]
    if len(runs) == 1:
        said = [f"attention, KV cache and router of all {len(state)} layers are at home on {names[runs[0]]}"]
    elif len(runs) <= _FEW:
        said = [f"layers are split into runs: {', then '.join(f'{homes.count(h)} on {names[h]}' for h in runs)}"]
    else:
        sizes = between([homes.count(h) for h in runs])
        said = [f"layers are split into {len(runs)} runs of {sizes}, on {listed([names[h] for h in runs])}"]
    held: Counter[int] = Counter()
    for pattern in state:
        held.update(dict(pattern.held))
    if len(held) > 1:
        said.append(_spread(pricer, held) + (", the most chosen where they are done first" if _traced(pricer) else ""))
    idle = [name for d, name in enumerate(names) if d not in held and d not in homes]
    if idle:
        said.append(f"{listed(idle)} would not make it faster and stay{'s' if len(idle) == 1 else ''} unused")
    return said


def _traced(pricer: Pricer) -> bool:
    return pricer.model.routes is not None


def _spread(pricer: Pricer, held: Counter[int]) -> str:
    total, names = held.total(), [d.name for d in pricer.devices]
    if len(held) <= _FEW:
        return "experts: " + ", ".join(f"{100 * n / total:.0f} % on {names[d]}" for d, n in sorted(held.items()))
    said = []
    for group in _classes(pricer, sorted(held)):
        parts = [100 * held[d] / total for d in group]
        each = f" ({between(parts, '{:.2g}')} each)" if len(group) > 1 else ""
        said.append(f"{sum(parts):.3g} % on {listed([names[d] for d in group])}{each}")
    return "experts: " + ", ".join(said[:_FEW]) + (f" and {len(said) - _FEW} kinds more" if len(said) > _FEW else "")


def _classes(pricer: Pricer, devices: Iterable[int]) -> list[list[int]]:
    """Devices of equal figures and links, the largest group first."""
    groups: dict[int, list[int]] = {}
    for d in devices:
        groups.setdefault(int(pricer.field.classes[d]), []).append(d)
    return sorted(groups.values(), key=lambda group: (-len(group), group))


def _compared(
    pricer: Pricer, state: State, objective: Objective, speed: float, alternatives: Sequence[Alternative]
) -> list[str]:
    """Against devices alone, and the best arrangement of another kind."""
    own, said, others, alones = name_of(pricer, state), [], 0, 0
    for other in alternatives:
        alone = other.name.startswith("all on ")
        if alone and alones >= _ALONE:
            continue
        if other.tokens_per_s is None and alone:
            alones += 1
            said.append(f"{other.name}: does not fit, {gigabytes(other.missing_bytes)} missing")
        elif other.tokens_per_s is not None and other.name != own and (alone or not others):
            others, alones = others + (not alone), alones + alone
            if other.tokens_per_s < speed * 0.995:
                said.append(f"{other.name}: {_slower(other.tokens_per_s, objective, speed)}")
    return said


def name_of(pricer: Pricer, state: State) -> str:
    """What `candidates` would call such a state."""
    homes = [pricer.devices[home].name for home, _ in stages([p.home for p in state])]
    where = ", ".join(homes) if len(homes) <= _FEW else f"{len(homes)} devices"
    spread = any(d != pattern.home for pattern in state for d, _ in pattern.held)
    if len(homes) > 1:
        return f"layers split over {where}" + (", experts spread" if spread else "")
    return f"attention on {where}, experts spread" if spread else f"all on {where}"


def _slower(other: float, objective: Objective, speed: float) -> str:
    lost = 100 * (1 - other / speed)
    told = f"{number(other)} tokens/s" if len(objective.parts) == 1 else duration(objective.tokens / other)
    return f"{told}, {lost:.0f} % slower"


def _links(pricer: Pricer, state: State, prediction: Prediction, head: str | None) -> list[str]:
    """By link; where a device is waited for as several others are, together."""
    names = [d.name for d in pricer.devices]
    waited: dict[str, list[Term]] = {}
    for term in prediction.terms:
        if term.name == "link":
            waited.setdefault(_ways(pricer, state, names.index(term.device), head), []).append(term)
    said = []
    for ways, terms in waited.items():
        for group in [[t] for t in terms] if len(terms) <= _FEW else [terms]:
            cost = 100 * sum(t.ms for t in group) / prediction.ms_per_step
            on = listed([t.device for t in sorted(group, key=lambda t: names.index(t.device))])
            said.append(f"waiting for {on} over {ways} takes {cost:.2g} % of a step")
    return said


def _ways(pricer: Pricer, state: State, device: int, head: str | None) -> str:
    """The links that homes wait for `device` over, the most used first: `jaccl (42 us round trip)`."""
    names, lab = [d.name for d in pricer.devices], pricer.model.lab
    driver = names.index(head) if head else state[0].home
    asking = Counter(p.home for p in state if p.home != device and p.on(device))
    asking.update(driver for home, _ in stages([p.home for p in state]) if home == device != driver)
    links = [lab.link(names[home], names[device]) for home, _ in asking.most_common()]
    if not links:  # it has copies only
        links = [lab.link(names[driver], names[device])]
    return " and ".join(dict.fromkeys(f"{link.transport} ({link.rtt_us:.3g} us round trip)" for link in links))


def copied(pricer: Pricer, placement: Placement) -> list[str]:
    """Where experts have copies: how many, and what they bring."""
    n = sum(len(layer.copies) for layer in placement.layers)
    if not n:
        return []
    bare = replace(placement, layers=tuple(replace(layer, copies=(), paces=()) for layer in placement.layers))
    with_, without = (price(pricer.model, p).ms_per_step for p in (placement, bare))
    experts = sum(len(layer.experts) for layer in placement.layers)
    size = sum(len(layer.copies) * pricer.expert_bytes[i] for i, layer in enumerate(placement.layers))
    return [
        f"{n / experts:.2g} copies of each expert in memory that was left ({gigabytes(size)}): a step takes "
        f"{100 * (1 - with_ / without):.0f} % less time, as each expert's work goes to the holder that is done first"
    ]


def _limit(pricer: Pricer, prediction: Prediction) -> str:
    """Terms of one name on devices of one kind together."""
    names = [d.name for d in pricer.devices]
    place = {name: d for d, name in enumerate(names)}

    def sort(term: Term) -> tuple[str, int]:
        return term.name, int(pricer.field.classes[place[term.device]])

    groups = [list(group) for _, group in groupby(sorted(prediction.terms, key=sort), sort)]
    if len({t.device for t in prediction.terms}) <= _FEW:
        groups = [[t] for t in prediction.terms]
    largest = max(groups, key=lambda group: sum(t.ms for t in group))
    part = 100 * sum(t.ms for t in largest) / prediction.ms_per_step
    on = listed(sorted((t.device for t in largest), key=lambda name: place[name]))
    by = max(largest, key=lambda t: t.ms).limited_by
    return f"the largest part of a step is {largest[0].name} on {on}, {part:.0f} %, limited by {by}"
