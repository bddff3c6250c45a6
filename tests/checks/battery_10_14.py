"""Answers to notebooks 10 to 14 as learners write them, none of them a listed mutant. See `battery`."""

import math
import re
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import torch
from battery import Battery
from torch.nn.functional import logsigmoid

from prefcourse.checks.ex11 import learn, score
from prefcourse.comparison.costs import Meter

B = Battery()
right, wrong = B.right, B.wrong
Z, Z80 = NormalDist().inv_cdf(0.975), NormalDist().inv_cdf(0.8)

# ---------------------------------------------------------------------------------------------- 10


def wilson(a, b, z=Z, n=None, tie=0.5):
    n = n or len(a)
    p = sum(1.0 if x > y else tie if x == y else 0.0 for x, y in zip(a.tolist(), b.tolist(), strict=True)) / len(a)
    mid, root = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [p, (mid - root) / (1 + z * z / n), (mid + root) / (1 + z * z / n)]


right("10.win_rate", wilson)
right("10.win_rate", lambda *a: torch.tensor(wilson(*a)))
wrong("10.win_rate", lambda *a: wilson(*a, n=len(a[0]) - 1), "number 1 is right")
wrong("10.win_rate", lambda *a: wilson(*a, z=2.576), "number 1 is right")
wrong("10.win_rate", lambda *a: wilson(*a, tie=0.25), "number|too small|tie|agree")
wrong("10.win_rate", lambda *a: [100 * x for x in wilson(*a)], "100 times")
wrong("10.win_rate", lambda *a: wilson(*a)[0], "3 things")
wrong("10.win_rate", lambda *a: [wilson(*a)[i] for i in (0, 2, 1)], "number 1 is right")
wrong(
    "10.win_rate", lambda a, b: [float((a > b).float().mean()), *wilson(a, b)[1:]], "number 2, number 3 are right|ties?"
)
wrong("10.win_rate", lambda a, b: wilson(a, torch.zeros_like(b)), "`b` were 0|`b`")


def size(rate, ties, z=Z, z80=Z80, real=lambda p, t: p - p * p - t / 4, up=math.ceil):
    null = math.sqrt((1 - ties) / 4)
    return up(((z * null + z80 * math.sqrt(real(rate, ties))) / abs(rate - 0.5)) ** 2)


right("10.sample_size", size)
right("10.sample_size", lambda *a: np.int64(size(*a)))
right("10.sample_size", lambda *a: float(size(*a)))
wrong("10.sample_size", lambda *a: size(*a, up=round), "power|down|agree|too small|round")
wrong("10.sample_size", lambda *a: size(*a, z80=1.2816), "too large|case|factor")
wrong("10.sample_size", lambda *a: 2 * size(*a), "2 times")
wrong("10.sample_size", lambda p, t: size(p, 2 * t) if 2 * t < 1 else 1, "twice `ties`|case|too")
wrong("10.sample_size", lambda p, t: size(p, 1 - t), "1 - `ties`|case|too|words|math")
wrong("10.sample_size", lambda p, t: size(max(p, 0.5001), t), "below ½|lies|A loses")
wrong("10.sample_size", lambda p, t: [size(p, t)], "one number|shape")
wrong("10.sample_size", lambda p, t: size(p, t) + 1, "1 too large")


def gain(a, b, seed=0, ends=(0.025, 0.975), rows=None, stat="mean"):
    d = (a - b).mean(1)
    i = torch.randint(len(d), (2000, len(d)), generator=torch.Generator().manual_seed(seed))
    means = d[i].mean(1).numpy()
    return float(d.mean()), *np.quantile(means, ends)


right("10.gain", gain)
right("10.gain", lambda *a: list(gain(*a)))
wrong("10.gain", lambda *a: gain(*a, ends=(0.975, 0.025)), "number 1 is right")
wrong("10.gain", lambda *a: gain(*a, ends=(0.005, 0.995)), "number 1 is right")
wrong("10.gain", lambda *a: gain(*a)[0], "3 things")
wrong("10.gain", lambda *a: (0.0, *gain(*a)[1:]), "are right")
wrong("10.gain", lambda *a: gain(*a, seed=2), "number 1 is right")
wrong("10.gain", lambda a, b: gain(a, b * 0), "`b` were 0")
wrong("10.gain", lambda a, b: gain(a / 2, b), "half of `a`")
wrong("10.gain", lambda a, b: (gain(a, b)[0] / a.std().item(), *gain(a, b)[1:]), "are right")


