"""Figures of the preference losses beside DPO (lesson 09): their shapes, and what label noise does to them."""

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from prefcourse.plots.style import (
    FAINT,
    GAIN,
    GREEN,
    GREY,
    KL_LABEL,
    LOOKS,
    REFERENCE,
    STYLE,
    _percent,
    _signed,
    title_of,
)

Curve = tuple[Sequence[float], Sequence[float]]  # loss and pull, (N,) each


def loss_shapes(h: Sequence[float], curves: Mapping[str, tuple[str, Curve]], *, stops: Mapping[str, float]) -> Figure:
    """Losses of h (N,) and their pulls -dL/dh, all scaled to the same start: loss 0 and pull 1 at h = 0.

    curves: label → (name in LOOKS, (loss, pull)). stops: label → where the pull is gone, inf if nowhere; marked with a
    ring and read off in the legend. The second curve of one name is drawn thin.
    """
    with mpl.rc_context(STYLE):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.8, 4.4))
        _losses_of_h(left, right, h, curves, stops)
        right.set_ylim(-2.2, 8.2)
        left.set_title("Loss, scaled to the same slope at h = 0")
        right.set_title(_stops_in_words(stops))
        right.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none")
    return fig


def family_of_losses(
    h: Sequence[float], curves: Mapping[str, tuple[str, Curve]], k: Sequence[float],
    kto: Mapping[float, Sequence[float]], p: Sequence[float], chosen: Mapping[str, Sequence[float]],
) -> Figure:  # fmt: skip
    """Four panels: losses of h, their pulls, KTO's pull on a desirable completion, ORPO's on a chosen one.

    h, curves: as in `loss_shapes`. kto: z0 → pull at log-ratio k, (N,), as a share of its peak. chosen: "odds" and
    "ratio" → how far the chosen text's probability per token, p (N,), lets the rejected one's be for one and the same
    margin.
    """
    with mpl.rc_context(STYLE):
        fig, panels = plt.subplots(2, 2, figsize=(10.8, 8.4))
        (loss, pull), (unpaired, odds) = panels
        _losses_of_h(loss, pull, h, curves, {})
        loss.set_title("Loss: same start, same slope, other ends")
        pull.set_title("Pull: IPO's has no cap, and it turns round")
        pull.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none")

        for (z0, values), line in zip(kto.items(), ("-.", (0, (1, 1))), strict=False):
            unpaired.plot(k, values, color=GREEN, linestyle=line, label=f"z0 = {z0:g}")
            unpaired.plot(z0, 1, "^", color=GREEN, markersize=9, markeredgecolor="white", zorder=4)
        unpaired.set_title("KTO pulls most at k = z0, and little far away")
        unpaired.set_xlabel("log-ratio k of one completion (nats)")
        unpaired.set_ylabel("pull, as a share of its peak")
        unpaired.set_ylim(0, 1.12)
        unpaired.set_xlim(k[0], k[-1])
        unpaired.legend(loc="upper right")

        for (name, values), look in zip(chosen.items(), (LOOKS["orpo"], (GREY, None, ":")), strict=True):
            odds.plot(p, values, color=look[0], linestyle=look[2], marker=look[1], markevery=(0.08, 0.17),
                      markersize=8, markeredgecolor="white", label=name)  # fmt: skip
        odds.plot(p, p, color=FAINT, linewidth=1.4, zorder=0)
        odds.annotate("rejected = chosen", (0.6, 0.6), (-6, 2), textcoords="offset points", ha="right", color=GREY,
                      fontsize=9.5)  # fmt: skip
        odds.set_title("Odds and ratio ask the same at small p")
        odds.set_xlabel("probability per token of the chosen text")
        odds.set_ylabel("… of the rejected text, same margin")
        odds.set_xlim(0, 1)
        odds.set_ylim(0, 1)
        odds.legend(loc="upper left")
    return fig


