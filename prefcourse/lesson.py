"""What every notebook starts with: one quiet, seeded set-up, checks that print a verdict, and a few displays.

    from prefcourse.lesson import close, setup, show, show_samples, strip, within

    setup(seed=0)
    close("log Z, two ways", torch.logsumexp(r, -1), r.exp().sum(-1).log())
    within("gain in gold reward", gain, 1.0, 2.5)
    show(plots.training_curves(history), alt="Four panels: the loss falls from ln 2 ...")

What is printed is the same on every machine. Displays come as HTML that keeps its meaning without styles, and as text.
"""

import base64
import html
import io
import math
import os
import random
import re
from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
from IPython import get_ipython
from IPython.display import display
from matplotlib import pyplot as plt
from PIL import Image

from prefcourse import plots, streams
from prefcourse.finite import counted, number, whole
from prefcourse.world import current_world
from prefcourse.worlds.models import quiet
from prefcourse.worlds.world import WORLDS

STAGES = {
    "base": "base model",
    "sft": "SFT",
    "pairs": "preference pairs",
    "objective": "objective",
    "reward": "reward model",
    "rl": "policy gradient",
    "dpo": "DPO",
    "evaluate": "evaluation",
}
PIPELINE = "base → sft → pairs → objective → ( reward → rl | dpo ) → evaluate"
BUNDLED = WORLDS[0]  # whose numbers the lessons assert
NO_MATHS = "tex2jax_ignore mathjax_ignore"  # a dollar sign in a sample is a dollar sign
GREY = "rgba(128, 128, 128, 0.55)"
UNUSUAL = re.compile(r"\S{40}|[\u0590-\u08ff\u202a-\u202e\u2066-\u2069]")  # a word too long, letters from the right


# -------------------------------------------------------------------------------------------------- set-up


def setup(seed: int = 0) -> None:
    """Seed Python, NumPy and torch, silence the libraries, choose the figures' style, and say so in one line.

    On a GPU torch is asked for deterministic kernels where it has them; on a CPU they are deterministic already.
    Raises ValueError for a seed that is no whole number of 32 bits.
    """
    seed = whole("seed", seed, 0, 2**32 - 1)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # seeds the GPU as well
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    quiet()
    plots.use_style()
    _say(f"prefcourse ready · device {device} · seed {seed}")


# -------------------------------------------------------------------------------------------------- checks


def close(name: str, lhs, rhs, tol: float = 1e-10) -> None:
    """Assert that both sides agree to `tol` (absolute) in every element, and print one line.

    Each side is a number, an array or a tensor. Shapes must be equal: nothing is broadcast, because a broadcast hides
    the mistake that a check is there to find. Equal infinities agree, nan agrees with nothing, and a complex number has
    no place here. Raises AssertionError with the largest difference and where it is, ValueError for what is no number.
    """
    tol = number("tol", tol, least=0)
    left, right = _tensor(name, lhs), _tensor(name, rhs)
    if left.shape != right.shape:
        raise AssertionError(
            f"✗ {name}: the shapes differ, left {tuple(left.shape)} and right {tuple(right.shape)}. "
            "Reduce or expand one side on purpose."
        )
    difference = torch.where(left == right, 0.0, (left - right).abs())  # equal infinities differ by nothing
    if left.numel() == 0:
        raise AssertionError(f"✗ {name}: both sides are empty, there is nothing to compare")
    if not bool((difference <= tol).all()):  # also when it is nan
        worst = int(difference.nan_to_num(nan=math.inf).argmax())
        where = f" at {tuple(int(i) for i in np.unravel_index(worst, left.shape))}" if left.ndim else ""
        raise AssertionError(
            f"✗ {name}: left {left.flatten()[worst]:.10g}, right {right.flatten()[worst]:.10g}{where}, "
            f"difference {difference.flatten()[worst]:.3g} where {tol:.0e} is allowed"
        )
    if left.numel() == 1:
        sides = f"{_digits(left.item(), tol)} = {_digits(right.item(), tol)}"
    else:
        sides = f"all {' × '.join(map(str, left.shape))} numbers agree"
    _say(f"✓ {name}: {sides} (max difference below {tol:.0e})")


