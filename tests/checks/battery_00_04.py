"""Answers to notebooks 00 to 04 as learners write them, none of them a listed mutant. See `battery`."""

import math
import random
from itertools import pairwise

import numpy as np
import torch
from battery import Battery
from torch.nn.functional import logsigmoid

from prefcourse.checks.ex01_split import key

B = Battery()
right, wrong = B.right, B.wrong

# ---------------------------------------------------------------------------------------------- 00.log_pi

right("00.log_pi", lambda nt, y: np.log([nt[y[:t]][w] for t, w in enumerate(y)]).sum())
right(
    "00.log_pi", lambda nt, y: torch.tensor([nt[y[:t]][y[t]] for t in range(len(y))], dtype=torch.float64).log().sum()
)
right("00.log_pi", lambda nt, y: math.log(math.prod(nt[y[:t]][y[t]] for t in range(len(y)))))
wrong("00.log_pi", lambda nt, y: math.log1p(sum(nt[y[:t]][y[t]] for t in range(len(y)))), "too large|sum|logarithm")
wrong("00.log_pi", lambda nt, y: [math.log(nt[y[:t]][y[t]]) for t in range(len(y))], "shape|sum|one number")
wrong("00.log_pi", lambda nt, y: math.log(nt[y[:-1]][y[-1]]), "last|too large|case|first")
wrong(
    "00.log_pi",
    lambda nt, y: sum(math.log(nt[y[:t]][y[t]]) for t in range(len(y))) / (len(y) - 1 or 1),
    "divi|token|length",
)
wrong("00.log_pi", lambda nt, y: 2 * sum(math.log(nt[y[:t]][y[t]]) for t in range(len(y))), "2 times")
wrong("00.log_pi", lambda nt, y: float("-inf"), "infinite")
wrong(
    "00.log_pi", lambda nt, y: sum(math.log(1 - nt[y[:t]][y[t]] + 1e-9) for t in range(len(y))), "case|1 -|1 minus|too"
)

# ---------------------------------------------------------------------------------------------- 00.sequence_logps


def rows_by_loop(logps, p, c):
    return [sum(row[int(a) : int(a + b)]) for row, a, b in zip(logps, p, c, strict=True)]


def by_cumsum(logps, p, c):
    total = torch.cat([torch.zeros(len(logps), 1, dtype=logps.dtype), logps.cumsum(1)], 1)
    return total.gather(1, (p + c)[:, None])[:, 0] - total.gather(1, p[:, None])[:, 0]


def masked(logps, p, c, first=0, last=0):
    place = torch.arange(logps.shape[1])
    return logps * ((place >= p[:, None] + first) & (place < (p + c)[:, None] + last))


right("00.sequence_logps", rows_by_loop)
right("00.sequence_logps", by_cumsum)
right("00.sequence_logps", lambda *a: masked(*a).sum(1).numpy()[::-1][::-1])
wrong("00.sequence_logps", lambda *a: masked(*a)[:, :-1].sum(1), "last column")
wrong("00.sequence_logps", lambda *a: masked(*a, first=1).sum(1), "first|too|EOS alone|large")
wrong("00.sequence_logps", lambda *a: masked(*a, last=1).sum(1), "too small|last|padding|filling")
wrong("00.sequence_logps", lambda *a: masked(*a).sum(), "sum|shape")
wrong("00.sequence_logps", lambda *a: masked(*a), "axis|shape|sum")
wrong("00.sequence_logps", lambda logps, p, c: masked(logps, c, p).sum(1), "exchanged")
wrong("00.sequence_logps", lambda *a: -masked(*a).sum(1), "sign")
wrong("00.sequence_logps", lambda *a: masked(*a).mean(1), "divided by the length")

# ---------------------------------------------------------------------------------------------- 00.tempered


def tempered_by_hand(logits, t):
    if t == 0:
        return [float(x == max(logits)) for x in logits]
    e = ((logits - logits.max()) / t).exp()
    return e / e.sum()


right("00.tempered", tempered_by_hand)
right("00.tempered", lambda z, t: (z / max(t, 1e-9)).softmax(-1))
wrong("00.tempered", lambda z, t: (z / t).softmax(-1) if t else z / z.sum(), "temperature is 0|likeliest|infinite")
wrong("00.tempered", lambda z, t: (z - t).softmax(-1) if t else tempered_by_hand(z, t), "changes nothing|has no effect")
wrong("00.tempered", lambda z, t: (z / t**2).softmax(-1) if t else tempered_by_hand(z, t), "square of `temperature`")
wrong("00.tempered", lambda z, t: (z / t).exp() if t else tempered_by_hand(z, t), "factor|sum|too large|case")
wrong(
    "00.tempered",
    lambda z, t: torch.nn.functional.one_hot(z.argmax(), len(z)).double(),
    "no effect|if `temperature` were 0|were 0",
)
wrong("00.tempered", lambda z, t: (z / t).softmax(-1) if t else z.argmax(), "shape")
wrong("00.tempered", lambda z, t: (z.float() / t).sigmoid() if t else tempered_by_hand(z, t), "too large|case|factor")
wrong(
    "00.tempered",
    lambda z, t: (z.long() / t).softmax(-1) if t else z.long().softmax(-1),
    "case|too|error|words|rows|places|column",
)