def holm(d, types, p_of=lambda z: math.erfc(z / math.sqrt(2)), signed=False, adjust=True):
    p = {}
    for kind in types:
        own = [x for x, t in zip(d.tolist(), types, strict=True) if t == kind]
        z = sum(own) / math.sqrt(sum(x * x for x in own))
        p[kind] = p_of(z if signed else abs(z))
    order, found, high = sorted(p, key=p.get), {}, 0.0
    for rank, kind in enumerate(order):
        high = max(high, min(1.0, (len(order) - rank) * p[kind]))
        found[kind] = high if adjust else p[kind]
    return found


right("10.by_type", holm)
right("10.by_type", lambda *a: {k: torch.tensor(v) for k, v in holm(*a).items()})
wrong("10.by_type", lambda *a: holm(*a, signed=True), "loses|absolute")
wrong("10.by_type", lambda *a: list(holm(*a).values()), "dict")
wrong("10.by_type", lambda *a: {k: v < 0.05 for k, v in holm(*a).items()}, "right|case|too|0|look|agree")
wrong("10.by_type", lambda *a: {k: 1 - v for k, v in holm(*a).items()}, "1 minus|1 - p")
wrong("10.by_type", lambda *a: {k: v / 2 for k, v in holm(*a).items()}, "2 times smaller|one-sided|half")
wrong("10.by_type", lambda *a: {k: v for k, v in list(holm(*a).items())[:1]}, "lacks")
wrong("10.by_type", lambda d, types: holm(d - d.mean(), types), "right|case|too|look|mean|wrong")
wrong("10.by_type", lambda d, types: holm(d.sign(), types), "right|case|too|look|wrong|sign")

# ---------------------------------------------------------------------------------------------- 11


def even(E, R, u, rloo=6, ppo=None, spared=lambda E, R: 2 + 6 * E - 6 * R, low=0):
    return {"RLOO": max(low, Fraction(spared(E, R), rloo)), "PPO": max(low, Fraction(spared(E, R), ppo or 4 + 3 * u))}


right("11.break_even", even)
right("11.break_even", lambda *a: {k: np.float32(v) for k, v in even(*a).items()})
wrong("11.break_even", lambda *a: even(*a, rloo=5), "`PPO` is right|RLOO")
wrong("11.break_even", lambda *a: even(*a, ppo=7), "`RLOO` is right|if `reuse` were 1")
wrong("11.break_even", lambda *a: {k: 1 / v if v else 0 for k, v in even(*a).items()}, "one over|upside")
wrong("11.break_even", lambda *a: list(even(*a).values()), "dict")
wrong("11.break_even", lambda *a: {k: float(math.floor(v)) for k, v in even(*a).items()}, "round|whole|too small|case")
wrong("11.break_even", lambda E, R, u: even(1, R, u), "if `epochs` were 1")
wrong("11.break_even", lambda E, R, u: even(R, E, u), "exchanged")
wrong(
    "11.break_even",
    lambda *a: even(*a, spared=lambda E, R: 2 + 6 * E + 6 * R),
    "sign of `reward_epochs`|costs more|too large|agree",
)


def shared(theta, wins, ref, phi, beta, sign=1, inside=None, at=1.0):
    lp = (ref.log() + phi @ theta / beta).log_softmax(-1)
    h = lp - at * ref.log()
    total = 0.0
    for x in range(len(ref)):
        total = total - (wins[x] * logsigmoid(sign * (inside or beta) * (h[x][:, None] - h[x][None]))).sum()
    return total


right("11.shared_dpo_loss", shared)
right("11.shared_dpo_loss", lambda t, w, ref, phi, b: -(w * logsigmoid((phi @ t)[:, None] - (phi @ t)[None])).sum())
wrong("11.shared_dpo_loss", lambda *a: shared(*a).item(), "gradient")
wrong("11.shared_dpo_loss", lambda *a: -shared(*a), "sign")
wrong("11.shared_dpo_loss", lambda *a: shared(*a, sign=-1), "swapped|wins|sign|axes")
wrong("11.shared_dpo_loss", lambda *a: shared(*a) / a[1].sum(), "sum of `wins`|nan|divided")
wrong("11.shared_dpo_loss", lambda *a: shared(*a)[None], "one number|shape|sum")
wrong("11.shared_dpo_loss", lambda *a: 2 * shared(*a), "2 times")
wrong(
    "11.shared_dpo_loss",
    lambda t, w, ref, phi, b: shared(t, (w > 0).double(), ref, phi, b),
    "wrong|too small|case|agree",
)
wrong(
    "11.shared_dpo_loss",
    lambda t, w, ref, phi, b: shared(t, w, ref.softmax(-1), phi, b, at=0.5),
    "wrong|too|case|agree|factor",
)


