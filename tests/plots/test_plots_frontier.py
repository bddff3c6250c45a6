"""Figures of reward against KL: they draw what they are given."""

from types import SimpleNamespace

import numpy as np
import pytest
from figures import titles

from prefcourse import plots
from prefcourse.plots import style


def test_beta_paths_draw_seeds_and_their_mean_twice():
    def path(scale):
        return [{"step": s, "kl": scale * s, "gain": 0.1 * scale * s} for s in (5, 10)]

    fig = plots.beta_paths({0.1: [path(1), path(3)], 1.0: [path(0.5), path(0.5)]}, title="Found",
                           yardsticks={"best-of-n": [{"kl": 0, "gain": 0}, {"kl": 2, "gain": 1}]})  # fmt: skip
    left, right = fig.axes
    bold = [line for line in left.get_lines() if line.get_label().startswith("β")]
    assert [line.get_label() for line in bold] == ["β 0.1", "β 1"] and fig.get_suptitle() == "Found"
    assert bold[0].get_xdata().tolist() == [10, 20] and np.allclose(bold[0].get_ydata(), [1, 2])
    mean = next(line for line in right.get_lines() if line.get_label() == "β 0.1")
    assert mean.get_xdata().tolist() == [5, 10] and mean.get_ydata().tolist() == [10, 20]
    assert len(left.get_lines()) == 2 * 3 + 2  # two seeds and a mean each; the yardstick; SFT's line


def test_frontier_panels_draw_every_run_and_mark_what_is_outside():
    ends = {"dpo": [(2.0, (1.0, 0.8, 1.2))], "sft": [(1.0, (0.2, 0.1, 0.3)), (40.0, (-3.0, -3.2, -2.8))]}
    ends["ppo"] = [(14.0, (2.6, 2.4, 2.8))]
    curves = {"dpo": {0: [(1.0, 0.5), (2.0, 1.0)]}, "sft": {0: [(1.0, 0.2)]}}
    fig = plots.frontier_panels(ends, curves, title="Found", columns=2, kl=10)
    assert titles(fig) == ["DPO", "SFT on chosen", "PPO"] and "95 %" in fig.get_supxlabel()
    marks = [(line.get_xdata()[0], line.get_marker()) for line in fig.axes[1].get_lines() if line.get_zorder() >= 4]
    assert (1.0, "o") in marks and (10, ">") in marks
    bars = [[bar.get_segments()[0][:, 1].tolist() for bar in axes.collections] for axes in fig.axes[1:3]]
    assert bars == [[[0.1, 0.3]], [pytest.approx([2.4, 2.8])]]  # no bar far below; a run beyond in KL keeps its own
    assert fig.axes[0].get_ylim()[1] > 2.8


def test_gains_at_kl_say_by_colour_and_marker_what_holm_allows():
    found = {("a", 2): ("differs", 0.2), ("b", 2): ("differs", -0.2), ("a", 5): ("the same", 0.1),
             ("c", 5): ("the forms disagree", 0.3)}  # fmt: skip
    rows = {
        key: SimpleNamespace(
            says=says, at=SimpleNamespace(square_root=SimpleNamespace(value=x, low=x - 0.1, high=x + 0.1))
        )
        for key, (says, x) in found.items()
    }
    fig = plots.gains_at_kl(rows, margin=0.15, title="Found", label="gain")
    assert titles(fig) == ["at 2 nats", "at 5 nats"]
    assert [tick.get_text() for tick in fig.axes[0].get_yticklabels()] == ["a", "b", "c"]
    points = [[(line.get_marker(), line.get_color()) for line in axes.get_lines() if line.get_marker() in "oXD"]
              for axes in fig.axes]  # fmt: skip
    assert points == [[("o", style.BLUE), ("X", style.ORANGE)], [("D", style.INK), ("o", style.GREY)]]
    assert [[text.get_text() for text in axes.texts] for axes in fig.axes] == [["none"], ["none"]]  # c, then b
    assert all(words in fig.get_supxlabel() for words in ("blue: above", "orange: below", "grey: not told apart"))
    assert fig.axes[0].get_ylim() == (2.5, -0.5)  # no row at an edge
    few = plots.gains_at_kl({("a", 2): rows["a", 2]}, margin=0.15, title="Found", label="gain")
    assert few.get_supxlabel() == "gain\n95 % intervals · blue: above"  # no colour and no "none" that is not there


def test_kl_against_beta_draws_curves_in_the_order_of_beta_with_their_intervals():
    panels = {
        "table": {"π*": {1.0: (0.2, 0.2, 0.2), 0.1: (2.0, 2.0, 2.0)}},
        "runs": {"10 steps": {0.1: (1.0, 0.5, 2.0), 1.0: (1.0, 0.9, 1.1)}, "120 steps": {0.1: (9.0, 5.0, 12.0)}},
    }
    fig = plots.kl_against_beta(panels, title="Found")
    assert titles(fig) == ["table", "runs"] and fig.get_suptitle() == "Found"
    left, right = fig.axes
    assert left.get_lines()[0].get_xdata().tolist() == [0.1, 1.0]
    assert left.get_lines()[0].get_ydata().tolist() == [2.0, 0.2]
    assert {left.get_xscale(), left.get_yscale(), right.get_xscale(), right.get_yscale()} == {"log"}
    assert [line.get_label() for line in right.get_lines()] == ["10 steps", "120 steps"]
    band = right.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.5, 2.0)


@pytest.mark.parametrize(("kl", "cut"), [(None, False), (30, False), (9, True)])
def test_a_marker_at_the_edge_is_whole_and_a_path_beyond_it_is_cut(kl, cut):
    path = [[{"step": 1, "kl": 0.0, "gain": 0.0}, {"step": 2, "kl": 25.0, "gain": 0.2}]]
    for axes in plots.beta_paths({0.1: path}, title="Found", kl=kl).axes:
        [bold] = [line for line in axes.get_lines() if line.get_marker() == "o"]
        assert bold.get_clip_on() == cut


def test_axes_of_kl_go_by_its_root_and_their_ticks_do_not_collide():
    path = [[{"step": 1, "kl": 0.0, "gain": 0.0}, {"step": 2, "kl": 25.0, "gain": 0.2}]]
    axes = plots.beta_paths({0.1: path}, title="Found").axes[0]
    at = axes.transData.transform([(kl, 0) for kl in (0, 1, 4, 25)])[:, 0]
    assert np.allclose(np.diff(at) / (at[-1] - at[0]), [0.2, 0.2, 0.6])
    ticks = axes.get_xticks()
    assert ticks[0] == 0 and np.diff(np.sqrt(ticks)).min() >= 0.075 * 5 and axes.get_xlim() == (0, 25)
