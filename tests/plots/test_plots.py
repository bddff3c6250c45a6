"""Figures: every one draws what it is given, says the finding in its title, and keeps the course's style."""

import math
import warnings

import matplotlib as mpl
import numpy as np
import pytest
from figures import titles
from matplotlib.colors import to_hex

from prefcourse import plots


def run(steps=60, **columns):
    """A history as `train` returns it: the loss falls, log π of both completions falls, that of rejected more."""
    step, noise = np.arange(1, steps + 1), np.random.default_rng(0).normal(0, 0.01, (4, steps))
    grown = 1 - np.exp(-step / 15)
    chosen, rejected = -0.3 * grown + noise[0], -1.5 * grown + noise[1]
    history = {
        "step": step,
        "loss": math.log(2) - 0.2 * grown + noise[2],
        "grad_norm": 2 + noise[3],
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": 0.5 + 0.3 * grown,
        "logps/chosen": -60 + 10 * chosen,
        "logps/rejected": -60 + 10 * rejected,
    }
    return {name: list(values) for name, values in history.items()} | columns


def labels(fig):
    return [label for axes in fig.axes for label in (axes.get_xlabel(), axes.get_ylabel()) if label]


def line(axes, label):
    [found] = [drawn for drawn in axes.get_lines() if drawn.get_label() == label]
    return found


def fits(fig):
    """Whether all titles and labels lie inside the figure."""
    fig.draw_without_rendering()
    width, height = fig.bbox.size
    boxes = [axes.get_tightbbox() for axes in fig.axes]
    return all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for b in boxes)


def test_training_curves_have_four_panels_with_findings_and_units():
    fig = plots.training_curves(run(kl=[math.nan if i % 20 else 0.1 * i for i in range(60)]), beta=0.1)
    assert titles(fig) == [
        "The loss falls from 0.69 to 0.50",
        "log π falls for both, more for rejected",
        "The policy ends 4.0 nats from the reference",
        "Last 20 steps: 78.9% ranked right, margin 1.16",
    ]
    assert sum("nats" in label for label in labels(fig)) == 4
    assert labels(fig).count("optimiser step") == 4
    assert fits(fig)


def test_chosen_and_rejected_look_the_same_everywhere():
    fig = plots.training_curves(run(), beta=0.1)
    [axes] = [axes for axes in fig.axes if axes.get_title(loc="left").startswith("log π")]
    chosen, rejected, reference = (line(axes, name) for name in ("chosen", "rejected", "reference"))
    assert (to_hex(chosen.get_color()), chosen.get_linestyle(), chosen.get_marker()) == (plots.BLUE.lower(), "-", "o")
    assert (to_hex(rejected.get_color()), rejected.get_linestyle(), rejected.get_marker()) == (
        plots.ORANGE.lower(),
        "--",
        "X",
    )
    assert reference.get_linestyle() == ":"


def test_log_probabilities_are_relative_to_the_reference_or_to_the_start():
    values = run()
    [axes] = [a for a in plots.training_curves(values, beta=0.1).axes if "log π" in a.get_title(loc="left")]
    assert line(axes, "chosen").get_ydata()[-1] == pytest.approx(10 * values["rewards/chosen"][-1], abs=0.3)
    [axes] = [a for a in plots.training_curves(values).axes if "log π" in a.get_title(loc="left")]
    assert line(axes, "chosen").get_ydata()[0] == pytest.approx(0, abs=0.3)
    assert line(axes, "start") is not None


@pytest.mark.parametrize(
    ("chosen", "title"), [(1, "log π rises for chosen, falls for rejected"), (-9, "more for chosen")]
)
def test_the_title_follows_the_data(chosen, title):
    history = run()
    history["rewards/chosen"] = [chosen * i / 60 for i in range(60)]
    assert any(title in found for found in titles(plots.training_curves(history, beta=0.1)))


def test_a_run_without_kl_shows_the_gradient_norm():
    for history in (run(), run(kl=[None] * 60)):
        assert "The gradient norm peaks at 2.0" in titles(plots.training_curves(history))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_short_runs_are_drawn(steps):
    fig = plots.training_curves(run(steps, kl=[0.5] * steps))
    assert fits(fig)


def test_reward_shift_names_both_means():
    before, after = np.linspace(-2, 1, 200), np.linspace(-1, 4, 100)
    fig = plots.reward_shift(before, after)
    assert titles(fig) == ["DPO raises the mean gold reward from −0.50 to +1.50"]
    assert {text.get_text() for text in fig.axes[0].texts} == {"SFT\nmean −0.50", "DPO\nmean +1.50"}
    heights = [np.diff(patch.get_path().vertices[:, 1]).max() for patch in fig.axes[0].patches]
    assert len(heights) == 2 and max(heights) < 1
    assert "lowers" in titles(plots.reward_shift(after, before))[0]
    assert fits(fig)


POINTS = [
    {"method": "DPO", "label": "β = 0.1", "kl": 8.0, "reward": 1.9, "reward_low": 1.7, "reward_high": 2.1},
    {"method": "DPO", "label": "β = 0.5", "kl": 2.0, "reward": 1.1, "reward_low": 1.0, "reward_high": 1.2},
    {"method": "IPO", "label": "τ = 0.1", "kl": 5.0, "reward": 1.2},
]


