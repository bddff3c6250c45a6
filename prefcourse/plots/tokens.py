"""Figures of tokens: what each token of a text costs, and what may come next at several temperatures (lesson 00)."""

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from prefcourse.finite import counted, numbers
from prefcourse.plots.style import BLUE, FAINT, GREEN, GREY, INK, STYLE, _percent, _signed

LOWEST = -8.0  # nats; tokens that are less likely have the same colour, and their number says the rest
SURPRISE = LinearSegmentedColormap.from_list("surprise", ["#0A3B5C", BLUE, "#9CC9E3", "#F1F7FB"])  # dark: a surprise
MONO = "DejaVu Sans Mono"
Text = tuple[Sequence[str], Sequence[float], Sequence[bool]]  # tokens, log-probs, whether each token counts


def coloured_tokens(texts: Mapping[str, Text], *, title: str) -> Figure:
    """Texts as rows of boxes, one a token, coloured by log-probability; tokens that do not count are grey and hatched.

    texts: label → (tokens, log-probs in nats, mask), T entries each; where the mask is False the log-prob is ignored
    and may be nan. The number at the right is the sum over the mask, log π(y|x). Spaces show as ␣, line breaks as ↵.
    Raises ValueError if a text is empty or its three parts differ in length.
    """
    rows = {label: _row(label, *text) for label, text in texts.items()}
    if not rows:
        raise ValueError("coloured_tokens needs at least one text")
    widths = {label: [max(len(name), 5) * 0.62 + 0.9 for name in names] for label, (names, *_) in rows.items()}
    right = max(map(sum, widths.values()))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        fig, axes = plt.subplots(figsize=(10.8, 1.35 + 0.92 * len(rows)))
        colour = mpl.cm.ScalarMappable(Normalize(LOWEST, 0), SURPRISE)
        for place, (label, (names, logps, scored)) in enumerate(rows.items()):
            axes.text(0, place - 0.36, label, va="bottom", fontsize=9.5, color=GREY)
            left = 0.0
            for name, logp, counts, width in zip(names, logps, scored, widths[label], strict=True):
                _box(axes, (left, place), width, name, logp if counts else None, colour)
                left += width
            total = _signed(logps[scored].sum(), plus=False)
            axes.text(right + 0.6, place, f"sum {total}", va="center", fontweight="bold")
        axes.set_xlim(-0.1, right + 7.5)
        axes.set_ylim(len(rows) - 0.45, -0.75)
        axes.set_axis_off()
        axes.set_title(title)
        bar = fig.colorbar(colour, ax=axes, orientation="horizontal", fraction=0.06, shrink=0.42, aspect=34, pad=0.02)
        bar.set_label("log-probability of the token (nats); hatched: not counted", fontsize=9.5)
        bar.set_ticks([-8, -6, -4, -2, 0], labels=["−8 or less", "−6", "−4", "−2", "0 (certain)"])
        bar.outline.set_visible(False)
    return fig


def batch_tokens(labels: Sequence[str], names: Sequence[Sequence[str]], terms, mask) -> dict[str, Text]:
    """The rows of a batch as `coloured_tokens` takes them, without their filling; the last token is called EOS.

    names: a row's tokens as text, T each. terms: (N, T - 1), `token_logps`, in nats. mask: (N, T), what counts.
    """
    rows = {}
    for label, row, term, counts in zip(labels, names, terms.tolist(), mask.tolist(), strict=True):
        end = counts.index(True) + sum(counts)
        rows[label] = [*row[: end - 1], "EOS"], [math.nan, *term][:end], counts[:end]
    return rows


