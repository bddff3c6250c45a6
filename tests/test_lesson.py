"""Checks that print and refuse what they should, and displays that say the same in HTML and in plain text."""

import base64
import io
import math
import random
import re
from dataclasses import dataclass
from html.parser import HTMLParser

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from prefcourse import lesson, plots, world
from prefcourse.lesson import check, close, masked, setup, show, show_samples, strip, within


@pytest.fixture
def displayed(monkeypatch):
    """What the displays hand to a notebook: a list of (data, metadata)."""
    found = []
    monkeypatch.setattr(lesson, "get_ipython", lambda: object())
    monkeypatch.setattr(lesson, "display", lambda data, raw, metadata: found.append((data, metadata)))
    return found


class Balanced(HTMLParser):
    """Collects the words of some HTML and fails on tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words = [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


# ---------------------------------------------------------------------------------------------- setup


def test_setup_prints_one_line_and_seeds_all_three_generators(capsys):
    draws = []
    for _ in range(2):
        setup(seed=7)
        draws.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert draws[0] == draws[1]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    said = capsys.readouterr()
    assert said.out == f"prefcourse ready · device {device} · seed 7\n" * 2
    assert said.err == ""


def test_setup_silences_transformers_but_not_the_readers_own_warnings(capsys):
    from transformers.utils import logging

    setup()
    assert logging.get_verbosity() == logging.ERROR
    with pytest.warns(UserWarning, match="mine"):
        import warnings

        warnings.warn("mine", stacklevel=1)


# ---------------------------------------------------------------------------------------------- close


@pytest.mark.parametrize(
    ("lhs", "rhs", "tol", "line"),
    [
        (
            math.log(2),
            torch.tensor(2.0, dtype=torch.float64).log(),
            1e-10,
            "0.693147 = 0.693147 (max difference below 1e-10)",
        ),
        (1.0, 1.0 + 1e-12, 1e-10, "1.000000 = 1.000000 (max difference below 1e-10)"),
        (-1e-13, 0.0, 1e-10, "0.000000 = 0.000000 (max difference below 1e-10)"),
        (0.12345, 0.12344, 1e-3, "0.12 = 0.12 (max difference below 1e-03)"),
        (3, 3, 0.5, "3 = 3 (max difference below 5e-01)"),
        (np.float32(2.5), 2.5, 1e-6, "2.50000 = 2.50000 (max difference below 1e-06)"),
        (math.inf, math.inf, 1e-10, "inf = inf (max difference below 1e-10)"),
        (torch.ones(2, 3), np.ones((2, 3)), 1e-10, "all 2 × 3 numbers agree (max difference below 1e-10)"),
        (torch.ones(4, requires_grad=True), [1.0, 1, 1, 1], 1e-10, "all 4 numbers agree (max difference below 1e-10)"),
        (torch.ones(1, dtype=torch.bfloat16), torch.ones(1), 1e-2, "1.0 = 1.0 (max difference below 1e-02)"),
    ],
)
def test_close_prints_one_line(capsys, lhs, rhs, tol, line):
    close("both sides", lhs, rhs, tol)
    assert capsys.readouterr().out == f"✓ both sides: {line}\n"


@pytest.mark.parametrize(
    ("lhs", "rhs", "complaint"),
    [
        (1.0, 1.0 + 1e-9, r"left 1, right 1\.000000001, difference 1e-09 where 1e-10 is allowed"),
        (torch.zeros(2, 2), torch.tensor([[0.0, 0], [3, 0]]), r"right 3 at \(1, 0\), difference 3"),
        (math.nan, math.nan, "left nan, right nan"),
        (torch.tensor([1.0, math.nan]), torch.tensor([5.0, 1]), r"left nan, right 1 at \(1,\)"),
        (math.inf, -math.inf, "difference inf"),
        (torch.ones(3), 1.0, r"shapes differ, left \(3,\) and right \(\)"),
        (torch.ones(3, 1), torch.ones(1, 3), r"left \(3, 1\) and right \(1, 3\)"),
        (torch.ones(0), torch.ones(0), "nothing to compare"),
    ],
)
def test_close_refuses(capsys, lhs, rhs, complaint):
    with pytest.raises(AssertionError, match=complaint) as raised:
        close("both sides", lhs, rhs)
    assert str(raised.value).startswith("✗ both sides: ")
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------------------------------------- within, check


@dataclass
class Estimate:
    value: float


@pytest.mark.parametrize("value", [1.0, 2.5, torch.tensor(1.75), np.float32(2), Estimate(1.3)])
def test_within_prints_the_band_and_not_the_value(capsys, value):
    within("gain", value, 1.0, 2.5)
    assert capsys.readouterr().out == "✓ gain: between 1 and 2.5\n"


@pytest.mark.parametrize("value", [0.999, 2.51, math.nan, math.inf])
def test_within_refuses(value):
    with pytest.raises(AssertionError, match=r"✗ gain: .* lies outside 1 to 2.5"):
        within("gain", value, 1.0, 2.5)


def test_check(capsys):
    check("all ids are tokens", torch.tensor([True, True]))
    check("it stops", True)
    assert capsys.readouterr().out == "✓ all ids are tokens\n✓ it stops\n"
    with pytest.raises(AssertionError, match="✗ all ids are tokens"):
        check("all ids are tokens", torch.tensor([True, False]))


# ---------------------------------------------------------------------------------------------- displays


def test_another_world_is_shown_and_not_measured_by_the_bundled_one(capsys, monkeypatch):
    monkeypatch.setattr(world, "_current", "gpt2-imdb")
    within("gain", 3.14159, 1.0, 2.5)
    check("the gain is large", False)
    check("the gain is positive", True)
    assert capsys.readouterr().out.splitlines() == [
        "○ gain: 3.142 in gpt2-imdb (1 to 2.5 in tiny-reviews)",
        "○ the gain is large: not so in gpt2-imdb, only in tiny-reviews",
        "✓ the gain is positive",
    ]
    with pytest.raises(AssertionError, match="gain by hand"):  # two ways to one number agree in every world
        close("gain by hand", 1.0, 1.1)


def test_show_carries_the_alt_text_and_closes_the_figure(displayed):
    fig, _ = plt.subplots(figsize=(4, 3), dpi=100)
    show(fig, alt="An empty pair of axes & nothing else")
    [(data, metadata)] = displayed
    assert data["text/plain"] == "[figure: An empty pair of axes & nothing else]"
    assert metadata == {"image/png": {"alt": "An empty pair of axes & nothing else", "width": 400, "height": 300}}
    png = base64.b64decode(data["image/png"])
    assert matplotlib.image.imread(io.BytesIO(png)).shape[:2] == (600, 800)  # twice as many pixels: sharp
    assert not plt.fignum_exists(fig.number)


def test_show_gives_the_same_bytes_twice(displayed):
    for _ in range(2):
        show(plt.figure(), alt="nothing, drawn for the second time")
    assert displayed[0] == displayed[1]


def test_show_refuses_a_label_for_an_alt_text():
    with pytest.raises(ValueError, match="alt text"):
        show(plt.figure(), alt="loss curve")
    plt.close("all")


@dataclass
class Completion:
    text: str


def test_show_samples_in_html_and_in_plain_text(displayed):
    show_samples(
        ["This film", "I <b>think"],
        before=[" was dull.", " it\nends."],
        gold_before=torch.tensor([-1.25, 0.5]),
        after=[Completion(" was a joy & more."), Completion("")],
    )
    [(data, _)] = displayed
    assert data["text/plain"].splitlines() == [
        "This film …",
        "  before      | … was dull.",
        "  gold before | -1.25",
        "  after       | … was a joy & more.",
        "I <b>think …",
        "  before      | … it",
        "ends.",
        "  gold before | +0.50",
        "  after       | …",
    ]
    table = data["text/html"]
    assert "I &lt;b&gt;think" in table and "was a joy &amp; more." in table and " it<br>ends." in table
    assert Balanced(table).words.startswith("beforegold beforeafterThis film was dull.-1.25This film was a joy & more.")
    assert table.count("<tr>") == 3 and table.count("<td") == 6


@pytest.mark.parametrize("odd", ["https://example.org/" + "a" * 40, "أهلا", "\u202eabc"])
def test_show_samples_keeps_long_words_and_directions_within_their_cell(displayed, odd):
    show_samples(["See", "See"], said=[odd, "short"])
    cells = re.findall(r"<td style=\"([^\"]*)\"", displayed[0][0]["text/html"])
    assert ["overflow-wrap: anywhere; unicode-bidi: plaintext" in style for style in cells] == [True, False]


def test_show_samples_refuses_columns_of_another_length():
    with pytest.raises(ValueError, match="'after' has 1 entry for 2 prompts"):
        show_samples(["a", "b"], before=["c", "d"], after=["e"])


def test_masked_marks_what_the_loss_scores(displayed):
    masked(["The", " film", " <was>", "\n"], torch.tensor([False, False, True, True]))
    [(data, _)] = displayed
    assert data["text/plain"] == "The ␣film [␣<was>] [↵]"
    assert re.findall(r"<b [^>]*>([^<]*)</b>", data["text/html"]) == ["␣&lt;was&gt;", "↵"]
    assert re.findall(r"<span [^>]*>([^<]*)</span>", data["text/html"]) == ["The", "␣film"]
    Balanced(data["text/html"])
    assert set(re.findall(r"#[0-9A-Fa-f]{6}", data["text/html"])) == {plots.BLUE}
    with pytest.raises(ValueError, match="2 tokens and a mask of 1"):
        masked(["a", "b"], [True])


def test_strip_lights_the_current_box(displayed):
    strip("dpo")
    strip("reward", "rl")
    plain = "base model → SFT → preference pairs → objective → ( reward model → policy gradient | [DPO] ) → evaluation"
    assert displayed[0][0]["text/plain"] == plain
    assert "[reward model] → [policy gradient] | DPO" in displayed[1][0]["text/plain"]
    assert re.findall(r"<b [^>]*>([^<]*)</b>", displayed[0][0]["text/html"]) == ["DPO"]
    for data, _ in displayed:
        assert Balanced(data["text/html"]).words == data["text/plain"].replace("[", "").replace("]", "")
        assert set(re.findall(r"#[0-9A-Fa-f]{6}", data["text/html"])) == {plots.BLUE, "#FFFFFF"}
    with pytest.raises(ValueError, match="no stage 'ppo'"):
        strip("ppo")


def test_displays_print_plain_text_outside_a_notebook(capsys):
    strip("base")
    show_samples(["A"], after=[" b"])
    show(plt.figure(), alt="a figure that a script has drawn")
    assert capsys.readouterr().out == (
        "[base model] → SFT → preference pairs → objective → ( reward model → policy gradient | DPO ) → evaluation\n"
        "A …\n  after | … b\n[figure: a figure that a script has drawn]\n"
    )


# ------------------------------------------------------------------------------------------------ what is no number


@pytest.mark.parametrize(
    "sides", [(0.0, math.inf), (math.inf, -math.inf), (math.nan, math.nan), ([1.0, math.inf], [1.0, 0.0])]
)
def test_close_never_takes_infinity_or_nan_for_a_number(sides):
    with pytest.raises(AssertionError, match="✗ x: left"):
        close("x", *sides)


@pytest.mark.parametrize(
    "side", [3 + 5j, np.array([3 + 5j]), np.complex128(3), torch.tensor(3 + 5j), "3", None, [3, "a"], [[1], [1, 2]],
             torch.ones((), device="meta"), np.array(["3"])], ids=str)  # fmt: skip
def test_close_and_within_refuse_what_is_no_real_number(side):
    for call in (lambda: close("x", side, 3.0), lambda: close("x", 3.0, side), lambda: within("x", side, 0, 9)):
        with pytest.raises(ValueError, match=r"^x: a side is no real number"):
            call()


def test_a_tolerance_and_a_band_are_numbers():
    for tol in (math.nan, math.inf, -1.0, "small", None):
        with pytest.raises(ValueError, match="tol is"):
            close("x", 1.0, 2.0, tol)
    with pytest.raises(AssertionError, match="nan lies outside"):
        within("x", math.nan, -math.inf, math.inf)
    with pytest.raises(AssertionError):
        within("x", 1.0, math.nan, 2.0)
    with pytest.raises(ValueError, match="one number is needed"):
        within("x", [1.0, 2.0], 0, 3)


def test_check_wants_truth_values_and_at_least_one():
    for wrong in (math.nan, 1.0, "yes", None, torch.ones(2), [1, 0]):
        with pytest.raises(ValueError, match="x: give a comparison"):
            check("x", wrong)
    for false in ([], torch.zeros(0, dtype=torch.bool), [True, False], torch.tensor([math.nan]) > 0):
        with pytest.raises(AssertionError, match="does not hold"):
            check("x", false)
    check("x", np.bool_(True)), check("x", [True, True]), check("x", torch.ones(2) > 0)


def test_a_seed_is_a_whole_number():
    for seed in (-1, 0.5, math.nan, "0", 2**32):
        with pytest.raises(ValueError, match="seed is"):
            setup(seed)
