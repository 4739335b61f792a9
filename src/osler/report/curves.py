"""Training curves as small SVG panels that take their colours from the page.

Matplotlib lays out axes and lines. Its colours are then exchanged for CSS classes, so that one drawing
serves light, dark and print, and needs no inline style.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

Points = Sequence[tuple[float, float]]
Metrics = Mapping[str, Points]

MAX_POINTS = 400  # of one line; more are averaged in equal parts of the x axis
# Stand-in colours, replaced by the classes below. Six lines is the most a panel shows.
SERIES = ("#a00001", "#a00002", "#a00003", "#a00004", "#a00005", "#a00006")
INK, GRID = "#b00001", "#b00002"
_CLASSES = {**{c: f"c{i}" for i, c in enumerate(SERIES)}, INK: "ink", GRID: "grid"}
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2), (8, 3), (3, 1))
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal mark, such as the chance level of a validation set."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Legend:
    """One line of a panel's legend: numbers are always printed beside the drawing."""

    css_class: str  # colour
    dash: str  # SVG dash array; "" solid
    name: str
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing with its words."""

    title: str
    x_label: str
    svg: str
    legend: tuple[Legend, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Spec:
    title: str
    names: tuple[str, ...]  # metric names, or "prefix/*"
    note: str = ""
    fraction: bool = False  # y runs from 0 to 1


_SPECS = (
    _Spec("Reward", ("reward/total", "reward/*"), "mean per completion; parts are unweighted"),
    _Spec("Completion length", ("completion/length_mean",), "tokens, end token included"),
    _Spec(
        "Truncated and unparsed completions",
        ("completion/truncated_frac", "completion/unparsed_frac"),
        "share of all; the parse rate is 1 minus the unparsed share",
        fraction=True,
    ),
    _Spec("Zero-variance groups", ("group/zero_variance_frac",), "share of groups that teach nothing", True),
    _Spec("KL to the reference policy", ("loss/kl",), "nats per token, before its coefficient"),
    _Spec("Entropy", ("entropy/mean",), "nats per completion token"),
    _Spec("Clipped ratios", ("ratio/clipped_frac",), "share of tokens; 0 while on-policy", True),
    _Spec("Loss", ("loss/total",), "what the optimizer descends"),
    _Spec("Gradient norm", ("optim/grad_norm",), "before clipping"),
    _Spec("Learning rate", ("optim/lr",)),
)


def training_panels(metrics: Metrics, key: str = "") -> list[Panel]:
    """One panel per group of metrics that the run logged. `key` keeps element ids apart on one page."""
    panels = []
    for spec in _SPECS:
        names = _resolve(spec.names, metrics)
        if names:
            lines = {name: metrics[name] for name in names}
            panels.append(draw_panel(spec.title, "step", lines, key, note=spec.note, fraction=spec.fraction))
    return panels


def validation_panel(metrics: Metrics, levels: Mapping[str, Sequence[Level]], key: str = "") -> Panel | None:
    """Accuracy of every validation set against question visits; `levels` maps a set to its marks."""
    prefix = "eval/accuracy/"
    names = [name for name in metrics if name.startswith(prefix)]
    if not names:
        return None
    visits = dict(metrics.get("progress/questions", ()))
    in_visits = bool(visits)
    lines = {}
    for name in names:
        points = [(visits.get(step, 0.0 if step == 0 else math.nan), y) for step, y in metrics[name]]
        if in_visits and not any(math.isnan(x) for x, _ in points):
            lines[name.removeprefix(prefix)] = points
        else:
            in_visits = False
    if not in_visits:
        lines = {name.removeprefix(prefix): list(metrics[name]) for name in names}
    marks = [level for name in lines for level in levels.get(name, ())]
    return draw_panel(
        "Validation accuracy",
        "question visits" if in_visits else "step",
        lines,
        key,
        note="no smoothing; unparsed counts as wrong",
        fraction=True,
        smooth=False,
        levels=marks,
    )


def _resolve(names: Sequence[str], metrics: Metrics) -> list[str]:
    found: list[str] = []
    for name in names:
        if name.endswith("/*"):
            found += sorted(m for m in metrics if m.startswith(name[:-1]) and m not in found)
        elif name in metrics:
            found.append(name)
    return found[: len(SERIES)]


def thin(points: Points, most: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: means over equal shares of the sequence. Short lines stay as they are."""
    if len(points) <= most:
        return list(points)
    edges = [round(i * len(points) / most) for i in range(most + 1)]
    parts = [points[a:b] for a, b in itertools.pairwise(edges)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def rolling_mean(points: Points, window: int) -> list[tuple[float, float]]:
    """Mean over `window` neighbours, centred; shorter at both ends."""
    half, n = window // 2, len(points)
    sums = [0.0, *itertools.accumulate(y for _, y in points)]
    edges = [(max(0, i - half), min(n, i + half + 1)) for i in range(n)]
    return [(x, (sums[b] - sums[a]) / (b - a)) for (x, _), (a, b) in zip(points, edges, strict=True)]


def draw_panel(
    title: str,
    x_label: str,
    lines: Mapping[str, Points],
    key: str,
    *,
    note: str = "",
    fraction: bool = False,
    smooth: bool = True,
    levels: Sequence[Level] = (),
    log_x: bool = False,
) -> Panel:
    """One panel of at most six lines; `fraction`: y runs from 0 to 1; `levels`: horizontal marks."""
    figure = Figure(figsize=(4.9, 2.7), dpi=72)
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.115, 0.125, 0.865, 0.83))
    legend = []
    for index, (name, points) in enumerate(lines.items()):
        dash = _DASHES[index % len(_DASHES)]
        style = {"color": SERIES[index % len(SERIES)], "dashes": dash or (1, 0)}
        window = max(1, len(points) // 20) if smooth else 1
        if window > 1:
            axes.plot(*_columns(thin(points)), color=style["color"], lw=0.8, alpha=0.3)
            points = rolling_mean(points, window)
        marker = {"marker": "o", "ms": 3.2} if len(points) <= 25 else {}
        axes.plot(*_columns(thin(points)), lw=1.7, **style, **marker)  # type: ignore[arg-type]
        css = _CLASSES[str(style["color"])]
        dash_array = " ".join(f"{d * 1.7:g}" for d in dash)
        legend.append(Legend(css, dash_array, name, _number(points[0][1]), _number(points[-1][1])))
    for level in levels:
        axes.axhline(level.value, color=INK, lw=0.9, dashes=(2, 2) if "chance" in level.name else (6, 2))
        legend.append(
            Legend("ink", "2 2" if "chance" in level.name else "6 2", level.name, "", _number(level.value))
        )
    dress(axes, fraction, log_x)
    return Panel(title, x_label, figure_svg(figure, title, key), tuple(legend), note)


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def dress(axes: Axes, fraction: bool, log_x: bool) -> None:
    """Grid, ticks and spines as every drawing of the page has them."""
    if fraction:
        axes.set_ylim(-0.03, 1.03)
    else:
        low, high = axes.get_ylim()
        if high - low < 1e-12 or 0 <= low < 0.4 * high:
            axes.set_ylim(bottom=min(low, 0.0))
    axes.margins(x=0.02)
    if log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    # Matplotlib would move a common factor (1e-5) out of the labels and out of the drawing.
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}".replace("e-0", "e-")))
    axes.grid(True, color=GRID, lw=0.6)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK, pad=4)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


