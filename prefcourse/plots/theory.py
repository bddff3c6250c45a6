"""Figures of the closed form and of the DPO loss on the exactly solvable world (lessons 05 and 06)."""

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.patheffects
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from prefcourse.finite import counted, number
from prefcourse.plots.style import (
    BLUE,
    CHOSEN,
    FAINT,
    GREY,
    INK,
    METHODS,
    REFERENCE,
    REJECTED,
    STYLE,
    _power,
    _signed,
)


def distance_by_step(
    curves: Mapping[str, Sequence[float]], *, title: str, ylabel: str, target: float, log_steps: bool = False
) -> Figure:
    """How far each run is from where it should land, on a logarithmic axis; below the grey line it has landed.

    A curve holds one distance per step, the start first, and is drawn until it lands. With `log_steps` the steps are
    on a logarithmic axis too, which begins at step 1.
    """
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.4))
        for i, ((name, values), (colour, marker)) in enumerate(zip(curves.items(), METHODS, strict=False)):
            values = np.asarray(values, dtype=float)
            landed = np.flatnonzero(values < target)
            values = values[: landed[0] + 1] if len(landed) else values  # beyond that it is rounding
            step = np.arange(len(values))
            marked = np.geomspace(1, step[-1], 7) if log_steps else np.linspace(i, step[-1], 7)
            axes.semilogy(
                step, values, label=name, color=colour, marker=marker, markersize=7.5, markeredgecolor="white",
                markevery=sorted({int(m) for m in marked}), clip_on=log_steps,
            )  # fmt: skip
        axes.axhline(target, **REFERENCE)
        axes.annotate(
            f"landed: below {_power(target)}", (0, target), xycoords=("axes fraction", "data"), xytext=(6, -4),
            textcoords="offset points", ha="left", va="top", color=GREY, fontsize=9.5,
        )  # fmt: skip
        axes.set_ylim(bottom=target / 30)
        if log_steps:
            axes.set_xscale("log")
        axes.set_xlim(left=1 if log_steps else 0)
        axes.set_title(title)
        axes.set_xlabel("step (logarithmic)" if log_steps else "step")
        axes.set_ylabel(ylabel)
        axes.legend(loc="upper right", frameon=True, framealpha=1.0, edgecolor="none")
    return fig


def under_the_line(
    kl: Sequence[float], reward: Sequence[float], *, frontier: np.ndarray, best: tuple[float, float], beta: float
) -> Figure:
    """Random policies as dots (kl, reward), the optima of all β as a curve (N, 2), and the line E[r] = J* + β KL.

    `best` is the point of π* for this β. The line meets the axis at J*: no policy reaches above it.
    """
    top = best[1] - beta * best[0]  # J*
    reference = frontier[np.argmin(frontier[:, 0])]
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        fig, axes = plt.subplots(figsize=(7.4, 4.8))
        dots = dict(color="#A6D5F0", markersize=1.3, markeredgewidth=0, antialiased=False)  # two colours: a small file
        axes.plot(kl, reward, "s", zorder=1, label="random policies", **dots)
        axes.plot(*frontier.T, color=INK, zorder=3, label=r"$\pi^*$ for every $\beta$")
        ends = np.array([0, max(np.max(kl), frontier[:, 0].max()) * 1.03])
        axes.plot(ends, top + beta * ends, color=BLUE, zorder=4, label=r"$J = J^*$, slope $\beta$ = " + f"{beta:g}")
        axes.plot(*best, "o", color=BLUE, markersize=10, markeredgecolor="white", zorder=5)
        axes.plot(*reference, "s", color=GREY, markersize=8, markeredgecolor="white", zorder=5, clip_on=False)
        for text, point, offset in (
            (rf"$\pi^*$ at $\beta$ = {beta:g}", best, (8, -16)),
            (r"$\pi_{\mathrm{ref}}$", reference, (9, -14)),
            (rf"$J^*$ = {top:.2f}", (0, top), (8, 20)),
        ):
            axes.annotate(
                text, point, xytext=offset, textcoords="offset points", fontweight="bold", zorder=6, color=INK,
                bbox=dict(facecolor="white", edgecolor="none", pad=1.0, alpha=0.85),
            )  # fmt: skip
        axes.plot(0, top, "_", color=BLUE, markersize=14, markeredgewidth=3, zorder=5, clip_on=False)
        axes.set_xlim(0, ends[1])
        axes.set_ylim(min(reward) - 0.15, top + beta * ends[1] + 0.15)
        axes.set_title(f"All {len(kl):,} random policies lie below the line that touches π*")
        axes.set_xlabel(r"KL$(\pi\,\|\,\pi_{\mathrm{ref}})$ (nats)")
        axes.set_ylabel(r"expected reward E$_\pi[r]$ (nats)")
        axes.legend(loc="center right", frameon=True, framealpha=1.0, edgecolor="none", markerscale=5)
    return fig


