"""The devices, as bars as long as their memory is large, filled with what they hold."""

from collections.abc import Sequence

from markupsafe import Markup

from motley.page.svg import element, percent, picture
from motley.plan.picture.facts import Group
from motley.predict.memory import gigabytes

HEIGHT = 24
HOLDS = {
    "home": "attention and what else is at home",
    "experts": "experts",
    "cache": "KV cache",
    "buffers": "buffers and reserve",
}


def memory_bar(group: Group, largest: float) -> Markup:
    """Of one device; of a class on average. `largest`: bytes of the largest device, the full width."""
    n, held = len(group.devices), group.held
    whole = held.of / n
    shapes = [element("rect", x=0, y=0.5, width=percent(whole / largest), height=HEIGHT - 1, rx=3, class_="room")]
    x = 0.0
    for part in HOLDS:
        size = getattr(held, part) / n
        if size:
            title = element("title", f"{part}: {gigabytes(size)}")
            width = percent(size / largest)
            shapes.append(
                element("rect", title, x=percent(x), y=0.5, width=width, height=HEIGHT - 1, class_=f"fill holds-{part}")
            )
            x += size / largest
    said = ", ".join(f"{part} {gigabytes(getattr(held, part) / n)}" for part in HOLDS if getattr(held, part))
    return picture(f"{group.name}: {said or 'nothing'} of {gigabytes(whole)}", *shapes, class_="memory", height=HEIGHT)


def largest_memory(found: Sequence[Group]) -> float:
    return max(group.held.of / len(group.devices) for group in found)


def role_words(group: Group, n_layers: int) -> str:
    """`home of 61 layers, 12 % of the experts`"""
    said = []
    if group.home_layers:
        said.append("home of " + ("all layers" if group.home_layers == n_layers else f"{group.home_layers} layers"))
    if group.held.experts:
        said.append("all experts" if group.expert_share > 0.99999 else f"{_percent(group.expert_share)} of the experts")
    if group.choice_share and group.expert_share < 0.99999:
        said.append(f"{_percent(group.choice_share)} of the choices")
    return ", ".join(said) or "not used"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.095 else f"{100 * share:.0f} %"