def figure_svg(figure: Figure, title: str, key: str) -> str:
    """The figure as SVG that takes its colours from the page; `key` keeps element ids apart."""
    buffer = io.StringIO()
    # Text stays text: it is found by search, read aloud, and scales with the page's font.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "text.parse_math": False}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return themed_svg(buffer.getvalue(), label=title, key=key)


def themed_svg(svg: str, label: str, key: str) -> str:
    """Strip a matplotlib SVG to what an HTML page needs: no prolog, metadata, namespaces or inline style."""
    root = ElementTree.fromstring(svg)
    prefix = re.sub(r"[^a-z0-9]+", "-", f"{key}-{label}".lower()).strip("-")
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        element.text = (element.text or "").strip() or None
        element.tail = None
        href = element.attrib.pop(f"{{{_XLINK}}}href", None)
        if href is not None:
            element.set("href", f"#{prefix}-{href[1:]}")
        identity = element.attrib.pop("id", None)
        if identity is not None and element.tag in ("path", "clipPath"):  # what others refer to
            element.set("id", f"{prefix}-{identity}")
        if "clip-path" in element.attrib:
            element.set("clip-path", element.attrib["clip-path"].replace("#", f"#{prefix}-"))
        _style_to_attributes(element)
    view = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": view, "role": "img", "aria-label": label, "class": "chart"})
    return ElementTree.tostring(root, encoding="unicode")


def _style_to_attributes(element: ElementTree.Element) -> None:
    classes = []
    for declaration in element.attrib.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name in ("fill", "stroke") and value in _CLASSES:
            classes.append(f"{name}-{_CLASSES[value]}")
        elif name == "font":
            element.set("font-size", value.split()[0].removesuffix("px"))
        elif name and name not in ("font-family", "white-space"):
            element.set(name, value)
    if element.tag == "text" and not any(c.startswith("fill-") for c in classes):
        classes.append("fill-ink")
    if classes:
        element.set("class", " ".join(classes))