def bill(policy, reference, batches, measure, first=True, paused=True, skip=0, twice=False):
    meter = Meter(policy=policy, reference=reference)
    for i, ids in enumerate(batches):
        with meter:
            for _ in range(1 + twice):
                learn(policy, ids)
            if i >= skip:
                score(reference, ids)
        measure()
    return meter.work


right("11.bill", bill)
right("11.bill", lambda *a: float(bill(*a)))
wrong("11.bill", lambda p, r, batches, m: 4 * sum(b.numel() for b in batches), "nothing is run")
wrong("11.bill", lambda *a: bill(*a, skip=1), "work|scored|batches|reference")
wrong("11.bill", lambda *a: bill(*a, twice=True), "work|learned|batches")
wrong("11.bill", lambda *a: bill(*a) / 4, "4 times smaller|work")
wrong("11.bill", lambda p, r, b, m: bill(r, p, b, m), "exchanged")
wrong("11.bill", lambda p, r, b, m: bill(p, r, b[:1], m), "work|batches|learned|one batch|things|shape")
wrong("11.bill", lambda *a: None if bill(*a) else 0, "nothing|None|work|return")

# ---------------------------------------------------------------------------------------------- 12


def fixes(pi, u, w, lo, beta, margin, g=None, v=None, sq=True):
    v = u[w] - (pi[:, None] * u).sum(0) if v is None else v(pi, u, w)
    g = beta / (1 + math.exp(margin)) if g is None else g(beta, margin)
    s = float(v @ (u[w] - u[lo]))
    lam = max(0.0, -s / float((v * v).sum()))
    return {"alpha": g * lam, "lam": lam, "speed": g * s}


right("12.fixes", fixes)
right("12.fixes", lambda *a: {k: torch.tensor(v, dtype=torch.float64) for k, v in fixes(*a).items()})
wrong("12.fixes", lambda *a: tuple(fixes(*a).values()), "dict")
wrong("12.fixes", lambda *a: fixes(*a, g=lambda b, m: b / 2), "margin|right|if `margin` were 0")
wrong("12.fixes", lambda *a: fixes(*a) | {"speed": -fixes(*a)["speed"]}, "sign")
wrong("12.fixes", lambda *a: fixes(*a) | {"lam": 0.0}, "right")
wrong("12.fixes", lambda *a: fixes(*a) | {"alpha": fixes(*a)["alpha"] / a[4]}, "divided by `beta`")
wrong("12.fixes", lambda *a: {k: abs(v) for k, v in fixes(*a).items()}, "absolute")
wrong("12.fixes", lambda pi, u, w, lo, b, m: fixes(pi, u, w, lo, 2 * b, m), "twice `beta`|2 times")
wrong(
    "12.fixes",
    lambda *a: fixes(*a, v=lambda pi, u, w: u[w] - u[pi.argmax()]),
    "nan|right|look|too|case|stop|zero|words",
)


def judge(dl, dr, steps=30, lr=None, start=0.0):
    g = np.stack([dl.numpy(), dr.numpy()], 1)
    w = np.zeros(2)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-g @ w))
        grad = g.T @ (1 - p)
        w = w + (np.linalg.solve((g.T * (p * (1 - p))) @ g, grad) if lr is None else lr * grad)
    return w


right("12.fit_judge", judge)
right("12.fit_judge", lambda *a: tuple(judge(*a)))
wrong("12.fit_judge", lambda *a: judge(*a, steps=2), "on the way")
wrong("12.fit_judge", lambda *a: judge(*a, steps=200, lr=0.5), "step is too long|runs away|case|too|on the way|right")
wrong("12.fit_judge", lambda *a: judge(*a)[0], "shape|2 things|number")
wrong("12.fit_judge", lambda *a: judge(*a) / math.log(2), "times")
wrong("12.fit_judge", lambda dl, dr: judge(dl, -dr), "sign")
wrong("12.fit_judge", lambda dl, dr: judge(dl - dl.mean(), dr - dr.mean()), "mean|case|too|right|wrong|large")
wrong("12.fit_judge", lambda dl, dr: judge(dl.sign(), dr), "number|right|case|too|wrong|scaled|rows|on the way")
wrong("12.fit_judge", lambda dl, dr: judge(dl, dr) * 0, "0")


