"""Figures about preference data: they draw what they are given, their titles follow from it, and nothing is cut off."""

import math
import random

import numpy as np
import pytest
from figures import titles
from matplotlib.colors import to_hex

from prefcourse import plots
from prefcourse.annotation.agreement import accuracy_bounds
from prefcourse.annotation.annotators import Annotator, panel, questions
from prefcourse.quality.report import report

X_MEAN = (math.log2(50) + math.log2(400) + math.log2(1600)) / 3
WINS = {0.0: [0.70, 0.74, 0.72], 0.2: [0.66, 0.70, 0.68], 0.4: [0.50, 0.58, 0.54]}


def words(fig):
    return [text.get_text() for axes in fig.axes for text in axes.texts]


def fits(fig):
    """Whether all that is drawn lies inside the figure, and no title runs into the panel beside it."""
    fig.draw_without_rendering()
    width, height = fig.bbox.size
    boxes = [axes.get_tightbbox() for axes in fig.axes]
    heads = [axes._left_title.get_window_extent() for axes in fig.axes if axes.get_title(loc="left")]
    apart = not any(a.overlaps(b) for i, a in enumerate(heads) for b in heads[:i])
    return apart and all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width + 1 and b.y1 <= height + 1 for b in boxes)


def line_through(axes, x):
    """The y values of the line whose x values are `x`."""
    for drawn in axes.get_lines():
        if list(drawn.get_xdata()) == list(x):
            return list(drawn.get_ydata())
    raise AssertionError(f"no line at {x}")


# ------------------------------------------------------------------------------------------------ annotators


def test_agreement_and_accuracy_draws_the_bounds():
    fig = plots.agreement_and_accuracy([(0.58, 0.66, "the bundled pairs"), (0.8, 0.85)], at=0.7)
    [axes] = fig.axes
    low, high = accuracy_bounds(0.7)
    assert titles(fig) == [f"Where two agree on 70%, a perfect model is right on {low:.0%} to {high:.0%}"]
    edges = [drawn for drawn in axes.get_lines() if len(drawn.get_xdata()) == 201]
    for edge, bound in zip(edges, (1, 0), strict=True):
        assert edge.get_ydata() == pytest.approx(accuracy_bounds(edge.get_xdata())[bound])
    assert line_through(axes, [0.58, 0.8]) == [0.66, 0.85]
    assert {"the bundled pairs", "70%", f"{high:.0%}"} <= set(words(fig))
    assert fits(fig) and fits(plots.agreement_and_accuracy([]))


def test_majority_by_panel_joins_dots_unless_a_formula_does():
    sizes, right = (1, 3, 9), {"careful": [0.66, 0.72, 0.79], "lapses": [0.6, 0.64, 0.7]}
    fig = plots.majority_by_panel(sizes, right, expected={"careful": [0.66, 0.71, 0.8]})
    [axes] = fig.axes
    assert titles(fig) == ["Careful: 66% right alone, 79% as a majority of 9"]
    dots, line, joined = (drawn for drawn in axes.get_lines() if list(drawn.get_xdata()) == list(sizes))
    assert (dots.get_linestyle(), list(dots.get_ydata())) == ("None", right["careful"])
    assert list(line.get_ydata()) == [0.66, 0.71, 0.8]
    assert (joined.get_linestyle(), list(joined.get_ydata())) == ("-", right["lapses"])
    assert axes.get_legend_handles_labels()[1] == ["careful", "lapses"]
    assert fits(fig)


def test_panel_forecast_marks_the_chosen_size():
    fig = plots.panel_forecast([1, 3, 5], [0.7, 0.78, 0.82], agreement=0.61, size=3, without=[0.6, 0.65, 0.7])
    assert titles(fig) == ["Two agree on 61%; the majority of 3 is right on 78%"]
    assert line_through(fig.axes[0], [3]) == [0.78]
    assert fits(fig) and fits(plots.panel_forecast([1, 3], [0.5, 0.5], agreement=0.5, size=1))
    with pytest.raises(ValueError, match=r"size is 2, of .1, 3."):
        plots.panel_forecast([1, 3], [0.5, 0.5], agreement=0.5, size=2)