def next_token_bars(logits: Sequence[float], names: Mapping[int, str], temperatures: Sequence[float]) -> Figure:
    """The distribution of the next token, softmax(logits / T), one panel a temperature, T = 1 marked in all of them.

    logits: (V,). names: id → text of the tokens that get a bar, in this order; the last bar holds all others together.
    Raises ValueError for a temperature that is not above 0, or an id that is not in the vocabulary.
    """
    logits = numbers("logits", logits).numpy()
    if not temperatures or not all(0 < t < math.inf for t in temperatures):
        raise ValueError(f"temperatures must be above 0, got {list(temperatures)}; 0 means the likeliest token alone")
    if not names or not all(0 <= token < len(logits) for token in names):
        raise ValueError(f"names must hold ids from 0 to {len(logits) - 1}, got {list(names)}")
    labels = [*map(visible, names.values()), counted(len(logits) - len(names), "other")]
    plain = _shares(logits, names, 1.0)
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x", "axes.titlesize": 10.5}):
        size = (3.1 + 2.9 * len(temperatures), 0.9 + 0.33 * len(labels))
        fig, panels = plt.subplots(1, len(temperatures), figsize=size, sharex=True, sharey=True, squeeze=False)
        for axes, temperature in zip(panels[0], temperatures, strict=True):
            shares, places = _shares(logits, names, temperature), np.arange(len(labels))
            bars = axes.barh(places, shares, height=0.68, color=[GREEN] * len(names) + [FAINT])
            bars[-1].set(hatch="////", edgecolor=GREY, linewidth=0)
            axes.plot(plain, places, "|", color=INK, markersize=14, markeredgewidth=2.2, label="at T = 1")
            top = int(shares[:-1].argmax())
            axes.set_title(f"T = {temperature:g}: {labels[top]} has {shares[top]:.0%}, others {shares[-1]:.0%}")
            axes.set_xlabel("probability")
            _percent(axes.xaxis)
        panels[0, 0].set_yticks(places, labels, fontfamily=MONO)
        panels[0, 0].invert_yaxis()
        panels[0, 0].set_xlim(0, 1.0)
        fig.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center")  # off the data
    return fig


def visible(token: str) -> str:
    """A token with its edges: spaces as ␣, line breaks as ↵, an empty one as ∅."""
    return token.replace(" ", "␣").replace("\n", "↵") or "∅"


def _row(label: str, tokens: Sequence[str], logps: Sequence[float], mask: Sequence[bool]):
    """Names (T), log-probs (T,) and mask (T,), checked."""
    names = [visible(token) for token in tokens]
    logps, scored = np.asarray(logps, dtype=float), np.asarray(mask, dtype=bool)
    if not names or not len(names) == len(logps) == len(scored):
        raise ValueError(
            f"{label!r}: {counted(len(names), 'token')}, {counted(len(logps), 'log-prob')} and a mask of "
            f"{len(scored)}; give as many of each, at least one"
        )
    return names, logps, scored


def _box(axes, corner, width, name, logp, colour) -> None:
    """One token: its text above, its log-prob below; without a log-prob it is grey and hatched."""
    left, middle = corner
    box = Rectangle((left + 0.06, middle - 0.33), width - 0.12, 0.66, linewidth=0.8, edgecolor=GREY)
    if logp is None:
        box.set(facecolor="white", hatch="////", edgecolor="#C4C4C4")
        ink, back = GREY, dict(facecolor="white", edgecolor="none", pad=1.2)
    else:
        box.set_facecolor(colour.to_rgba(logp))
        dark = np.dot(box.get_facecolor()[:3], (0.30, 0.59, 0.11)) < 0.5  # how bright the eye takes the colour for
        ink, back = "white" if dark else INK, None
        axes.text(left + width / 2, middle + 0.17, _signed(logp, plus=False), ha="center", va="center", color=ink,
                  fontsize=9)  # fmt: skip
    axes.add_patch(box)
    axes.text(left + width / 2, middle if logp is None else middle - 0.12, name, ha="center", va="center", color=ink,
              family=MONO, fontsize=9.5, bbox=back)  # fmt: skip


def _shares(logits: np.ndarray, names: Mapping[int, str], temperature: float) -> np.ndarray:
    """softmax(logits / T) of the named tokens, and the rest as the last entry: (K + 1,)."""
    weights = np.exp((logits - logits.max()) / temperature)
    shares = weights[list(names)] / weights.sum()
    return np.append(shares, max(0.0, 1 - shares.sum()))
