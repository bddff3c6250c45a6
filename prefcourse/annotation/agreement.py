"""Agreement between annotators, and what it allows a model to reach.

    labels = panel([Annotator()] * 3, questions(rows)).labels      # (N, J): items × annotators
    percent_agreement(labels), with_interval(krippendorff_alpha, labels)

Everywhere `labels` is a matrix (N, J) of integers: a row for each item, a column for each annotator, 1 for "A is
better", 0 for "B is better", and -1 or nan where the annotator did not label the item. The measures take more than two
categories, numbered from 0. `matrix` makes such a matrix from records of who said what; `aggregation` makes one label
out of many.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from prefcourse.evaluate import Estimate
from prefcourse.finite import number, numbers, numpy_generator, whole

A, B, MISSING = 1, 0, -1  # labels, as numbers
NAMES = {"A": A, "B": B, "tie": MISSING, "skip": MISSING}  # what people click
CATEGORIES = 1_000  # more than anyone tells apart; a larger number is a mistake, such as an id


# ------------------------------------------------------------------------------------------------ the matrix


def check_labels(labels, *, categories: int | None = None, annotators: int = 1) -> np.ndarray:
    """`labels` as an integer matrix (N, J), -1 where there is none.

    categories: how many there may be (2 for A and B). annotators: how many columns are needed.
    Raises ValueError for an empty matrix, another shape, too few annotators, or a label that is not a category.
    """
    try:
        found = None if np.asarray(labels).dtype.kind in "USc" else np.asarray(labels, dtype=float)
    except Exception:  # rows of unequal length, a tensor without values: whatever it is, these are no labels
        found = None
    if found is None:
        raise ValueError("labels must be numbers: 1 for A, 0 for B, -1 for none. `matrix` makes them of words.")
    if found.size == 0:
        raise ValueError("there are no labels: give a matrix with a row for each item, a column for each annotator")
    if found.ndim != 2:
        raise ValueError(f"labels must be a matrix (items, annotators), got shape {found.shape}")
    if found.shape[1] < annotators:
        raise ValueError(f"this needs the labels of at least {annotators} annotators, got {found.shape[1]}")
    found = np.where(np.isnan(found), MISSING, found)
    top = CATEGORIES - 1 if categories is None else categories - 1
    wrong = np.argwhere((found != np.round(found)) | (found < MISSING) | (found > top))
    if len(wrong):
        item, annotator = wrong[0]
        allowed = (
            f"0, 1, 2 … up to {CATEGORIES - 1}"
            if categories is None
            else "1 (A), 0 (B)"
            if categories == 2
            else f"0 to {categories - 1}"
        )
        raise ValueError(
            f"item {item}, annotator {annotator}: {found[item, annotator]:g} is not a label. "
            f"Labels are {allowed}, and -1 or nan for none."
        )
    return found.astype(np.int64)


def matrix(
    records: Iterable[tuple[object, object, str]], names: dict[str, int] = NAMES
) -> tuple[np.ndarray, list, list]:
    """Records (item, annotator, label) → the matrix (N, J), its items and its annotators, in order of appearance.

    Labels are the keys of `names`: "A", "B", and "tie" or "skip", which count as no label.
    Raises ValueError for another label, and where an annotator labels one item twice.
    """
    records = list(records)
    items, annotators = (list(dict.fromkeys(record[i] for record in records)) for i in (0, 1))
    row, column = ({name: i for i, name in enumerate(found)} for found in (items, annotators))
    labels, seen = np.full((len(items), len(annotators)), MISSING), set()
    for item, annotator, label in records:
        if label not in names:
            raise ValueError(f"item {item!r}, annotator {annotator!r}: {label!r} is none of {', '.join(names)}")
        if (item, annotator) in seen:
            raise ValueError(f"annotator {annotator!r} labels item {item!r} twice. Keep one of the records.")
        seen.add((item, annotator))
        labels[row[item], column[annotator]] = names[label]
    return labels, items, annotators


def _counts(labels: np.ndarray) -> np.ndarray:
    """How often each category was given to each item: (N, J) → (N, K)"""
    return (labels[:, :, None] == np.arange(max(1, labels.max() + 1))).sum(1)


def _pairable(labels, *, annotators: int = 2) -> np.ndarray:
    """The counts (N', K) of the items with at least two labels. Raises ValueError if there is none."""
    counts = _counts(check_labels(labels, annotators=annotators))
    counts = counts[counts.sum(1) >= 2]
    if not len(counts):
        raise ValueError("no item has two labels, so there is nothing to agree about. Let annotators share items.")
    return counts


# ------------------------------------------------------------------------------------------------ agreement


def percent_agreement(labels) -> float:
    """The share of pairs of annotators that agree, averaged over the items with two or more labels.

    For an item with m labels, n_k of category k: Σ_k n_k (n_k − 1) / (m (m − 1)). Chance is not taken out.
    """
    counts = _pairable(labels)
    m = counts.sum(1)
    return float((((counts * (counts - 1)).sum(1)) / (m * (m - 1))).mean())


def cohen_kappa(first: Sequence, second: Sequence) -> float:
    """Cohen's κ of two annotators (Cohen 1960): (p_o − p_e) / (1 − p_e), over the items that both labelled.

    p_o is the share on which they agree; p_e what two coins with each annotator's own habits would agree on.
    Raises ValueError if they share no item, or if both give one category only: then κ is 0/0.
    """
    first, second = (check_labels([side]) for side in (first, second))  # (1, N) each
    if first.shape != second.shape:
        had = f"{first.shape[1]} and {second.shape[1]}"
        raise ValueError(f"give both annotators' labels of the same items, got {had}")
    labels = np.concatenate([first, second]).T
    labels = labels[(labels != MISSING).all(1)]
    if not len(labels):
        raise ValueError("the two annotators share no item. Let annotators share items.")
    shares = [np.bincount(side, minlength=labels.max() + 1) / len(labels) for side in labels.T]  # (K,) each
    return _above_chance(float((labels[:, 0] == labels[:, 1]).mean()), float(shares[0] @ shares[1]), "Cohen's κ")


def fleiss_kappa(labels) -> float:
    """Fleiss' κ (Fleiss 1971): as Cohen's, for any number of annotators, with p_e from the labels of all together.

    Every item must have the same number of labels, not necessarily of the same annotators. Raises ValueError
    if the numbers differ, or if all labels are of one category.
    """
    counts = _counts(check_labels(labels, annotators=2))
    m = counts.sum(1)
    if m.min() != m.max() or m.min() < 2:
        raise ValueError(
            f"Fleiss' κ needs the same number of labels, two or more, for every item; here items have {m.min()} to "
            f"{m.max()}. Krippendorff's α takes any numbers."
        )
    shares = counts.sum(0) / counts.sum()
    return _above_chance(percent_agreement(labels), float(shares @ shares), "Fleiss' κ")


def _above_chance(observed: float, chance: float, name: str) -> float:
    if chance >= 1:
        raise ValueError(f"all labels are of one category, so {name} is 0/0. Report the percent agreement.")
    return (observed - chance) / (1 - chance)


def krippendorff_alpha(labels, level: str = "nominal") -> float:
    """Krippendorff's α = 1 − D_o / D_e (Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011).

    Any number of annotators, any gaps; items with fewer than two labels do not count. With o_ck the coincidences
    (each item with m labels gives each of its pairs the weight 1 / (m − 1)) and n_c = Σ_k o_ck,
    D_o = Σ o_ck δ²_ck / n and D_e = Σ n_c n_k δ²_ck / (n (n − 1)).

    level: "nominal", δ² = 1 for c ≠ k; "interval", (c − k)²; "ordinal", (Σ_{g=c..k} n_g − (n_c + n_k) / 2)².
    Raises ValueError for another level, where no item has two labels, and where all labels are of one category.
    """
    counts = _pairable(labels)
    weighted = counts / (counts.sum(1, keepdims=True) - 1)
    coincidences = counts.T @ weighted - np.diag(weighted.sum(0))  # (K, K)
    n, category = coincidences.sum(1), np.arange(counts.shape[1])
    if level == "nominal":
        distance = 1.0 - np.eye(len(n))
    elif level == "interval":
        distance = np.subtract.outer(category, category) ** 2.0
    elif level == "ordinal":
        rank = n.cumsum() - n / 2  # the middle of each category's run, when all labels are sorted
        distance = np.subtract.outer(rank, rank) ** 2
    else:
        raise ValueError(f"there is no level {level!r}; the levels are nominal, ordinal, interval")
    expected = (np.outer(n, n) * distance).sum() / (n.sum() - 1)
    if expected == 0:
        raise ValueError("all labels are of one category, so Krippendorff's α is 0/0. Report the percent agreement.")
    return float(1 - (coincidences * distance).sum() / expected)


def with_interval(measure: Callable[..., float], labels, *, seed: int = 0, resamples: int = 500) -> Estimate:
    """`measure(labels)` with its 95 % percentile interval, from resampling items (annotators stay as they are)."""
    labels, rng = check_labels(labels), numpy_generator(seed)
    found = []
    for _ in range(whole("resamples", resamples, most=1_000_000)):
        try:
            found.append(measure(labels[rng.integers(len(labels), size=len(labels))]))
        except ValueError:  # a resample without two labels or two categories, possible with few items only
            continue
    value = measure(labels)
    low, high = np.quantile(found, [0.025, 0.975]) if found else (value, value)
    return Estimate(value, float(low), float(high))


# -------------------------------------------------------------------------- what agreement allows, in closed form


def expected_agreement(probability) -> float:
    """The percent agreement to expect of annotators who label A with `probability`, (N, J), or (N,) for twins.

    Two annotators agree on item i with probability p_ij p_ik + (1 − p_ij)(1 − p_ik); the mean over pairs and items.
    Raises ValueError for another shape, or a number outside 0 to 1.
    """
    p = numbers("probability", probability, ndim=None, low=0, high=1).numpy()
    p = np.stack([p, p], axis=-1) if p.ndim == 1 else p
    if p.ndim != 2 or p.shape[1] < 2 or not len(p):
        raise ValueError(f"give (items,) or (items, annotators) with two annotators or more, got shape {p.shape}")
    pairs = p.shape[1] * (p.shape[1] - 1)
    return float(sum((q.sum(1) ** 2 - (q**2).sum(1)).mean() for q in (p, 1 - p)) / pairs)


def ceiling(difference, reliability: float = 1.0) -> float:
    """The share of labels that a perfect model gets right when the labels are Bradley–Terry coins.

    The mean of max(p, 1 − p) with p = σ(reliability · (r_a − r_b)): who knows r exactly bets on the better side
    every time, and the coin still falls on the other one. `difference` is r_a − r_b in nats, (N,).
    """
    p = sigmoid(number("reliability", reliability, least=-1e15, most=1e15) * numbers("difference", difference).numpy())
    return float(np.maximum(p, 1 - p).mean())


def accuracy_bounds(agreement):
    """Between what a perfect model's accuracy lies where two like annotators agree on the share `agreement`: low, high.

    An item labelled A with probability p has agreement a = p² + (1 − p)², and allows max(p, 1 − p), which is
    (1 + √(2a − 1)) / 2. That is concave in a: by Jensen's inequality the mean is at most its value at the mean
    agreement (all items equally hard), and at least the chord, a itself (each item certain or a coin).
    Raises ValueError below ½: two annotators with the same probabilities cannot agree less.
    """
    a = numbers("agreement", agreement, ndim=None).numpy()
    if not ((a >= 0.5) & (a <= 1)).all():
        raise ValueError(f"two annotators of the same kind agree on 0.5 to 1 of the items, got {agreement}")
    high = (1 + np.sqrt(2 * a - 1)) / 2
    return (float(a), float(high)) if a.ndim == 0 else (a, high)


def majority_accuracy(accuracy, annotators: int):
    """How often the majority of n independent annotators is right if each is right with probability p.

    Σ_{k > n/2} C(n, k) p^k (1 − p)^(n − k), and half of the tie for an even n, where a coin decides (Condorcet 1785).
    accuracy: p, a number or an array. Raises ValueError for p outside 0 to 1, or n outside 1 to 1000.
    """
    n = whole("annotators", annotators, 1, 1000)
    p = numbers("accuracy", accuracy, ndim=None, low=0, high=1).numpy()
    half = (n + 1) // 2
    terms = ((0.5 if 2 * k == n else 1.0) * math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(half, n + 1))
    total = sum(terms)
    return float(total) if p.ndim == 0 else total


def sigmoid(x: np.ndarray) -> np.ndarray:
    """σ(x) = 1 / (1 + e^(−x)) of an array of any shape. Raises ValueError for nan and infinity."""
    return 0.5 * (1 + np.tanh(numbers("x", x, ndim=None, least=0).numpy() / 2))  # no overflow