# ------------------------------------------------------------------------------------------------ runs over seeds


def test_seed_means_are_students_with_pooled_variance():
    found = plots.seed_means(WINS)
    spread = math.sqrt((2 * 0.02**2 + 2 * 0.02**2 + 2 * 0.04**2) / 6)  # six degrees of freedom
    assert found[0.2] == pytest.approx((0.68, 0.68 - 2.447 * spread / 3**0.5, 0.68 + 2.447 * spread / 3**0.5), abs=1e-3)
    assert list(found) == sorted(WINS)
    [(mean, low, high)] = plots.seed_means({1: [0.4]}).values()
    assert mean == 0.4 and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize(("free", "t"), [(4, 2.776), (6, 2.447), (10, 2.228), (24, 2.064), (200, 1.972)])
def test_students_t_against_the_tables(free, t):
    from prefcourse.plots.data import _student

    assert _student(free) == pytest.approx(t, rel=3e-3)


def test_noise_and_win_rate():
    fig = plots.noise_and_win_rate(WINS)
    [axes] = fig.axes
    assert titles(fig) == ["Win rate 72% with 0% of the labels turned, 54% with 40%"]
    assert line_through(axes, [0.0, 0.2, 0.4]) == pytest.approx([0.72, 0.68, 0.54])
    dots = [drawn for drawn in axes.get_lines() if drawn.get_alpha()]
    assert [list(drawn.get_ydata()) for drawn in dots] == list(WINS.values())
    assert len(axes.collections) == 1  # the bars
    assert "no better than SFT" in words(fig)
    assert fits(fig)


def test_every_seed_is_in_the_picture():
    kl = {50: [2.0, 17.0], 1600: [2.5, 2.7]}  # a dot far above the line through the means, and no bar that reaches it
    axes = plots.pairs_needed({50: [0.5, 0.6], 1600: [0.7, 0.75]}, kl).axes[1]
    one = plots.pairs_needed({1: [0.5, 0.6], 1600: [0.7, 0.75]}, {1: [1.0, 1.0], 1600: [2.0, 2.0]})
    assert [title.partition(",")[0] for title in titles(one)] == ["Win rate 55% with 1 pair", "KL 1.0 nats with 1 pair"]
    assert axes.get_ylim()[1] > 17
    dots = [drawn for drawn in axes.get_lines() if drawn.get_alpha()]
    assert [list(drawn.get_ydata()) for drawn in dots] == list(kl.values())


def test_pairs_needed_has_a_logarithmic_axis():
    wins = {50: [0.5, 0.6], 400: [0.6, 0.7], 1600: [0.7, 0.75]}
    kl = {50: [9.0, 15.0], 400: [4.0, 4.2], 1600: [2.5, 2.7]}
    fig = plots.pairs_needed(wins, kl)
    assert titles(fig) == ["Win rate 55% with 50 pairs, 72% with 1,600", "KL 12.0 nats with 50 pairs, 2.6 with 1,600"]
    assert all(axes.get_xscale() == "log" for axes in fig.axes)
    assert [tick.get_text() for tick in fig.axes[0].get_xticklabels()] == ["50", "400", "1,600"]
    assert len(fig.axes[0].collections) == 1 and not fig.axes[1].collections  # no bars for the KL
    assert fits(fig)
    alone = plots.pairs_needed(wins)
    assert len(alone.axes) == 1 and fits(alone)


def test_pairs_needed_marks_how_many_are_enough():
    wins = {50: [0.5, 0.6], 400: [0.6, 0.7], 1600: [0.7, 0.75]}
    fig = plots.pairs_needed(wins, target=0.6, enough=400, doubling=0.035)
    [axes] = fig.axes
    assert titles(fig) == ["The whole interval is above 60% from 400 pairs on"]
    assert line_through(axes, [400]) == [pytest.approx(0.65)]  # the ring
    low, high = line_through(axes, [50, 1600])
    assert (high - low) == pytest.approx(0.035 * 5)
    assert (low + high) / 2 == pytest.approx(np.mean(list(wins.values())) + 0.035 * (math.log2(80_000) / 2 - X_MEAN))
    assert axes.get_legend_handles_labels()[1] == ["+0.035 for each doubling", "target 60%"]
    assert fits(fig)
    assert titles(plots.pairs_needed(wins, target=0.9)) == [
        "The whole interval is above 90% at no size up to 1,600 pairs"
    ]


