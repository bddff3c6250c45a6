"""The palette holds for every eye: contrast on white, and colours told apart with and without colour vision."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from prefcourse import plots
from prefcourse.authoring import slides
from prefcourse.plots import style

ROOT = Path(__file__).resolve().parents[2]
PALETTE = {name: getattr(style, name) for name in ("BLUE", "AMBER", "GREEN", "PURPLE", "ORANGE", "SKY", "INK", "GREY")}
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear RGB
EYES = {  # linear RGB as seen: Machado, Oliveira, Fernandes (2009), severity 1.0; grey: luminance alone
    "normal": np.eye(3),
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "grey": np.tile(LUMINANCE, (3, 1)),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])


def linear(colour):
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear RGB."""
    t = XYZ @ rgb.clip(0, 1) / WHITE
    x, y, z = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def apart(a, b, eye):
    """ΔE (CIE 1976) of two colours as that eye sees them; about 2 is just seen."""
    return np.linalg.norm(lab(EYES[eye] @ linear(a)) - lab(EYES[eye] @ linear(b)))


def contrast(colour):
    """WCAG contrast on white, 1 to 21."""
    return 1.05 / (LUMINANCE @ linear(colour) + 0.05)


def test_the_measures_are_right_on_known_colours():
    assert contrast("black") == pytest.approx(21) and contrast("#767676") == pytest.approx(4.54, abs=0.01)
    assert apart("black", "white", "grey") == pytest.approx(100, abs=0.1)
    assert lab(linear("#FF0000")) == pytest.approx([53.2, 80.1, 67.2], abs=0.2)
    assert apart("#009E73", "#CC79A7", "deuteranope") < 19  # the green and pink that the palette began with before
    assert apart("#56B4E9", "#E69F00", "grey") < 1


@pytest.mark.parametrize("name", PALETTE)
def test_every_colour_stands_out_from_white(name):
    assert contrast(PALETTE[name]) >= 3


def test_the_steps_of_a_sweep_stand_out_too():
    path = [[{"step": 1, "kl": 1.0, "gain": 0.1}, {"step": 2, "kl": 2.0, "gain": 0.2}]]
    fig = plots.beta_paths({float(b): path for b in range(1, 9)}, title="Found")
    bold = [line for line in fig.axes[0].get_lines() if line.get_label().startswith("β")]
    assert len(bold) == 8 and all(contrast(line.get_color()[:3]) >= 3 for line in bold)


@pytest.mark.parametrize("eye", ["normal", "deuteranope", "protanope"])
def test_any_two_colours_are_told_apart(eye):
    close = {pair: apart(*(PALETTE[name] for name in pair), eye) for pair in combinations(PALETTE, 2)}
    assert min(close.values()) >= 14, min(close, key=close.get)


@pytest.mark.parametrize("eye", EYES)
def test_the_colours_that_come_first_are_far_apart_for_every_eye(eye):
    first = [colour for colour, _ in plots.METHODS[:5]]
    assert first[:2] == [style.BLUE, style.AMBER]
    assert apart(*first[:2], eye) >= 25
    assert min(apart(a, b, eye) for a, b in combinations(first, 2)) >= 6.5
    assert apart(style.CHOSEN["color"], style.REJECTED["color"], eye) >= 15


def test_colour_never_stands_alone():
    assert len({marker for _, marker in plots.METHODS}) == len(plots.METHODS)
    looks = [(colour, marker) for colour, marker, _ in style.LOOKS.values()]
    assert len(set(looks)) == len(looks)


def test_a_method_has_one_look_in_the_whole_course():
    for name in ("dpo", "DPO", "ipo", "RLOO", "best-of-n"):
        assert style.look_of(name) == style.look_of(name.lower(), turn=3) == style.LOOKS[name.lower()]
    assert style.look_of("dpo")[0] == style.BLUE
    tax = plots.price_by_third({"SFT on chosen": [(0, 1)], "DPO": [(1, 2)]}, {"DPO": [1, 1, 1]}, title="Found")
    assert any(line.get_color() == style.BLUE and line.get_label() == "DPO" for line in tax.axes[1].get_lines())
    fig = plots.paths_by_step([("t", "y", "kl", {"dpo": [[{"step": 0, "kl": 1.0}, {"step": 1, "kl": 2.0}]]})])
    assert {line.get_color() for line in fig.axes[0].get_lines()} == {style.BLUE}


def test_names_in_figures_are_those_of_the_text():
    written = {"dpo": "DPO", "cdpo": "cDPO", "orpo (from base)": "ORPO (from base)", "apo_zero": "APO-zero",
               "best-of-n (gold)": "best-of-n (gold)", "dpo_nll": "DPO + NLL", "hinge": "hinge", "β = 0.5": "β = 0.5",
               "lr × 10, stop at 5 nats": "lr × 10, stop at 5 nats"}  # fmt: skip
    assert {name: plots.title_of(name) for name in written} == written


@pytest.mark.parametrize("turn", range(12))
def test_what_has_no_name_takes_its_turn(turn):
    assert style.look_of("unheard of", turn)[:2] == plots.METHODS[turn % len(plots.METHODS)]


def test_displays_and_slides_have_the_blue_of_the_figures():
    """Stored ones, too: each lesson has the pipeline with its lit box, and no lesson has another blue there."""
    assert f"solid {style.BLUE};" in slides.CSS
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        lit = re.findall(r"background-color: (#[0-9A-Fa-f]{6});", path.read_text(encoding="utf-8"))
        assert set(lit) == {style.BLUE}, path.name
