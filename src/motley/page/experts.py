"""The map of experts: layers down, experts across, coloured by the device that holds each."""

from collections.abc import Sequence

from markupsafe import Markup

from motley.page.svg import element, picture, plain

N_COLOURS = 8  # device colours in the style sheet; more devices begin again

# How often an expert was chosen, against an even share of its layer's choices; a cell's class is how many of these
# limits its expert reaches.
POPULARITY = (1e-9, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0)


def popularity_class(count: int, row_total: int, n_experts: int) -> int:
    even = row_total / n_experts
    share = count / even if even else 0.0
    return sum(share >= limit for limit in POPULARITY)


CELL, SIDE, CUT, LEFT = 10, 8.5, 3.2, 30

# A device's cells differ in shape too, for those who see no hues: which corners are cut (clockwise from top left).
CORNERS = (
    (0, 0, 0, 0),
    (0, 1, 0, 0),
    (0, 0, 1, 0),
    (0, 0, 0, 1),
    (1, 0, 0, 0),
    (0, 1, 0, 1),
    (1, 1, 0, 0),
    (0, 0, 1, 1),
)


def cell_path(x: float, y: float, device: int) -> str:
    """A square of SIDE at (x, y), its device's corners cut."""
    a, b, c, d = (CUT * cut for cut in CORNERS[device % N_COLOURS])
    steps = [(SIDE - a - b, 0), (b, b), (0, SIDE - b - c), (-c, c), (c + d - SIDE, 0), (-d, -d)]
    if a:
        steps.append((0, a + d - SIDE))
    lines = "".join(f"l{plain(dx)} {plain(dy)}" for dx, dy in steps if dx or dy)
    return f"M{plain(x + a)} {plain(y)}{lines}z"


def device_key(device: int) -> Markup:
    """A legend's sample of a device's cells."""
    path = element("path", d=cell_path(0, 0, device), class_=f"cell d{device % N_COLOURS}")
    return element("svg", path, viewBox=f"0 0 {SIDE} {SIDE}", class_="key", aria_hidden="true")


def expert_map(
    experts: Sequence[Sequence[int]], homes: Sequence[int], counts: Sequence[Sequence[int]] | None, label: str
) -> Markup:
    """Layers down, experts across. `experts[l][e]`, `homes[l]`: device numbers. Hue is the device, strength the
    popularity; one path per (device, popularity), so that thousands of cells stay small."""
    n = max(map(len, experts), default=0)  # a layer may have none
    paths: dict[tuple[int, int], list[str]] = {}
    for y, row in enumerate(experts):
        total = sum(counts[y]) if counts else 0
        for x, device in enumerate(row):
            popularity = popularity_class(counts[y][x], total, n) if counts else 3
            paths.setdefault((device % N_COLOURS, popularity), []).append(cell_path(LEFT + x * CELL, y * CELL, device))
    cells = [element("path", d="".join(d), class_=f"cell d{device} p{p}") for (device, p), d in sorted(paths.items())]
    width, height = LEFT + n * CELL, len(experts) * CELL
    box = f"0 0 {width} {height}"
    return picture(label, *_home_marks(homes), *cells, viewBox=box, class_="map", width=round(width * 2.8))


def _home_marks(homes: Sequence[int]) -> list[Markup]:
    """Per layer: its number, and a bar in the colour of its home."""
    marks = []
    for y, home in enumerate(homes):
        marks.append(element("text", str(y), x=LEFT - 9, y=y * CELL + 7.5, text_anchor="end", class_="layer"))
        bar = element("rect", x=LEFT - 6, y=y * CELL, width=3, height=SIDE, class_=f"home d{home % N_COLOURS}")
        marks.append(bar)
    return marks