def optimum_against_beta(
    betas: Sequence[float], policies: np.ndarray, reference: Sequence[float], names: Sequence[str], *,
    beta: float, best: Sequence[float],
) -> Figure:  # fmt: skip
    """Left: `best`, which is π* at `beta`, beside π_ref. Right: the optimum of every β, (len(betas), Y)."""
    betas, policies, here = (np.asarray(values, dtype=float) for values in (betas, policies, best))
    looks = list(zip(names, reference, here, policies.T, METHODS, strict=False))
    with mpl.rc_context(STYLE):
        fig, (bars, lines) = plt.subplots(1, 2, figsize=(10.4, 4.4), width_ratios=[1, 1.35])
        for i, (_, before, now, curve, (colour, marker)) in enumerate(looks):
            bars.barh(i, now, height=0.62, color=colour, alpha=0.85)
            bars.barh(i, before, height=0.62, fill=False, edgecolor=INK, linestyle=":", linewidth=1.6)
            bars.annotate(
                f"{now:.2f}",
                (max(now, before), i),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9.5,
            )
            lines.plot(
                betas, curve, color=colour, marker=marker, markevery=(i * 3, max(1, len(betas) // 8)), markersize=7.5,
                markeredgecolor="white", label=names[i],
            )  # fmt: skip
        bars.set_yticks(range(len(looks)), names, fontsize=10.5)
        bars.invert_yaxis()
        bars.tick_params(left=False)
        bars.grid(axis="y", visible=False)
        bars.set_xlim(0, 1.12)
        bars.set_xlabel("probability (dotted: reference)")
        bars.set_title(f"At β = {beta:.3g} the likeliest is “{names[int(here.argmax())]}”")
        lines.axvline(beta, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
        lines.set_xscale("log")
        lines.set_xlim(betas[0], betas[-1])
        lines.set_ylim(0, 1.02)
        lines.set_xlabel("β (nats of reward per nat of KL, logarithmic)")
        lines.set_ylabel(r"$\pi^*(y \mid x)$")
        winners = [names[k] for k in dict.fromkeys(policies.argmax(-1).tolist())]
        lines.set_title(f"As β grows: {', then '.join(winners)}")
        fig.legend(*lines.get_legend_handles_labels(), loc="outside lower center", ncols=len(looks))  # off the data
    return fig


def samples_for_z(
    betas: Sequence[float], needed: Mapping[int, Sequence[float]], *, error: float, vocabulary: int = 0
) -> Figure:
    """How many samples of the reference estimate Z to a relative `error`, against β; one curve per length in tokens.

    With a `vocabulary` a dotted line marks the number of texts of each length: above it, adding them all up is cheaper.
    """
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.4))
        for i, ((length, values), (colour, marker)) in enumerate(zip(needed.items(), METHODS, strict=False)):
            axes.loglog(
                betas, values, color=colour, marker=marker, markevery=(i, max(1, len(betas) // 7)), markersize=7.5,
                markeredgecolor="white", label=counted(length, "token"),
            )  # fmt: skip
            if vocabulary:
                axes.axhline(float(vocabulary) ** length, color=colour, linestyle=":", linewidth=1.4, zorder=1)
        if vocabulary:
            axes.plot([], [], color=GREY, linestyle=":", label="as many as texts")
        longest = max(needed)
        few, many = (f"{_power(end(needed[longest]))} samples" for end in (min, max))
        what = f"{counted(longest, 'token')}, {error:.0%} error"
        axes.set_title(f"{what}: {few} at β = {max(betas):.2g}, {many} at β = {min(betas):.2g}")
        axes.set_xlim(min(betas), max(betas))
        axes.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
        axes.xaxis.minorticks_off()
        axes.set_xlabel("β (nats of reward per nat of KL, logarithmic)")
        axes.set_ylabel(f"samples for {error:.0%} error (logarithmic)")
        fig.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)  # off the data
    return fig


def loss_and_slope(betas: Sequence[float], *, width: float = 25.0, at: float | None = None) -> Figure:
    """DPO's loss and its slope against h, one curve per β; with `at`, a point of the first β is marked and read off."""
    betas, width = [number("beta", beta, above=0) for beta in betas], number("width", width, above=0)
    at = at if at is None else number("at", at)
    h = np.linspace(-width, width, 401)
    with mpl.rc_context(STYLE):
        fig, (loss, slope) = plt.subplots(1, 2, figsize=(10.4, 4.3))
        for i, (beta, (colour, marker)) in enumerate(zip(betas, METHODS, strict=False)):
            look = dict(color=colour, marker=marker, markersize=7.5, markeredgecolor="white", label=f"β = {beta:g}")
            look["markevery"] = (20 + 14 * i, 60)
            loss.plot(h, np.logaddexp(0, -beta * h), **look)
            slope.plot(h, beta / (1 + np.exp(beta * h)), **look)
        if at is not None:
            beta, here = betas[0], f"at h = {_signed(at, 1)}"
            value, weight = np.logaddexp(0, -beta * at), 1 / (1 + math.exp(beta * at))
            for axes, y, text, height in (
                (loss, value, f"{here}: loss {value:.3f}", 0.66),
                (slope, beta * weight, f"{here}:\n{beta:.3g} × {weight:.3f} = {beta * weight:.4f}", 0.96),
            ):
                axes.plot(at, y, "o", color=BLUE, markersize=11, markeredgecolor="white", zorder=5)
                axes.annotate(
                    text, (0.98, height), xycoords="axes fraction", ha="right", va="top", color=BLUE, fontweight="bold"
                )
        loss.axhline(math.log(2), **REFERENCE)
        loss.annotate(
            "ln 2",
            (width, math.log(2)),
            xytext=(-4, 4),
            textcoords="offset points",
            color=GREY,
            ha="right",
            fontsize=9.5,
        )
        for axes in (loss, slope):
            axes.axvline(0, color=FAINT, linewidth=1.2, zorder=0)
            axes.set_xlim(-width, width)
            axes.set_ylim(bottom=0)
            axes.set_xlabel("log-ratio difference h (nats): wrong order | right order")
        loss.set_title("The loss is ln 2 at h = 0, whatever β is")
        loss.set_ylabel("loss −log σ(βh) (nats)")
        slope.set_title("β is the steepest slope, 1/β the reach")
        slope.set_ylabel("size of the slope βσ(−βh)")
        loss.legend(loc="upper right")
    return fig


def kl_by_step(
    step: Sequence[int],
    runs: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    limits: Mapping[str, Mapping],
    early: int,
    titles: Sequence[str] = (),
) -> Figure:
    """KL against the step, one panel per kind of label, one curve per β; dotted: what each curve heads for.

    `runs[labels][beta]` holds KL (nats) at every `step`, `limits[labels][beta]` its limit. A line marks step `early`.
    titles: of the panels; by default the kind of label and whether the limits differ.
    """
    with mpl.rc_context(STYLE):
        fig, panels = plt.subplots(1, len(runs), figsize=(10.4, 4.6), sharey=True)
        marked = np.unique(
            np.geomspace(1, len(step), 24).astype(int) - 1
        ).tolist()  # evenly apart on a logarithmic axis
        for axes, (labels, curves) in zip(np.atleast_1d(panels), runs.items(), strict=True):
            for i, ((beta, values), (colour, marker)) in enumerate(zip(curves.items(), METHODS, strict=False)):
                axes.semilogx(
                    step, values, color=colour, marker=marker, markevery=marked[i::3],
                    markersize=7.5, markeredgecolor="white", label=f"β = {beta:g}", clip_on=False,
                )  # fmt: skip
                axes.plot(
                    [step[-1], step[-1] * 1.9], [limits[labels][beta]] * 2, color=colour, linestyle=":", clip_on=False
                )
            spread = max(limits[labels].values()) - min(limits[labels].values())
            ending = "KL ends lower for larger β" if spread > 1e-3 else "every β heads for the same KL"
            named = dict(zip(runs, titles, strict=False))
            axes.set_title(named.get(labels) or f"{labels[0].upper()}{labels[1:]} labels: {ending}")
            axes.axvline(early, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
            axes.set_xlim(step[0], step[-1] * 1.9)
            axes.set_xlabel("gradient step (logarithmic)")
        first = np.atleast_1d(panels)[0]
        first.set_ylim(bottom=0)
        first.set_ylabel(r"KL$(\pi\,\|\,\pi_{\mathrm{ref}})$ (nats)")
        first.annotate(
            f"step {early}", (early, 1), xycoords=("data", "axes fraction"), xytext=(5, -4), textcoords="offset points",
            color=GREY, va="top", fontsize=9.5,
        )  # fmt: skip
        fig.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=len(runs))
    return fig


def logps_by_step(chosen: Sequence[float], rejected: Sequence[float], others: Mapping[str, Sequence[float]]) -> Figure:
    """log π minus log π_ref of the chosen text, the rejected one and the `others` that no pair mentions, by step."""
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.4))
        curves = [("chosen", chosen, CHOSEN), ("rejected", rejected, REJECTED)]
        curves += [
            (name, values, dict(color=colour, marker=marker, linestyle="-."))
            for (name, values), (colour, marker) in zip(others.items(), METHODS[1:], strict=False)
        ]
        for name, values, look in curves:
            every = max(1, len(values) // 7)
            axes.plot(values, label=name, markevery=every, markersize=8, markeredgecolor="white", **look)
        axes.axhline(0, **REFERENCE, label="reference")
        fallen = max(chosen[-1], rejected[-1]) < 0
        axes.set_title(
            f"Chosen and rejected {'both fall' if fallen else 'part'}: "
            f"{_signed(chosen[-1], 1)} and {_signed(rejected[-1], 1)} nats"
        )
        axes.set_xlim(0, len(chosen) - 1)
        axes.set_xlabel("gradient step")
        axes.set_ylabel(r"$\log\,\pi/\pi_{\mathrm{ref}}$ (nats)")
        axes.legend(loc="lower left")
    return fig
