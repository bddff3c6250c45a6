"""Fit the gold reward: a logistic regression on the words and word pairs of labelled IMDb reviews.

It is fitted on windows of 40 words, because the bundled models write texts of about that length and the log-odds of a
whole review would be far too sure of themselves. Only words of TinyReviews count: no names, no crude words.
"""

import json
import random
import warnings
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F

from prefcourse.bundle.corpus import clean, load_imdb
from prefcourse.rewards import GoldReward, ngrams

WINDOW = 40  # words
MIN_WINDOWS = 60  # an n-gram must occur in so many training windows
L2 = 20.0  # strength of the penalty λ/2 ‖w‖², against the sum of the windows' losses
TOLERANCE = 1e-7  # of the gradient's norm: the weights are then right to 1e-8, four orders below what we keep


def windows(review: str) -> list[str]:
    """`review` cut into pieces of WINDOW words; a last piece shorter than half a window joins the one before."""
    words = clean(review).split()
    starts = range(0, max(len(words) - WINDOW // 2, 1), WINDOW)
    return [" ".join(words[s : s + WINDOW] if s != starts[-1] else words[s:]) for s in starts]


def fit(texts: list[str], labels: list[int], words: set[str]) -> GoldReward:
    """Penalised maximum likelihood, by Newton's method in float64. The problem is convex: there is one answer.

    We go on until the error of each weight is far below the third decimal that we keep, so that the number of threads
    or the machine does not show in the result.
    """
    counted = [Counter(n for n in ngrams(text) if all(w in words for w in n.split())) for text in texts]
    frequency = Counter(n for row in counted for n in row)
    names = sorted(n for n, count in frequency.items() if count >= MIN_WINDOWS)
    index = {n: i for i, n in enumerate(names)}
    entries = [(r, index[n], c) for r, row in enumerate(counted) for n, c in row.items() if n in index]
    row, column, count = (torch.tensor(part) for part in zip(*entries, strict=True))
    ones = torch.arange(len(texts))  # the bias is the weight of a last column of ones
    place = torch.stack([torch.cat([row, ones]), torch.cat([column, torch.full_like(ones, len(names))])])
    value = torch.cat([count, torch.ones_like(ones)]).double()
    size = (len(texts), len(names) + 1)
    weight = _newton(torch.sparse_coo_tensor(place, value, size, check_invariants=True), torch.tensor(labels).double())
    rounded = {n: round(w, 3) for n, w in zip(names, weight[:-1].tolist(), strict=True)}
    return GoldReward({n: w for n, w in rounded.items() if w}, round(weight[-1].item(), 3))


def _newton(counts: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The weights (D + 1,) that minimise Σ log loss + λ/2 ‖w‖² (bias free) of `counts` (N, D + 1), sparse, float64.

    Each step solves H s = g by conjugate gradients, to a tolerance that shrinks with the gradient g. As H ⪰ λ, the
    error of the weights is at most ‖g‖ / λ. Raises RuntimeError if that is not tiny after 50 steps.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        by_row, by_column = counts.coalesce().to_sparse_csr(), counts.T.coalesce().to_sparse_csr()
    penalty = torch.full((counts.shape[1],), L2, dtype=torch.float64)
    penalty[-1] = 1e-6  # next to nothing: the bias is free
    weight = torch.zeros_like(penalty)

    def loss(w: torch.Tensor) -> float:
        return (F.binary_cross_entropy_with_logits(by_row @ w, target, reduction="sum") + penalty @ w**2 / 2).item()

    for _ in range(50):
        p = (by_row @ weight).sigmoid()  # (N,)
        gradient = by_column @ (p - target) + penalty * weight  # (D + 1,)
        size = gradient.norm().item()
        if size < TOLERANCE:
            return weight
        step = torch.zeros_like(weight)
        residual = -gradient
        direction, old = residual.clone(), residual @ residual
        while old.sqrt() > min(0.1, size**0.5) * size:
            curved = by_column @ (p * (1 - p) * (by_row @ direction)) + penalty * direction  # H times direction
            along = old / (direction @ curved)
            step += along * direction
            residual -= along * curved
            new = residual @ residual
            direction, old = residual + new / old * direction, new
        rate, now = 1.0, loss(weight)
        while size > 1e-3 and loss(weight + rate * step) > now and rate > 1e-6:  # near the end a full step is safe
            rate /= 2
        weight += rate * step
    raise RuntimeError(f"the gold reward did not converge: the gradient's norm is still {size:.1e}")


def accuracy(gold: GoldReward, texts: list[str], labels: list[int]) -> float:
    """Share of texts whose log-odds have the sign of their label."""
    return sum((gold.score(t) > 0) == bool(y) for t, y in zip(texts, labels, strict=True)) / len(texts)


def build(imdb: str, words: Path, out: Path) -> dict:
    """Fit on IMDb's train reviews, write `out` (JSON), and return accuracies on its test reviews for the card."""
    train, test = load_imdb(imdb, "train"), load_imdb(imdb, "test")
    pieces = [(w, y) for text, y in zip(train["text"], train["label"], strict=True) for w in windows(text)]
    gold = fit([w for w, _ in pieces], [y for _, y in pieces], set(json.loads(words.read_text(encoding="utf-8"))))
    out.write_text(json.dumps({"bias": gold.bias, "weights": gold.weights}, indent=0), encoding="utf-8", newline="\n")
    texts = [clean(t) for t in test["text"]]
    short = [
        (random.Random(i).choice(windows(t)), y) for i, (t, y) in enumerate(zip(texts, test["label"], strict=True))
    ]
    return {
        "ngrams": len(gold.weights),
        "accuracy_test_reviews": round(accuracy(gold, texts, test["label"]), 4),
        "accuracy_40_word_windows": round(accuracy(gold, [t for t, _ in short], [y for _, y in short]), 4),
    }