def test_one_seed_has_no_bars():
    [axes] = plots.noise_and_win_rate({0.0: [0.7], 0.4: [0.6]}).axes
    assert not axes.collections


def test_diversity_by_temperature():
    distinct = {0.4: (0.7, 0.68, 0.72), 1.3: (0.95, 0.94, 0.96)}
    fig = plots.diversity_by_temperature(distinct, {0.4: 0.73, 1.3: 0.97}, {0.4: [0.8, 0.76], 1.3: [0.7, 0.74]})
    assert titles(fig) == ["Same text twice: 27% at 0.4, 3% at 1.3", "The highest mean, 78%, at temperature 0.4"]
    assert line_through(fig.axes[0], [0.4, 1.3]) == [0.73, 0.97]
    assert fits(fig)
    assert len(plots.diversity_by_temperature(distinct, {0.4: 0.73, 1.3: 0.97}).axes) == 1


# ------------------------------------------------------------------------------------------------ the quality report


@pytest.fixture(scope="module")
def rows():
    rng = random.Random(0)
    vocabulary = [f"{a}{b}" for a in "bdfglmnprst" for b in ("a", "ely", "ido", "um", "oxi")]

    def text():
        return " " + " ".join(rng.choices(vocabulary, k=rng.randint(4, 9))) + "."

    return [
        {"prompt": f"Opening {n % 40}", "type": "abc"[n % 40 % 3], "chosen": text(), "rejected": text(),
         "chosen_score": rng.gauss(0.3, 1), "rejected_score": rng.gauss(0, 1)}
        for n in range(1_200)
    ]  # fmt: skip


def test_the_report_on_one_page(rows):
    found = report(rows, annotations=panel([Annotator()] * 3, questions(rows)).labels, splits={"train": rows})
    fig = plots.quality_report(found)
    assert fig.get_suptitle() == f"1,200 pairs on 40 prompts. {found.summary()}"
    against = np.mean(found.margin < 0) + 0.5 * np.mean(found.margin == 0)
    assert titles(fig) == [
        f"Chosen longer {np.mean(found.length > 0):.0%}, shorter {np.mean(found.length < 0):.0%}",
        f"Label against score: {against:.0%}",
        f"Flipped labels: about {found.noise.flips.value:.0%}",
        f"Rarest type: {list(found.types)[-1]}, {min(found.types.values()) / 1200:.0%}",
    ]
    assert set(found) <= set(words(fig))
    assert any(text.startswith("look · ") for text in words(fig))
    assert fits(fig)


def test_a_verdict_has_a_colour_and_a_shape(rows):
    found = report(rows)
    [axes] = [axes for axes in plots.quality_report(found).axes if not axes.get_title(loc="left")]
    marks = {"ok": ("o", plots.GREEN), "look": ("^", plots.AMBER), "act": ("s", plots.ORANGE)}
    drawn = [(mark.get_marker(), to_hex(mark.get_color()).upper()) for mark in axes.get_lines()]
    assert drawn == [marks[finding.verdict] for finding in found.values()]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("count", [1, 30, 600])
def test_a_report_with_few_columns_has_few_panels(rows, count):
    plain = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows[:count]]
    fig = plots.quality_report(report(plain))
    assert len(titles(fig)) == 1
    assert fits(fig)


def test_bars_add_up_to_all_pairs(rows):
    found = report(rows)
    lengths = next(axes for axes in plots.quality_report(found).axes if "longer" in axes.get_title(loc="left"))
    assert sum(bar.get_height() for bar in lengths.patches) == pytest.approx(1, abs=0.02)
    chosen = sum(bar.get_height() for bar in lengths.patches if to_hex(bar.get_facecolor()) == plots.BLUE.lower())
    assert chosen == pytest.approx(np.mean(found.length > 0), abs=0.02)