def within(name: str, value, low: float, high: float) -> None:
    """Assert `low <= value <= high` and print the verdict with the band, without the value: its digits vary.

    For numbers that come out of training or sampling. `value` is a number or anything with a `.value`, such as an
    Estimate. Raises AssertionError with the value. The bands are those of the bundled world: in another one the value
    is shown beside the band, and nothing is asserted. nan lies in no band. Raises ValueError for what is no number.
    """
    value, low, high = _number(name, getattr(value, "value", value)), _number("low", low), _number("high", high)
    if (world := current_world()) != BUNDLED:
        _say(f"○ {name}: {value:.4g} in {world} ({low:g} to {high:g} in {BUNDLED})")
        return
    if not low <= value <= high:
        raise AssertionError(f"✗ {name}: {value:.6g} lies outside {low:g} to {high:g}")
    _say(f"✓ {name}: between {low:g} and {high:g}")


def check(name: str, condition) -> None:
    """Assert `condition` (a bool, or a tensor of which all elements must be true) and print the verdict.

    What a lesson found in the bundled world need not hold in another one: there it is shown, and not asserted. Nothing
    holds of no elements at all. Raises ValueError for a number or a text, which would count as true.
    """
    try:
        condition = torch.as_tensor(condition)
    except (TypeError, ValueError, RuntimeError):
        condition = torch.zeros(())
    if condition.numel() and condition.dtype != torch.bool:
        raise ValueError(f"{name}: give a comparison, True or False, or a tensor or list of them")
    holds = condition.numel() > 0 and bool(condition.all())
    if not holds and (world := current_world()) != BUNDLED:
        _say(f"○ {name}: not so in {world}, only in {BUNDLED}")
        return
    if not holds:
        raise AssertionError(f"✗ {name}: this does not hold")
    _say(f"✓ {name}")


def _say(line: str) -> None:
    """Print a line, also where the output has no ✓ or ○: in plain Python on Windows, written to a file."""
    streams.tolerate()
    print(line)


def _tensor(name: str, side) -> torch.Tensor:
    """A side of `close` as float64. Raises ValueError for text, complex numbers and what else is no real number."""
    try:
        known = isinstance(side, torch.Tensor | np.ndarray | np.generic)
        side = torch.as_tensor(side) if known else torch.as_tensor(side, dtype=torch.float64)  # not through float32
        if not side.is_complex():
            return side.detach().cpu().double().to_dense()  # in this order: Apple's GPU has no float64
    except (TypeError, ValueError, RuntimeError):
        pass
    raise ValueError(f"{name}: a side is no real number, array or tensor of such numbers")


def _number(name: str, value) -> float:
    """A number, infinite or nan too, from whatever holds exactly one. Raises ValueError."""
    found = _tensor(name, value)
    if found.numel() != 1:
        raise ValueError(f"{name}: one number is needed, got shape {tuple(found.shape)}")
    return found.item()


def _digits(value: float, tol: float) -> str:
    """`value` with as many decimals as `tol` makes sure of, at most six, and never minus zero."""
    decimals = max(0, min(6, math.floor(-math.log10(tol)) - 1)) if tol > 0 else 6
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text


# -------------------------------------------------------------------------------------------------- displays


def show(fig, alt: str) -> None:
    """Display a figure with a text that says what it shows, then close it.

    The text goes where notebook tools look for it (the output's metadata, `image/png`, `alt`) and is the output's plain
    text too. The picture is drawn at twice the resolution and shown at its own size, so it is sharp on every screen.
    """
    if len(alt.split()) < 5:
        raise ValueError(f"alt text says in a sentence what the figure shows, not only {alt!r}")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=2 * fig.dpi, metadata={"Software": None})
    picture = Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)  # a palette of 256 colours: a third of the size, no visible loss
    width, height = (round(inches * fig.dpi) for inches in fig.get_size_inches())
    plt.close(fig)
    png = base64.b64encode(buffer.getvalue()).decode()
    look = dict(alt=alt, width=width, height=height)
    _display({"image/png": png, "text/plain": f"[figure: {alt}]"}, {"image/png": look})


