"""Rewards: a number for each (prompt, completion), and how to find one from comparisons (Bradley and Terry 1952).

    reward = fit_bradley_terry(wins)        # a table: maximum likelihood, exact; wins[i, j] times i beat j
    loss = bradley_terry_loss(r_w, r_l)     # a model: the same likelihood, one value per pair, in `reward_model`

`GoldReward` is the ground truth of the bundled world. In life nobody has the true reward. Here we make one, so that
every method can be measured against it.
"""

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from numbers import Real
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefcourse.boundary import told
from prefcourse.finite import LARGE, counted, number, numbers, together, whole

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
_CLAUSE_END = re.compile(r"[.!?;:,]")


def words(text: str) -> list[str]:
    """The words of `text` in lower case, in order; "don't" is one, "well-made" is two."""
    return _WORD.findall(text.lower())


def ngrams(text: str) -> list[str]:
    """The words of `text` in lower case, and each two neighbours that no punctuation parts."""
    found = []
    for clause in _CLAUSE_END.split(text):
        found += (unigrams := words(clause))
        found += [f"{a} {b}" for a, b in pairwise(unigrams)]
    return found


class GoldReward:
    """r*(x, y): the log-odds, in nats, that the review x + y is positive. 0 is undecided, +2 means odds of e² : 1.

    A logistic regression on words and pairs of words: the reward is a bias plus the weight of every n-gram, counted as
    often as it occurs. Nothing is hidden: `weights["wonderful"]` is what the word adds. That also makes it easy to
    cheat, as every learnt reward is; see lesson 12.
    """

    def __init__(self, weights: dict[str, float], bias: float = 0.0):
        number("bias", bias)
        if wrong := [n for n, weight in weights.items() if not (isinstance(weight, Real) and abs(weight) <= LARGE)]:
            raise ValueError(f"the weight of {wrong[0]!r} is {weights[wrong[0]]!r:.60}; allowed is a finite number")
        self.weights, self.bias = weights, bias

    @classmethod
    def load(cls, path: str | Path) -> "GoldReward":
        """Read the weights from a JSON file with the keys `bias` and `weights`; ValueError for any other."""
        with told(f"{path}: not a gold reward", 'It has two keys: "bias", a number, and "weights", n-gram → number.'):
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(stored["weights"], stored["bias"])

    def score(self, text: str) -> float:
        """The log-odds of one text."""
        return self.bias + sum(self.weights.get(n, 0.0) for n in ngrams(text))

    def explain(self, text: str) -> list[tuple[str, float]]:
        """What each n-gram of `text` with a weight adds, strongest first."""
        parts = [(n, self.weights[n]) for n in ngrams(text) if n in self.weights]
        return sorted(parts, key=lambda part: -abs(part[1]))

    def strongest(self, count: int = 20) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        """The `count` most positive and the `count` most negative n-grams with their weights."""
        count = whole("count", count, 0)
        ranked = sorted(self.weights.items(), key=lambda item: item[1])
        return ranked[::-1][:count], ranked[:count]

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """r*(x, y) for each prompt x with its completion y: (B,) float32, nats of log-odds."""
        if len(prompts) != len(completions):
            had = f"{counted(len(prompts), 'prompt')} and {counted(len(completions), 'completion')}"
            raise ValueError(f"got {had}; give one for each")
        return torch.tensor([self.score(x + y) for x, y in zip(prompts, completions, strict=True)])


# ------------------------------------------------------------------------------------------- Bradley–Terry


def bradley_terry_loss(policy_chosen: Tensor, policy_rejected: Tensor, *, margin: float | Tensor = 0.0) -> Tensor:
    """-log σ(r_w - r_l - m), nats per pair, (B,). Ouyang et al. 2022, Eq. 1; the margin m: Touvron et al. 2023, Eq. 2.

    The arguments are rewards r(x, y_w) and r(x, y_l), (B,) each, not log-probabilities, and so it is not in `LOSSES`;
    their names are those that `train` fills in. With a margin above 0 the scores no longer estimate log-odds.
    Raises ValueError if the shapes differ, a reward is not finite, or a margin is negative or not finite.
    """
    chosen, rejected = together(policy_chosen=policy_chosen, policy_rejected=policy_rejected)
    if isinstance(margin, Tensor) and margin.ndim:
        margin = margin.to(chosen.device, chosen.dtype)
    else:
        margin = torch.tensor(number("margin", margin), dtype=chosen.dtype, device=chosen.device)
    if margin.shape not in ((), chosen.shape):
        raise ValueError(f"margin has shape {tuple(margin.shape)}; allowed is {tuple(chosen.shape)}, or a number")
    if not bool(((margin >= 0) & margin.isfinite()).all()):
        raise ValueError(f"margin is {margin.min().item()}; allowed are finite numbers, 0 or more")
    return -logsigmoid(chosen - rejected - margin)


