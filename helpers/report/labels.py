"""Labels beside the lines and points they name, instead of a legend to look them up in."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colors, patheffects
from matplotlib.lines import Line2D
from sklearn.isotonic import isotonic_regression

# (right, up) in points from the named point, in order of preference; a far label is tied to its point by a line
PLACES = tuple(
    sorted(((right, up) for right in (8, -8) for up in range(-55, 56, 11)), key=lambda place: (abs(place[1]), -place[0]))
)
FAR = 12
ROUNDS = 3  # a label placed early moves once the later ones are known
NOTHING = np.empty((0, 4))  # no box
HALO = (patheffects.withStroke(linewidth=2.5, foreground="white"),)  # keeps a label readable across a line


def direct_labels(axes: plt.Axes, labels: list[tuple[float, float, str, str]], *, gap_pt: float = 11) -> None:
    """Write (x, y, text, colour) beside the points they name, to the right, pushed apart where they would overlap.

    Call it after the axis limits are final: positions are worked out in points on the canvas.
    """
    if not labels:
        return
    axes.figure.draw_without_rendering()
    to_pixels, scale = axes.transData.transform, axes.figure.dpi / 72
    placed = sorted(((to_pixels((x, y))[1] / scale, x, y, text, color) for x, y, text, color in labels), key=lambda p: p[0])
    # least squares under "each at least a gap above the one before": isotonic once the gaps are taken off
    steps = gap_pt * np.arange(len(placed))
    heights = isotonic_regression(np.array([height for height, *_ in placed]) - steps) + steps
    for height, (true, x, y, text, color) in zip(heights, placed, strict=True):
        offset = (8, height - true)
        style = {"color": text_color(color), "va": "center", "fontsize": 9, "path_effects": HALO}
        axes.annotate(text, (x, y), offset, textcoords="offset points", **style)


@dataclass(frozen=True)
class _Place:
    """Where a label may stand: its offset in points, its box and the boxes along its leader, both in pixels."""

    right: int
    up: int
    box: np.ndarray
    leader: np.ndarray


def scatter_labels(axes: plt.Axes, labels: list[tuple[float, float, str, str]]) -> None:
    """Write (x, y, text, colour) next to the points they name, each where it covers least of the others, of marks and lines.

    Call it after the axis limits are final.
    """
    if not labels:
        return
    axes.figure.draw_without_rendering()
    scale, frame = axes.figure.dpi / 72, axes.get_window_extent().extents
    labels = sorted(labels, key=lambda label: -label[1])  # from the top down, so that lines cross little
    points = [axes.transData.transform((x, y)) for x, y, *_ in labels]
    marks = np.vstack([_around(points, 6 * scale), *(_around(_corners(line), 6 * scale) for line in axes.lines if _marked(line))])
    fixed = np.vstack([marks, *(_along(_corners(line), 2 * scale) for line in axes.lines if line.get_drawstyle() == "default")])
    options = [_places(axes, label, point, scale) for label, point in zip(labels, points, strict=True)]
    chosen: dict[int, _Place] = {}
    for position in ROUNDS * list(range(len(labels))):
        others = [place for number, place in chosen.items() if number != position]
        boxes = np.vstack([NOTHING, *(other.box for other in others)])
        under, crossed = np.vstack([fixed, boxes, *(other.leader for other in others)]), np.vstack([marks, boxes])
        spoilt = [
            _area(place.box) - _shared_area(place.box, frame[None])  # what leaves the axes
            + _shared_area(place.box, under)
            + sum(_shared_area(part, crossed) for part in place.leader)
            for place in options[position]
        ]  # fmt: skip
        least = np.round(np.array(spoilt) / scale**2).argmin()  # of equal ones the first, the most liked
        chosen[position] = options[position][least]
    for position, (x, y, text, color) in enumerate(labels):
        place, ink = chosen[position], text_color(color)
        style = {"ha": "left" if place.right > 0 else "right", "va": "center", "fontsize": 9, "color": ink, "path_effects": HALO}
        leader = {"arrowstyle": "-", "color": ink, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        leader["relpos"] = (0 if place.right > 0 else 1, 0.5)  # from the side that is nearer
        drawn = leader if len(place.leader) else None
        axes.annotate(text, (x, y), (place.right, place.up), textcoords="offset points", arrowprops=drawn, **style)


def _places(axes: plt.Axes, label: tuple[float, float, str, str], point: np.ndarray, scale: float) -> list[_Place]:
    """All places of a label, in order of preference."""
    x, y, text, _ = label
    written = axes.annotate(text, (x, y), (0, 0), textcoords="offset points", va="center", fontsize=9)
    size = written.get_window_extent()
    written.remove()
    found = []
    for right, up in PLACES:
        near = point + scale * np.array([right, up])  # the middle of the side that looks at the point
        left, bottom = near[0] - (size.width if right < 0 else 0), near[1] - size.height / 2
        begin = point + (near - point) * 8 / np.hypot(right, up)  # outside the point's own mark
        leader = _along(np.array([begin, near]), scale) if abs(up) > FAR else NOTHING
        ends = np.array([left - 2 * scale, bottom, left + size.width + 2 * scale, bottom + size.height])  # words do not touch
        found.append(_Place(right, up, ends, leader))
    return found


def _marked(line: Line2D) -> bool:
    return line.get_marker() not in (None, "None", "", " ")


def _corners(line: Line2D) -> np.ndarray:
    """The points of a line, in pixels."""
    return line.get_transform().transform(np.column_stack(line.get_data(orig=False)))


def _around(points: Sequence[np.ndarray] | np.ndarray, half: float) -> np.ndarray:
    """Boxes (left, bottom, right, top) about points, `half` pixels to each side."""
    points = np.reshape(points, (-1, 2))
    return np.hstack([points - half, points + half])


def _along(corners: np.ndarray, half: float) -> np.ndarray:
    """Boxes side by side along a line, `half` pixels to each side of it."""
    boxes = [NOTHING]
    for begin, end in itertools.pairwise(corners):
        steps = np.linspace(0, 1, max(2, int(np.hypot(*(end - begin)) / (2 * half))))
        boxes.append(_around(begin + steps[:, None] * (end - begin), half))
    return np.vstack(boxes)


def _area(box: np.ndarray) -> float:
    return float((box[2:] - box[:2]).prod())


def _shared_area(box: np.ndarray, others: np.ndarray) -> float:
    """Square pixels that a box has in common with others, summed over them."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(sides.clip(min=0).prod(axis=1).sum())


def text_color(color: str) -> str:
    """`color`, darkened until text in it stands out from white (contrast of at least 4.5 to 1, as WCAG defines it)."""
    red, green, blue = colors.to_rgb(color)
    while 1.05 / (_luminance(red, green, blue) + 0.05) < 4.5:
        red, green, blue = 0.94 * red, 0.94 * green, 0.94 * blue
    return colors.to_hex((red, green, blue))


def _luminance(*channels: float) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
