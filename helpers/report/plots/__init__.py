"""Figures of the results, one module a subject: functions of a frame that return a matplotlib figure to go on with."""

import textwrap
from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colors, patheffects
from matplotlib.transforms import Bbox

WRAP = 24  # letters a line of a label
HALF_PT, FAR_PT = 5, 12  # half a mark; from where a label is tied to its point by a line
# where a label may stand: (right, up) in points from its point, in order of preference
PLACES = sorted(((right, up) for right in (9, -9) for up in range(-60, 61, 6)), key=lambda place: (abs(place[1]), -place[0]))


def label(axes: plt.Axes, points: Iterable[tuple[float, float, str, str]]) -> None:
    """Write (x, y, text, colour) beside the points they name, where they cover neither a point nor each other.

    Call it last: places are worked out on the axes as they are then.
    """
    points = sorted(points, key=lambda point: -point[1])
    axes.figure.draw_without_rendering()
    scale, frame = axes.figure.dpi / 72, axes.get_window_extent()
    half = HALF_PT * scale
    marks = axes.transData.transform([point[:2] for point in points] or np.empty((0, 2)))
    taken = [_about(mark, half) for mark in marks]
    for mark, (x, y, text, color) in zip(marks, points, strict=True):
        style = {
            "fontsize": 9,
            "va": "center",
            "linespacing": 1,
            "path_effects": [patheffects.withStroke(linewidth=2.5, foreground="white")],
        }
        written = axes.annotate(
            textwrap.fill(text, WRAP), (x, y), (0, 0), textcoords="offset points", color=readable(color), **style
        )
        size = written.get_window_extent()

        def boxes(place: tuple[int, int], mark=mark, size=size) -> list[Bbox]:
            """The label's box and, where it stands far off, boxes along the line to it."""
            near = mark + scale * np.array(place)  # the middle of the side next to the point
            left = near[0] - size.width * (place[0] < 0)
            along = [mark + part * (near - mark) for part in (0.4, 0.7, 1)] if abs(place[1]) > FAR_PT else []
            return [
                Bbox.from_bounds(left, near[1] - size.height / 2, size.width, size.height),
                *(_about(at, scale) for at in along),
            ]

        def spoilt(place: tuple[int, int], boxes=boxes) -> float:
            here = boxes(place)
            covered = sum(_shared(box, other) for box in here for other in taken)
            return round(_area(here[0]) - _shared(here[0], frame) + covered)

        right, up = place = min(PLACES, key=spoilt)
        taken.extend(boxes(place))
        written.set(position=place, ha="left" if right > 0 else "right")
        written.set_in_layout(False)
        if abs(up) > FAR_PT:
            leader = {"arrowstyle": "-", "color": "#8b929a", "lw": 0.7, "shrinkA": 0, "shrinkB": HALF_PT}
            axes.annotate("", (x, y), (right, up), textcoords="offset points", arrowprops=leader)


def readable(color: str) -> str:
    """A colour dark enough for text on white (4.5:1, WCAG 2.2, 1.4.3), darkened as far as that takes."""
    rgb = colors.to_rgb(color)
    while luminance(rgb) > 1.05 / 4.5 - 0.05:
        rgb = tuple(0.95 * part for part in rgb)
    return colors.to_hex(rgb)


def luminance(color: str | tuple[float, float, float]) -> float:
    """Relative luminance (WCAG 2.2): 0 for black, 1 for white."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colors.to_rgb(color)]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _about(at: np.ndarray, half: float) -> Bbox:
    return Bbox([at - half, at + half])


def _area(box: Bbox) -> float:
    return box.width * box.height


def _shared(box: Bbox, other: Bbox) -> float:
    """Square pixels that two boxes have in common."""
    common = Bbox.intersection(box, other)
    return _area(common) if common else 0.0