def log_likelihood(wins: Tensor, reward: Tensor) -> Tensor:
    """log P(wins | reward) = Σ_ij wins_ij log σ(r_i - r_j), in nats: (..., Y, Y) and (..., Y) → (...,).

    Only differences enter: reward + c, with any c per row, has the same likelihood. wins_ii counts nothing.
    Raises ValueError where the shapes do not belong together, for numbers that are not finite, and for counts below 0.
    """
    wins, reward = _comparisons(wins, reward)
    off = 1 - torch.eye(wins.shape[-1], dtype=wins.dtype)
    return (off * wins * logsigmoid(reward[..., :, None] - reward[..., None, :])).sum((-2, -1))


def information(wins: Tensor, reward: Tensor) -> Tensor:
    """The Fisher information, (Y, Y): -∂²/∂r∂r of `log_likelihood`. Its pseudo-inverse is the estimate's covariance.

    It is the Laplacian of the graph of comparisons, edge ij weighing n_ij σ(r_i - r_j) σ(r_j - r_i) with n_ij
    comparisons; so the direction (1, …, 1), which no comparison sees, has information 0. Raises what
    `log_likelihood` raises.
    """
    wins, reward = _comparisons(wins, reward)
    p = (reward[:, None] - reward[None, :]).sigmoid()
    weight = (wins + wins.T) * p * (1 - p)
    weight = weight - weight.diag().diag()
    return weight.sum(1).diag() - weight


def fit_bradley_terry(wins: Tensor, *, prior: float = 0.0) -> Tensor:
    """Maximum-likelihood rewards in nats from counts of comparisons: (Y, Y) → (Y,), or (X, Y, Y) → (X, Y).

    wins[i, j] is how often i beat j, 0 or more. Rows sum to 0, which is our choice: the data fix r up to a constant
    for each prompt. prior: the precision of a Gaussian prior, maximising log-likelihood - prior/2 Σ r².

    Without a prior the maximum exists only if no group always wins against the rest: every partition must be crossed
    by wins both ways (Zermelo 1929; Ford 1957). Raises ValueError, naming the group, where it does not, and for bad
    counts. By Newton's method to a gradient of 1e-10 of the counts.
    """
    if not isinstance(wins, Tensor) or wins.ndim not in (2, 3) or wins.shape[-1] != wins.shape[-2] or len(wins) == 0:
        found = tuple(wins.shape) if isinstance(wins, Tensor) else type(wins).__name__
        raise ValueError(f"wins is {found}; allowed is a tensor of shape (Y, Y) or (X, Y, Y)")
    numbers("wins", wins, ndim=None, low=0)
    prior = number("prior", prior, least=0, most=LARGE)
    if wins.ndim == 3:
        return torch.stack([fit_bradley_terry(table, prior=prior) for table in wins])
    wins = wins.double() * (1 - torch.eye(len(wins), dtype=torch.float64))
    if prior == 0 and (group := _undefeated(wins)):
        raise ValueError(
            f"the likelihood has no finite maximum: no response outside {group} ever beats one of them, so a larger "
            "gap always fits better. Collect comparisons that cross, or give a prior, such as prior=0.1."
        )

    def value(r: Tensor) -> Tensor:
        return log_likelihood(wins, r) - prior / 2 * (r**2).sum()

    reward, flat = torch.zeros(len(wins), dtype=torch.float64), torch.ones_like(wins) / len(wins)
    for _ in range(200):
        p = (reward[:, None] - reward[None, :]).sigmoid()  # P(i beats j)
        gradient = (wins * (1 - p) - wins.T * p).sum(1) - prior * reward
        if gradient.abs().max() <= 1e-10 * max(1.0, wins.sum().item()):
            break
        curvature = information(wins, reward) + prior * torch.eye(len(wins), dtype=torch.float64)
        step = torch.linalg.solve(curvature + flat, gradient)  # `flat` keeps the sum at 0 and changes nothing else
        size = 1.0
        while value(reward + size * step) < value(reward) and size > 1e-8:  # too far: the likelihood is concave
            size /= 2
        reward = reward + size * step
    return reward - reward.mean()


def _comparisons(wins: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
    """Both as floats of one kind: wins (..., Y, Y), counts, and reward (..., Y), finite. Raises ValueError."""
    [wins], [reward] = together(wins=wins), together(reward=reward)
    numbers("wins", wins, ndim=None, low=0)
    if wins.ndim < 2 or wins.shape != (*reward.shape, *reward.shape[-1:]):
        had = f"wins {tuple(wins.shape)} and reward {tuple(reward.shape)}"
        raise ValueError(f"the shapes are {had}; allowed are (..., Y, Y) and (..., Y)")
    return wins.to(reward.dtype), reward


def _undefeated(wins: Tensor) -> list[int]:
    """The smallest group of responses that nobody outside ever beats, or [] if there is none but all together."""
    reach = (wins > 0) | torch.eye(len(wins), dtype=torch.bool)  # reach[i, j]: a chain of wins leads from i to j
    for k in range(len(wins)):
        reach = reach | (reach[:, k : k + 1] & reach[k : k + 1, :])
    groups = [reach[:, i].nonzero().flatten().tolist() for i in range(len(wins))]  # i and all who, by chains, beat i
    smallest = min(groups, key=len)
    return smallest if len(smallest) < len(wins) else []