# ---------------------------------------------------------------------------------------------- 01.annotator


def p_of_a(d, rel, lapse):
    return (1 - lapse) / (1 + np.exp(-rel * d)) + lapse / 2


right("01.annotator", lambda d, rel, lapse, u: (u < p_of_a(d, rel, lapse)).tolist())
right("01.annotator", lambda d, rel, lapse, u: torch.from_numpy((u < p_of_a(d, rel, lapse)).astype(np.float32)))
right("01.annotator", lambda d, rel, lapse, u: [int(v < p) for v, p in zip(u, p_of_a(d, rel, lapse), strict=True)])
wrong(
    "01.annotator",
    lambda d, rel, lapse, u: (int(v < p) for v, p in zip(u, p_of_a(d, rel, lapse), strict=True)),
    "generator",
)
wrong("01.annotator", lambda d, rel, lapse, u: np.where(u < p_of_a(d, rel, lapse), "A", "B"), "text|str|shape|numbers")
wrong("01.annotator", lambda d, rel, lapse, u: (p_of_a(d, rel, lapse) > 0.5).astype(int), "`u`|better|coin")
wrong(
    "01.annotator",
    lambda d, rel, lapse, u: (u < p_of_a(-d, rel, lapse)).astype(int),
    "sign of `difference`|1 minus|wrong",
)
wrong("01.annotator", lambda d, rel, lapse, u: (u < p_of_a(d, rel, 1 - lapse)).astype(int), "1 - `lapse`")
wrong("01.annotator", lambda d, rel, lapse, u: (u < p_of_a(d, 1 / rel, lapse)).astype(int), "1 / `reliability`")
wrong("01.annotator", lambda d, rel, lapse, u: (u < (1 - lapse) * p_of_a(d, rel, 0)).astype(int), "lapse")
wrong("01.annotator", lambda d, rel, lapse, u: (u < p_of_a(d, rel, lapse)).mean(), "shape|mean")
wrong("01.annotator", lambda d, rel, lapse, u: (u < p_of_a(d, rel, lapse))[:-1].astype(int), "shape")

# ---------------------------------------------------------------------------------------------- 01.ceiling_with_lapses


def ceil(a, lam):
    return min(1.0, 0.5 + math.sqrt((a - 0.5) / 2) / (1 - lam))


right("01.ceiling_with_lapses", ceil)
right("01.ceiling_with_lapses", lambda a, lam: torch.tensor(ceil(a, lam), dtype=torch.float64))
right("01.ceiling_with_lapses", lambda a, lam: np.clip(0.5 + np.sqrt((a - 0.5) / 2) / (1 - lam), 0, 1))
wrong("01.ceiling_with_lapses", lambda a, lam: ceil(a, lam) - 0.5, "too small|0.5")
wrong("01.ceiling_with_lapses", lambda a, lam: 1 - ceil(a, lam), "1 minus")
wrong(
    "01.ceiling_with_lapses", lambda a, lam: min(1.0, 0.5 + math.sqrt((a - 0.5) / 2) / (1 - lam / 2)), "half of `lapse`"
)
wrong("01.ceiling_with_lapses", lambda a, lam: min(1.0, 0.5 + math.sqrt((a - 0.5) / 2) / (1 + lam)), "sign of `lapse`")
wrong("01.ceiling_with_lapses", lambda a, lam: min(1.0, 0.5 + math.sqrt(a - 0.5) / (1 - lam)), "too large|case")
wrong("01.ceiling_with_lapses", lambda a, lam: a, "no effect|too small|case")
wrong("01.ceiling_with_lapses", lambda a, lam: [ceil(a, lam)], "shape|length|long")

# ---------------------------------------------------------------------------------------------- 01.split


def split_sorted(rows, share, seed):
    keys = sorted({key(r["prompt"]) for r in rows})
    test = set(random.Random(seed).sample(keys, round(share * len(keys))))
    return tuple([r for r in rows if (key(r["prompt"]) in test) == side] for side in (False, True))


