"""How many labels are flipped? An estimate from labels that a held-out reward model contradicts.

    found = label_noise(world.pairs["train"])
    print(found.flips, found.accuracy, found.suspects[:10])

We fit a small, transparent reward model (Bradley–Terry on word counts) to four fifths of the prompts and let it judge
the fifth it has not seen, five times. Where it is sure and the label says the opposite, somebody may have slipped. How
sure is sure? A label that follows the model is the coin σ(a · margin), a flipped one the opposite, so

    P(label agrees | margin m) = ε + (1 − 2ε) σ(a m):

as the margin grows the agreement levels off at 1 − ε, and where it levels off we read ε. (Psychologists call it the
psychometric function with a lapse rate; Wichmann and Hill 2001.) The slope a corrects the model's scale.

What it can tell: flips that hit all pairs alike. What it cannot: a systematic mistake, which the model learns as if it
were taste; flips on pairs whose sides use the same words; and flips from honest disagreement, when annotators are so
unsure that the curve has no end in sight. Measured on the 21,733 training pairs with planted flips, ten seeds each
(mean and standard deviation of the estimate; reliability: labelled anew by such an `Annotator`):

    planted flips           0 %        10 %        20 %        30 %
    bundled labels       0 ± 0 %     5 ± 3 %    11 ± 3 %    23 ± 3 %
    reliability 0.5      3 ± 3 %    11 ± 5 %    23 ± 4 %    35 ± 3 %
    reliability 1        0 ± 0 %     5 ± 3 %    12 ± 3 %    23 ± 4 %
    reliability 3        0 ± 0 %     9 ± 1 %    19 ± 1 %    27 ± 3 %
    2,000 of the pairs   2 ± 3 %    15 ± 4 %    26 ± 7 %    37 ± 8 %    a model fitted to fewer is less sure

So in the mean it reads up to nine points too little from labels like ours and up to three from surer annotators; from
less sure ones, and from few pairs, it errs upwards, too. A single estimate may be off by more. The numbers are from
`label_noise(flipped(rows, share, seed=s)[0], seed=s)`, s from 0 to 9;
rows are the training pairs; or `resolve(rows, asked, Annotator(reliability).label(asked, seed=s + 50))` with
asked = questions(rows); or the rows of the first 360 prompts in the order of default_rng(s).permutation.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from prefcourse.annotation.agreement import sigmoid
from prefcourse.annotation.annotators import Reward, margins
from prefcourse.evaluate import Estimate
from prefcourse.finite import counted, numpy_generator, same_shape
from prefcourse.preferences import Row, check_rows
from prefcourse.rewards import ngrams

WORDS = 2_000  # the most frequent words whose counts differ between the sides
RIDGE = 10.0  # precision of the normal prior on a word's weight: a standard deviation of 0.32 nats
FOLDS = 5
FEWEST, MOST = 1_000, 20_000  # pairs: fewer say nothing, of more we draw so many, to keep it to seconds
FLIPS = np.arange(0.0, 0.5, 0.01)  # ε
SLOPES = np.exp(np.linspace(np.log(0.2), np.log(5.0), 33))  # a
SLOPE_SPREAD = 0.3  # log a ~ N(0, 0.3²): the held-out margins are nearly on the right scale
RESAMPLES = 200


@dataclass(frozen=True)
class LabelNoise:
    """What `label_noise` found, on M of the pairs."""

    flips: Estimate  # ε, the share of flipped labels; the interval resamples prompts and leaves the model as it is
    slope: float  # a of the fitted curve
    accuracy: float  # the share of labels that the model, not having seen them, ranks right
    contradicted: float  # the share of labels it contradicts where it is surest: the tenth with the largest margins
    margins: np.ndarray  # (M,) nats; positive where the model agrees with the label
    pairs: np.ndarray  # (M,) which pairs they belong to

    @property
    def suspects(self) -> np.ndarray:
        """The pairs whose label the model contradicts, the clearest contradiction first: read these."""
        order = self.margins.argsort()
        return self.pairs[order[self.margins[order] < 0]]


def label_noise(rows: Sequence[Row], *, reward_model: Reward | None = None, seed: int = 0) -> LabelNoise:
    """Estimate the share of flipped labels. Raises ValueError for fewer than 1,000 pairs or 10 prompts.

    reward_model: judges instead of ours; a function of prompts and completions that was not fitted to these labels
    and returns nats.
    """
    rows, rng = check_rows(rows), numpy_generator(seed)
    if len(rows) < FEWEST or len({row["prompt"] for row in rows}) < 2 * FOLDS:
        raise ValueError(
            f"an estimate of label noise needs {FEWEST:,} pairs and {2 * FOLDS} prompts, got "
            f"{counted(len(rows), 'pair')} and {counted(len({row['prompt'] for row in rows}), 'prompt')}"
        )
    pairs = np.arange(len(rows)) if len(rows) <= MOST else np.sort(rng.choice(len(rows), MOST, replace=False))
    rows = [rows[i] for i in pairs]
    _, prompt = np.unique([row["prompt"] for row in rows], return_inverse=True)  # (M,) the number of each row's prompt
    if reward_model is None:
        found = held_out_margins(rows, rng.permutation(prompt.max() + 1)[prompt] % FOLDS)
    else:
        found = margins(rows, reward_model)
    right = (found > 0) + 0.5 * (found == 0)
    surest = np.abs(found) >= np.quantile(np.abs(found), 0.9)
    flips, slope = flip_share(found, prompt, rng)
    return LabelNoise(flips, slope, float(right.mean()), float(1 - right[surest].mean()), found, pairs)


def held_out_margins(rows: Sequence[Row], fold: np.ndarray) -> np.ndarray:
    """For each pair r̂(chosen) − r̂(rejected) of a model fitted to the other folds, (M,) nats."""
    counts = [Counter(_words(row["chosen"])) for row in rows]
    for count, row in zip(counts, rows, strict=True):
        count.subtract(_words(row["rejected"]))
    differs = Counter(word for count in counts for word, n in count.items() if n)
    column = {word: i for i, (word, _) in enumerate(differs.most_common(WORDS))}
    held = ((i, word, n) for i, count in enumerate(counts) for word, n in count.items())
    known = [(i, column[word], float(n)) for i, word, n in held if n and word in column]
    place = torch.tensor([cell[:2] for cell in known], dtype=torch.long).reshape(-1, 2).T
    values = torch.tensor([cell[2] for cell in known], dtype=torch.float32)
    shape = (len(rows), max(1, len(column)))  # sparse: a row holds some ten of the words
    features = torch.sparse_coo_tensor(place, values, shape, check_invariants=True).coalesce()
    margins = torch.zeros(len(rows))
    for part in range(fold.max() + 1):
        seen, unseen = (torch.as_tensor(np.flatnonzero(mask)) for mask in (fold != part, fold == part))
        margins[unseen] = features.index_select(0, unseen) @ fit_weights(features.index_select(0, seen))
    return margins.double().numpy()


def fit_weights(features: torch.Tensor) -> torch.Tensor:
    """Bradley–Terry on word counts: the weights w (V,) that maximise Σ log σ(w · x) − RIDGE/2 |w|².

    features: x, (M, V), the counts of the chosen minus those of the rejected. The prompt's words cancel.
    """
    weights = torch.zeros(features.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = RIDGE / 2 * (weights**2).sum() - logsigmoid(features @ weights).sum()
        value.backward()
        return value

    optimiser.step(loss)
    return weights.detach()


def flip_share(margins: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> tuple[Estimate, float]:
    """ε and a of the curve ε + (1 − 2ε) σ(a m) that fits the signs of `margins` (M,) best, on a grid of ε and a.

    The interval comes from resampling `groups` (M,), the numbers of the prompts: pairs of a prompt share responses.
    Raises ValueError unless both are rows of one length, and finite.
    """
    margins, groups = (row.numpy() for row in same_shape(margins=margins, groups=groups))
    order = groups.argsort(kind="stable")
    begin = np.flatnonzero(np.diff(groups[order], prepend=np.nan))
    follows = sigmoid(np.outer(margins[order], SLOPES))  # (M, S)
    fits = [np.add.reduceat(np.log(e + (1 - 2 * e) * follows + 1e-12), begin, axis=0) for e in FLIPS]
    fits = np.stack(fits, axis=1).reshape(len(begin), -1)  # (G, E·S) log-likelihood of each prompt's labels
    prior = np.tile(-((np.log(SLOPES) / SLOPE_SPREAD) ** 2) / 2, len(FLIPS))
    weights = rng.multinomial(len(begin), np.full(len(begin), 1 / len(begin)), size=RESAMPLES)
    best = (fits.sum(0) + prior).argmax()
    again = FLIPS[(weights.astype(float) @ fits + prior).argmax(-1) // len(SLOPES)]
    low, high = np.quantile(again, [0.025, 0.975])
    return Estimate(float(FLIPS[best // len(SLOPES)]), float(low), float(high)), float(SLOPES[best % len(SLOPES)])


def _words(text: str) -> list[str]:
    return [ngram for ngram in ngrams(text) if " " not in ngram]