def stop(path, ref, c, r, budget, kl=None, back=1):
    k = (path * (path.log() - ref.log())).sum(1) if kl is None else kl(path, ref)
    step = 0
    while step < len(path) and k[step] <= budget:
        step += 1
    return step - back


right("12.stop_step", stop)
right("12.stop_step", lambda *a: np.int64(stop(*a)))
right("12.stop_step", lambda *a: torch.tensor(stop(*a)))
wrong("12.stop_step", lambda *a: stop(*a, back=0), "late|1 too large")
wrong("12.stop_step", lambda *a: stop(*a, back=2), "1 too small")
wrong("12.stop_step", lambda *a: stop(*a, kl=lambda p, q: (p - q).abs().sum(1) / 2), "case|too|factor|agree")
wrong(
    "12.stop_step",
    lambda *a: stop(*a, kl=lambda p, q: ((p / q).log() ** 2 * p).sum(1) / 2),
    "case|too|factor|agree|never",
)
wrong("12.stop_step", lambda p, q, c, r, b: stop(p, q, c, r, b / 2), "half of `budget`")
wrong(
    "12.stop_step",
    lambda p, q, c, r, b: stop(p, torch.ones_like(q) / len(q), c, r, b),
    "reference|case|too|agree|never",
)
wrong("12.stop_step", lambda *a: len(a[0]) - 1, "never stops")
wrong("12.stop_step", lambda *a: float(stop(*a)) / len(a[0]), "length of `path`|divided")

# ---------------------------------------------------------------------------------------------- 13


def ends(ref, r, cov, beta, mean=None, start=None):
    middle = r[cov].mean() if mean is None else mean
    z = (ref if start is None else start).log() + (r - middle) / beta * cov
    return (z - z.logsumexp(-1)).exp()


SOME = "case|too|agree|wrong|right|rows|place|only|mean|sum"
right("13.unseen", ends)
right("13.unseen", lambda *a: ends(*a).tolist())
wrong("13.unseen", lambda ref, r, cov, b: ends(ref, r, cov, b * b), "square of `beta`")
wrong("13.unseen", lambda ref, r, cov, b: ends(ref, r, cov, 2 * b), "twice `beta`")
wrong("13.unseen", lambda *a: ends(*a).log(), "log|sign|negative")
wrong("13.unseen", lambda *a: ends(*a)[:-1], "shape|axis")
wrong("13.unseen", lambda ref, r, cov, b: ends(ref, r, cov, b)[cov], "shape|axis")
wrong("13.unseen", lambda ref, r, cov, b: ends(ref, r, cov, b, mean=r[cov].min()), SOME)


def played(policy, ref, taste, eta, tau, wins=None):
    wins = (taste * policy).sum(1) if wins is None else wins
    mixed = policy ** (1 - eta * tau) * ref ** (eta * tau) * torch.exp(eta * wins)
    return mixed / mixed.sum()


right("13.self_play_round", played)
right("13.self_play_round", lambda p, q, t, e, tau: played(p, q, t, e, tau, wins=t @ p - 0.5))
wrong("13.self_play_round", lambda p, q, t, e, tau: played(p, q, t, e, 2 * tau), "twice `tau`")
wrong("13.self_play_round", lambda p, q, t, e, tau: played(q, p, t, e, tau), "exchanged|policy|reference")
wrong("13.self_play_round", lambda *a: played(*a)[:, None], "column|shape")
wrong("13.self_play_round", lambda p, q, t, e, tau: played(p, q, t.round(), e, tau), SOME)
wrong("13.self_play_round", lambda *a: played(*a).log(), "log|sign|negative")


def islands_left(pairs, replies):
    left = [{k} for k in range(replies)]
    for i, j in pairs:
        a, b = (next(s for s in left if k in s) for k in (i, j))
        if a is not b:
            left.remove(b)
            a |= b
    return len(left) - 1