def show_samples(prompts: Sequence[str], **columns: Sequence) -> None:
    """Completions of the same prompts side by side, one column per keyword: `show_samples(prompts, before=a, after=b)`.

    A column holds one text (or Completion) per prompt, or one number per prompt. The prompt is grey, what the model
    wrote is not. An underscore in a column's name shows as a space.
    """
    for name, values in columns.items():
        if len(values) != len(prompts):
            had = f"{counted(len(values), 'entry', 'entries')} for {counted(len(prompts), 'prompt')}"
            raise ValueError(f"column {name!r} has {had}")
    titles = [name.replace("_", " ") for name in columns]
    left, plain, body = "text-align: left; vertical-align: top;", [], []
    for prompt, *values in zip(prompts, *columns.values(), strict=True):
        plain.append(f"{prompt} …")
        cells = []
        for title, value in zip(titles, values, strict=True):
            value = value.item() if isinstance(value, torch.Tensor) else value
            if isinstance(value, Real):
                plain.append(f"  {title:<{max(map(len, titles))}} | {value:+.2f}")
                cells.append(f'<td style="text-align: right; vertical-align: top;">{value:+.2f}</td>')
                continue
            text = getattr(value, "text", value)
            plain.append(f"  {title:<{max(map(len, titles))}} | …{text}")
            odd = " overflow-wrap: anywhere; unicode-bidi: plaintext;" if UNUSUAL.search(prompt + text) else ""
            cells.append(
                f'<td style="{left} max-width: 28em; white-space: normal;{odd}">'
                f'<span style="opacity: 0.55;">{_escape(prompt)}</span>'
                f'<b style="font-weight: normal;">{_escape(text)}</b></td>'
            )
        body.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f'<th style="{left}">{html.escape(title)}</th>' for title in titles)
    rows = "".join(body)
    table = f'<table class="{NO_MATHS}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    _display({"text/html": table, "text/plain": "\n".join(plain)})


def masked(tokens: Sequence[str], mask: Sequence[bool]) -> None:
    """Tokens in a row: those that the loss scores (mask true) are blue and bold, the others grey and hatched.

    Spaces show as `␣` and line breaks as `↵`, so that a token's edges are seen.
    Plain text puts [ ] around scored tokens.
    """
    scored = [bool(m) for m in mask]
    if len(tokens) != len(scored):
        raise ValueError(f"{counted(len(tokens), 'token')} and a mask of {len(scored)}")
    names = [token.replace(" ", "␣").replace("\n", "↵") for token in tokens]
    box = "padding: 2px 3px; margin: 1px; border-radius: 3px; font-family: monospace; white-space: pre;"
    hatch = f"repeating-linear-gradient(45deg, transparent 0px, transparent 4px, {GREY} 4px, {GREY} 5px)"
    styles = {
        True: f"{box} border: 1px solid {plots.BLUE}; background-color: {plots.BLUE}38;",  # 38: an opacity of 0.22
        False: f"{box} border: 1px dashed {GREY}; background-image: {hatch}; opacity: 0.7;",
    }
    tags = {True: "b", False: "span"}
    line = " ".join(
        f'<{tags[s]} style="{styles[s]}">{html.escape(name)}</{tags[s]}>' for name, s in zip(names, scored, strict=True)
    )
    legend = '<small style="opacity: 0.7;">bold in blue: scored by the loss · grey and hatched: not scored</small>'
    plain = " ".join(f"[{name}]" if s else name for name, s in zip(names, scored, strict=True))
    _display(
        {"text/html": f'<div class="{NO_MATHS}" style="line-height: 2.2;">{line}</div>{legend}', "text/plain": plain}
    )


def strip(*stages: str) -> None:
    """Where we are: the pipeline in one line with the current box lit, `strip("dpo")` or `strip("reward", "rl")`."""
    for stage in stages:
        if stage not in STAGES:
            raise ValueError(f"no stage {stage!r} in the pipeline; there are {', '.join(STAGES)}")
    box = "padding: 3px 9px; margin: 0 2px; border-radius: 5px; white-space: nowrap;"
    lit, unlit = (
        f"{box} background-color: {plots.BLUE}; color: #FFFFFF;",
        f"{box} border: 1px solid {GREY}; opacity: 0.8;",
    )
    words, plain = [], []
    for word in PIPELINE.split():
        if word not in STAGES:
            words.append(f'<span style="opacity: 0.6;">{word}</span>')
            plain.append(word)
        elif word in stages:
            words.append(f'<b style="{lit}">{STAGES[word]}</b>')
            plain.append(f"[{STAGES[word]}]")
        else:
            words.append(f'<span style="{unlit}">{STAGES[word]}</span>')
            plain.append(STAGES[word])
    _display({"text/html": f'<div style="line-height: 2.4;">{" ".join(words)}</div>', "text/plain": " ".join(plain)})


def _escape(text: str) -> str:
    """HTML that shows `text` as it is, line breaks kept."""
    return html.escape(text).replace("\n", "<br>")


def _display(data: dict[str, str], metadata: dict | None = None) -> None:
    """Display in a notebook; print the plain text anywhere else."""
    if get_ipython() is None:
        _say(data["text/plain"])
    else:
        display(data, raw=True, metadata=metadata)
