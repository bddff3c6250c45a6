"""Thin widgets on top of the package: each returns one ipywidgets box, and the figure or table below it redraws itself.

    explore(draw, beta=log_slider("β", 1.0, 0.05, 20), reward=slider("reward", 1.0, -3, 3))
    step_through(models, samples, prompts, world.tokenizer, world.gold)
    label_pairs(pairs)                                  # the labelling app, from `prefcourse.annotation.app`
    progress()                                          # which of the exercises' checks have passed

Only core ipywidgets, which are the same in versions 7.7 and 8. A widget calls functions of the package and holds no
logic of its own, so whatever it shows can be had without it, as a static figure.
"""

import base64
import html
import io
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import ipywidgets
from IPython.display import HTML, display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse import plots
from prefcourse.annotation.app import label_pairs
from prefcourse.checks import progress as kept
from prefcourse.finite import counted
from prefcourse.generate import Completion, generate
from prefcourse.lesson import show_samples
from prefcourse.rewards import GoldReward

__all__ = ["explore", "label_pairs", "log_slider", "progress", "slider", "step_through"]
PAGE = 4  # prompts on the screen at a time
WRAP = {"flex_flow": "row wrap"}
RESTARTED = (  # then a slider still moves, and nothing else does
    '<small style="opacity: 0.75;">Nothing changes? After a restart of the kernel, run all cells again.</small>'
)


LOOK = {"style": {"description_width": "8em"}, "layout": {"width": "26em"}}


def slider(name: str, value: float, low: float, high: float, step: float = 0.1) -> ipywidgets.FloatSlider:
    """A slider from `low` to `high`. In whole steps from a whole number it shows no decimals."""
    digits = ".0f" if float(step).is_integer() and float(low).is_integer() else ".2f"
    return ipywidgets.FloatSlider(
        value=value, min=low, max=high, step=step, description=name, readout_format=digits, **LOOK
    )


def log_slider(name: str, value: float, low: float, high: float, step: float = 0.05) -> ipywidgets.FloatLogSlider:
    """A slider from `low` to `high` in equal ratios; `step` is in powers of ten."""
    ends = dict(min=math.log10(low), max=math.log10(high), base=10)
    return ipywidgets.FloatLogSlider(value=value, step=step, readout_format=".3g", description=name, **ends, **LOOK)


def explore(
    draw: Callable[..., Figure], columns: int = 2, idle: Callable[..., Collection[str]] | None = None,
    **controls: ipywidgets.Widget,
) -> ipywidgets.VBox:  # fmt: skip
    """`controls`, in `columns`, above the figure that `draw` makes of their values by name, drawn anew on a change.

    idle: takes the values, too, and names the controls that have no effect at these: they are switched off.
    """

    def redraw(**values) -> None:
        without = idle(**values) if idle else ()
        for name, control in controls.items():
            control.disabled = name in without
        _picture(draw(**values), ", ".join(f"{controls[name].description} {_short(v)}" for name, v in values.items()))

    widgets = list(controls.values())
    rows = [ipywidgets.HBox(widgets[i : i + columns], layout=WRAP) for i in range(0, len(widgets), columns)]
    return ipywidgets.VBox([*rows, ipywidgets.HTML(RESTARTED), ipywidgets.interactive_output(redraw, controls)])


def _picture(figure: Figure, settings: str) -> None:
    """Show a figure as sharp as its static twin, its legends off the data, with a text that says what it is of.

    As HTML, because JupyterLab leaves out the alt text that an image's metadata has. Nothing of it is stored.
    """
    _legends_aside(figure)
    titles = [title for axes in figure.axes if (title := axes.get_title("left") or axes.get_title())]
    labels = [f"{axes.get_ylabel()} against {axes.get_xlabel()}" for axes in figure.axes if axes.get_xlabel()]
    alt = f"For {settings}: {_plain('; '.join([*titles, *dict.fromkeys(labels)]))}"
    width, buffer = round(figure.get_figwidth() * figure.dpi), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * figure.dpi)
    plt.close(figure)  # none piles up
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    display(
        HTML(f'<img src="{source}" alt="{html.escape(alt)}" width="{width}" style="max-width: 100%; height: auto;">')
    )


def _plain(text: str) -> str:
    """What matplotlib draws as a formula, in letters that can be read aloud: $\\pi^*(y \\mid x)$ becomes π*(y | x)."""
    for name, letter in {"pi": "π", "beta": "β", "mid": "|", "|": "‖", "log": "log ", "sqrt": "√", ",": ""}.items():
        text = text.replace(f"\\{name}", letter)
    return re.sub(r"\\mathrm|[${}^]", "", text).replace("\n", " ").replace("_ref", " ref")


