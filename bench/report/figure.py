"""matplotlib to inline SVG: page colours by variable, text as text, ids of its own, the same bytes every time."""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from bench.report.labels import HEIGHT_PX, place_labels, width_px
from bench.report.numbers import TIMES, delta, fixed, signed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.report.labels import Rect
    from bench.report.scatter import Panel, Point

# Sentinels: colours that matplotlib carries through and the page replaces by its own tokens.
_COLOURS = {name: f"#0a0b{index:02x}" for index, name in enumerate(
    ("paper", "ink", "ink2", "line", "band", "same", "fail", "open", "off"))}  # fmt: skip
_BY_WORD = {"passed": "same", "failed": "fail", "error": "fail", "waived": "open", "undecided": "open"}
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 46
_FONT_PX = 12.5


def scatter_svg(panel: Panel, *, width: int, height: int, prefix: str, css_class: str) -> Markup:
    """Draw one panel.

    Args:
        panel: what to show.
        width: of the view box in pixels.
        height: likewise.
        prefix: put before every id, unique per figure on a page.
        css_class: added to ``fig``.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the bytes of a page
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "backend-parity", "font.size": _FONT_PX})
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        box = (_LEFT / width, _BOTTOM / height, (width - _LEFT - _RIGHT) / width, (height - _TOP - _BOTTOM) / height)
        axes = figure.add_axes(box)
        drawing = _Drawing(axes, panel, width, height)
        drawing.draw()
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    label = f"Scatter of AP difference against speed, {panel.title}. The same numbers are in the table of section 4."
    return _inline(target.getvalue(), texts=drawing.texts, prefix=prefix, label=label, css_class=css_class)


class _Drawing:
    """One panel on matplotlib axes; text is drawn as placeholders, so that no user's text meets matplotlib."""

    def __init__(self, axes: Any, panel: Panel, width: int, height: int) -> None:
        self.axes, self.panel, self.width, self.height = axes, panel, width, height
        self.texts: list[str] = []

    def draw(self) -> None:
        """Draw everything, labels last."""
        self._frame()
        obstacles = self._margin_lines()
        self._front()
        for point in self.panel.points:
            self._point(point)
        self.axes.plot([1], [0], marker="+", markersize=14, markeredgewidth=2.2, color=_COLOURS["ink"], zorder=6)
        self._labels(obstacles)

    def pixel(self, ratio: float, value: float) -> tuple[float, float]:
        """Data -> pixels from the top left corner."""
        (x0, x1), (y0, y1) = self.panel.ratio_range, self.panel.delta_range
        x = _LEFT + (ratio - x0) / (x1 - x0) * (self.width - _LEFT - _RIGHT)
        y = _TOP + (y1 - value) / (y1 - y0) * (self.height - _TOP - _BOTTOM)
        return x, y

    def _text(self, x: float, y: float, text: str, anchor: str, colour: str) -> None:
        """Write at pixels; y is the middle of the line."""
        self.texts.append(text)
        self.axes.figure.text(
            x / self.width, 1 - (y + 4.4) / self.height, f"T{len(self.texts) - 1}T",
            ha={"start": "left", "middle": "center", "end": "right"}[anchor], va="baseline", color=_COLOURS[colour],
        )  # fmt: skip

    def _frame(self) -> None:
        from matplotlib.ticker import MaxNLocator

        axes, panel = self.axes, self.panel
        axes.set_xlim(*panel.ratio_range)
        axes.set_ylim(*panel.delta_range)
        axes.patch.set_visible(False)
        axes.figure.patch.set_visible(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
        narrow = self.width < 420
        y_ticks = [t for t in MaxNLocator(6).tick_values(*panel.delta_range) if _inside(t, panel.delta_range)]
        decimals = _decimals(y_ticks)
        for tick in y_ticks:
            zero = abs(tick) < 1e-12
            axes.axhline(tick, color=_COLOURS["ink2" if zero else "line"], linewidth=1, zorder=1)
            self._text(_LEFT - 8, self.pixel(1, tick)[1], "0" if zero else signed(tick, decimals), "end", "ink2")
        x_ticks = MaxNLocator(4 if narrow else 6, steps=[1, 2, 2.5, 5, 10]).tick_values(*panel.ratio_range)
        x_ticks = [t for t in x_ticks if _inside(t, panel.ratio_range)]
        for tick in x_ticks:
            x = self.pixel(tick, 0)[0]
            self._line(x, self.height - _BOTTOM, x, self.height - _BOTTOM + 5, "ink2", 1)
            self._text(x, self.height - _BOTTOM + 16, f"{fixed(tick, _decimals([tick]))}{TIMES}", "middle", "ink2")
        self._text((_LEFT + self.width - _RIGHT) / 2, self.height - 9, panel.axis, "middle", "ink2")

    def _line(self, x0: float, y0: float, x1: float, y1: float, colour: str, width: float) -> None:
        from matplotlib.lines import Line2D

        xs, ys = [x0 / self.width, x1 / self.width], [1 - y0 / self.height, 1 - y1 / self.height]
        self.axes.figure.add_artist(Line2D(xs, ys, color=_COLOURS[colour], linewidth=width, solid_capstyle="butt"))

    def _margin_lines(self) -> list[Rect]:
        """Band of the widest margin, a line and a label per margin; the labels' rectangles."""
        taken: list[Rect] = []
        if not self.panel.margins:
            return taken
        widest = self.panel.margins[-1][1]
        self.axes.axhspan(-widest, widest, color=_COLOURS["band"], linewidth=0, zorder=0)
        for name, margin in self.panel.margins:
            last = margin == widest
            style: Any = "solid" if last else (0, (2, 4))
            self.axes.axhline(-margin, color=_COLOURS["same"], linewidth=1.6 if last else 1, linestyle=style, zorder=2)
            text = f"{name} margin {delta(-margin)}"
            y = self.pixel(1, -margin)[1] + 11
            left = self._free_start(y, width_px(text), taken)
            self._text(left, y, text, "start", "same")
            taken.append((left, y - HEIGHT_PX / 2, left + width_px(text), y + HEIGHT_PX / 2))
        return taken

    def _free_start(self, y: float, width: float, taken: Sequence[Rect]) -> float:
        """Left edge where a margin's label covers no marker: the left side, or the right one."""
        spots = [self.pixel(p.ratio, p.delta) for p in self.panel.points]
        for left in (_LEFT + 6.0, self.width - _RIGHT - width - 4, (_LEFT + self.width - width) / 2):
            box = (left - 8, y - 14, left + width + 8, y + 14)
            if (
                not self._whisker_in(box)
                and not any(box[0] < x < box[2] and box[1] < v < box[3] for x, v in spots)
                and not any(
                    left < t[2] and t[0] < left + width and abs((t[1] + t[3]) / 2 - y) < HEIGHT_PX for t in taken
                )
            ):
                return left
        return _LEFT + 6.0

    def _whisker_in(self, box: Rect) -> bool:
        """True when the bar of a speed interval runs through a box."""
        bars = [(self.pixel(p.ratio_ci95[0], p.delta), self.pixel(p.ratio_ci95[1], p.delta))
                for p in self.panel.points if p.ratio_ci95]  # fmt: skip
        return any(x0 < box[2] and x1 > box[0] and box[1] < y < box[3] for (x0, y), (x1, _) in bars)

    def _front(self) -> None:
        if not self.panel.points:
            return
        xs = [self.panel.ratio_range[0], self.panel.front[0][0]]
        ys = [self.panel.front[0][1]] * 2
        for (x0, _), (x1, y1) in zip(self.panel.front, self.panel.front[1:], strict=False):
            xs += [x0, x1]
            ys += [y1, y1]
        self.axes.plot(xs, ys, color=_COLOURS["ink"], linewidth=1.3, alpha=0.55, zorder=3)

    def _point(self, point: Point) -> None:
        colour = _COLOURS[_BY_WORD.get(point.word, "off")]
        bars = {"color": colour, "linewidth": 1.6, "zorder": 4, "solid_capstyle": "butt"}
        if point.delta_ci95 and not point.below:
            self.axes.plot([point.ratio] * 2, point.delta_ci95, **bars)
        if point.ratio_ci95:
            self.axes.plot(point.ratio_ci95, [point.delta] * 2, **bars)
        size = 11 if point.marker in "^vphP" else 9 if point.marker == "D" else 10
        face = colour if point.fill in ("left", "full") else _COLOURS["paper"]
        self.axes.plot(
            [point.ratio], [point.delta], marker=point.marker, markersize=size, linestyle="none", zorder=5,
            fillstyle="left" if point.fill == "left" else "full", markerfacecolor=face,
            markerfacecoloralt=_COLOURS["paper"], markeredgecolor=colour, markeredgewidth=1.8, clip_on=False,
        )  # fmt: skip

    def _labels(self, taken: list[Rect]) -> None:
        points = self.panel.points
        spots = [self.pixel(p.ratio, p.delta) for p in points]
        texts = [str(i + 1) if self.panel.numbered else p.label for i, p in enumerate(points)]
        spots.append(self.pixel(1.0, 0.0))
        texts.append("reference")
        solid: list[Rect] = [*taken, *((x - 8, y - 8, x + 8, y + 8) for x, y in spots)]
        lines: list[Rect] = [
            (_LEFT, y - 1, self.width, y + 1) for y in (self.pixel(1, -m)[1] for _, m in self.panel.margins)
        ]
        lines.append((_LEFT, spots[-1][1] - 1, self.width, spots[-1][1] + 1))
        for (x0, _), (x1, y1) in zip(self.panel.front, self.panel.front[1:], strict=False):
            (left, y), (right, _) = self.pixel(x0, y1), self.pixel(x1, y1)
            lines.append((left, y - 1, right, y + 1))
        for point, (x, y) in zip(points, spots, strict=False):
            if point.delta_ci95:
                top, bottom = (self.pixel(point.ratio, end)[1] for end in reversed(point.delta_ci95))
                solid.append((x - 2, top, x + 2, bottom))
            if point.ratio_ci95:
                left, right = (self.pixel(end, 0)[0] for end in point.ratio_ci95)
                solid.append((left, y - 2, right, y + 2))
        bounds = (_LEFT + 2.0, 2.0, self.width - 2.0, self.height - _BOTTOM - 2.0)
        places = place_labels(spots, texts, bounds=bounds, taken=solid, avoid=lines)
        for placed, text in zip(places, texts, strict=True):
            left, top, right, bottom = placed.rect
            if placed.leader:
                self._line(*placed.leader, "ink2", 0.8)
            x = {"start": left, "middle": (left + right) / 2, "end": right}[placed.anchor]
            self._text(x, (top + bottom) / 2, text, placed.anchor, "ink")


def _inside(value: float, ends: tuple[float, float]) -> bool:
    return ends[0] <= value <= ends[1]


def _decimals(ticks: Sequence[float]) -> int:
    """Decimals that show each tick exactly."""
    return next((d for d in range(7) if all(abs(t - round(t, d)) < 1e-9 for t in ticks)), 7)


def _inline(svg: str, *, texts: Sequence[str], prefix: str, label: str, css_class: str) -> Markup:
    """Make matplotlib's file part of a page: no head, no global style, own ids, tokens for colours, text filled in."""
    svg = svg[svg.index("<svg") :]
    opening = re.match(r"<svg[^>]*?viewBox=\"([^\"]+)\"[^>]*>", svg)
    view_box = opening.group(1) if opening else "0 0 1 1"
    svg = svg[opening.end() :] if opening else svg
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<defs>\s*</defs>", "", svg)
    svg = re.sub(r"id=\"([^\"]+)\"", rf'id="{prefix}\1"', svg)
    svg = re.sub(r"(?:xlink:)?href=\"#([^\"]+)\"", rf'href="#{prefix}\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", svg)
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = re.sub(r"font:[^;\"]*;\s*|font-size:[^;\"]*;\s*|font-family:[^;\"]*;\s*", "", svg)
    svg = re.sub(r" transform=\"rotate\(-0 [^\"]*\)\"", "", svg)
    svg = re.sub(r">T(\d+)T<", lambda found: f">{html.escape(texts[int(found.group(1))])}<", svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    head = f'<svg class="fig {css_class}" viewBox="{view_box}" role="img" aria-label="{html.escape(label)}">'
    return Markup(head + svg)
