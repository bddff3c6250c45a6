"""The explorable computes what prefcourse/tabular.py computes, to 1e-12, and says nothing that is not so.

Its pure functions run in node here, where there is one; tests/whole/test_explorable_in_browser.py opens its page.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from prefcourse import losses, tabular
from prefcourse.plots import style

PLACE = Path(__file__).resolve().parents[1] / "docs" / "_static"
SCRIPT, LOOKS = ((PLACE / f"explorable.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
NODE = shutil.which("node") or shutil.which("nodejs")
BETAS, STEPS = (0.1, 0.35, 1.0, 3.0, 10.0), 60

node = pytest.mark.skipif(not NODE, reason="no node here; the browser's test compares the numbers on the page")

PROGRAM = """
const here = require(process.argv[1]);
const cases = JSON.parse(require("fs").readFileSync(0, "utf-8"));
const answers = cases.map(({ reference, reward, beta, steps }) => {
  const path = here.dpoPath(reference, reward, beta, steps);
  const f = here.facts({ reference, reward, beta, steps });
  return {
    best: f.best, logZ: here.logZ(reference, reward, beta), path, kl: path.map((policy) => here.kl(policy, reference)),
    reward: path.map((policy) => here.expectedReward(policy, reward)),
    objective: path.map((policy) => here.objective(policy, reference, reward, beta)),
    loss: path.map((policy) => here.dpoLoss(policy, reference, reward, beta)), cost: f.cost, top: f.top, gap: f.gap,
    frontier: here.frontier(reference, reward), said: here.sentences(f),
  };
});
console.log(JSON.stringify({ answers, betas: here.BETAS, steps: here.STEPS, references: here.REFERENCES }));
"""


def ask(cases):
    """What the script answers to each case, and its ranges."""
    command = [NODE, "-e", PROGRAM, str(PLACE / "explorable.js")]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, encoding="utf-8", check=True)
    return json.loads(done.stdout)


def tables():
    """References and rewards, every one of the former with every one of the latter: two tables (X, 4)."""
    drawn = torch.Generator().manual_seed(0)
    references = [[0.4, 0.3, 0.2, 0.1], [0.25] * 4, [0.6, 0.3, 0.09, 0.01], [0.5, 0.3, 0.2, 0.0]]
    references += torch.rand(3, 4, generator=drawn, dtype=torch.float64).softmax(-1).tolist()
    rewards = [[-1.0, 0.0, 1.0, 2.0], [2.0, -2.0, -2.0, -2.0], [0.5, 0.5, -1.0, 0.5], [0.0, 0.0, 0.0, 0.0]]
    rewards += (4 * torch.rand(3, 4, generator=drawn, dtype=torch.float64) - 2).tolist()
    both = [(reference, reward) for reference in references for reward in rewards]
    return [torch.tensor(column, dtype=torch.float64) for column in zip(*both, strict=True)]


def asked(beta, steps=STEPS):
    """The tables, and what the script says of each of their rows."""
    reference, reward = tables()
    rows = zip(reference.tolist(), reward.tolist(), strict=True)
    cases = [{"reference": p, "reward": r, "beta": beta, "steps": steps} for p, r in rows]
    return reference, reward, ask(cases)["answers"]


def exact(values):
    return torch.tensor(values, dtype=torch.float64)


def column(answers, name):
    return exact([answer[name] for answer in answers])


def equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@node
@pytest.mark.parametrize("beta", BETAS)
def test_it_computes_what_the_table_computes(beta):
    reference, reward, answers = asked(beta)
    best = tabular.optimal_policy(reference, reward, beta)
    equal(column(answers, "best"), best)
    equal(column(answers, "logZ"), tabular.log_z(reference, reward, beta))
    equal(column(answers, "cost"), tabular.kl(best, reference))
    equal(column(answers, "top"), tabular.objective(best, reference, reward, beta))  # J* = β log Z


@node
@pytest.mark.parametrize("beta", BETAS)
def test_its_path_is_that_of_fit(beta):
    reference, reward, answers = asked(beta)
    preferences = tabular.bradley_terry(reward)
    path = tabular.fit(reference, preferences, "dpo", beta=beta, steps=STEPS, lr=1.5 / beta**2)  # (steps + 1, X, Y)
    equal(column(answers, "path"), path.transpose(0, 1))
    for name, of in (
        ("kl", lambda policy: tabular.kl(policy, reference)),
        ("reward", lambda policy: (policy * reward).sum(-1)),
        ("objective", lambda policy: tabular.objective(policy, reference, reward, beta)),
    ):
        equal(column(answers, name), torch.stack([of(policy) for policy in path], dim=-1))


@node
def test_the_margins_take_the_same_path_at_every_beta():
    """This is what its step size, 1.5/β², is for."""
    reference, _, first = asked(1.0, steps=10)
    alive = (reference > 0).all(-1)
    margins = []
    for beta, found in ((1.0, first), (0.1, asked(0.1, steps=10)[2]), (10.0, asked(10.0, steps=10)[2])):
        ratio = beta * (column(found, "path")[alive].log() - reference[alive].log()[:, None])  # (X, steps + 1, 4)
        margins.append(ratio - ratio[..., :1])
    torch.testing.assert_close(margins[1], margins[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(margins[2], margins[0], rtol=1e-9, atol=1e-9)


@node
@pytest.mark.parametrize("beta", BETAS)
def test_its_loss_is_ours_over_all_pairs(beta):
    reference, reward, answers = asked(beta, steps=3)
    loss = column(answers, "loss")  # (X, steps + 1)
    for row, (ref, r) in enumerate(zip(reference, reward, strict=True)):
        i, j = torch.tensor([(a, b) for a in range(4) for b in range(a) if ref[a] > 0 and ref[b] > 0]).T
        p = (r[i] - r[j]).sigmoid()
        for step, policy in enumerate(column(answers, "path")[row]):
            logps = policy.log(), ref.log()
            one = losses.dpo_loss(logps[0][i], logps[0][j], logps[1][i], logps[1][j], beta=beta)
            other = losses.dpo_loss(logps[0][j], logps[0][i], logps[1][j], logps[1][i], beta=beta)
            equal(loss[row, step], (p * one + (1 - p) * other).mean())


@node
def test_the_curve_holds_the_best_policies_and_no_step_of_dpo_is_above_it():
    reference, reward, answers = asked(1.0)
    for ref, r, answer in zip(reference, reward, answers, strict=True):
        curve = exact(answer["frontier"])  # (points, 2)
        for k in (1, 40, 80, 159):
            best = tabular.optimal_policy(ref[None], r[None], (160 - k) / k)
            equal(curve[k], torch.stack([tabular.kl(best, ref[None])[0], (best * r).sum()]))
        limit = tabular.optimal_policy(ref[None], r[None], 1e-3)
        torch.testing.assert_close(curve[-1], torch.stack([tabular.kl(limit, ref[None])[0], (limit * r).sum()]))
        assert bool((curve[1:, 0] - curve[:-1, 0] > -1e-12).all())
        for beta in (0.2, 1.0, 5.0):  # E[r] - β KL <= β log Z, whatever β
            top = beta * tabular.log_z(ref[None], r[None], beta)
            walked = exact(answer["reward"]) - beta * exact(answer["kl"])
            assert bool((walked <= top + 1e-9).all())


@node
def test_from_everywhere_that_the_sliders_reach_the_last_step_stands_on_the_optimum():
    ranges = ask([])
    extremes = [[2, -2, -2, -2], [2, 2, -2, -2], [2, 2, 2, -2], [-2, -1, 1, 2], [-2, 2, 2, 2], [0, 0, 0, 0]]
    cases = [
        {"reference": reference, "reward": reward, "beta": beta, "steps": ranges["steps"][-1]}
        for _, reference in ranges["references"] for reward in extremes
        for beta in (ranges["betas"][0], 1, ranges["betas"][-1])
    ]  # fmt: skip
    answers = ask(cases)["answers"]
    assert max(answer["gap"] for answer in answers) < 1e-6
    assert all("stands on π*" in answer["said"][-1] for answer in answers)


def number(text):
    return float(text.replace("−", "-"))


@node
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("steps", [0, 1, 60])
def test_every_sentence_is_true(beta, steps):
    reference, reward, answers = asked(beta, steps)
    best = tabular.optimal_policy(reference, reward, beta)
    for ref, r, star, answer in zip(reference, reward, best, answers, strict=True):
        said, alive = answer["said"], r[ref > 0]
        gap = (star - exact(answer["path"][-1])).abs().max().item()
        if alive.max() == alive.min():
            assert "nothing to buy" in said[0] and (star - ref).abs().max() < 1e-12
        else:
            cost, gain = tabular.kl(star[None], ref[None]).item(), ((star - ref) * r).sum().item()
            want = [beta, cost, gain, beta * cost, gain - beta * cost]
            found = re.findall(r"[−\d.]+\d|\d", said[0])
            assert [number(x) for x in found] == [pytest.approx(x, abs=5.1e-3) for x in want], said
            names = [name for name, d in zip(("dull", "fine", "good", "superb"), star - ref, strict=True)
                     if d > (star - ref).max() - 1e-9]  # fmt: skip
            assert re.findall("“(.*?)”", said[1]) == names
            of = (star - ref).argmax()
            shown = [number(x) for x in re.findall(r"([\d.]+) %", said[1])]
            assert shown == [pytest.approx(100 * p[of].item(), abs=0.0501) for p in (ref, star)]
        last = said[-1]
        if steps == 0:
            assert last == "DPO has not begun: it stands at π_ref."
        elif "stands on π*" in last:
            assert gap < 1e-6
        else:
            raised = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
            value = re.search(r"from π\* is (.*)\.$", last)[1].translate(raised).replace(" × 10", "e")
            assert float(value) == pytest.approx(gap, rel=6e-3)
        assert ("1 step " in last) == (steps == 1)


# ------------------------------------------------------------------------------------------ looks


def colours(scheme):
    """The named colours of the light (0) or dark (1) scheme."""
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", LOOKS)
    return {name: shades[scheme] for name, *shades in pairs}


def contrast(one, other):
    """WCAG 2's contrast of two colours, 1 to 21."""

    def luminance(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted([luminance(one), luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_marks_and_text_stand_out(scheme):
    found = colours(scheme)
    assert set(found) == {"surface", "text", "quiet", "grid", "reference", "best", "dpo", "frontier"}
    for name in ("reference", "best", "dpo", "frontier"):
        assert contrast(found[name], found["surface"]) >= 3, name
    for name in ("text", "quiet"):
        assert contrast(found[name], found["surface"]) >= 4.5, name
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)  # as others compute it


def test_the_colours_are_those_of_all_figures():
    light, dark = colours(0), colours(1)
    names = ("reference", "best", "dpo", "frontier", "text", "grid")
    ours = [getattr(style, name).lower() for name in ("GREY", "BLUE", "GREEN", "INK", "INK", "FAINT")]
    assert [light[name] for name in names] == ours
    ours = [getattr(style, name).lower() for name in ("GREY", "SKY", "GREEN", "FAINT", "FAINT")]
    assert [dark[name] for name in names[:-1]] == ours


def test_it_needs_nobody_else():
    assert re.findall(r"https?://[^\"' ]+", SCRIPT) == ["http://www.w3.org/2000/svg"]  # a name, not an address
    assert not re.search(r"\bimport\b|\brequire\(|\bfetch\(|XMLHttpRequest|innerHTML", SCRIPT)
    assert "@import" not in LOOKS and "url(" not in LOOKS
    assert "transition" not in LOOKS and "animation" not in LOOKS  # nothing moves unless the reader moves it
