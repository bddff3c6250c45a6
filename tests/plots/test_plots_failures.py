"""Figures of lesson 12: they draw every seed, their means are means, and titles follow from the numbers."""

import numpy as np
import pytest
from figures import titles

from prefcourse import plots

UP = [{"step": 0, "kl": 0.0, "gold": 0.0, "chosen": 0.0}, {"step": 25, "kl": 4.0, "gold": 1.0, "chosen": -2.0}]
MORE = [
    UP[0],
    {"step": 25, "kl": 8.0, "gold": 0.0, "chosen": -4.0},
    {"step": 50, "kl": 90.0, "gold": 9.0, "chosen": -9.0},
]


def drawn(axes):
    """label → (x, y) of the bold lines."""
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines() if line.get_label()[0] != "_"}


def test_bold_lines_are_the_mean_of_what_all_seeds_have():
    fig = plots.paths_by_step([("Found", "nats", "gold", {"dpo": [UP, MORE], "fix": [UP]})])
    assert titles(fig) == ["Found"] and fig.axes[0].get_ylabel() == "nats"
    assert fig.axes[0].get_xlabel() == "optimiser step"
    assert plots.paths_by_step([("A", "nats", "gold", {"dpo": [UP]})], step="batch").axes[0].get_xlabel() == "batch"
    assert drawn(fig.axes[0]) == {"DPO": [[0, 0], [25, 0.5]], "fix": [[0, 0], [25, 1.0]]}
    assert len(fig.axes[0].get_lines()) == 5  # three seeds, two means


def test_three_panels_make_two_rows_and_a_wide_range_is_logarithmic():
    panels = [("A", "nats", "kl", {"dpo": [MORE]}), ("B", "", "gold", {"dpo": [UP]}), ("C", "", "gold", {"dpo": [UP]})]
    fig = plots.paths_by_step(panels, logarithmic=["kl"])
    assert titles(fig) == ["A", "B", "C"]
    assert [axes.get_yscale() for axes in fig.axes] == ["symlog", "linear", "linear"]
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()][:3] == ["0", "1", "2"]
    assert 90 < fig.axes[0].get_ylim()[1] < 200  # just above the largest value: no empty decade


@pytest.mark.parametrize(("end", "verb"), [([0.1, 0.02, 0.88], "falls"), ([0.9, 0.05, 0.05], "rises")])
def test_displacement_says_where_the_chosen_token_went(end, verb):
    shares = [[0.4, 0.4, 0.2], [0.3, 0.2, 0.5], end]
    paths = {"dpo": [UP], "fix": [MORE]}
    fig = plots.displacement(shares, ["fine", "good", "awful"], paths, chosen=0, rejected=1, title="Found")
    assert titles(fig) == [f"Three tokens: chosen {verb} from 40% to {end[0]:.0%}", "Found"]
    assert drawn(fig.axes[1]) == {"DPO": [[0, 0], [25, -2]], "fix": [[0, 0], [25, -4], [50, -9]]}
    lines = drawn(fig.axes[0])
    assert [y for _, y in lines["awful (in no pair)"]] == [row[2] for row in shares]
    assert lines["fine (chosen)"][0][0] == 0 and lines["fine (chosen)"][-1][0] == pytest.approx(np.log(end[0] / end[1]))


def test_gold_has_its_peak_marked_and_gpt2_beside_it():
    fig = plots.proxy_and_gold([0, 1, 2.5], [0, 1, 2], [0, 0.7, 0.1], {"β = 0.1": [UP, MORE]}, title="Found")
    assert titles(fig) == ["Exact: gold peaks at 1.00 nats of KL", "Found"]
    assert drawn(fig.axes[0])["gold"] == [[0, 0], [1, 0.7], [2.5, 0.1]]
    assert drawn(fig.axes[1])["β = 0.1"] == [[0, 0], [6.0, 0.5]]


def test_prices_stand_beside_their_names_with_intervals_and_kinds_have_their_looks():
    rows = [("noise", "dpo", "failing run", (0.1, 0.0, 0.2), (4.0, 3.0, 5.0)),
            ("noise", "dpo, read once", "control", (0.3, 0.2, 0.4), (2.0, 1.0, 3.0)),
            ("rate", "lr × 10, clipped", "fix", (0.6, 0.5, 0.8), (80.0, 70.0, 90.0))]  # fmt: skip
    fig = plots.price_of_fixes(rows, title="Found")
    assert fig.get_suptitle() == "Found" and fig.get_supxlabel().endswith("over seeds, of gain over prompts too")
    names = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert names == ["noise: DPO", "noise: DPO, read once", "rate: lr × 10, clipped"]
    left = [bar.get_children()[0].get_xydata()[0] for bar in fig.axes[0].containers]
    assert [x for x, _ in left] == [0.1, 0.3, 0.6] and len(fig.axes[1].containers) == 3
    gaps = np.diff([y for _, y in left])
    assert gaps[1] > gaps[0]  # failures stand apart
    ends = [bar[2][0].get_segments()[0][:, 0].tolist() for bar in fig.axes[1].containers]
    assert ends == [[3.0, 5.0], [1.0, 3.0], [70.0, 90.0]]
    looks = [(bar[0].get_color(), bar[0].get_marker()) for bar in fig.axes[0].containers]
    legend = fig.axes[1].get_legend()
    said = [text.get_text() for text in legend.get_texts()]
    assert said == ["failing run", "fix", "control"] and len(set(looks)) == 3
    assert [line.get_color() for line in legend.get_lines()] == [looks[i][0] for i in (0, 2, 1)]