def split_numpy(rows, share, seed):
    keys = list(dict.fromkeys(key(r["prompt"]) for r in rows))
    order = np.random.default_rng(seed).permutation(len(keys))
    test = [keys[i] for i in order[: round(share * len(keys))]]
    return [[r for r in rows if key(r["prompt"]) not in test], [r for r in rows if key(r["prompt"]) in test]]


def split_spelled(rows, share, seed, spelled=lambda p: p.strip().lower(), size=round, change=False):
    keys = list(dict.fromkeys(spelled(r["prompt"]) for r in rows))
    test = set(random.Random(seed).sample(keys, size(share * len(keys))))
    if change:
        for r in rows:
            r["prompt"] = key(r["prompt"])
    return [r for r in rows if spelled(r["prompt"]) not in test], [r for r in rows if spelled(r["prompt"]) in test]


def split_by_hash(rows, share, seed):
    import hashlib

    def code(k):
        return hashlib.md5(f"{seed} {k}".encode()).hexdigest()

    keys = sorted({key(r["prompt"]) for r in rows}, key=code)
    test = set(keys[: round(share * len(keys))])
    return [r for r in rows if key(r["prompt"]) not in test], [r for r in rows if key(r["prompt"]) in test]


right("01.split", split_sorted)
right("01.split", split_numpy)
right("01.split", split_by_hash)
wrong("01.split", split_spelled, "spaces|spell|key")
wrong("01.split", lambda *a: split_spelled(*a, spelled=key, size=math.ceil), "rounds|round|prompts")
wrong("01.split", lambda *a: split_spelled(*a, spelled=key, size=math.floor), "round")
wrong("01.split", lambda *a: split_spelled(*a, spelled=key, change=True), "changes its argument")
wrong("01.split", lambda *a: split_sorted(*a)[0], "two lists")
wrong("01.split", lambda *a: ([key(r["prompt"]) for r in split_sorted(*a)[0]], split_sorted(*a)[1]), "rows themselves")
wrong("01.split", lambda rows, share, seed: split_sorted(rows, 1 - share, seed), "1 - `share`|prompts|exchanged")
wrong("01.split", lambda rows, share, seed: (split_sorted(rows, share, seed)[0], rows), "both|prompt|once")
wrong("01.split", lambda rows, share, seed: (rows, split_sorted(rows, share, seed)[1]), "both|prompt|once")
wrong(
    "01.split",
    lambda rows, share, seed: tuple([dict(r) for r in part][::-1] for part in split_sorted(rows, share, seed)),
    "order",
)
wrong("01.split", lambda rows, share, seed: split_sorted(rows, 0.2, seed), "`share`|prompts|shares?")

# ---------------------------------------------------------------------------------------------- 01.pipeline


def pipe(c, ask, held, budget, seed, votes=1, order=None, strip=False, mind_budget=True, blind=False, limit=None):
    places = list(range(len(c)))
    random.Random(seed).shuffle(places)
    rows, seen, spent = [], set(), 0
    for i in places if order is None else order(places):
        k, a, b = key(c[i]["prompt"]), c[i]["a"].strip(), c[i]["b"].strip()
        if k in held or not a or not b or a == b or (k, frozenset((a, b))) in seen:
            continue
        if mind_budget and spent + votes > (limit or budget):
            break
        seen.add((k, frozenset((a, b))))
        won = sum(ask(i) == "A" for _ in range(votes))
        spent += votes
        if strip:
            c[i]["a"], c[i]["b"] = a, b
        one, two = (c[i]["a"], c[i]["b"]) if won * 2 > votes or blind else (c[i]["b"], c[i]["a"])
        rows.append({"prompt": c[i]["prompt"], "chosen": one, "rejected": two})
    return rows


right("01.pipeline", lambda *a: pipe(*a, votes=3))
right("01.pipeline", lambda *a: pipe(*a, order=sorted))
right("01.pipeline", lambda *a: tuple(pipe(*a)))
right("01.pipeline", lambda *a: pipe(*a, order=lambda places: sorted(places, reverse=True)))
wrong("01.pipeline", lambda *a: pipe(*a, strip=True), "changes its argument|texts")
wrong("01.pipeline", lambda *a: pipe(*a, blind=True), "votes|chosen")
wrong("01.pipeline", lambda *a: pipe(*a, limit=2), "at least half|hold")
wrong(
    "01.pipeline",
    lambda *a: [{"prompt": r["prompt"], "chosen": r["chosen"]} for r in pipe(*a)],
    "prompt, chosen and rejected",
)
wrong("01.pipeline", lambda *a: [], "at least half|hold")
wrong("01.pipeline", lambda *a: pipe(*a, order=lambda p: random.sample(p, len(p))), "seed")
wrong("01.pipeline", lambda *a: pipe(*a) * 2, "once|twice|pair")
wrong("01.pipeline", lambda *a: [{**r, "prompt": key(r["prompt"])} for r in pipe(*a)], "texts|leaves|as they were")

