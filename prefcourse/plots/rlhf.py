"""Figures of policy gradients (lesson 04): noise of estimates, the climb on the table, the clip, over-optimisation."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from prefcourse.finite import number
from prefcourse.plots.style import GREEN, GREY, INK, METHODS, PURPLE, REFERENCE, STYLE, _headline

LINES = ("-", "--", "-.", (0, (5, 1, 1, 1)))


def variance_by_offset(offset: Sequence[float], curves: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Total variance of one gradient estimate against a constant that is added to all rewards (nats)."""
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        fig, axes = plt.subplots(figsize=(7.6, 4.2))
        offset = np.asarray(offset, dtype=float)
        for (name, values), (colour, marker), line in zip(curves.items(), METHODS, LINES, strict=False):
            axes.plot(offset, values, label=name, color=colour, linestyle=line, marker=marker, markersize=7,
                      markevery=max(len(offset) // 8, 1), markeredgecolor="white")  # fmt: skip
        axes.axvline(0, **REFERENCE)
        axes.annotate("J = 0", (0, 0), (6, 5), xycoords=("data", "axes fraction"), textcoords="offset points",
                      color=GREY, fontsize=9.5)  # fmt: skip
        _log_axis(axes, [v for values in curves.values() for v in values])
        axes.margins(x=0.025)
        axes.set_xlabel("J of the policy, moved by a constant added to all rewards (nats)")
        axes.set_ylabel("variance of one gradient\nestimate (nats², logarithmic)")
        axes.set_title(title)
        axes.legend(loc="upper center", ncols=2)
    return fig


def climb(paths: Mapping[str, Sequence[float]], best: float, *, title: str) -> Figure:
    """J of each policy on the way, against the step (logarithmic, counted from 1), and the best J there is, in nats."""
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        fig, axes = plt.subplots(figsize=(7.6, 4.2))
        for (name, J), (colour, marker), line in zip(paths.items(), METHODS, LINES, strict=False):
            step = np.arange(1, len(J) + 1)
            marked = np.unique(np.geomspace(1, len(J), 9).astype(int) - 1).tolist()
            axes.plot(step, J, label=name, color=colour, linestyle=line, marker=marker, markersize=7,
                      markevery=marked, markeredgecolor="white")  # fmt: skip
        axes.axhline(best, **REFERENCE, label="the best J there is")
        axes.set_xscale("log")
        axes.set_xlabel("step + 1 (logarithmic)")
        axes.set_ylabel("J (nats, mean over prompts)")
        axes.set_title(title)
        axes.legend(loc="lower right")
    return fig


def clip_and_group(eps: float, k: int, variance: Mapping[int, Sequence[float]], plain: Sequence[float]) -> Figure:
    """Left: the clipped loss for A = 1 and A = -1 against the ratio. Right: RLOO's variance against k, one k marked.

    variance: k → total variance of the estimate from k responses (one number per prompt, the mean is drawn).
    plain: the same without a baseline, k by k. Raises ValueError for an eps outside 0 to 1, or a k without a variance.
    """
    eps = number("eps", eps, above=0, below=1)
    if k not in variance or len(plain) != len(variance):
        raise ValueError(f"k is {k}, of {list(variance)}; allowed is one of these, with as many in `plain`")
    ratio = np.linspace(0.3, 1.9, 400)
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.6, 4.3))
        left.axvspan(1 - eps, 1 + eps, color=GREY, alpha=0.13, lw=0, label="1 ± ε")
        for A, colour, line in ((1.0, GREEN, "-"), (-1.0, PURPLE, "--")):
            loss = -np.minimum(ratio * A, ratio.clip(1 - eps, 1 + eps) * A)
            left.plot(ratio, loss, color=colour, linestyle=line, linewidth=2.2, label=f"A = {A:+.0f}".replace("-", "−"))
            edge = 1 + eps if A > 0 else 1 - eps
            left.plot(edge, -edge * A, "o", color=colour, markersize=9, markeredgecolor="white")
        left.axvline(1, **REFERENCE)
        left.set_xlim(ratio[0], ratio[-1])
        left.set_xlabel("ρ = π / π of the policy that sampled")
        left.set_ylabel("loss of one token")
        left.set_title(f"ε = {eps:.2f}: flat above {1 + eps:.2f} or below {1 - eps:.2f}")
        left.legend(loc="center right")
        ks = np.array(sorted(variance))
        quiet, loud = (np.array([np.mean(v) for v in values]) for values in ([variance[n] for n in ks], plain))
        right.plot(ks, loud, color=GREY, linestyle="--", marker="X", markersize=8, markeredgecolor="white",
                   label="no baseline")  # fmt: skip
        right.plot(ks, quiet, color=INK, marker="o", markersize=8, markeredgecolor="white", label="RLOO")
        at = int(np.flatnonzero(ks == k)[0])
        right.plot(k, quiet[at], "o", color=GREEN, markersize=14, markeredgecolor="white", zorder=4)
        _log_axis(right, [*quiet, *loud])
        right.set_xticks(ks)
        right.set_xlabel("K, completions of each prompt")
        right.set_ylabel("variance of one estimate\n(nats², logarithmic)")
        side = "less" if quiet[at] < loud[at] else "more"
        right.set_title(f"K = {k}: {abs(1 - quiet[at] / loud[at]):.0%} {side} variance than without")
        right.legend(loc="upper right")
    return fig


