"""Draws requests per minute over time as an SVG: a panel for each way, all on the same axes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain

WIDTH, LEFT, RIGHT, TOP = 860, 58, 20, 84
PANEL, GAP, BOTTOM = 78, 40, 52
HIGHEST = 2.5  # times the limit; what is higher is cut and labelled
ADMITTED, REFUSED, LIMIT, INK, FAINT = "#2563eb", "#dc2626", "#111827", "#374151", "#e5e7eb"
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True, slots=True)
class Line:
    """One way: its name, a remark, and requests in each step of the run."""

    name: str
    remark: str
    admitted: Sequence[int]
    refused: Sequence[int]


@dataclass(frozen=True, slots=True)
class Frame:
    """The axes that all panels share: seconds of a step, the steps, and the limit per minute."""

    step: float
    steps: int
    limit: int

    def x(self, place: float) -> float:
        """Return where a step begins."""
        return LEFT + (WIDTH - LEFT - RIGHT) * place / self.steps

    def y(self, per_minute: float) -> float:
        """Return the height of a rate below the top of a panel."""
        return PANEL * (1 - min(per_minute / (self.limit * HIGHEST), 1.0))

    def rate(self, count: int) -> float:
        """Return a count of one step as a rate per minute."""
        return count * 60 / self.step


def draw(lines: Sequence[Line], limit: int, step: float, title: str) -> str:
    """Return the picture."""
    frame = Frame(step, max(len(line.admitted) for line in lines), limit)
    height = TOP + len(lines) * (PANEL + GAP) - GAP + BOTTOM
    panels = chain.from_iterable(
        _panel(line, frame, TOP + n * (PANEL + GAP), axis=n == len(lines) - 1) for n, line in enumerate(lines)
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
            f' height="{height}" font-family="{FONT}" font-size="12" fill="{INK}">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *_head(title, limit, step),
            *panels,
            "</svg>\n",
        ]
    )


def _head(title: str, limit: int, step: float) -> Iterator[str]:
    yield _text(LEFT, 22, title, size=15, weight=600)
    places = [(ADMITTED, "admitted"), (REFUSED, "answered with 429"), (LIMIT, f"limit, {limit:,} a minute")]
    x: float = WIDTH - RIGHT - 385
    for colour, label in places:
        dash = ' stroke-dasharray="5 4"' if colour == LIMIT else ""
        yield f'<path d="M{x} 38h18" stroke="{colour}" stroke-width="2"{dash}/>'
        yield _text(x + 23, 42, label)
        x += 40 + 6.6 * len(label)
    yield _text(LEFT, 42, f"requests per minute, in steps of {step:g} s")


def _panel(line: Line, frame: Frame, top: float, *, axis: bool) -> Iterator[str]:
    yield f'<g transform="translate(0 {top})">'
    yield from _grid(frame, axis=axis)
    yield _text(LEFT, -7, line.name, weight=600)
    yield _text(WIDTH - RIGHT, -7, line.remark, anchor="end")
    area = _outline(line.admitted, frame)
    yield f'<path d="{area}V{PANEL}H{LEFT}Z" fill="{ADMITTED}" fill-opacity="0.14"/>'
    yield f'<path d="{area}V{PANEL}" fill="none" stroke="{ADMITTED}" stroke-width="1.8"/>'
    if any(line.refused):
        shape = _outline(line.refused, frame)
        yield f'<path d="{shape}V{PANEL}" fill="none" stroke="{REFUSED}" stroke-width="1.4"/>'
    yield _dashed(frame)
    yield from _cut(line, frame)
    yield "</g>"


def _grid(frame: Frame, *, axis: bool) -> Iterator[str]:
    """Draw the panel's floor, its two labels, and a faint line each minute."""
    minutes = range(int(frame.steps * frame.step // 60) + 1)
    every = -(-len(minutes) // 14)
    for minute in minutes:
        x = frame.x(minute * 60 / frame.step)
        yield f'<path d="M{x:.1f} 0V{PANEL}" stroke="{FAINT}"/>'
        if axis and minute % every == 0:
            yield _text(x, PANEL + 17, str(minute), anchor="middle")
    yield f'<path d="M{LEFT} {PANEL}H{WIDTH - RIGHT}" stroke="{INK}" stroke-width="0.8"/>'
    yield _text(LEFT - 6, PANEL + 4, "0", anchor="end")
    yield _text(LEFT - 6, frame.y(frame.limit) + 4, f"{frame.limit:,}", anchor="end")
    if axis:
        yield _text(
            (LEFT + WIDTH - RIGHT) / 2, PANEL + 36, "minutes since the first request", anchor="middle"
        )


def _outline(counts: Sequence[int], frame: Frame) -> str:
    """Return the steps as a path from the floor on the left."""
    heights = [f"V{frame.y(frame.rate(count)):.1f}H{frame.x(n + 1):.1f}" for n, count in enumerate(counts)]
    return f"M{LEFT} {PANEL}" + "".join(heights)


def _dashed(frame: Frame) -> str:
    y = frame.y(frame.limit)
    return f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{LIMIT}" stroke-dasharray="5 4"/>'


def _cut(line: Line, frame: Frame) -> Iterator[str]:
    """Label the highest step of each kind that does not fit into the panel."""
    for counts, colour in ((line.admitted, ADMITTED), (line.refused, REFUSED)):
        most = max(counts, default=0)
        if frame.rate(most) > frame.limit * HIGHEST:
            x = frame.x(list(counts).index(most) + 1) + 4
            shift = 22 if colour == REFUSED else 10
            yield _text(x, shift, f"▲ {frame.rate(most):,.0f}", colour=colour, size=11)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    weight: int = 400,
    size: int = 12,
    colour: str = INK,
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-weight="{weight}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
