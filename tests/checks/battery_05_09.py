"""Answers to notebooks 05 to 09 as learners write them, none of them a listed mutant. See `battery`."""

import copy
import math

import numpy as np
import torch
from battery import Battery
from torch.nn.functional import logsigmoid
from torch.nn.utils import clip_grad_norm_

from prefcourse.logprobs import sequence_logps

B = Battery()
right, wrong = B.right, B.wrong

# ---------------------------------------------------------------------------------------------- 05


def optimum(ref, r, beta):
    e = ref.log() + r / beta
    top = e.amax(-1, keepdim=True)
    w = (e - top).exp()
    return w / w.sum(-1, keepdim=True), beta * (w.sum(-1).log() + top[:, 0])


right("05.optimum", optimum)
right("05.optimum", lambda *a: [[row.tolist() for row in optimum(*a)[0]], list(optimum(*a)[1])])
right("05.optimum", lambda *a: tuple(x.numpy() for x in optimum(*a)))
wrong("05.optimum", lambda *a: optimum(*a)[0], "two tensors")
wrong("05.optimum", lambda *a: optimum(*a)[::-1], "shape|exchanged|order")
wrong("05.optimum", lambda ref, r, b: optimum(ref + 1e-12, r, b), "never gives")
wrong("05.optimum", lambda ref, r, b: optimum(ref.clamp(min=1e-20), r, b), "never gives")
wrong("05.optimum", lambda ref, r, b: (optimum(ref, r, b)[0], optimum(ref, r, b)[1].mean()), "mean")
wrong("05.optimum", lambda ref, r, b: (optimum(ref, r, b)[0].log(), optimum(ref, r, b)[1]), "logarithm|infinite")
wrong("05.optimum", lambda ref, r, b: (optimum(ref, r, b)[0], -optimum(ref, r, b)[1]), "sign")
wrong("05.optimum", lambda ref, r, b: optimum(ref, r, 2 * b), "twice `beta`")
wrong("05.optimum", lambda ref, r, b: optimum(ref, -r, b), "sign of `reward`")
wrong("05.optimum", lambda ref, r, b: (optimum(ref, r, b)[0], b * b * optimum(ref, r, b)[1]), "`policy` is right")
wrong("05.optimum", lambda ref, r, b: optimum(r.softmax(-1), ref, b), "agree|case|wrong|exchanged|infinite|too")


def entropy(ref, r, b, a):
    w = ref ** (b / (a + b)) * (r / (a + b)).exp()
    return w / w.sum()


right("05.with_entropy", entropy)
right("05.with_entropy", lambda *a: list(entropy(*a)))
wrong("05.with_entropy", lambda ref, r, b, a: entropy(ref, r, b, a).log(), "logarithm")
wrong("05.with_entropy", lambda ref, r, b, a: entropy(ref, r, b, a)[None], "shape")
wrong("05.with_entropy", lambda ref, r, b, a: entropy(ref, -r, b, a), "sign of `reward`")
wrong("05.with_entropy", lambda ref, r, b, a: entropy(ref, r, b, 2 * a), "twice `alpha`")
wrong(
    "05.with_entropy",
    lambda ref, r, b, a: ((b * ref.log() + r) / (a * b)).softmax(-1) if a else entropy(ref, r, b, 1),
    "case|agree|α = 0|infinite|too",
)
wrong(
    "05.with_entropy", lambda ref, r, b, a: (ref.log() + r / (a + b) * b).softmax(-1), "case|wrong|rows|too|alpha|agree"
)
wrong("05.with_entropy", lambda ref, r, b, a: ((ref.log() + r) / 1).softmax(-1), "`alpha`")
wrong(
    "05.with_entropy",
    lambda ref, r, b, a: torch.softmax((b * ref + r) / (a + b), -1),
    "e to the power of `reference`|wrong|case|too",
)


def agree(p, q, r):
    s = p / q
    hits = [
        float((s[x, i] - s[x, j]) * (r[x, i] - r[x, j]) > 0)
        for x in range(len(r))
        for i in range(r.shape[1])
        for j in range(i)
    ]
    return np.mean(hits)