# ----------------------------------------------------------------------------------- 01.pairs_enough and doubling


def enough(wins, target, t, test=lambda low, target: low >= target, t_of=lambda t: t, spread=None, on="mean"):
    s = math.sqrt(np.mean([np.var(w, ddof=1) for w in wins.values()])) if spread is None else spread(wins)
    low = {n: float(getattr(np, on)(w)) - t_of(t) * s / math.sqrt(len(w)) for n, w in wins.items()}
    found = None
    for n in sorted(wins, reverse=True):
        if not test(low[n], target):
            break
        found = n
    return found, low


right("01.pairs_enough", enough)
right("01.pairs_enough", lambda *a: list(enough(*a)))
right("01.pairs_enough", lambda *a: (enough(*a)[0], {n: np.float32(v) for n, v in enough(*a)[1].items()}))
wrong("01.pairs_enough", lambda *a: enough(*a, test=lambda low, target: low > target), "exactly at the target")
wrong("01.pairs_enough", lambda *a: enough(*a)[0], "2 things|two")
wrong("01.pairs_enough", lambda *a: enough(*a)[::-1], "order|dict|part|right|number")
wrong("01.pairs_enough", lambda *a: (enough(*a)[0], list(enough(*a)[1].values())), "dict")
wrong("01.pairs_enough", lambda *a: enough(*a, on="median"), "part|too|case|rows|look|number")
wrong("01.pairs_enough", lambda *a: enough(*a, t_of=lambda t: t / 2), "half of `t`")
wrong("01.pairs_enough", lambda *a: enough(*a, t_of=lambda t: 1.0), "if `t` were 1")
wrong(
    "01.pairs_enough",
    lambda *a: enough(*a, spread=lambda w: np.mean([np.std(x, ddof=1) for x in w.values()])),
    "too large|agree|case|look",
)


def slope(wins, log=np.log2, se=True):
    x = np.repeat(log(list(wins)), [len(w) for w in wins.values()])
    y = np.concatenate(list(wins.values()))
    (k, _), cov = np.polyfit(x, y, 1, cov=True)
    return k, math.sqrt(cov[0, 0])


right("01.doubling", slope)
right("01.doubling", lambda w: torch.tensor(slope(w)))
wrong("01.doubling", lambda w: slope(w)[0], "2 things|two")
wrong("01.doubling", lambda w: slope(w)[::-1], "number|order|wrong|right")
wrong("01.doubling", lambda w: (slope(w)[0], slope(w)[1] ** 2), "square")
wrong("01.doubling", lambda w: (slope(w)[0], 1.96 * slope(w)[1]), "1.96 times")
wrong("01.doubling", lambda w: (-slope(w)[0], slope(w)[1]), "sign")
wrong("01.doubling", lambda w: (slope(w)[0], slope(w)[0] / slope(w)[1]), "number 1 is right")

# ---------------------------------------------------------------------------------------------- 02


def kls(p, q):
    return [(a.exp() * (a - b)).sum(-1) for a, b in zip(p, q, strict=True)]


def position_kls(p, q, known=None, grow=lambda w, a: w[..., None] * a.exp()):
    weight, found = torch.ones(()).double(), []
    for a, kl in zip(known or p, kls(p, q), strict=True):
        found.append((weight * kl).sum())
        weight = grow(weight, a)
    return found


def differences(p, q):
    """From the KL of ever longer beginnings, by all responses at once."""
    found, a, b = [], torch.zeros(1).double(), torch.zeros(1).double()
    for x, y in zip(p, q, strict=True):
        a, b = ((z[..., None] + t.reshape(-1, t.shape[-1])).reshape(-1) for z, t in ((a, x), (b, y)))
        found.append((a.exp() * (a - b)).sum())
    return [found[0], *(late - early for early, late in pairwise(found))]


right("02.position_kls", position_kls)
right("02.position_kls", differences)
right("02.position_kls", lambda p, q: np.array([float(x) for x in position_kls(p, q)])[::-1][::-1])
wrong("02.position_kls", lambda p, q: position_kls(q, p), "exchanged|sign|forward")
wrong("02.position_kls", lambda p, q: position_kls(p, q)[::-1], "order")
wrong("02.position_kls", lambda p, q: torch.stack(position_kls(p, q)).cumsum(0), "first|number 1|right|one token")
wrong("02.position_kls", lambda p, q: position_kls(p[:2], q[:2]), "shape|things|number|loop")
wrong("02.position_kls", lambda p, q: position_kls(p, q)[:4], "shape|things|number|loop|five tokens")
wrong("02.position_kls", lambda p, q: position_kls(p, q, q), "reference")
wrong(
    "02.position_kls",
    lambda p, q: position_kls(p, q, grow=lambda w, a: w[None] * a.exp()),
    "number 3|last|right|case|first",
)
wrong("02.position_kls", lambda p, q: [x / math.log(2) for x in position_kls(p, q)], "times")
wrong("02.position_kls", lambda p, q: -torch.stack(position_kls(p, q)), "sign")