def by_rank(pairs, replies):  # the rank of the incidence matrix
    rows = torch.zeros(max(len(pairs), 1), replies, dtype=torch.float64)
    for row, (i, j) in zip(rows, pairs, strict=False):
        row[i], row[j] = 1.0, -1.0
    return replies - 1 - int(torch.linalg.matrix_rank(rows))


right("13.free_shares", islands_left)
right("13.free_shares", by_rank)
wrong("13.free_shares", lambda p, n: islands_left(p, n) - 1, "1 too small|too small")
wrong("13.free_shares", lambda p, n: islands_left(p[:-1], n), SOME)
wrong("13.free_shares", lambda p, n: islands_left(p, n) == 0, "bool|True|False|number|case|1")
wrong("13.free_shares", lambda p, n: [islands_left(p, n)], "one number|shape|One number")
wrong("13.free_shares", lambda p, n: n - islands_left(p, n), "`replies`|minus|case|too|agree")


# ---------------------------------------------------------------------------------------------- 14


def plan(shapes, rank, n, ours=16, mb=1_000_000):
    k = rank * sum(a + b for a, b in shapes)
    return {"lora": (4 * n + ours * k) / mb, "full": 20 * n / mb, "adapters": k}


right("14.lora_plan", plan)
right("14.lora_plan", lambda *a: {k: np.float64(v) for k, v in plan(*a).items()})
wrong("14.lora_plan", lambda *a: plan(*a, ours=8), "are right")
wrong("14.lora_plan", lambda *a: plan(*a) | {"full": 2 * plan(*a)["full"]}, "2 times")
wrong("14.lora_plan", lambda *a: plan(*a) | {"full": 24 * a[2] / 1e6}, "1.2 times")
wrong("14.lora_plan", lambda *a: plan(*a) | {"adapters": 2 * plan(*a)["adapters"]}, "2 times")
wrong("14.lora_plan", lambda *a: list(plan(*a).values()), "dict")
wrong("14.lora_plan", lambda s, r, n: plan(s[:1], r, n), "are right|`full` is right|alone|agree|too small")
wrong("14.lora_plan", lambda s, r, n: plan(s, 2 * r, n), "twice `rank`|2 times")
wrong("14.lora_plan", lambda s, r, n: plan(s, r, n) | {"adapters": n}, "are right|adapters")


def labels(a, b, w, rho, coin, low=lambda coin, p: coin < p):
    p = torch.sigmoid(rho * ((a - b) * w).sum(1))
    return {"first_wins": low(coin, p).int(), "probability": p}


right("14.ai_labels", labels)
right("14.ai_labels", lambda *a: {k: v.tolist() for k, v in labels(*a).items()})
wrong("14.ai_labels", lambda *a: labels(*a)["probability"], "dict")
wrong("14.ai_labels", lambda *a: labels(*a) | {"probability": 1 - labels(*a)["probability"]}, "1 minus")
wrong(
    "14.ai_labels",
    lambda *a: labels(*a) | {"probability": torch.logit(labels(*a)["probability"])},
    "`first_wins` is right",
)
wrong("14.ai_labels", lambda a, b, w, rho, c: labels(a, b, w.softmax(0), rho, c), "weights|case|too|wrong|right|rows")
wrong("14.ai_labels", lambda a, b, w, rho, c: labels(a, b, w, 1 / rho if rho else 1, c), "1 / `reliability`|reliable")
wrong("14.ai_labels", lambda a, b, w, rho, c: labels(a, b, w, rho, 1 - c), "1 - `coin`|`probability` is right")
wrong("14.ai_labels", lambda a, b, w, rho, c: labels(a.round(), b.round(), w, rho, c), "rows|case|wrong|too|agree")
wrong("14.ai_labels", lambda a, b, w, rho, c: labels(a, b * 0, w, rho, c), "`second` were 0|`second`")


def price(ref, pol, m):
    lost = (ref - pol)[m]
    return {"per_token": lost.mean(), "per_text": lost.sum() / len(m)}