right("05.agreement", agree)
right("05.agreement", lambda *a: torch.tensor(agree(*a)))
wrong("05.agreement", lambda p, q, r: agree(q, p, r), "exchanged|1 minus|turned")
wrong("05.agreement", lambda p, q, r: agree(p * q, torch.ones_like(q), r), "1 / `reference`|case|too|agree")
wrong("05.agreement", lambda p, q, r: 100 * agree(p, q, r), "100 times")
wrong("05.agreement", lambda p, q, r: agree(p, q, r) - 0.5, "0.5 too small")
wrong("05.agreement", lambda p, q, r: agree(p, q, p), "in the place of")
wrong("05.agreement", lambda p, q, r: agree(p, torch.ones_like(p), q), "case|too|reference|reward|place")
wrong("05.agreement", lambda p, q, r: [agree(p, q, r)], "one number|shape")

# ---------------------------------------------------------------------------------------------- 06


def dpo(pc, pr, rc, rr, mc, mr, beta):
    h = ((pc - rc) * mc).sum(1) - ((pr - rr) * mr).sum(1)
    return torch.nn.functional.softplus(-beta * h)


right("06.dpo_loss", dpo)
right("06.dpo_loss", lambda *a: list(dpo(*a)))
right("06.dpo_loss", lambda *a: dpo(*(x.double() if isinstance(x, torch.Tensor) else x for x in a)).numpy()[::-1][::-1])
wrong("06.dpo_loss", lambda *a: dpo(*a).sum(), "sum|mean")
wrong("06.dpo_loss", lambda *a: dpo(*a)[:, None], "shape")
wrong("06.dpo_loss", lambda *a: dpo(*a) / a[-1], "divided by `beta`")
wrong("06.dpo_loss", lambda *a: dpo(*a[:6], 1.0), "if `beta` were 1")
wrong("06.dpo_loss", lambda *a: dpo(*a[:6], a[6] / 2), "half of `beta`")
wrong("06.dpo_loss", lambda pc, pr, rc, rr, mc, mr, b: dpo(pc, rr, rc, pr, mc, mr, b), "exchanged")
wrong("06.dpo_loss", lambda pc, pr, rc, rr, mc, mr, b: dpo(pc, pr, rc, rr, mr, mc, b), "exchanged")
wrong("06.dpo_loss", lambda pc, pr, rc, rr, mc, mr, b: dpo(pc, pr, rc * 0, rr, mc, mr, b), "`reference_chosen`")
wrong("06.dpo_loss", lambda pc, pr, rc, rr, mc, mr, b: dpo(pc, pr, rc, rr, 1 - mc, 1 - mr, b), "mask|wrong|case|too")
wrong(
    "06.dpo_loss",
    lambda pc, pr, rc, rr, mc, mr, b: (-b * (((pc - rc) * mc).sum(1) - ((pr - rr) * mr).sum(1))).exp().log1p(),
    "float32|far|infinite",
)
wrong(
    "06.dpo_loss",
    lambda pc, pr, rc, rr, mc, mr, b: torch.relu(1 - b * (((pc - rc) * mc).sum(1) - ((pr - rr) * mr).sum(1))),
    "case|wrong|too|rows",
)
wrong("06.dpo_loss", lambda *a: dpo(*a).prod(), "shape")


def ranking(x, beta):
    r = beta * x
    return -torch.stack([r[:, k:].log_softmax(-1)[:, 0] for k in range(x.shape[1])], -1).sum(-1)


right("06.ranking_loss", ranking)
right("06.ranking_loss", lambda x, b: ranking(x, b).tolist())
wrong("06.ranking_loss", lambda x, b: ranking(x, b).exp(), "e to the power|float32|infinite")
wrong("06.ranking_loss", lambda x, b: ranking(x, b).sum(), "sum")
wrong("06.ranking_loss", lambda x, b: ranking(-x, b), "sign of `log_ratios`|order")
wrong("06.ranking_loss", lambda x, b: ranking(x, 1 / b), "1 / `beta`")
wrong("06.ranking_loss", lambda x, b: b * ranking(x, 1.0), "case|wrong|beta|too|agree")
wrong("06.ranking_loss", lambda x, b: ranking(x[:, 1:], b), "no effect|case|too|small|first")
wrong("06.ranking_loss", lambda x, b: ranking(x.T, b), "shape|axes")
wrong("06.ranking_loss", lambda x, b: ranking(x, b) / x.shape[1], "length of `log_ratios`")