def objective(theta, ref, r, beta, mean=True):
    pi = theta.softmax(-1)
    u = r - beta * (pi.log() - ref.log())
    J = (pi * u).sum(-1)
    return J, pi * (u - J[:, None])


right("02.objective_and_gradient", lambda *a: [list(x) for x in objective(*a)])
right("02.objective_and_gradient", lambda *a: tuple(x.numpy() for x in objective(*a)))
wrong("02.objective_and_gradient", lambda *a: objective(*a)[0], "2 things|two")
wrong("02.objective_and_gradient", lambda *a: (objective(*a)[0].mean(), objective(*a)[1]), "mean")
wrong("02.objective_and_gradient", lambda *a: (objective(*a)[0], -objective(*a)[1]), "sign")
wrong("02.objective_and_gradient", lambda *a: objective(*a)[::-1], "shape|exchanged|order")
wrong("02.objective_and_gradient", lambda t, ref, r, b: objective(t, ref, r, 1 / b), "1 / `beta`")
wrong("02.objective_and_gradient", lambda t, ref, r, b: objective(t, ref, r, 2 * b), "twice `beta`")
wrong("02.objective_and_gradient", lambda t, ref, r, b: objective(t.exp(), ref, r, b), "e to the power of `theta`")
wrong(
    "02.objective_and_gradient",
    lambda t, ref, r, b: (objective(t, ref, r, b)[0], objective(t, ref, r, b)[1] / len(t)),
    "divided by the length|part 1 is right",
)

right("02.sampled_kl", lambda p, q, m: float(np.sum(((p - q) * m).numpy(), axis=1).mean()))
right("02.sampled_kl", lambda p, q, m: ((p - q)[m.bool()].sum() / len(p)).float())
wrong("02.sampled_kl", lambda p, q, m: ((p - q) * m)[:, :-1].sum(-1).mean(), "last column")
wrong("02.sampled_kl", lambda p, q, m: ((p - q) * m).sum(0).mean(), "length of|divided")
wrong("02.sampled_kl", lambda p, q, m: ((p - q) * m).sum(-1).median(), "case|too|agree|small|large")
wrong("02.sampled_kl", lambda p, q, m: ((p - q) * (1 - m)).sum(-1).mean(), "1 - `mask`")
wrong(
    "02.sampled_kl",
    lambda p, q, m: ((p * m).sum(-1).exp() / (q * m).sum(-1).exp()).mean().log(),
    "case|too|large|agree",
)
wrong("02.sampled_kl", lambda p, q, m: ((p.exp() * (p - q)) * m).sum(-1).mean(), "case|too|agree|weigh")
wrong("02.sampled_kl", lambda p, q, m: (p * m).sum(-1).mean(), "`reference_logps`")

# ---------------------------------------------------------------------------------------------- 03


def flip(c, r, e):
    d = c - r
    return -torch.log(e + (1 - 2 * e) * d.sigmoid())


right(
    "03.flip_aware_loss",
    lambda c, r, e: list(
        -torch.logaddexp(math.log1p(-e) + logsigmoid(c - r), (math.log(e) if e else -torch.inf) + logsigmoid(r - c))
    ),
)
right("03.flip_aware_loss", flip)
wrong("03.flip_aware_loss", lambda c, r, e: flip(c, r, 1 - e), "1 - `eps`|exchanged")
wrong("03.flip_aware_loss", lambda c, r, e: flip(c, r, e).sum(), "sum")
wrong("03.flip_aware_loss", lambda c, r, e: -flip(c, r, e), "sign")
wrong("03.flip_aware_loss", lambda c, r, e: flip(c, r, e / 2), "half of `eps`")
wrong("03.flip_aware_loss", lambda c, r, e: flip(c, r, e) / math.log(2), "times")
wrong("03.flip_aware_loss", lambda c, r, e: -logsigmoid(c - r) * (1 - e), "1 - `eps`|ε|too|divided|times")
wrong("03.flip_aware_loss", lambda c, r, e: -logsigmoid(c - r) + e, "case|large|too|agree")
wrong("03.flip_aware_loss", lambda c, r, e: torch.log(0.3), "takes a tensor")


