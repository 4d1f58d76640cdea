"""SVG elements as text. Every attribute and child is escaped here, and nowhere else."""

from markupsafe import Markup, escape

Value = str | float | int


def element(name: str, *children: Markup | str, **attributes: Value) -> Markup:
    """`element("rect", x="5%", class_="band")`: a trailing underscore is dropped, inner ones become hyphens."""
    shown = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), plain(value)) for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), shown, Markup("").join(escape(c) for c in children))


def picture(label: str, *children: Markup, **attributes: Value) -> Markup:
    """An <svg> that a screen reader speaks as `label`."""
    return element("svg", *children, role="img", aria_label=label, **attributes)


def plain(value: Value) -> str:
    """Coordinates to a hundredth."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def percent(fraction: float) -> str:
    return plain(100.0 * fraction) + "%"