def descend(z0, c, r, beta, lr, steps, copied=True, opt=None, ref=None):
    z = z0.detach().clone() if copied else z0.detach()
    z.requires_grad_()
    frozen = z0.detach().clone().log_softmax(-1) if ref is None else ref(z0)
    for _ in range(steps):
        lp = z.log_softmax(-1) - frozen
        loss = -logsigmoid(beta * (lp[c] - lp[r]))
        (g,) = torch.autograd.grad(loss, z)
        z.data -= lr * (g if opt is None else opt(g))
    return z.detach()


right("06.train", descend)
right("06.train", lambda *a: descend(*a).numpy())
right("06.train", lambda z, c, r, b, lr, n: descend(z.clone(), c, r, b, lr, n))
wrong("06.train", lambda *a: descend(*a, copied=False), "changes its argument")
wrong("06.train", lambda *a: descend(*a, opt=torch.sign), "case|wrong|too|rows|step|no effect")
wrong("06.train", lambda *a: descend(*a).softmax(-1), "case|wrong|too|rows|probab|step")
wrong("06.train", lambda z, c, r, b, lr, n: descend(z, r, c, b, lr, n), "exchanged|climb")
wrong("06.train", lambda z, c, r, b, lr, n: descend(z, c, r, 1.0, lr, n), "if `beta` were 1")
wrong("06.train", lambda z, c, r, b, lr, n: descend(z, c, r, b, lr / 2, n), "half of `lr`")
wrong("06.train", lambda z, c, r, b, lr, n: descend(z, c, r, b, lr, 10), "`steps`|too many|no step")
wrong("06.train", lambda z, c, r, b, lr, n: descend(z, c, r, b, lr, n) - z, "reference_logits|no step|too")
wrong("06.train", lambda z, c, r, b, lr, n: z.clone(), "no gradient|nothing moves|no effect|same")
wrong(
    "06.train",
    lambda z, c, r, b, lr, n: descend(z, c, r, b, lr, n, ref=lambda z: z.log()),
    "nan|case|wrong|too|log|agree",
)

# ---------------------------------------------------------------------------------------------- 07


def brake(s, b, p):
    q = p - s * (p - 0.5)
    return -math.log(1 / q - 1) / b


right("07.brake", brake)
right("07.brake", lambda s, b, p: torch.logit(torch.tensor(p - s * (p - 0.5), dtype=torch.float64)) / b)
wrong("07.brake", lambda s, b, p: brake(s, b, 1.0), "share 0|were 1|infinite|if `label`|zero|stop|error|words|math")
wrong("07.brake", lambda s, b, p: brake(1 - s, b, p), "share|by it")
wrong("07.brake", lambda s, b, p: brake(s, 2 * b, p), "twice `beta`|2 times")
wrong("07.brake", lambda s, b, p: brake(s, b * b, p), "divided by `beta`|square of `beta`")
wrong("07.brake", lambda s, b, p: math.log(p - s * (p - 0.5)) / b, "case|wrong|too|sign|factor|small|logit")
wrong(
    "07.brake", lambda s, b, p: 1 / (1 + math.exp(-(p - s * (p - 0.5)))) / b, "case|wrong|too|inver|small|large|factor"
)
wrong("07.brake", lambda s, b, p: brake(s / 2, b, p), "half of `share`")


def batch(seqs, eos, change=False):
    T = max(len(p) + len(c) for p, c in seqs) + 1
    ids, mask = [], []
    for p, c in seqs:
        full = p + c + [eos]
        ids.append(torch.tensor(full + [eos] * (T - len(full))))
        mask.append(torch.tensor([False] * len(p) + [True] * (len(c) + 1) + [False] * (T - len(full))))
        if change:
            c.append(eos)
    return torch.stack(ids), torch.stack(mask)


