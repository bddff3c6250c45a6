"""Figures of lesson 15: how many of k samples it takes to pass."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from prefcourse.plots.style import STYLE, Ends, _headline, _percent, look_of


def pass_curves(panels: Mapping[str, Mapping[str, Mapping[int, Ends]]], *, title: str) -> Figure:
    """pass@k against k, logarithmic: a panel a heading, a line a policy, each point as value, low, high."""
    with mpl.rc_context(STYLE):
        fig, row = plt.subplots(1, len(panels), figsize=(10.8, 4.4), squeeze=False, sharey=True)
        for axes, (heading, curves) in zip(row[0], panels.items(), strict=True):
            for turn, (name, points) in enumerate(curves.items()):
                colour, marker, dashes = look_of(name, turn)
                ks, (value, low, high) = list(points), np.array(list(points.values()), dtype=float).T
                axes.errorbar(
                    ks, value, yerr=np.clip([value - low, high - value], 0, None), color=colour, marker=marker,
                    linestyle=dashes, markersize=7.5, markeredgecolor="white", elinewidth=1.6, label=name,
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(next(iter(curves.values()))))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel("k, samples of a prompt (logarithmic)")
            axes.set_title(heading)
            axes.legend(loc="best")
            _percent(axes.yaxis)
        row[0][0].set_ylabel("pass@k: prompts with a right one")
        _headline(fig, title)
    return fig


def labels_of(rows: Sequence[str]) -> str:
    """ "none", "a", "a and b", or "a, b and c": for titles that data write."""
    *most, last = rows or ["none"]
    return f"{', '.join(most)} and {last}" if most else last