def climb(wins, prior, lr=0.02, steps=4000, pull=1.0):
    games, r = wins + wins.T, torch.zeros(len(wins), dtype=torch.float64)
    for _ in range(steps):
        r = r + lr * ((wins - games * (r[:, None] - r).sigmoid()).sum(1) - pull * prior * r)
    return r


right("03.fit_with_prior", climb)
right("03.fit_with_prior", lambda w, p: climb(w, p).tolist())
wrong(
    "03.fit_with_prior", lambda w, p: climb(w, p, lr=5.0, steps=50), "step is too long|runs away|swing|on the way|large"
)
wrong("03.fit_with_prior", lambda w, p: climb(w, p, steps=40), "on the way")
for step in (0.5, 1.0):
    wrong("03.fit_with_prior", lambda w, p, step=step: climb(w, p, lr=step, steps=400), "swings to and fro")
wrong("03.fit_with_prior", lambda w, p: -climb(w, p), "sign|exchanged")
wrong("03.fit_with_prior", lambda w, p: climb(w, p / 2), "prior that is 0.5 times")
wrong("03.fit_with_prior", lambda w, p: climb(w, 1 / p), "prior that is")
wrong("03.fit_with_prior", lambda w, p: climb(w, p) + 1, "constant|1 too large")
wrong("03.fit_with_prior", lambda w, p: climb(w, p).exp(), "e to the power")
wrong("03.fit_with_prior", lambda w, p: climb(w, 1.0), "prior that is")
wrong("03.fit_with_prior", lambda w, p: climb(w, p, pull=-1.0, steps=300), "runs away|sign of `prior`")


def at(h, place, w):
    return h[torch.arange(len(h)), place] @ w


right("03.read_at_eos", lambda h, m, w: at(h, (torch.arange(m.shape[1]) * m).argmax(1), w))
right("03.read_at_eos", lambda h, m, w: [float(row[mask][-1] @ w) for row, mask in zip(h, m, strict=True)])
wrong("03.read_at_eos", lambda h, m, w: at(h, (m[:, :-1] & ~m[:, 1:]).int().argmax(1), w), "last column")
wrong("03.read_at_eos", lambda h, m, w: at(h, m.int().diff(dim=1).argmin(1), w), "last column")
wrong("03.read_at_eos", lambda h, m, w: h @ w, "shape|axis")
wrong("03.read_at_eos", lambda h, m, w: at(h, m.sum(1), w), "place|read|case|rows|too")
wrong("03.read_at_eos", lambda h, m, w: ((h @ w) * m).sum(1), "EOS alone|average|sum|case")
wrong("03.read_at_eos", lambda h, m, w: ((h @ w) * m).amax(1), "case|rows|too|agree|EOS alone")
wrong(
    "03.read_at_eos",
    lambda h, m, w: at(h, (torch.arange(m.shape[1]) * m).argmax(1), torch.ones_like(w)),
    "if `weight` were 1",
)


def climb_with_place(won, shown, prior, steps=4000, lr=None, place=1.0):
    x = torch.zeros(len(won) + 1).double()
    for _ in range(steps):
        surplus = won - shown * (x[:-1, None] - x[:-1] + place * x[-1]).sigmoid()
        up = torch.cat([(surplus - surplus.T).sum(1), place * surplus.sum()[None]]) - prior * x
        x = x + (lr or 1 / (0.75 * shown.sum() + prior)) * up
    return x[:-1], x[-1]


def by_autograd(won, shown, prior):
    x = torch.zeros(len(won) + 1).double()

    def loss(x):
        h = x[:-1, None] - x[:-1] + x[-1]
        return -(won * logsigmoid(h) + (shown - won) * logsigmoid(-h)).sum() + prior / 2 * x @ x

    for _ in range(30):
        slope, bend = torch.autograd.functional.jacobian(loss, x), torch.autograd.functional.hessian(loss, x)
        x = x - torch.linalg.solve(bend, slope)
    return x[:-1].tolist(), x[-1].item()


