"""One label out of many: the majority, a threshold on confidence, and two fitted models of annotators.

    labels = panel(annotators, questions(rows)).labels         # (N, J), as in `agreement`
    majority(labels)                                           # (N,) A, B, or MISSING for a tie
    fit = dawid_skene(labels)                                  # fit.accuracy (J,), fit.probability (N,)
    kept, coverage = confident(fit.probability, 0.9)

`vote_share`, `dawid_skene` and `bradley_terry` give each item the probability that A is better, and `confident` turns
probabilities into labels. Every item must have a label.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from prefcourse.annotation.agreement import MISSING, A, B, check_labels
from prefcourse.finite import counted, number, numbers, numpy_generator, whole


def _labelled(labels) -> np.ndarray:
    """Labels A and B in which every item has at least one. Raises ValueError that names an item without."""
    labels = check_labels(labels, categories=2)
    bare = np.flatnonzero((labels == MISSING).all(1))
    if len(bare):
        raise ValueError(
            f"item {bare[0]} has no label ({len(bare)} of {counted(len(labels), 'item')} without one). "
            "Drop them: labels[(labels >= 0).any(1)]"
        )
    return labels


def majority(labels, *, ties: str = "undecided", seed: int = 0) -> np.ndarray:
    """The label that most annotators gave each item, (N,). A tie stays MISSING, or with ties="coin" a coin decides.

    Raises ValueError for an item without a label.
    """
    if ties not in ("undecided", "coin"):
        raise ValueError(f'ties must be "undecided" or "coin", got {ties!r}')
    share, rng = vote_share(labels), numpy_generator(seed)
    coin = rng.integers(0, 2, len(share)) if ties == "coin" else MISSING
    return np.where(share == 0.5, coin, (share > 0.5).astype(np.int64))


def vote_share(labels) -> np.ndarray:
    """The share of each item's labels that say A, (N,). Raises ValueError for an item without a label."""
    labels = _labelled(labels)
    return (labels == A).sum(1) / (labels != MISSING).sum(1)


def confident(probability, threshold: float) -> tuple[np.ndarray, float]:
    """Keep the items whose likelier label has at least the probability `threshold`.

    probability: P(A) of each item, (N,), from `vote_share` or a fitted model. Returns the labels (N,), MISSING where
    we are not sure enough or at exactly ½, and the coverage: the share of items kept.
    """
    threshold = number("threshold", threshold, least=0.5, most=1)
    p = numbers("probability", probability, low=0, high=1).numpy()
    sure = (np.maximum(p, 1 - p) >= threshold - 1e-12) & (p != 0.5)
    return np.where(sure, (p > 0.5).astype(np.int64), MISSING), float(sure.mean())


@dataclass(frozen=True)
class DawidSkene:
    """What `dawid_skene` found."""

    probability: np.ndarray  # (N,) P(A is the true label | all labels)
    confusion: np.ndarray  # (J, 2, 2) P(annotator j says l | the truth is t): [j, t, l], 0 is B and 1 is A
    prior: float  # the share of items whose true label is A
    log_likelihood: tuple[float, ...]  # nats, after each step; it never falls

    @property
    def accuracy(self) -> np.ndarray:
        """(J,) how often each annotator gives the true label."""
        return (1 - self.prior) * self.confusion[:, 0, 0] + self.prior * self.confusion[:, 1, 1]