def noise_robustness(gain: Mapping[str, Mapping[float, Sequence[float]]], kl: Mapping[str, Mapping]) -> Figure:
    """Gain in gold reward and KL against the share of flipped labels; lines are means over seeds, dots are seeds.

    gain and kl: loss → share of flips → one value per seed. A loss that corrects for flips may begin after 0: without
    flips it is the first loss.
    """
    with mpl.rc_context(STYLE):
        fig, panels = plt.subplots(1, 2, figsize=(10.8, 4.8))
        for axes, table in zip(panels, (gain, kl), strict=True):
            for i, (loss, by_flips) in enumerate(table.items()):
                colour, marker, line = LOOKS[loss]
                flips = np.array(sorted(by_flips))
                x = flips + 0.006 * (i - (len(table) - 1) / 2)  # side by side, so that no seed hides another
                for place, share in zip(x, flips, strict=True):
                    values = by_flips[share]
                    axes.plot([place] * len(values), values, "o", color=colour, markersize=3.4, alpha=0.5)
                means = [float(np.mean(by_flips[share])) for share in flips]
                axes.plot(x, means, color=colour, marker=marker, linestyle=line, label=title_of(loss), markersize=8,
                          markeredgecolor="white")  # fmt: skip
            axes.set_xticks(sorted(next(iter(table.values()))))
            _percent(axes.xaxis)
            axes.set_xlabel("flipped labels")
        panels[0].axhline(0, **REFERENCE)
        panels[0].set_ylabel(GAIN)
        panels[0].set_title(_kept_in_words(gain))
        panels[1].set_ylabel(KL_LABEL)
        panels[1].set_title("How far they went (dots: seeds, marks: means)")
        panels[1].set_ylim(bottom=0)
        panels[1].legend(loc="upper right", ncols=2)
    return fig


def _losses_of_h(loss, pull, h: Sequence[float], curves: Mapping[str, tuple[str, Curve]], stops: Mapping) -> None:
    h, seen = np.asarray(h, dtype=float), set()
    zero = int(np.abs(h).argmin())
    for i, (label, (name, curve)) in enumerate(curves.items()):
        values, force = (np.asarray(part, dtype=float) for part in curve)
        colour, marker, line = LOOKS[name]
        look = dict(color=colour, linestyle=line, linewidth=1.2 if name in seen else 2.0)
        look |= dict(marker=marker, markersize=7.5, markeredgecolor="white", markevery=(6 + 9 * i, len(h) // 6))
        seen.add(name)
        loss.plot(h, (values - values[zero]) / force[zero], **look)
        at = stops.get(label)
        ending = (
            "" if at is None else (": never stops" if math.isinf(at) else f": stops at {_signed(at, 1, plus=False)}")
        )
        pull.plot(h, force / force[zero], label=label + ending, **look)
        if at is not None and at <= h[-1]:
            pull.plot(at, 0, "o", color="white", markeredgecolor=colour, markersize=10, markeredgewidth=2, zorder=5)
    pull.axhline(0, **REFERENCE)
    for axes in (loss, pull):
        axes.axvline(0, color=FAINT, linewidth=1.2, zorder=0)
        axes.set_xlim(h[0], h[-1])
        axes.set_xlabel("log-ratio difference h (nats): wrong order | right order")
    loss.set_ylabel("loss − its value at 0, over its slope there (nats)")
    loss.set_ylim(-14, 40)
    pull.set_ylabel("pull, as a multiple of that at h = 0")
    pull.set_ylim(-2.2, 4.2)


def _stops_in_words(stops: Mapping[str, float]) -> str:
    finite = [at for at in stops.values() if math.isfinite(at)]
    if not finite:
        return "Nothing here ever stops pulling"
    return f"Rings: where the pull is gone ({len(finite)} of {len(stops)})"


def _kept_in_words(gain: Mapping[str, Mapping[float, Sequence[float]]]) -> str:
    """What the means keep of their clean gain, or of the first loss's, at the largest share of flips."""
    first = next(iter(gain.values()))
    clean, worst = min(first), max(first)
    kept = [np.mean(by_flips[worst]) / np.mean(by_flips.get(clean, first[clean])) for by_flips in gain.values()]
    return f"At {worst:.0%} flips the means keep {100 * min(kept):.0f} to {max(kept):.0%} of the gain"