right("03.fit_with_place", climb_with_place)
right("03.fit_with_place", by_autograd)
wrong("03.fit_with_place", lambda *a: climb_with_place(*a)[0], "2 things|two|things|shape")
wrong("03.fit_with_place", lambda *a: climb_with_place(*a)[::-1], "number|order|shape|part|exchanged")
wrong("03.fit_with_place", lambda w, s, p: climb_with_place(w, s, p, steps=30), "on the way")
wrong("03.fit_with_place", lambda w, s, p: climb_with_place(w, s, p, lr=3.0, steps=60), "runs away|swing|on the way")
wrong("03.fit_with_place", lambda w, s, p: climb_with_place(w, s, p, lr=0.3, steps=600), "fro between two points")
wrong("03.fit_with_place", lambda w, s, p: climb_with_place(w, s, p, lr=0.62, steps=600), "a cycle of 4 points")
wrong("03.fit_with_place", lambda w, s, p: climb_with_place(w, s, p, place=0.0), "place is missing")
wrong("03.fit_with_place", lambda w, s, p: climb_with_place(w.T, s.T, p), "second place|sign|exchanged")
wrong(
    "03.fit_with_place", lambda w, s, p: climb_with_place(w + w.T, s + s.T, p), "place|shown|numbers are 0|on the way"
)
wrong("03.fit_with_place", lambda w, s, p: (climb_with_place(w, s, p)[0], torch.tensor(0.0)), "right|2|place|all your")
wrong(
    "03.fit_with_place",
    lambda w, s, p: (climb_with_place(w, s, p)[0] - 1, climb_with_place(w, s, p)[1]),
    "1 too small|right|constant",
)

# ---------------------------------------------------------------------------------------------- 04


def rloo(lp, lr, rew, beta, K=None, keep=False):
    u = rew - beta * (lp.detach() - lr)
    k = u.shape[-1] if K is None else K(u)
    adv = (u - u.mean(-1, keepdim=True)) * k / (k - 1)
    return -(adv * lp).mean()


right("04.rloo_loss", rloo)
right(
    "04.rloo_loss",
    lambda lp, lr, rew, b: (
        -sum(((r.sum() - r) / (1 - len(r)) + r) @ x for r, x in zip(rew - b * (lp.detach() - lr), lp, strict=True))
        / lp.numel()
    ),
)
wrong("04.rloo_loss", lambda *a: rloo(*a).item(), "no tensor|gradient")
wrong("04.rloo_loss", lambda *a: rloo(*a).detach(), "no gradient")
wrong("04.rloo_loss", lambda *a: rloo(*a) * 2, "2 times")
wrong("04.rloo_loss", lambda lp, lr, rew, b: rloo(lp, lr, rew, b).reshape(1), "shape")
wrong("04.rloo_loss", lambda lp, lr, rew, b: rloo(lp, lr, -rew, b), "sign")
wrong("04.rloo_loss", lambda lp, lr, rew, b: rloo(lp, lr, rew, 1.0), "were 1|β|`beta`|free|costs nothing")
wrong("04.rloo_loss", lambda lp, lr, rew, b: rloo(lp, lr * 0, rew, b), "`log_ref` were 0|`log_ref`")
wrong("04.rloo_loss", lambda lp, lr, rew, b: rloo(lp.T, lr.T, rew.T, b), "rows|prompt|axes|wrong|too")
wrong("04.rloo_loss", lambda lp, lr, rew, b: np.mean(lp.numpy()), "words|numpy|error|stop|detach")
wrong("04.rloo_loss", lambda lp, lr, rew, b: [rloo(lp, lr, rew, b)] * 3, "shape")


def siblings(u, prompt, lone=0.0, own=0.0):
    found = []
    for i, (mine, x) in enumerate(zip(u.tolist(), prompt.tolist(), strict=True)):
        others = [v for j, (v, y) in enumerate(zip(u.tolist(), prompt.tolist(), strict=True)) if y == x and j != i]
        found.append(mine - sum(others) / len(others) if others else lone * mine)
    return found


def by_group(u, prompt):
    found = np.zeros(len(u))
    for x in set(prompt.tolist()):
        here = prompt.numpy() == x
        if here.sum() > 1:
            found[here] = (u.numpy()[here] - u.numpy()[here].mean()) * here.sum() / (here.sum() - 1)
    return found


right("04.group_advantages", siblings)
right("04.group_advantages", by_group)
wrong("04.group_advantages", lambda u, x: siblings(u, x, lone=1.0), "without siblings|alone")
wrong("04.group_advantages", lambda u, x: u - u.mean(), "mean|batch|siblings|own|`prompt` has no effect")
wrong("04.group_advantages", lambda u, x: siblings(u.flip(0), x.flip(0)), "order")
wrong("04.group_advantages", lambda u, x: siblings(u, x.sort().values), "stand together|anywhere|neighbours")
wrong("04.group_advantages", lambda u, x: [a for a in siblings(u, x) if a], "shape|alone|numbers")
wrong("04.group_advantages", lambda u, x: torch.tensor(siblings(u, x)).double() / u.std(), "times|factor|divided|case")
wrong("04.group_advantages", lambda u, x: -torch.tensor(siblings(u, x)), "sign")
wrong("04.group_advantages", lambda u, x: torch.tensor(siblings(u, x)) / 2, "2 times smaller")
wrong("04.group_advantages", lambda u, x: sum(siblings(u, x)), "shape|sum")