def test_pairs_that_were_held_out_are_diamonds_beside_the_curves():
    gaps = [math.nan if i % 20 else 0.01 * i for i in range(60)]
    fig = plots.training_curves(run(held_loss=gaps, held_margin=gaps), beta=0.1)
    diamonds = [line for axes in fig.axes for line in axes.get_lines() if line.get_marker() == "D"]
    assert not any(line.get_clip_on() for line in diamonds)  # the last stands at the edge
    found = [line.get_xydata().tolist() for line in diamonds]
    assert found == [[[1, 0.0], [21, 0.2], [41, 0.4]]] * 2
    assert not [
        line for axes in plots.training_curves(run()).axes for line in axes.get_lines() if line.get_marker() == "D"
    ]


def test_reward_against_kl_joins_a_methods_points_in_order():
    fig = plots.reward_against_kl(POINTS, reference=-0.1)
    axes = fig.axes[0]
    assert titles(fig) == ["The highest reward, +1.90, costs 8.0 nats of KL"]
    assert axes.get_legend_handles_labels()[1] == ["reference", "DPO", "IPO"]
    assert any(list(drawn.get_xdata()) == [8.0, 2.0] for drawn in axes.get_lines())  # as given: a run may go back
    assert "95 %" in axes.get_xlabel() and "95 %" not in plots.reward_against_kl(POINTS[2:]).axes[0].get_xlabel()
    assert {text.get_text() for text in axes.texts} == {point["label"] for point in POINTS}
    assert titles(plots.reward_against_kl(POINTS, title="DPO leads")) == ["DPO leads"]
    assert fits(fig)
    alone = plots.reward_against_kl([{"kl": 1.0, "reward": 2.0}], reference=-0.1).axes[0]  # no box covers its line
    assert alone.get_legend() is None and [text.get_text() for text in alone.texts] == ["reference"]
    with pytest.raises(ValueError, match="no points"):
        plots.reward_against_kl([])


def test_labels_do_not_cover_each_other():
    crowd = [{"kl": 1 + i / 10, "reward": 1.0, "label": f"β = {i}"} for i in range(3)] + [{"kl": 9.0, "reward": 2.0}]
    fig = plots.reward_against_kl(crowd)
    fig.draw_without_rendering()
    boxes = [text.get_window_extent() for text in fig.axes[0].texts]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_smoothed():
    assert plots.smoothed([1.0] * 30) == pytest.approx([1.0] * 30)
    assert plots.smoothed([3.0, math.nan, 5.0], window=3) == pytest.approx([3, 4, 5])
    assert plots.smoothed(np.geomspace(1, 9, 50))[0] == pytest.approx(1)
    assert plots.smoothed([2.0]) == pytest.approx([2.0])
    noisy = np.random.default_rng(0).normal(size=200)
    assert plots.smoothed(noisy).std() < 0.5 * noisy.std()


def test_save_makes_the_folder_and_the_same_bytes(tmp_path):
    paths = [plots.save(plots.reward_shift([0.0, 1], [1.0, 2]), tmp_path / "a" / f"{i}.png") for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes().startswith(b"\x89PNG")


def test_figures_keep_the_style_without_use_style():
    with mpl.rc_context():
        mpl.rcdefaults()
        axes = plots.reward_against_kl(POINTS).axes[0]
        assert not axes.spines["top"].get_visible() and not axes.spines["right"].get_visible()
        plots.use_style()
        assert mpl.rcParams["axes.titlelocation"] == "left"


def luminance(colour):
    channels = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("colour", [plots.BLUE, plots.ORANGE, plots.GREEN, plots.GREY, plots.INK])
def test_lines_stand_out_from_white(colour):
    assert 1.05 / (luminance(colour) + 0.05) >= 3  # the contrast that accessibility guidelines ask of graphics


def test_the_style_silences_what_matplotlib_says_of_its_own_libraries():
    """matplotlib 3.10 with a new pyparsing warned of each formula in a figure, in the learner's notebook."""

    class OldName(DeprecationWarning, UserWarning):
        """As pyparsing's own: Python shows it by default."""

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        plots.use_style()
        warnings.warn_explicit("'parseString' deprecated", OldName, "m.py", 1, module="matplotlib._mathtext")
        warnings.warn_explicit("Glyph 128516 missing", UserWarning, "m.py", 1, module="matplotlib.textpath")
    assert [str(warning.message) for warning in said] == ["Glyph 128516 missing"]


def test_memory_bars_stack_and_show_the_gpus_within_reach():
    parts = dict.fromkeys(("weights", "gradients and Adam", "reference", "activations", "logits"), 2.0)
    plans = {"full": parts, "LoRA": parts | {"activations": 0.0}}
    [axes] = plots.memory_bars(plans, {"T4": 16, "H200": 141}, title="It fits").axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["10 GB", "8 GB", "T4"]
    assert 16 < axes.get_xlim()[1] < 141
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(parts)


def test_memory_bars_name_no_part_that_none_holds_and_write_large_sizes_out():
    parts = {"weights": 2500.0, "gradients and Adam": 1.0, "reference": 0.0, "activations": 1.0, "logits": 1.0}
    [axes] = plots.memory_bars({"full": parts}, {}, title="Too large").axes
    assert [text.get_text() for text in axes.texts] == ["2,503 GB"]
    assert "reference" not in [text.get_text() for text in axes.get_legend().get_texts()]
