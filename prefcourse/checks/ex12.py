"""Checks of exercise notebook 12: when it goes wrong. Exercise 1, how strong a fix must be, stands in `ex12_fixes`."""

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex12_fixes import EMBEDDING, REFERENCE, fixes
from prefcourse.checks.questions import choice

__all__ = ["fit_judge", "fixes", "logs", "proxy_doubled", "stop_step", "three_logs"]

# ---------------------------------------------------------------------------------------------- what a judge likes


def _judges(draw: torch.Generator) -> list[Case]:
    """Gaps chosen - rejected of pairs labelled by a judge with log-odds w Δr + c ΔL."""

    def judge(n: int, c: float, w: float, tie: float) -> Case:
        length = torch.randn(n, generator=draw, dtype=torch.float64).mul(5).round()
        reward = tie * length + torch.randn(n, generator=draw, dtype=torch.float64)
        first = torch.rand(n, generator=draw, dtype=torch.float64) < (w * reward + c * length).sigmoid()
        side = torch.where(first, 1.0, -1.0)
        return {"length_gaps": side * length, "reward_gaps": side * reward}

    signs = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    fixed = {
        "length_gaps": signs * torch.tensor([4.0, -2.0, 6.0, 3.0, -1.0, 5.0], dtype=torch.float64),
        "reward_gaps": signs * torch.tensor([0.5, 1.0, 1.5, -1.0, -2.0, 0.2], dtype=torch.float64),
    }
    return [fixed, judge(300, 0.2, 1.0, 0.0), judge(200, 0.1, 0.6, 0.1), judge(400, -0.1, 1.5, -0.1)]


def _newton(gaps: Tensor, steps: int = 30) -> Tensor:
    """The weights that make the labels likeliest, P(chosen) = σ(gaps · weights): (N, d) → (d,)."""
    weights = torch.zeros(gaps.shape[1], dtype=torch.float64)
    for _ in range(steps):
        p = (gaps @ weights).sigmoid()
        curvature = (gaps * (p * (1 - p))[:, None]).T @ gaps
        weights = weights + torch.linalg.solve(curvature, (1 - p) @ gaps)
    return weights


def _not_there(found, length_gaps, reward_gaps) -> str:
    """What the likelihood says about two numbers that are not its maximum."""
    weights = torch.as_tensor(found, dtype=torch.float64)
    if weights.shape != (2,):
        return ""
    if not weights.isfinite().all() or weights.abs().max() > 100:
        return "your climb runs away: the step is too long, or the curvature has the wrong sign."
    gaps = torch.stack([length_gaps, reward_gaps], dim=1)
    gradient = (1 - (gaps @ weights).sigmoid()) @ gaps / len(gaps)
    if 1e-6 < gradient.abs().max() < 0.05:
        return f"you stop on the way: at your numbers the gradient for each label is still {gradient.abs().max():.1g}."
    return ""


@exercise(
    cases=_judges,
    points=3,
    tol=1e-4,
    where="Exact: a judge who likes long texts",
    explain=_not_there,
    hint="maximise Σ log σ(c ΔL + w Δr) over both numbers together. The gradient is Σ (1 - p) (ΔL, Δr), the curvature "
    "the 2 × 2 matrix Σ p (1 - p) (ΔL, Δr)(ΔL, Δr)ᵀ; twenty Newton steps from 0 are enough.",
)
def fit_judge(length_gaps, reward_gaps):
    """What a judge gives for a token and for a nat of reward, fitted together."""
    return _newton(torch.stack([length_gaps, reward_gaps], dim=1))


@fit_judge.mutant(
    "you fit each number alone, as if the other were 0. Length and reward explain the labels together: solve for both."
)
def one_at_a_time(length_gaps, reward_gaps):
    return torch.cat([_newton(length_gaps[:, None]), _newton(reward_gaps[:, None])])


@fit_judge.mutant("the reward has no weight in your fit: that is the lesson's c, which is too small. Fit w as well.")
def length_alone(length_gaps, reward_gaps):
    return torch.cat([_newton(length_gaps[:, None]), torch.zeros(1, dtype=torch.float64)])


@fit_judge.mutant("the two numbers are in the other order: first c, for the length, then w, for the reward.")
def other_order(length_gaps, reward_gaps):
    return fit_judge.reference(reward_gaps, length_gaps)


@fit_judge.mutant("your signs are turned round: gaps are chosen minus rejected, and the chosen side has P = σ(+ …).")
def signs_turned(length_gaps, reward_gaps):
    return -fit_judge.reference(length_gaps, reward_gaps)


