"""Widgets: figures that are sharp and have a text, legends off the data, idle controls switched off, equal bars."""

import base64
import html
import io
import json
import re
from pathlib import Path

import ipywidgets
import matplotlib.image
import pytest
from matplotlib import pyplot as plt

from prefcourse import checks, plots, widgets
from prefcourse.checks import progress as kept
from prefcourse.widgets import _plain, explore, log_slider, progress, slider, step_through


@pytest.fixture
def shown(monkeypatch):
    """The HTML of the pictures that a widget shows, in order."""
    found = []
    monkeypatch.setattr(widgets, "display", lambda what: found.append(what.data))
    return found


def draw(height=1.0, kind="a"):
    plots.use_style()
    figure, axes = plt.subplots(figsize=(5, 3))
    axes.plot([0, 1], [0, height], label="a curve that may be anywhere")
    axes.plot([0, 1], [height, 0], label="another")
    axes.set(xlabel="steps", ylabel="nats", title="Two <lines> cross")
    axes.legend(loc="upper left", frameon=True)
    return figure


def test_an_alt_text_has_letters_where_the_figure_has_formulas():
    drawn = r"$\pi^*(y \mid x)$; KL$(\pi\,\|\,\pi_{\mathrm{ref}})$ against $\beta$"
    assert _plain(drawn) == "π*(y | x); KL(π‖π ref) against β"


def test_a_widget_is_as_sharp_as_its_static_twin_and_says_what_it_shows(shown):
    explore(draw, height=slider("how high", 1.0, 0, 2), kind=ipywidgets.Dropdown(options=["a", "b"], description="of"))
    [picture] = shown
    alt = html.unescape(re.search(r'alt="([^"]*)"', picture)[1])
    assert alt == "For how high 1, of a: Two <lines> cross; nats against steps"
    width = int(re.search(r'width="(\d+)"', picture)[1])
    png = base64.b64decode(re.search(r"base64,([^\"]*)", picture)[1])
    assert matplotlib.image.imread(io.BytesIO(png)).shape[1] == 2 * width == 1100
    assert plt.get_fignums() == []


def test_a_legend_leaves_the_data(shown):
    figure = draw()
    widgets._legends_aside(figure)
    figure.draw_without_rendering()
    [axes] = figure.axes
    legend = axes.get_legend().get_window_extent()
    assert not legend.overlaps(axes.get_window_extent()) and not legend.overlaps(axes.xaxis.get_tightbbox())
    assert legend.y0 >= 0 and legend.x0 >= 0 and legend.x1 <= figure.bbox.width
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a curve that may be anywhere", "another"]
    before = figure.get_figheight()
    widgets._legends_aside(figure)  # one that stands outside stays
    assert figure.get_figheight() == before


def test_a_control_without_an_effect_is_switched_off(shown):
    height, kind = slider("how high", 1.0, 0, 2), ipywidgets.Dropdown(options=["a", "b"], description="of")
    explore(draw, idle=lambda height, kind: ["height"] if kind == "a" else [], height=height, kind=kind)
    assert height.disabled and not kind.disabled
    kind.value = "b"
    assert not height.disabled and len(shown) == 2


def test_whole_numbers_have_no_decimals():
    assert slider("annotators", 9, 1, 25, 2).readout_format == ".0f"
    assert slider("β", 0.5, 0, 1).readout_format == slider("r", 1.0, -1.5, 3, 1).readout_format == ".2f"
    assert log_slider("β", 1, 0.1, 10).readout_format == ".3g"


def words(box):
    found = [box.value] if isinstance(box, ipywidgets.HTML) else []
    return found + [text for child in getattr(box, "children", ()) for text in words(child)]


def test_a_widget_says_what_to_do_after_a_restart(shown):
    assert any("After a restart of the kernel, run all cells again" in text for text in words(explore(draw)))


def test_the_samples_of_both_steps_have_their_rewards(monkeypatch, shown):
    from prefcourse.generate import Completion
    from prefcourse.rewards import GoldReward

    tables = []
    monkeypatch.setattr(widgets, "show_samples", lambda prompts, **columns: tables.append(columns))
    samples = {0: [Completion(" bad.", [1], True)], 50: [Completion(" good.", [1], True)]}
    box = step_through({}, samples, ["A film"], None, GoldReward({"good": 1.0, "bad": -1.0}))
    rewards = {name: values for name, values in tables[0].items() if name.startswith("gold")}
    assert list(tables[0]) == ["step_0", "gold_reward_at_0", "step_50", "gold_reward_at_50"]
    assert rewards["gold_reward_at_0"][0] < rewards["gold_reward_at_50"][0] and len(shown) == 1
    assert any("After a restart" in text for text in words(box))


def test_the_bars_of_progress_are_of_one_length(monkeypatch, tmp_path):
    monkeypatch.setenv("PREFCOURSE_PROGRESS", str(tmp_path / "progress.json"))
    rows = progress().children[0].children
    assert len(rows) > 10
    for row in rows:
        bar, text = row.children
        assert bar.layout.flex == "0 0 16em" and "white-space: normal" in text.value
        assert f">{kept.TITLES[bar.description]}: 0 of" in text.value


def test_progress_has_the_lessons_titles():
    assert [*kept.TITLES] == checks.NUMBERS
    for path in (Path(__file__).parents[1] / "notebooks").glob("*.ipynb"):
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]).splitlines()[0]
        assert first.startswith(f"# {path.name[:2]} · {kept.TITLES[path.name[:2]]}")