right("07.batch", batch)
right("07.batch", lambda *a: [list(x) for x in batch(*a)])
wrong("07.batch", lambda *a: batch(*a, change=True), "changes its argument|argument")
wrong("07.batch", lambda *a: batch(*a)[0], "two things")
wrong("07.batch", lambda *a: batch(*a)[::-1], "int64|bool|exchanged|ids|mask")
wrong("07.batch", lambda seqs, eos: batch(seqs, 50256), "eos|wrong|places|column|factor|too large|0|right")
wrong("07.batch", lambda seqs, eos: (batch(seqs, eos)[0], batch(seqs, eos)[1].int()), "bool")
wrong("07.batch", lambda seqs, eos: (batch(seqs, eos)[0].int(), batch(seqs, eos)[1]), "int64|long")
wrong("07.batch", lambda seqs, eos: (batch(seqs, eos)[0], ~batch(seqs, eos)[1]), "1 minus|outcomes|`mask`")
wrong("07.batch", lambda seqs, eos: (batch(seqs, eos)[0], batch(seqs, eos)[1].roll(1, 1)), "one place too far|`mask`")
wrong("07.batch", lambda seqs, eos: tuple(x[:, :-1] for x in batch(seqs, eos)), "shape")


def logps(z, ids, m):
    lp = z.log_softmax(-1)
    return [sum(lp[n, t - 1, ids[n, t]] for t in range(1, ids.shape[1]) if m[n, t]) for n in range(len(ids))]