@fit_judge.mutant("labels are fitted as numbers in yours, a straight line: the likelihood of a coin is Σ log σ(…).")
def least_squares(length_gaps, reward_gaps):
    gaps = torch.stack([length_gaps, reward_gaps], dim=1)
    return torch.linalg.lstsq(gaps, torch.ones(len(gaps), 1, dtype=torch.float64)).solution[:, 0]


@fit_judge.mutant("the gaps are scaled to one spread in yours: c is in nats for each token, w for each nat.")
def standardised(length_gaps, reward_gaps):
    found = fit_judge.reference(length_gaps, reward_gaps)
    return found * torch.stack([length_gaps.std(), reward_gaps.std()])


@fit_judge.mutant("one Newton step is not the maximum: repeat with the new p until nothing moves.")
def one_step(length_gaps, reward_gaps):
    return _newton(torch.stack([length_gaps, reward_gaps], dim=1), steps=1)


# ---------------------------------------------------------------------------------------------- two predictions


@choice(points=2)
def proxy_doubled():
    """We double the proxy reward of every text and look for the peak of gold again. What is true at the new peak?"""
    return {
        "β is twice as large; gold and KL are the same as before": None,
        "β, gold and KL are the same as before": "rewards are free up to a number for each prompt, an f(x) that is "
        "added. A factor changes π*, unless β changes with it.",
        "β is half as large; gold and KL are the same as before": "the policy depends on proxy/β alone. To keep that "
        "number while the proxy doubles, β must move with it, not against it.",
        "β is the same; KL is larger and gold is lower": "at the old β the policy would go too far. But the peak "
        "is searched anew, on the same curve of policies, and is found at another β.",
    }


def logs(stored: dict) -> dict[str, list[list[dict]]]:
    """Letter → the stored paths, one a seed, of each of the failures in `three_logs`."""
    shown = {"A": ("rate", "lr × 10"), "B": ("length", "dpo"), "C": ("over-optimisation", "β = 0.02")}
    paths = {letter: [] for letter in shown}
    for run in stored["runs"]:
        for letter, which in shown.items():
            if (run["setting"]["failure"], run["setting"]["arm"]) == which:
                paths[letter].append(run["path"])
    return paths


@choice(points=2)
def three_logs():
    """Which run has which failure?"""
    return {
        "A: rate too high · B: judge who likes length · C: over-optimisation": None,
        "A: judge who likes length · B: over-optimisation · C: rate too high": "A's texts are long because they do not "
        "end (`eos_rate`), and its KL is out of bounds at the first look: that is a step size, not a taste.",
        "A: over-optimisation · B: judge who likes length · C: rate too high": "who over-optimises has learned the "
        "training pairs first. Compare `ranked` of A and C, and how their KL got where it is.",
        "A: rate too high · B: over-optimisation · C: judge who likes length": "the mark of over-optimisation is "
        "`ranked` 1 next to a `held_ranked` that stands still while KL goes on. Which of B and C has it?",
    }


# ---------------------------------------------------------------------------------------------- the bug


def _kl(path: Tensor, reference: Tensor) -> Tensor:
    """KL(π ‖ π_ref) at each step of a path of policies, (S,)."""
    return (path * (path / reference).log()).sum(-1)


def _runs(draw: torch.Generator) -> list[Case]:
    """Policies along a line of logits: the KL passes the budget, falls below it, and passes it again."""

    def run(reference: Tensor, direction: Tensor, far: float, steps: int, share: float) -> Case:
        s = far * torch.linspace(0, 4.6, steps, dtype=torch.float64).sin() ** 2  # out, back, and out again
        path = (reference.log() + s[:, None] * direction).softmax(-1)  # (S, Y)
        kl = _kl(path, reference)
        return {"path": path, "reference": reference, "chosen": 0, "rejected": 1, "budget": (share * kl.max()).item()}

    def drawn(share: float) -> Case:
        rand = torch.randn(2, 4, generator=draw, dtype=torch.float64)
        return run(rand[0].softmax(-1), rand[1], 3.0, 60, share)

    away = EMBEDDING @ (EMBEDDING[0] - EMBEDDING[1])  # both of the pair fall, the third token gains
    up = torch.tensor([1.0, 0.9, 0.0], dtype=torch.float64)  # both of the pair rise
    rare = torch.tensor([0.05, 0.05, 0.90], dtype=torch.float64)
    met = run(rare, up, 6.0, 80, 0.3)
    met["budget"] = _kl(met["path"], rare)[12].item()
    return [
        run(REFERENCE, away, 15.0, 80, 0.6),
        run(rare, up, 6.0, 80, 0.3),
        Limit("KL is never above the budget", run(rare, up, 6.0, 30, 1.5)),
        Limit("KL is exactly the budget at one step, which is still allowed", met),
        *(drawn(share) for share in (0.2, 0.4, 0.55, 0.7, 0.85)),
    ]