def dawid_skene(labels, *, steps: int = 500, tolerance: float = 1e-9) -> DawidSkene:
    """Who is reliable, and what is the truth? Both at once, by EM (Dawid and Skene 1979), for A and B.

    Each item has a true label; annotator j gives label l where the truth is t with probability confusion[j, t, l],
    independently of the others *given the truth*. E-step: P(truth | labels) by Bayes' rule. M-step: prior and
    confusion are weighted counts. We start at the vote shares and stop when the log-likelihood grows by less than
    `tolerance` nats an item.

    It takes all items as equally hard. Where close pairs are coins for everybody (Bradley–Terry), annotators agree on
    the easy ones and the probabilities come out too sure. Raises ValueError with fewer than three annotators (two who
    disagree are 0.5 each, whoever is right), and for an item without a label.
    """
    labels = _labelled(check_labels(labels, categories=2, annotators=3))
    said = np.stack([labels == B, labels == A], axis=-1).astype(float)  # (N, J, 2)
    truth = np.stack([1 - vote_share(labels), vote_share(labels)], axis=-1)  # (N, 2)
    steps, tolerance = whole("steps", steps), number("tolerance", tolerance, least=0)
    found: list[float] = []
    for _ in range(steps):
        prior = truth.mean(0)
        confusion = np.einsum("nt,njl->jtl", truth, said)
        confusion /= np.maximum(confusion.sum(-1, keepdims=True), 1e-10)
        joint = np.log(np.maximum(prior, 1e-10)) + np.einsum("njl,jtl->nt", said, np.log(np.maximum(confusion, 1e-10)))
        evidence = np.logaddexp(*joint.T)  # (N,) log P(labels of the item)
        truth = np.exp(joint - evidence[:, None])
        found.append(float(evidence.sum()))
        if len(found) > 1 and found[-1] - found[-2] < tolerance * len(labels):
            break
    return DawidSkene(truth[:, 1], confusion, float(prior[1]), tuple(found))


@dataclass(frozen=True)
class BradleyTerry:
    """What `bradley_terry` found. Differences are in units of their standard deviation over the items."""

    probability: np.ndarray  # (N,) P(r_a > r_b | all labels)
    difference: np.ndarray  # (N,) the expected r_a − r_b
    reliability: np.ndarray  # (J,) annotator j says A with probability σ(reliability_j · difference)
    log_likelihood: float  # nats


def bradley_terry(labels) -> BradleyTerry:
    """Who is reliable, where some pairs are harder than others: Bradley–Terry with a reliability for each annotator.

    P(j says A on item i) = σ(a_j d_i), with the differences d_i ~ N(0, 1) integrated out on a grid, so that the a_j
    are maximum-likelihood estimates however few labels an item has (the two-parameter item-response model; Bock and
    Aitkin 1981, Psychometrika 46). a_j = Annotator.reliability × the standard deviation of the true differences; a
    random clicker has 0, one who clicks the worse side a negative number. Which side is A must have been left to
    chance. A weak prior, a_j ~ N(0, 10²), keeps the estimate finite for annotators who never disagree.
    Raises ValueError with fewer than three annotators, and for an item without a label.
    """
    labels = torch.as_tensor(_labelled(check_labels(labels, categories=2, annotators=3)))
    says_a, says_b = (labels == A).double(), (labels == B).double()  # (N, J)
    points = torch.arange(-4.95, 5, 0.1, dtype=torch.float64)  # (Q,) differences; 0, which is neither side, is not one
    prior = (-(points**2) / 2).log_softmax(-1)
    slopes = torch.ones(labels.shape[1], dtype=torch.float64, requires_grad=True)

    def joint() -> torch.Tensor:
        """log P(labels of item i, d_i = point q): (N, Q)"""
        logit = slopes[:, None] * points  # (J, Q)
        return says_a @ logsigmoid(logit) + says_b @ logsigmoid(-logit) + prior

    optimiser = torch.optim.LBFGS([slopes], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = -joint().logsumexp(-1).mean() + (slopes**2).sum() / (200 * len(labels))
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        if slopes.sum() < 0:  # all signs turned give the same likelihood: we trust the panel as a whole
            slopes.neg_()
        posterior = joint().softmax(-1)  # (N, Q)
        total = joint().logsumexp(-1).sum().item()
    return BradleyTerry(
        posterior[:, points > 0].sum(-1).numpy(), (posterior @ points).numpy(), slopes.detach().numpy(), total
    )