right("07.logps", logps)
right(
    "07.logps",
    lambda z, ids, m: (
        -(torch.nn.functional.cross_entropy(z[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none") * m[:, 1:]).sum(1)
    ),
)
wrong("07.logps", lambda z, ids, m: -torch.stack(logps(z, ids, m)), "sign")
wrong("07.logps", lambda z, ids, m: torch.stack(logps(z, ids, m)).mean(), "mean")
wrong("07.logps", lambda z, ids, m: torch.stack(logps(z, ids, m)).exp(), "e to the power")
wrong("07.logps", lambda z, ids, m: logps(z, ids, ~m), "1 - `mask`|`mask`")
wrong("07.logps", lambda z, ids, m: logps(z.softmax(-1), ids, m), "case|wrong|too|rows")
wrong("07.logps", lambda z, ids, m: logps(z.roll(-1, 1), ids, m), "shifted|place|`logits`")
wrong("07.logps", lambda z, ids, m: z.log_softmax(-1).gather(-1, ids)[..., 0], "error|words|shape|stop|dimension")
wrong("07.logps", lambda z, ids, m: logps(z / 2, ids, m), "half of `logits`")


def step(policy, opt, seen, stored, beta, clip=1.0, ref=1.0, first=True, value=lambda loss: loss.item(), sign=1):
    if first:
        opt.zero_grad()
    c, r = sequence_logps(policy, seen).chunk(2)
    C, R = stored.chunk(2)
    loss = -logsigmoid(sign * beta * ((c - ref * C) - (r - ref * R))).mean()
    loss.backward()
    if clip:
        clip_grad_norm_(policy.parameters(), clip)
    opt.step()
    return value(loss)


right("07.step", step)
right("07.step", lambda *a: step(*a, value=lambda loss: loss.detach()))
right("07.step", lambda *a: step(*a, value=lambda loss: np.float32(loss.item())))
wrong("07.step", lambda *a: step(*a, clip=None), "clipped|clip")
wrong("07.step", lambda *a: step(*a, clip=0.1), "right|log π|afterwards|clip")
wrong("07.step", lambda *a: step(*a, ref=0.0), "reference")
wrong("07.step", lambda *a: step(*a, value=lambda loss: None), "returns nothing")
wrong("07.step", lambda *a: (step(*a), 1.0), "one number")
wrong("07.step", lambda p, o, s, r, b: step(p, o, s, r, b, sign=-1), "wrong way|sign")
wrong("07.step", lambda p, o, s, r, b: step(p, o, s, r, 1 / b), "1 / `beta`|`beta`|β")
wrong("07.step", lambda p, o, s, r, b: max(step(p, o, s, r, b) for _ in "ab"), "right|afterwards|losses|log π")


def metrics(pl, pr, sl, sr):
    d = (pl - pr).reshape(2, -1)
    h = (d[0] - d[1]).numpy()
    return {"kl": np.mean((sl - sr).numpy()), "h": h.mean(), "accuracy": (np.sign(h) / 2 + 0.5).mean()}


right("07.metrics", metrics)
right("07.metrics", lambda *a: {k: torch.tensor(v) for k, v in metrics(*a).items()})
wrong("07.metrics", lambda *a: {k: v for k, v in metrics(*a).items() if k != "kl"}, "lacks kl")
wrong("07.metrics", lambda *a: list(metrics(*a).values()), "dict")
wrong("07.metrics", lambda *a: metrics(*a) | {"h": 2 * metrics(*a)["h"]}, "2 times")
wrong("07.metrics", lambda *a: metrics(*a) | {"accuracy": 1 - metrics(*a)["accuracy"]}, "1 minus")
wrong("07.metrics", lambda *a: metrics(*a) | {"extra": 1.0}, "extra")
wrong(
    "07.metrics",
    lambda pl, pr, sl, sr: metrics(pl, pr, sl, sr) | {"kl": float((sl - sr).sum())},
    "length of|number of entries",
)
wrong(
    "07.metrics",
    lambda pl, pr, sl, sr: metrics(pl, pr, sl, sr) | {"kl": float((sl.exp() * (sl - sr)).sum())},
    "are right",
)
wrong(
    "07.metrics",
    lambda pl, pr, sl, sr: metrics(pl, pr, sl, sr) | {"h": float((pl[: len(pl) // 2] - pr[: len(pl) // 2]).mean())},
    "are right|`h`",
)


def sweep(ref, pairs, betas, steps, lr=0.05, opt=torch.optim.Adam, scale=lambda b: b, keep=None):
    found = {}
    for b in betas:
        policy = keep or copy.deepcopy(ref)
        optimizer = opt(policy.parameters(), lr=lr)
        frozen = ref().detach().clone()
        for _ in range(steps):
            d = policy() - frozen
            optimizer.zero_grad()
            (-logsigmoid(scale(b) * (d[pairs[:, 0]] - d[pairs[:, 1]]))).mean().backward()
            optimizer.step()
        found[b] = policy().detach().numpy()
    return found


right("07.sweep", sweep)
right("07.sweep", lambda *a: {float(b): torch.tensor(v) for b, v in sweep(*a).items()})
wrong("07.sweep", lambda *a: sweep(*a, lr=0.5), "wrong|too|rows|look|β|right")
wrong("07.sweep", lambda *a: sweep(*a, opt=torch.optim.SGD), "wrong|too|rows|look|β|right")
wrong("07.sweep", lambda *a: list(sweep(*a).values()), "returns|dict|list|form")
wrong("07.sweep", lambda *a: {b: np.exp(v) for b, v in sweep(*a).items()}, "e to the power")
wrong("07.sweep", lambda r, p, b, n: sweep(r, p, b, 2 * n), "twice `steps`")
wrong("07.sweep", lambda r, p, b, n: sweep(r, p.flip(1), b, n), "turned round")
wrong("07.sweep", lambda *a: {b: a[0]().detach() for b in a[2]}, "nothing is trained")
wrong("07.sweep", lambda *a: sweep(*a, scale=lambda b: 1 / b), "wrong|too|rows|look|case|right")

# ---------------------------------------------------------------------------------------------- 08


def curve(ref, r, betas):
    rows = []
    for b in betas:
        w = ref * (r / b).exp()
        p = w / w.sum()
        kl = (p * (p / ref).log()).sum()
        rows.append(torch.stack([(p * r).sum(), kl, (p * r).sum() - b * kl]))
    return rows


right("08.curve", curve)
right("08.curve", lambda *a: torch.stack(curve(*a)).numpy())
wrong("08.curve", lambda *a: torch.stack(curve(*a)).T, "axes|shape")
wrong("08.curve", lambda *a: curve(*a)[0], "shape")
wrong("08.curve", lambda *a: curve(*a)[::-1], "turned round")
wrong("08.curve", lambda ref, r, b: curve(ref, -r, b), "sign of `reward`")
wrong("08.curve", lambda ref, r, b: torch.stack(curve(ref, r, b))[:, :2], "shape")
wrong("08.curve", lambda ref, r, b: torch.stack(curve(ref, r, b)) * torch.tensor([1, 1 / math.log(2), 1]), "column")
wrong("08.curve", lambda ref, r, b: curve(ref, r, b**2), "square of `betas`")
wrong("08.curve", lambda ref, r, b: torch.stack(curve(ref, r, b)) * torch.tensor([1, 1, 0.5]), "column")


def slopes(ref, r, b):
    p = (ref.log() + r / b).softmax(-1)
    v = ((p * r * r).sum() - (p * r).sum() ** 2).item()
    return -v / b**2, -v / b**3, -(b**3) / v


right("08.slopes", slopes)
right("08.slopes", lambda *a: torch.tensor(slopes(*a)))
wrong("08.slopes", lambda *a: (slopes(*a)[1], slopes(*a)[0], slopes(*a)[2]), "number|powers?|right|divided")
wrong("08.slopes", lambda *a: slopes(*a)[:2], "3 things|number")
wrong("08.slopes", lambda *a: (*slopes(*a)[:2], -slopes(*a)[2]), "sign")
wrong("08.slopes", lambda ref, r, b: (slopes(ref, r, b)[0] * b, *slopes(ref, r, b)[1:]), "times `beta`")
wrong("08.slopes", lambda ref, r, b: (*slopes(ref, r, b)[:2], 1 / slopes(ref, r, b)[2]), "one over|upside")
wrong("08.slopes", lambda ref, r, b: slopes(ref, r, 1.0), "if `beta` were 1")
wrong("08.slopes", lambda ref, r, b: slopes(torch.ones_like(ref), r, b), "`reference`")
wrong("08.slopes", lambda ref, r, b: tuple(2 * x for x in slopes(ref, r, b)), "2 times")


def beta_for(betas, kls, budget, low=True, high=True, strict=False, at=1.0):
    pairs = sorted(zip(kls, betas, strict=True))
    if (
        (low and budget < pairs[0][0])
        or (high and budget > pairs[-1][0])
        or (strict and budget in (pairs[0][0], pairs[-1][0]))
    ):
        raise ValueError("outside")
    k, b = map(list, zip(*pairs, strict=True))
    return math.exp(np.interp(math.log(budget * at), np.log(k), np.log(b)))


right("08.beta_for", beta_for)
right("08.beta_for", lambda *a: np.float64(beta_for(*a)))
right("08.beta_for", lambda *a: torch.tensor(beta_for(*a)))
wrong("08.beta_for", lambda *a: beta_for(*a, high=False), "above")
wrong("08.beta_for", lambda *a: beta_for(*a, low=False), "below")
wrong("08.beta_for", lambda *a: beta_for(*a, strict=True), "exactly|smallest|largest")
wrong(
    "08.beta_for", lambda betas, kls, budget: beta_for(betas, kls, budget) if budget < kls else 1.0, "words|error|shape"
)
wrong("08.beta_for", lambda *a: 1 / beta_for(*a), "one over")
wrong("08.beta_for", lambda b, k, budget: beta_for(k, b, budget), "exchanged|refuse|text|case")
wrong("08.beta_for", lambda *a: math.log10(beta_for(*a)), "case|too|small|factor|sign|log")
wrong("08.beta_for", lambda *a: [beta_for(*a)], "one number|shape")
wrong("08.beta_for", lambda *a: beta_for(*a, at=2.0), "twice `budget`|case|too|agree")

from prefcourse.evaluate import T975  # noqa: E402


def table(runs, lr, step, t=lambda n: T975[n - 1], ddof=1, at=1.0):
    logs = {}
    for run in runs:
        if math.isclose(run["setting"]["lr"], lr):
            value = {p["step"]: p["kl"] for p in run["path"]}[step]
            logs.setdefault(run["setting"]["beta"], []).append(math.log(value))
    found = {}
    for b, v in logs.items():
        half = t(len(v)) * np.std(v, ddof=ddof) / math.sqrt(len(v)) * at
        found[b] = np.exp([np.mean(v), np.mean(v) - half, np.mean(v) + half])
    return found


right("08.kl_by_beta", table)
right("08.kl_by_beta", lambda *a: {np.float64(b): [*v] for b, v in table(*a).items()})
wrong("08.kl_by_beta", lambda *a: {b: v[0] for b, v in table(*a).items()}, "3 things|one alone|thing")
wrong("08.kl_by_beta", lambda *a: {str(b): v for b, v in table(*a).items()}, "lacks|keys")
wrong("08.kl_by_beta", lambda *a: list(table(*a).values()), "dict")
wrong("08.kl_by_beta", lambda *a: table(*a, t=lambda n: 2.0), "right|number|too|seven")
wrong("08.kl_by_beta", lambda *a: table(*a, at=2.0), "right|number|too")
wrong("08.kl_by_beta", lambda runs, lr, step: table(runs, lr, 10), "right|number|too|step|last|divided|case")
wrong("08.kl_by_beta", lambda runs, lr, step: table(runs, 8e-4, step), "lacks|keys|rate")
wrong("08.kl_by_beta", lambda *a: {b: tuple(sorted(v)) for b, v in table(*a).items()}, "low, KL, high|order")

# ---------------------------------------------------------------------------------------------- 09


def stops(p, f, s):
    q = p + f - 2 * p * f
    return {"dpo": (math.log(q) - math.log1p(-q)) / s, "ipo": (q - 0.5) / s}


right("09.stops", stops)
right("09.stops", lambda *a: {k: np.float64(v) for k, v in stops(*a).items()})
wrong("09.stops", lambda *a: tuple(stops(*a).values()), "dict")
wrong("09.stops", lambda p, f, s: stops(1 - p, f, s), "1 - `p`|sign")
wrong("09.stops", lambda p, f, s: stops(p, 1 - f, s), "1 - `flips`|sign")
wrong("09.stops", lambda p, f, s: stops(p, f / 2, s), "half of `flips`")
wrong("09.stops", lambda p, f, s: stops(p, f, s) | {"ipo": stops(p, f, s)["ipo"] * s}, "times `strength`")
wrong("09.stops", lambda p, f, s: stops(p, f, s) | {"ipo": math.inf}, "infinite")
wrong("09.stops", lambda p, f, s: stops(p, f, s) | {"dpo": abs(stops(p, f, s)["dpo"])}, "absolute|below ½|sign|case")
wrong("09.stops", lambda p, f, s: {"IPO": 1.0, "DPO": 1.0}, "lacks ipo")


def kto(x, d, beta, ld, lu, z=None, lam=True, sign=1):
    n = len(x)
    z0 = torch.stack([x[i, (i + 1) % n] for i in range(n)]).mean().clamp(min=0).detach() if z is None else z(x)
    k = x.diag()
    s = torch.where(d, beta * (k - z0), beta * (z0 - k)) * sign
    return torch.where(d, ld, lu) * (1 - torch.sigmoid(s))


right("09.kto_loss", kto)
right("09.kto_loss", lambda *a: list(kto(*a)))
wrong("09.kto_loss", lambda *a: kto(*a).detach(), "no gradient")
wrong("09.kto_loss", lambda *a: kto(*a).tolist(), "no gradient")
wrong("09.kto_loss", lambda *a: kto(*a, sign=-1), "case|wrong|1 minus|sign|too")
wrong("09.kto_loss", lambda *a: kto(*a).sum(), "sum")
wrong("09.kto_loss", lambda x, d, b, ld, lu: kto(x, ~d, b, ld, lu), "1 - `desirable`")
wrong("09.kto_loss", lambda x, d, b, ld, lu: kto(x, d, 1 / b, ld, lu), "1 / `beta`")
wrong("09.kto_loss", lambda x, d, b, ld, lu: kto(x, d, b, 1.0, lu), "if `lam_d` were 1")
wrong(
    "09.kto_loss",
    lambda x, d, b, ld, lu: kto(x, d, b, ld, lu, z=lambda x: x.diag(1).sum().clamp(min=0).detach() / (len(x) - 1) * 2),
    "wrong|case|too|rows|agree|below",
)
wrong(
    "09.kto_loss",
    lambda x, d, b, ld, lu: kto(x, d, b, ld, lu, z=lambda x: x.roll(-1, 1).diagonal().mean().abs().detach()),
    "mean of the mismatched pairs is below 0|below",
)


def orpo(c, r, Lc, Lr, lam, expm1=torch.expm1, beta=1.0):
    mc, mr = c / Lc, r / Lr
    odds = (mc - torch.log(-expm1(mc))) - (mr - torch.log(-expm1(mr)))
    return -mc + lam * torch.nn.functional.softplus(-beta * odds)


right("09.orpo_loss", orpo)
right("09.orpo_loss", lambda *a: list(orpo(*a)))
wrong("09.orpo_loss", lambda *a: orpo(*a).detach(), "no gradient")
wrong("09.orpo_loss", lambda *a: orpo(*a).mean(), "mean")
wrong("09.orpo_loss", lambda c, r, Lc, Lr, lam: orpo(r, c, Lr, Lc, lam), "exchanged|wrong|case|too")
wrong("09.orpo_loss", lambda c, r, Lc, Lr, lam: orpo(c, r, Lr, Lc, lam), "exchanged")
wrong("09.orpo_loss", lambda c, r, Lc, Lr, lam: orpo(c, r, Lc, Lr, 1.0), "if `lam` were 1")
wrong("09.orpo_loss", lambda c, r, Lc, Lr, lam: orpo(c, r, Lc, Lr, lam) + c / Lc, "wrong|case|too|rows|amount|right")
wrong(
    "09.orpo_loss",
    lambda c, r, Lc, Lr, lam: orpo(c, r, Lc, Lr, lam, expm1=lambda m: (m.exp() - 1).clamp(max=-1e-9)),
    "nearly certain|force|hold|1 - p",
)
wrong(
    "09.orpo_loss",
    lambda c, r, Lc, Lr, lam: -c / Lc - lam * logsigmoid((c / Lc).exp() - (r / Lr).exp()),
    "wrong|case|too|rows|agree|right",
)
wrong(
    "09.orpo_loss",
    lambda c, r, Lc, Lr, lam: -c / Lc - lam * logsigmoid(torch.logit((c / Lc).exp()) - torch.logit((r / Lr).exp())),
    "nearly|infinite|nan|impossible|1 - p",
)


def discovered(h, beta, tau, chain=1.0, outer=None):
    x = beta * h
    m = torch.sigmoid(x / tau)
    held = -(1 - m) * torch.sigmoid(-x) - m * torch.exp(-x)
    return (beta if outer is None else outer) * (held + chain * m * (1 - m) / tau * (torch.exp(-x) + logsigmoid(x)))


def by_autograd(h, beta, tau):
    with torch.enable_grad():
        h = h.clone().requires_grad_()
        m = torch.sigmoid(beta * h / tau)
        loss = -(1 - m) * logsigmoid(beta * h) + m * torch.exp(-beta * h)
        return torch.autograd.grad(loss.sum(), h)[0]


right("09.discovered_slope", discovered)
right("09.discovered_slope", by_autograd)
right("09.discovered_slope", lambda *a: discovered(*a).tolist())
wrong("09.discovered_slope", lambda *a: discovered(*a, chain=0.0), "blend m fixed")
wrong("09.discovered_slope", lambda *a: discovered(*a, outer=1.0), "factor β")
wrong("09.discovered_slope", lambda *a: -discovered(*a), "other sign|sign")
wrong("09.discovered_slope", lambda h, beta, tau: discovered(h, beta, tau, chain=tau), "factor 20|τ is missing")
wrong("09.discovered_slope", lambda *a: discovered(*a).mean(), "mean|shape|one number")
wrong("09.discovered_slope", lambda h, beta, tau: discovered(h, beta, 0.05), "tau")
