"""Charts as SVG text: axes that turn numbers into places, and the few marks that the report draws.

Colours come from the page's style sheet: class k0, k1, ... is the colour of a series, so charts follow light and dark.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

COLOURS = 8
"""Series colours of the style sheet; a ninth series begins again, dashed."""

SMALLEST = 0.7
"""A chart shrinks with the page to this share of its width; then it scrolls, so that its words can be read."""
REFERENCE = -1
"""In place of the index of a series: what the others are compared with."""


def series(index: int) -> str:
    """The classes of a series; REFERENCE has a neutral colour."""
    if index == REFERENCE:
        return "reference-series"
    return f"k{index % COLOURS}" + (" dashed" if index >= COLOURS else "")


def place(value: float) -> str:
    """A coordinate, as short as it can be."""
    return f"{value:.1f}".removesuffix(".0")


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from low to high, about so many: steps of 1, 2, 2.5 or 5 times a power of ten."""
    raw = (high - low) / max(about - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def marker(index: int, x: float, y: float, size: float = 4.2) -> str:
    """A filled mark whose shape, too, tells the series."""
    shapes = (
        f'<circle cx="{place(x)}" cy="{place(y)}" r="{place(size)}"/>',
        f'<rect x="{place(x - size * 0.9)}" y="{place(y - size * 0.9)}" width="{place(size * 1.8)}" '
        f'height="{place(size * 1.8)}"/>',
        _polygon([(x, y - size * 1.2), (x + size * 1.15, y + size * 0.9), (x - size * 1.15, y + size * 0.9)]),
        _polygon([(x, y - size * 1.3), (x + size * 1.3, y), (x, y + size * 1.3), (x - size * 1.3, y)]),
    )
    return f'<g class="mark {series(index)}">{shapes[index % len(shapes)]}</g>'


def key(index: int) -> str:
    """The mark of a series for a legend."""
    return f'<svg class="key" viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">{marker(index, 7, 7)}</svg>'


def pixels(rgba: np.ndarray) -> str:
    """An image uint8 [H, W, 4] as a data address."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(rgba, "RGBA").save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


@dataclass
class Axes:
    """A chart in the making; `svg` is the finished text. All marks take numbers of the axes."""

    title: str
    x: tuple[float, float]
    """The numbers at the left and right end."""
    y: tuple[float, float]
    """The numbers at the bottom and top."""
    x_label: str = ""
    y_label: str = ""
    width: float = 440
    height: float = 300
    left: float = 52
    """Room for labels; with `right`, `top` and `bottom`."""
    right: float = 14
    top: float = 30
    bottom: float = 46
    parts: list[str] = field(default_factory=list)

    def at_x(self, value: float) -> float:
        low, high = self.x
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def at_y(self, value: float) -> float:
        low, high = self.y
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def grid(self, x: Sequence[float] = (), y: Sequence[float] = (), lines: bool = True) -> None:
        """Labels, and lines unless something covers them, at numbers of both axes."""
        for value in y:
            v = self.at_y(value)
            if lines:
                self._rule("grid", (self.left, self.width - self.right), (v, v))
            self._text(self.left - 7, v + 4, f"{value:g}", "end")
        for value in x:
            h = self.at_x(value)
            if lines:
                self._rule("grid", (h, h), (self.top, self.height - self.bottom))
            self._text(h, self.height - self.bottom + 17, f"{value:g}", "middle")

    def line(self, x: Sequence[float], y: Sequence[float], index: int, dashed: bool = False) -> None:
        """A line through the points; it breaks where y is NaN."""
        path, drawn = "", False
        for a, b in zip(x, y, strict=True):
            if math.isfinite(b):
                path += f"{'L' if drawn else 'M'}{place(self.at_x(a))} {place(self.at_y(b))}"
            drawn = math.isfinite(b)
        if path:
            self.parts.append(f'<path class="line {series(index)}{" dashed" if dashed else ""}" d="{path}"/>')

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], index: int) -> None:
        """The area between two lines, where both are numbers."""
        kept = [(a, b, c) for a, b, c in zip(x, low, high, strict=True) if math.isfinite(b) and math.isfinite(c)]
        points = [(self.at_x(a), self.at_y(b)) for a, b, _ in kept] + [
            (self.at_x(a), self.at_y(c)) for a, _, c in kept[::-1]
        ]
        if points:
            self.parts.append(f'<g class="band {series(index)}">{_polygon(points)}</g>')

    def whisker(self, x: tuple[float, float], y: tuple[float, float], index: int) -> None:
        """A line from one point to another: an interval."""
        self._rule(f"whisker {series(index)}", tuple(map(self.at_x, x)), tuple(map(self.at_y, y)))

    def mark(self, x: float, y: float, index: int, size: float = 4.2) -> None:
        self.parts.append(marker(index, self.at_x(x), self.at_y(y), size))

    def area(self, x: tuple[float, float], y: tuple[float, float], style: str) -> None:
        """A rectangle between two corners, of a class of the style sheet."""
        a, b = sorted(map(self.at_x, x))
        c, d = sorted(map(self.at_y, y))
        self.parts.append(
            f'<rect class="{style}" x="{place(a)}" y="{place(c)}" width="{place(b - a)}" height="{place(d - c)}"/>'
        )

    def reference(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        """A thin dashed line between two points: where something would be."""
        self._rule("reference", tuple(map(self.at_x, x)), tuple(map(self.at_y, y)))

    def image(self, rgba: np.ndarray) -> None:
        """Pixels [H, W, 4] over the whole of the axes, the first row on top."""
        self.parts.append(
            f'<image x="{self.left:g}" y="{self.top:g}" width="{self.width - self.left - self.right:g}" '
            f'height="{self.height - self.top - self.bottom:g}" preserveAspectRatio="none" '
            f'style="image-rendering:pixelated" href="{pixels(rgba)}"/>'
        )

    def label(self, y: float, text: str, small: str = "") -> None:
        """Words left of the axes, at a number of the y axis."""
        self._text(self.left - 9, self.at_y(y) + (0 if small else 4), text, "end")
        if small:
            self._text(self.left - 9, self.at_y(y) + 13, small, "end", "small")

    def svg(self) -> str:
        middle = (self.left + self.width - self.right) / 2
        words = [f'<text class="title" x="{place(2)}" y="15">{escape(self.title)}</text>']
        if self.x_label:
            words.append(
                f'<text x="{place(middle)}" y="{self.height - 8:g}" text-anchor="middle">{escape(self.x_label)}</text>'
            )
        if self.y_label:
            v = (self.top + self.height - self.bottom) / 2
            turned = f'transform="translate(13 {place(v)}) rotate(-90)" text-anchor="middle"'
            words.append(f"<text {turned}>{escape(self.y_label)}</text>")
        size = f'viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}" height="{self.height:g}"'
        style = f'class="chart" style="min-width:{SMALLEST * self.width:.0f}px"'
        content = "".join(self.parts + words)
        return f'<svg {style} {size} role="img" aria-label="{escape(self.title)}">{content}</svg>'

    def _rule(self, style: str, x: Sequence[float], y: Sequence[float]) -> None:
        """A straight line between two places."""
        ends = f'x1="{place(x[0])}" x2="{place(x[1])}" y1="{place(y[0])}" y2="{place(y[1])}"'
        self.parts.append(f'<line class="{style}" {ends}/>')

    def _text(self, x: float, y: float, text: str, anchor: str, style: str = "") -> None:
        kind = f' class="{style}"' if style else ""
        self.parts.append(f'<text{kind} x="{place(x)}" y="{place(y)}" text-anchor="{anchor}">{escape(text)}</text>')


def _polygon(points: Sequence[tuple[float, float]]) -> str:
    return '<polygon points="' + " ".join(f"{place(x)},{place(y)}" for x, y in points) + '"/>'
