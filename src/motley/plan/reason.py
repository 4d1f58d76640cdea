"""What decided, in words with numbers: where things live, what was gained over simpler arrangements, what limits."""

from collections import Counter
from collections.abc import Sequence

from motley.plan.plan import Alternative
from motley.plan.state import Pricer, State
from motley.predict.memory import gigabytes
from motley.predict.predict import Prediction, stages


def reasons(pricer: Pricer, state: State, prediction: Prediction, alternatives: Sequence[Alternative]) -> list[str]:
    return [
        *_where(pricer, state),
        *_compared(pricer, state, prediction, alternatives),
        *_links(pricer, state, prediction),
        _limit(prediction),
    ]


def _where(pricer: Pricer, state: State) -> list[str]:
    names = [d.name for d in pricer.devices]
    homes = [p.home for p in state]
    runs = stages(homes)
    if len(runs) == 1:
        said = [f"attention, KV cache and router of all {len(state)} layers are at home on {names[runs[0][0]]}"]
    else:
        parts = [f"{homes.count(home)} on {names[home]}" for home, _ in runs]
        said = [f"layers are split into runs: {', then '.join(parts)}"]
    held: Counter[int] = Counter()
    for pattern in state:
        held.update(dict(pattern.held))
    spread = [f"{100 * n / held.total():.0f} % on {names[d]}" for d, n in sorted(held.items())]
    if len(spread) > 1:
        said.append(f"experts: {', '.join(spread)}" + (", the most chosen ones at home" if pricer.model.routes else ""))
    idle = [name for d, name in enumerate(names) if d not in held and d not in homes]
    if idle:
        said.append(f"{', '.join(idle)} would not make it faster and stay{'s' if len(idle) == 1 else ''} unused")
    return said


def _compared(pricer: Pricer, state: State, prediction: Prediction, alternatives: Sequence[Alternative]) -> list[str]:
    """Against each device alone, and the best arrangement of another kind."""
    own, said, others = name_of(pricer, state), [], 0
    for other in alternatives:
        alone = other.name.startswith("all on ")
        if other.tokens_per_s is None and alone:
            said.append(f"{other.name}: does not fit, {gigabytes(other.missing_bytes)} missing")
        elif other.tokens_per_s is not None and other.name != own and (alone or not others):
            others += not alone
            if other.tokens_per_s < prediction.p50 * 0.995:
                said.append(f"{other.name}: {_slower(other, prediction)}")
    return said


def name_of(pricer: Pricer, state: State) -> str:
    """What `candidates` would call such a state."""
    names = [pricer.devices[home].name for home, _ in stages([p.home for p in state])]
    spread = any(d != pattern.home for pattern in state for d, _ in pattern.held)
    if len(names) > 1:
        return "layers split over " + ", ".join(names) + (", experts spread" if spread else "")
    return f"attention on {names[0]}, experts spread" if spread else f"all on {names[0]}"


def _slower(other: Alternative, prediction: Prediction) -> str:
    assert other.tokens_per_s is not None
    lost = 100 * (1 - other.tokens_per_s / prediction.p50)
    return f"{other.tokens_per_s:.4g} tokens/s, {lost:.0f} % slower"


def _links(pricer: Pricer, state: State, prediction: Prediction) -> list[str]:
    names, homes = [d.name for d in pricer.devices], list(dict.fromkeys(p.home for p in state))
    said = []
    for term in prediction.terms:
        if term.name == "link":
            asked_by = next(names[h] for h in homes if names[h] != term.device)
            link = pricer.model.lab.link(asked_by, term.device)
            cost = 100 * term.ms / prediction.ms_per_step
            said.append(
                f"waiting for {term.device} over {link.transport} ({link.rtt_us:.3g} us round trip) "
                f"takes {cost:.2g} % of a step"
            )
    return said


def _limit(prediction: Prediction) -> str:
    term = prediction.largest
    part = 100 * term.ms / prediction.ms_per_step
    return f"the largest part of a step is {term.name} on {term.device}, {part:.0f} %, limited by {term.limited_by}"
