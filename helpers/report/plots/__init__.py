"""Figures of the results, one module a subject: functions of a frame that return a matplotlib figure to go on with."""

import textwrap
from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colors, patheffects

WRAP = 24  # letters a line of a label
HALF_PT, FAR_PT = 5, 12  # half a mark; from where a label is tied to its point by a line
# where a label may stand: (right, up) in points from its point, in order of preference
PLACES = sorted(((right, up) for right in (9, -9) for up in range(-60, 61, 6)), key=lambda place: (abs(place[1]), -place[0]))


def main_result(frame: pd.DataFrame, method: str, dataset: str) -> pd.Series:
    """The first seed's main result of a method; KeyError naming it where it is missing."""
    found = frame[(frame.method == method) & (frame.dataset == dataset) & (frame.label == "")].sort_values("seed")
    if found.empty:
        raise KeyError(f"no result of {method} on {dataset}")
    return found.iloc[0]


def label(axes: plt.Axes, points: Iterable[tuple[float, float, str, str]]) -> None:
    """Write (x, y, text, colour) beside the points they name, where they cover neither a point nor each other.

    Call it last: places are worked out on the axes as they are then.
    """
    points = sorted(points, key=lambda point: -point[1])
    axes.figure.draw_without_rendering()
    scale, frame = axes.figure.dpi / 72, axes.get_window_extent().extents
    marks = axes.transData.transform([point[:2] for point in points] or np.empty((0, 2)))
    taken = [_about(mark, HALF_PT * scale) for mark in marks]
    for mark, (x, y, text, color) in zip(marks, points, strict=True):
        style = {"fontsize": 9, "va": "center", "linespacing": 1, "color": readable(color)}
        style["path_effects"] = [patheffects.withStroke(linewidth=2.5, foreground="white")]
        written = axes.annotate(textwrap.fill(text, WRAP), (x, y), (0, 0), textcoords="offset points", **style)
        size = written.get_window_extent()
        boxes = [_boxes(place, mark, (size.width, size.height), scale) for place in PLACES]
        spoilt = [_area(box[0]) - _shared(box[:1], [frame]) + _shared(box, taken) for box in boxes]
        best = np.round(spoilt).argmin()  # of equal ones the first, the most liked
        taken.extend(boxes[best])
        right, up = PLACES[best]
        written.set(position=(right, up), ha="left" if right > 0 else "right")
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


def _boxes(place: tuple[int, int], mark: np.ndarray, size: tuple[float, float], scale: float) -> list[np.ndarray]:
    """(left, bottom, right, top) in pixels of a label at a place and, where it stands far off, along the line to it."""
    near = mark + scale * np.array(place)  # the middle of the side next to the point
    corner = near - [size[0] * (place[0] < 0), size[1] / 2]
    along = [mark + part * (near - mark) for part in (0.4, 0.7, 1)] if abs(place[1]) > FAR_PT else []
    return [np.hstack([corner, corner + size]), *(_about(at, 6 * scale) for at in along)]


def _about(at: np.ndarray, half: float) -> np.ndarray:
    return np.hstack([at - half, at + half])


def _area(box: np.ndarray) -> float:
    return float((box[2:] - box[:2]).prod())


def _shared(boxes: list[np.ndarray], others: list[np.ndarray]) -> float:
    """Square pixels that boxes have in common with others, summed over all pairs."""
    a, b = np.array(boxes)[:, None], np.array(others)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return float(sides.clip(min=0).prod(-1).sum())