def over_optimisation(
    panels: Mapping[str, Sequence[Sequence[Mapping]]], *, title: str, unit: str, marked: tuple[str, int] | None = None
) -> Figure:
    """Learned and gold reward against √KL, panels side by side: one thin line for each seed, all starting at SFT.

    panels: heading → one path for each seed; a path is a list of points with kl (nats), proxy and gold.
    marked: (heading, place) of the run that is drawn thick, on top of the others.
    """
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both", "axes.titleweight": "normal"}):
        fig, row = plt.subplots(1, len(panels), figsize=(10.8, 4.9), sharex=True, sharey=True, squeeze=False)
        looks = {"proxy": (PURPLE, "s", "--", "learned reward"), "gold": (GREEN, "o", "-", "gold reward")}
        for axes, (heading, seeds) in zip(row[0], panels.items(), strict=True):
            for name, (colour, marker, line, label) in looks.items():
                for i, path in enumerate(seeds):
                    x = np.sqrt(np.clip([point["kl"] for point in path], 0, None))
                    wide = (heading, i) == marked
                    axes.plot(x, [point[name] for point in path], color=colour, linestyle=line, marker=marker,
                              markersize=8 if wide else 4, linewidth=3 if wide else 1.2, markeredgecolor="white",
                              alpha=1 if wide else 0.75, zorder=4 if wide else 2,
                              label=label if i == 0 else None)  # fmt: skip
            axes.axhline(0, **REFERENCE, zorder=1)
            axes.set_title(heading)
            axes.set_xlabel(r"$\sqrt{\mathrm{KL}(\pi\,\|\,\pi_{\mathrm{ref}})}$ (√nats per completion)")
        row[0, 0].set_ylabel(f"change from SFT\n({unit})")
        row[0, 0].set_xlim(0, 1.05 * max(axes.dataLim.x1 for axes in row[0]))
        said = "a line for each seed" + ("; thick: the run whose texts are shown" if marked else "")
        fig.legend(*row[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2,
                   title=said, title_fontsize=9)  # fmt: skip
        _headline(fig, title)
    return fig


def _log_axis(axes: plt.Axes, values: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers, 1-2-5, and room above for a legend."""
    low, high = min(values), max(values)
    axes.set_yscale("log")
    axes.set_ylim(low / 1.3, high * 1.9)
    steps = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)]
    axes.set_yticks([s for s in steps if low / 1.3 <= s <= high * 1.9])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