def coin(p, u1, u0, b):
    g1, g0 = (u1 - b) * (1 - p), -(u0 - b) * p
    mean = p * (1 - p) * (u1 - u0)
    return mean, p * (1 - p) * (g1 - g0) ** 2, (1 - p) * u1 + p * u0


right("04.coin", coin)
right("04.coin", lambda *a: np.array(coin(*a)))
wrong("04.coin", lambda *a: coin(*a)[:2], "3 things|number")
wrong("04.coin", lambda *a: (coin(*a)[0], coin(*a)[2], coin(*a)[1]), "number 1 is right|number 2")
wrong("04.coin", lambda p, a, b, c: coin(1 - p, a, b, c), "1 - `p`")
wrong("04.coin", lambda p, a, b, c: coin(p, b, a, c), "exchanged|sign")
wrong("04.coin", lambda p, a, b, c: coin(p, a, b, 0.0), "baseline")
wrong("04.coin", lambda p, a, b, c: (*coin(p, a, b, c)[:2], (a + b) / 2), "number 3")
wrong("04.coin", lambda p, a, b, c: (*coin(p, a, b, c)[:2], c), "number 3")
wrong("04.coin", lambda p, a, b, c: (a - b, *coin(p, a, b, c)[1:]), "number 2, number 3 are right")


def gae(rew, lp, lr, v, beta, lam, gamma=1.0, out=None):
    earned = -beta * (lp - lr)
    earned[-1] = earned[-1] + rew
    later, found = 0.0, []
    for t in reversed(range(len(v))):
        after = v[t + 1] if t + 1 < len(v) else 0.0
        later = earned[t] + gamma * after - v[t] + lam * later
        found.append(later)
    return np.array(found)[::-1]


right("04.token_advantages", gae)
right("04.token_advantages", lambda *a: [torch.tensor(x) for x in gae(*a)])
wrong("04.token_advantages", lambda *a: gae(*a)[::-1], "order|turned")
wrong("04.token_advantages", lambda rew, lp, lr, v, b, lam: gae(rew, lp, lr, v * 0, b, lam), "`values`")
wrong(
    "04.token_advantages",
    lambda rew, lp, lr, v, b, lam: gae(rew, lp, lr, v, b, lam) + v.numpy(),
    "`values`|too|case|amount|wrong|large",
)
wrong("04.token_advantages", lambda rew, lp, lr, v, b, lam: gae(rew, lr, lp, v, b, lam), "exchanged|sign")
wrong("04.token_advantages", lambda rew, lp, lr, v, b, lam: gae(rew, lp, lr, v, b, 1 - lam), "1 - `lam`")
wrong("04.token_advantages", lambda *a: gae(*a, gamma=0.9), "one token|last|wrong|rows|right|places")
wrong("04.token_advantages", lambda *a: gae(*a).mean(), "mean")
wrong(
    "04.token_advantages",
    lambda rew, lp, lr, v, b, lam: gae(rew, lp, lr, v, b, lam) - gae(rew, lp, lr, v, b, lam).mean(),
    "mean is subtracted",
)


def clip(lp, lo, adv, eps):
    ratio = torch.exp(lp - lo)
    return torch.maximum(-ratio * adv, -ratio.clamp(1 - eps, 1 + eps) * adv)


right("04.clip_loss", clip)
right("04.clip_loss", lambda *a: list(clip(*a)))
wrong("04.clip_loss", lambda *a: clip(*a).detach(), "no gradient")
wrong("04.clip_loss", lambda *a: clip(*a).detach().numpy(), "no tensor|gradient")
wrong("04.clip_loss", lambda *a: clip(*a).sum(), "sum")
wrong("04.clip_loss", lambda lp, lo, adv, eps: clip(lp, lo, -adv, eps), "sign")
wrong("04.clip_loss", lambda lp, lo, adv, eps: clip(lp, lo, adv, 2 * eps), "twice `eps`")
wrong(
    "04.clip_loss",
    lambda lp, lo, adv, eps: torch.maximum(-(lp / lo) * adv, -(lp / lo).clamp(1 - eps, 1 + eps) * adv),
    "case|wrong|too|rows|right",
)
wrong("04.clip_loss", lambda lp, lo, adv, eps: clip(lp, lo, adv - adv.mean(), eps), "case|wrong|too|rows|mean|right")
wrong("04.clip_loss", lambda lp, lo, adv, eps: clip(lp, lo, torch.ones_like(adv), eps), "if `advantages` were 1")