def _first_over(values: Tensor, budget: float, back: int = 1) -> int:
    over = (values > budget).nonzero()
    return len(values) - 1 if len(over) == 0 else int(over[0]) - back


@exercise(
    cases=_runs,
    points=3,
    where="Optional · What goes wrong, in the fix: an early stop that looks at the wrong curve",
    hint="print Σ_y π(y) log(π(y)/π_ref(y)) at every step. Your answer is the last step before it is larger than the "
    "budget for the first time, or the last step of all if it never is.",
)
def stop_step(path, reference, chosen, rejected, budget):
    """The step at which a run is taken when its KL may not pass a budget."""
    return _first_over(_kl(path, reference), budget)


@stop_step.mutant(
    "your alarm listens to the pair: the log-ratios of chosen and rejected may fall while KL explodes. KL "
    "is a mean over the policy's own tokens, all of them."
)
def on_the_pair(path, reference, chosen, rejected, budget):
    return _first_over((path / reference).log()[:, [chosen, rejected]].mean(-1), budget)


@stop_step.mutant(
    "an absolute value around the pair's log-ratios rings sometimes, for the wrong reason: it still does not see the "
    "tokens that the policy writes."
)
def absolute_on_the_pair(path, reference, chosen, rejected, budget):
    return _first_over((path / reference).log()[:, [chosen, rejected]].mean(-1).abs(), budget)


@stop_step.mutant(
    "yours never stops before the end. What it adds up is never above 0: Σ π_ref log π/π_ref is -KL(π_ref ‖ π), and "
    "Σ π log π minus an entropy. Weigh by the policy, and divide by π_ref inside the logarithm."
)
def under_the_reference(path, reference, chosen, rejected, budget):
    return _first_over((reference * (path / reference).log()).sum(-1), budget)


@stop_step.mutant("this is KL(π_ref ‖ π), the other way round. The price in J is KL(π ‖ π_ref): weigh by the policy.")
def the_other_kl(path, reference, chosen, rejected, budget):
    return _first_over(-(reference * (path / reference).log()).sum(-1), budget)


@stop_step.mutant("you stop one step too late: at that step the budget is already spent. Take the step before.")
def one_too_late(path, reference, chosen, rejected, budget):
    return _first_over(_kl(path, reference), budget, back=0)


@stop_step.mutant("you add up the KL of neighbouring steps, or all of them. Each step has its own, from π_ref.")
def between_steps(path, reference, chosen, rejected, budget):
    moved = (path[1:] * (path[1:] / path[:-1]).log()).sum(-1).cumsum(0)
    return _first_over(torch.cat([torch.zeros(1, dtype=torch.float64), moved]), budget)


@stop_step.mutant("where KL is exactly the budget it is not larger: compare with >.")
def already_at_the_budget(path, reference, chosen, rejected, budget):
    over = (_kl(path, reference) >= budget).nonzero()
    return len(path) - 1 if len(over) == 0 else int(over[0]) - 1


@stop_step.mutant("you take the step with the largest KL below the budget, wherever it lies: stop at the first excess.")
def largest_below(path, reference, chosen, rejected, budget):
    kl = _kl(path, reference)
    return int(kl.masked_fill(kl > budget, -1).argmax())


@stop_step.mutant("where KL is never above the budget the last step is len(path) - 1: steps are counted from 0.")
def one_behind_the_end(path, reference, chosen, rejected, budget):
    over = (_kl(path, reference) > budget).nonzero()
    return len(path) if len(over) == 0 else int(over[0]) - 1


@stop_step.mutant(
    "where KL is never above the budget the run is taken at its last step: yours gives no step or the first."
)
def none_if_never(path, reference, chosen, rejected, budget):
    over = (_kl(path, reference) > budget).nonzero()
    return 0 if len(over) == 0 else int(over[0]) - 1


@stop_step.mutant("your KL is not weighed with the policy: Σ π log(π/π_ref), not the mean of the log-ratios.")
def plain_mean(path, reference, chosen, rejected, budget):
    return _first_over((path / reference).log().mean(-1), budget)


@stop_step.mutant(
    "you take the last step below the budget of the whole run. KL can come back: stop before its first excess."
)
def last_below(path, reference, chosen, rejected, budget):
    return int((_kl(path, reference) <= budget).nonzero()[-1])