right("14.price", price)
right("14.price", lambda *a: {k: v.item() for k, v in price(*a).items()})
wrong("14.price", lambda *a: price(*a)["per_text"], "dict")
wrong("14.price", lambda *a: price(*a) | {"per_text": -price(*a)["per_text"]}, "sign")
wrong("14.price", lambda ref, pol, m: price(ref, pol, ~m), "1 - `mask`|`mask`|prompt")
wrong("14.price", lambda ref, pol, m: {k: v.exp() for k, v in price(ref, pol, m).items()}, "e to the power")
wrong("14.price", lambda ref, pol, m: price(ref[:, :-1], pol[:, :-1], m[:, :-1]), "last column")
wrong("14.price", lambda ref, pol, m: price(ref * 0, pol, m), "`reference`")
wrong(
    "14.price",
    lambda ref, pol, m: price(ref, pol, m) | {"per_text": price(ref, pol, m)["per_token"]},
    "`per_token` is right|divide",
)
wrong("14.price", lambda ref, pol, m: price(ref[:1], pol[:1], m[:1]), "case|too|agree|right|wrong|column|factor")


def judged(ask, x, a, b):
    s, t = ask(x, a, b), ask(x, b, a)
    return {"bias": (s + t).mul(0.5), "judgement": (s - t).mul(0.5)}


right("14.judgement", judged)
right("14.judgement", lambda *a: {k: [*v] for k, v in judged(*a).items()})
wrong("14.judgement", lambda *a: tuple(judged(*a).values()), "dict")
wrong("14.judgement", lambda *a: judged(*a) | {"bias": -judged(*a)["bias"]}, "sign")
wrong("14.judgement", lambda *a: {k: v.sigmoid() for k, v in judged(*a).items()}, "case|too|wrong|agree|rows|large")
wrong("14.judgement", lambda *a: {k: v.sign() for k, v in judged(*a).items()}, "case|too|wrong|agree|rows|large|small")
wrong("14.judgement", lambda ask, x, a, b: judged(ask, x, b, a), "exchanged|sign")
wrong("14.judgement", lambda ask, x, a, b: judged(ask, x, a, a), "in the place of")
wrong("14.judgement", lambda ask, x, a, b: {k: v.mean() for k, v in judged(ask, x, a, b).items()}, "mean")
wrong("14.judgement", lambda ask, x, a, b: judged(ask, x[::-1], a, b), "no place more|case|wrong|rows|right|agree")

# ---------------------------------------------------------------------------------------------- 14.verifier


def verified(texts, words, most, split=lambda t: re.split(r"[^a-z']+", t.lower()), end=r"[.!?]\s*$"):
    found = []
    for text in texts:
        there = [w for w in split(text) if w]
        found.append(float(all(w in there for w in words) and len(there) <= most and bool(re.search(end, text))))
    return found


def by_stripping(texts, words, most):
    cleaned = [[w.strip(".,!?()").lower() for w in t.split()] for t in texts]
    cleaned = [[w for w in there if any(sign.isalpha() for sign in w)] for there in cleaned]
    return torch.tensor(
        [
            set(words) <= set(there) and len(there) <= most and t.strip()[-1:] in tuple(".!?")
            for t, there in zip(texts, cleaned, strict=True)
        ]
    ).float()


right("14.verifier", verified)
right("14.verifier", by_stripping)
wrong("14.verifier", lambda t, w, m: verified(t, w, m, end=r"\.\s*$"), "case|too|wrong|sign|end|rows|agree|numbers?")
wrong("14.verifier", lambda t, w, m: verified(t, w, m, end=r"[.!?]$"), "spaces after")
wrong("14.verifier", lambda t, w, m: verified(t, w, m, split=lambda t: re.findall(r"[a-z]+", t.lower())), "apostrophe")
wrong("14.verifier", lambda t, w, m: verified(t, w, m, split=lambda t: re.split(r"[^\w']+", t.lower())), "digits")
wrong("14.verifier", lambda t, w, m: verified(t, w, m, split=lambda t: re.split(r"[^a-z0-9']+", t.lower())), "digits")
wrong("14.verifier", lambda t, w, m: verified(t, w[:1], m), "one of the words|all|rows")
wrong("14.verifier", lambda t, w, m: verified(t, w, m + 1), "`most`|largest|allowed")
wrong("14.verifier", lambda t, w, m: verified(t, w or ["nothing"], m), "nothing is asked")
wrong("14.verifier", lambda t, w, m: [1 - v for v in verified(t, w, m)], "1 minus")
wrong("14.verifier", lambda t, w, m: sum(verified(t, w, m)), "shape|sum")
wrong("14.verifier", lambda t, w, m: verified(t, w, m)[0], "shape")
wrong("14.verifier", lambda t, w, m: [v * len(w) for v in verified(t, w, m)], "`words`|times|nothing|case")
