"""Fit the gold reward: a logistic regression on the words and word pairs of labelled IMDb reviews.

It is fitted on windows of 40 words, because the bundled models write texts of about that length and the log-odds of a
whole review would be far too sure of themselves. Only words of TinyReviews count: no names, no crude words.
"""

import json
import random
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F

from prefcourse.bundle.corpus import clean, load_imdb
from prefcourse.rewards import GoldReward, ngrams

WINDOW = 40  # words
MIN_WINDOWS = 60  # an n-gram must occur in so many training windows
L2 = 20.0  # strength of the penalty λ/2 ‖w‖², against the sum of the windows' losses


def windows(review: str) -> list[str]:
    """`review` cut into pieces of WINDOW words; a last piece shorter than half a window joins the one before."""
    words = clean(review).split()
    starts = range(0, max(len(words) - WINDOW // 2, 1), WINDOW)
    return [" ".join(words[s : s + WINDOW] if s != starts[-1] else words[s:]) for s in starts]


def fit(texts: list[str], labels: list[int], words: set[str]) -> GoldReward:
    """Penalised maximum likelihood, by L-BFGS in float64. The problem is convex: there is one answer."""
    counted = [Counter(n for n in ngrams(text) if all(w in words for w in n.split())) for text in texts]
    frequency = Counter(n for row in counted for n in row)
    names = sorted(n for n, count in frequency.items() if count >= MIN_WINDOWS)
    index = {n: i for i, n in enumerate(names)}
    rows = [[(index[n], c) for n, c in row.items() if n in index] for row in counted]
    ids = torch.tensor([i for row in rows for i, _ in row])
    counts = torch.tensor([float(c) for row in rows for _, c in row], dtype=torch.float64)
    offsets = torch.tensor([0] + [len(row) for row in rows[:-1]]).cumsum(0)
    target = torch.tensor(labels, dtype=torch.float64)
    weight = torch.zeros(len(names), 1, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=300, history_size=20, tolerance_grad=1e-4, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        score = F.embedding_bag(ids, weight, offsets, mode="sum", per_sample_weights=counts)[:, 0] + bias
        loss = F.binary_cross_entropy_with_logits(score, target, reduction="sum") + L2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    rounded = {n: round(w, 3) for n, w in zip(names, weight[:, 0].tolist(), strict=True)}
    return GoldReward({n: w for n, w in rounded.items() if w}, round(bias.item(), 3))


def accuracy(gold: GoldReward, texts: list[str], labels: list[int]) -> float:
    """Share of texts whose log-odds have the sign of their label."""
    return sum((gold.score(t) > 0) == bool(y) for t, y in zip(texts, labels, strict=True)) / len(texts)


def build(imdb: str, words: Path, out: Path) -> dict:
    """Fit on IMDb's train reviews, write `out` (JSON), and return accuracies on its test reviews for the card."""
    train, test = load_imdb(imdb, "train"), load_imdb(imdb, "test")
    pieces = [(w, y) for text, y in zip(train["text"], train["label"], strict=True) for w in windows(text)]
    gold = fit([w for w, _ in pieces], [y for _, y in pieces], set(json.loads(words.read_text())))
    out.write_text(json.dumps({"bias": gold.bias, "weights": gold.weights}, indent=0), encoding="utf-8")
    texts = [clean(t) for t in test["text"]]
    short = [
        (random.Random(i).choice(windows(t)), y) for i, (t, y) in enumerate(zip(texts, test["label"], strict=True))
    ]
    return {
        "ngrams": len(gold.weights),
        "accuracy_test_reviews": round(accuracy(gold, texts, test["label"]), 4),
        "accuracy_40_word_windows": round(accuracy(gold, [t for t, _ in short], [y for _, y in short]), 4),
    }
