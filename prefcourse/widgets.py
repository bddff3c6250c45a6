"""Thin widgets on top of the package: each returns one ipywidgets box, and the figure or table below it redraws itself.

    explore(draw, beta=log_slider("β", 1.0, 0.05, 20), reward=slider("reward", 1.0, -3, 3))
    step_through(models, samples, prompts, world.tokenizer, world.gold)
    label_pairs(pairs)                                  # the labelling app, from `prefcourse.annotation.app`
    progress()                                          # which of the exercises' checks have passed

Only core ipywidgets, which are the same in versions 7.7 and 8. A widget calls functions of the package and holds no
logic of its own, so whatever it shows can be had without it, as a static figure.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse import plots
from prefcourse.annotation.app import label_pairs
from prefcourse.checks import progress as kept
from prefcourse.finite import counted
from prefcourse.generate import Completion, generate
from prefcourse.lesson import show, show_samples
from prefcourse.rewards import GoldReward

__all__ = ["explore", "label_pairs", "log_slider", "progress", "slider", "step_through"]
PAGE = 4  # prompts on the screen at a time


LOOK = {"style": {"description_width": "8em"}, "layout": {"width": "26em"}}


def slider(name: str, value: float, low: float, high: float, step: float = 0.1) -> ipywidgets.FloatSlider:
    """A slider from `low` to `high`."""
    return ipywidgets.FloatSlider(value=value, min=low, max=high, step=step, description=name, **LOOK)


def log_slider(name: str, value: float, low: float, high: float, step: float = 0.05) -> ipywidgets.FloatLogSlider:
    """A slider from `low` to `high` in equal ratios; `step` is in powers of ten."""
    ends = dict(min=math.log10(low), max=math.log10(high), base=10)
    return ipywidgets.FloatLogSlider(value=value, step=step, readout_format=".3g", description=name, **ends, **LOOK)


def explore(draw: Callable[..., Figure], columns: int = 2, **controls: ipywidgets.Widget) -> ipywidgets.VBox:
    """`controls`, in `columns`, above the figure that `draw` makes of their values by name, drawn anew on a change."""

    def redraw(**values) -> None:
        draw(**values)
        plt.show()  # shows the figure and closes it: none piles up

    widgets = list(controls.values())
    rows = [ipywidgets.HBox(widgets[i : i + columns]) for i in range(0, len(widgets), columns)]
    return ipywidgets.VBox([*rows, ipywidgets.interactive_output(redraw, controls)])


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
        columns = {f"step_{s}": samples[s][seen] for s in dict.fromkeys([first, step])}
        show_samples(prompts[seen], **columns, gold_reward=rewards[step][seen].tolist())
        if opening.strip():
            show_samples([opening] * 3, your_opening=generate(models[step], tokenizer, [opening] * 3, seed=step))
        if step != first:
            names = (f"step {first}", f"step {step}")
            figure = plots.reward_shift(rewards[first].numpy(), rewards[step].numpy(), names=names)
            show(figure, alt=f"Histograms of gold reward at {names[0]} and {names[1]}, with both means")

    controls = {"step": step, "page": page, "opening": opening}
    return ipywidgets.VBox([*controls.values(), ipywidgets.interactive_output(draw, controls)])


def progress() -> ipywidgets.VBox:
    """A bar of points for each exercise notebook, from the file that `python -m prefcourse progress` reads."""
    rows = ipywidgets.VBox()

    def draw(_=None) -> None:
        lines = []
        for number, have, all_, points, worth, left in kept.table():
            bar = ipywidgets.IntProgress(value=points, min=0, max=worth, description=number, layout={"width": "16em"})
            open_ = f"still open: {', '.join(left)}" if left else "done"
            text = f"{points} of {counted(worth, 'point')}, {have} of {counted(all_, 'check')}; {open_}"
            lines.append(ipywidgets.HBox([bar, ipywidgets.Label(text)]))
        rows.children = lines

    again = ipywidgets.Button(description="look again", tooltip="read the progress file again")
    again.on_click(draw)
    draw()
    return ipywidgets.VBox([rows, again])
