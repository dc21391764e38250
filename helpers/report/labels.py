"""Labels beside the lines and points they name, instead of a legend to look them up in."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colors, patheffects
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox
from sklearn.isotonic import isotonic_regression

# (right, up) in points from the named point, in order of preference; a far label is tied to its point by a line
PLACES = tuple(
    sorted(((right, up) for right in (8, -8) for up in range(-55, 56, 11)), key=lambda place: (abs(place[1]), -place[0]))
)
FAR = 12
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


def scatter_labels(axes: plt.Axes, labels: list[tuple[float, float, str, str]]) -> None:
    """Write (x, y, text, colour) next to the points they name, each where it covers least of the others and of lines.

    Call it after the axis limits are final.
    """
    axes.figure.draw_without_rendering()
    scale, frame = axes.figure.dpi / 72, axes.get_window_extent()
    labels = sorted(labels, key=lambda label: -label[1])  # from the top down, so that lines cross little
    points = [axes.transData.transform((x, y)) for x, y, *_ in labels]
    taken = [Bbox.from_extents(px - 6 * scale, py - 6 * scale, px + 6 * scale, py + 6 * scale) for px, py in points]
    taken += [box for line in axes.lines if line.get_drawstyle() == "default" for box in _along(line, 2 * scale)]
    for (x, y, text, color), point in zip(labels, points, strict=True):
        ink = text_color(color)
        line = {"arrowstyle": "-", "color": ink, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        written = axes.annotate(text, (x, y), (0, 0), textcoords="offset points", color=ink, va="center", fontsize=9)
        size = written.get_window_extent()
        written.remove()
        places = []
        for rank, (right, up) in enumerate(PLACES):
            left = point[0] + right * scale - (size.width if right < 0 else 0)
            box = Bbox.from_bounds(left, point[1] + up * scale - size.height / 2, size.width, size.height)
            covered = sum(_shared_area(box, other) for other in taken) + (box.width * box.height - _shared_area(box, frame))
            places.append((covered, rank, right, up, box))
        _, _, right, up, box = min(places, key=lambda place: place[:2])
        style = {"ha": "left" if right > 0 else "right", "va": "center", "fontsize": 9, "color": ink, "path_effects": HALO}
        axes.annotate(text, (x, y), (right, up), textcoords="offset points", arrowprops=line if abs(up) > FAR else None, **style)
        taken.append(box)


def _along(line: Line2D, half: float) -> list[Bbox]:
    """Boxes side by side along a line, `half` pixels to each side of it."""
    corners = line.get_transform().transform(np.column_stack(line.get_data(orig=False)))
    boxes = []
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        for t in np.linspace(0, 1, max(2, int(np.hypot(x1 - x0, y1 - y0) / (2 * half)))):
            x, y = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
            boxes.append(Bbox.from_extents(x - half, y - half, x + half, y + half))
    return boxes


def _shared_area(a: Bbox, b: Bbox) -> float:
    both = Bbox.intersection(a, b)
    return both.width * both.height if both else 0.0


def text_color(color: str) -> str:
    """`color`, darkened until text in it stands out from white (contrast of at least 4.5 to 1, as WCAG defines it)."""
    red, green, blue = colors.to_rgb(color)
    while 1.05 / (_luminance(red, green, blue) + 0.05) < 4.5:
        red, green, blue = 0.94 * red, 0.94 * green, 0.94 * blue
    return colors.to_hex((red, green, blue))


def _luminance(*channels: float) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