def _legends_aside(figure: Figure) -> None:
    """Put each legend that lies over data below its axes: a slider may lead a curve to wherever it was."""
    found = [(axes, legend) for axes in figure.axes if (legend := axes.get_legend())]
    figure.draw_without_rendering()
    room = 0.0  # pixels that the figure grows by, so that the axes keep their height
    for axes, legend in found:
        box, frame = legend.get_window_extent(), axes.get_window_extent()
        if not frame.overlaps(box):
            continue  # it stands outside already
        numbers = axes.xaxis.get_tightbbox()  # and the label
        low = (numbers.y0 if numbers else frame.y0) - 6
        x, y = axes.transAxes.inverted().transform(((frame.x0 + frame.x1) / 2, low))
        columns = max(1, min(len(legend.get_texts()), int(frame.width // max(box.width, 1))))
        title, labels = legend.get_title().get_text(), [text.get_text() for text in legend.get_texts()]
        look = {"loc": "upper center", "bbox_to_anchor": (x, y), "ncols": columns, "title": title or None}
        axes.legend(legend.legend_handles, labels, **look)
        room = max(room, box.height / columns)
    figure.set_figheight(figure.get_figheight() + room / figure.dpi)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def step_through(
    models: Mapping[int, PreTrainedModel], samples: Mapping[int, Sequence[Completion]], prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase, gold: GoldReward,
) -> ipywidgets.VBox:  # fmt: skip
    """Go through the checkpoints of a run: what each writes on the same prompts, and how its gold rewards are spread.

    models and samples: step → checkpoint, step → its completions of `prompts`. An opening typed by the reader is
    completed live by the checkpoint chosen.
    """
    steps = sorted(samples)
    first = steps[0]
    rewards = {step: gold(prompts, [c.text for c in samples[step]]) for step in steps}
    wide = {"width": "480px"}
    step = ipywidgets.SelectionSlider(options=steps, value=steps[-1], description="step", layout=wide)
    page = ipywidgets.IntSlider(min=1, max=max(1, len(prompts) // PAGE), description="page", layout=wide)
    opening = ipywidgets.Text(
        placeholder="your own opening, then Enter", description="opening", continuous_update=False, layout=wide
    )

    def draw(step: int, page: int, opening: str) -> None:
        seen = slice((page - 1) * PAGE, page * PAGE)
        columns = {}
        for s in dict.fromkeys([first, step]):
            columns |= {f"step_{s}": samples[s][seen], f"gold_reward_at_{s}": rewards[s][seen].tolist()}
        show_samples(prompts[seen], **columns)
        if opening.strip():
            show_samples([opening] * 3, your_opening=generate(models[step], tokenizer, [opening] * 3, seed=step))
        if step != first:
            names = (f"step {first}", f"step {step}")
            figure = plots.reward_shift(rewards[first].numpy(), rewards[step].numpy(), names=names)
            _picture(figure, f"{names[0]} and {names[1]}")

    controls = {"step": step, "page": page, "opening": opening}
    shown = ipywidgets.interactive_output(draw, controls)
    return ipywidgets.VBox([*controls.values(), ipywidgets.HTML(RESTARTED), shown])


def progress() -> ipywidgets.VBox:
    """A bar of points for each exercise notebook, from the file that `python -m prefcourse progress` reads."""
    rows = ipywidgets.VBox()

    def draw(_=None) -> None:
        lines = []
        for number, have, all_, points, worth, left in kept.table():
            look = {"width": "16em", "flex": "0 0 16em"}  # all bars are of one length, and a long text takes lines
            bar = ipywidgets.IntProgress(value=points, min=0, max=worth, description=number, layout=look)
            open_ = f"still open: {', '.join(left)}" if left else "done"
            sums = f"{points} of {counted(worth, 'point')}, {have} of {counted(all_, 'check')}"
            text = f"{kept.TITLES[number]}: {sums}; {open_}"
            text = f'<div style="white-space: normal; line-height: 1.5;">{html.escape(text)}</div>'
            lines.append(ipywidgets.HBox([bar, ipywidgets.HTML(text, layout={"flex": "1 1 16em", "min_width": "0"})]))
        rows.children = lines

    again = ipywidgets.Button(description="look again", tooltip="read the progress file again")
    again.on_click(draw)
    draw()
    return ipywidgets.VBox([rows, again])
