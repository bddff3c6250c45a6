"""Figures of lesson 13 on its tables: what no pair decides, and where self-play goes."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from prefcourse.plots.style import BLUE, GREEN, INK, LINES, LOOKS, ORANGE, PURPLE, STYLE

Line = tuple[Sequence[float], Sequence[float]]  # x and y


def exact_curves(panels: Sequence[tuple[str, str, str, Mapping[str, Line]]]) -> Figure:
    """Panels beside each other, each a title, the labels of its axes, and its lines by name; "o" marks where one ends.

    A line keeps its colour and its dashes in all panels in which it has the same name, and a panel all of whose names
    an earlier legend has gets none. A line of one point is a mark: a star, a square, and so on.
    """
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        fig, grid = plt.subplots(1, len(panels), figsize=(10.8, 4.4), squeeze=False)
        names = list(dict.fromkeys(name for *_, lines in panels for name, (x, _) in lines.items() if len(x) > 1))
        turns = [((BLUE, ORANGE, GREEN, PURPLE)[k % 4], "o", LINES[k % 4]) for k in range(len(names))]
        looks = {name: LOOKS.get(name.lower(), turn) for name, turn in zip(names, turns, strict=True)}
        said: set[str] = set()  # in legends
        for axes, (title, across, up, lines) in zip(grid[0], panels, strict=True):
            marks = iter("*sDP")
            for name, (x, y) in lines.items():
                if name not in looks:
                    axes.plot(x, y, next(marks), color=INK, mfc="none", markersize=13, label=name, zorder=4)
                    continue
                colour, _, dashes = looks[name]
                axes.plot(x, y, color=colour, linestyle=dashes, linewidth=1.8, label=name)
                axes.plot(x[-1], y[-1], "o", color=colour, markersize=8, markeredgecolor="white", zorder=3)
            axes.set_title(title)
            axes.set_xlabel(across)
            axes.set_ylabel(up)
            if not said.issuperset(lines):
                axes.legend(loc="best")
            said.update(lines)
    return fig
