"""Wrong answers that were written after the hints stood, to see how many of unseen ones are named. See `battery`."""

import math

import numpy as np
import torch
from battery import Battery
from torch.nn.functional import logsigmoid

from prefcourse import checks

B = Battery()
wrong = B.wrong


def ref(name):
    """The reference of a check such as "06.dpo_loss"."""
    return checks.of_notebook(name[:2])[name[3:]].reference


def of(name, change):
    return lambda *a: change(ref(name)(*a), *a)


wrong("00.log_pi", of("00.log_pi", lambda v, nt, y: v * len(y)), "length of `y`|times|factor|token")
wrong("00.log_pi", of("00.log_pi", lambda v, nt, y: v + math.log(len(y))), "too large|token|length|log")
wrong("00.sequence_logps", lambda lp, p, c: ref("00.sequence_logps")(lp, p, c - p), "completion|column|rows|EOS")
wrong("00.tempered", lambda z, t: ref("00.tempered")(-z, t), "sign of `logits`")
wrong("00.tempered", lambda z, t: ref("00.tempered")(z, t + 1), "temperature")
wrong("01.annotator", lambda d, r, lam, u: ref("01.annotator")(d, r, lam, 1 - u), "1 - `u`")
wrong("01.annotator", lambda d, r, lam, u: ref("01.annotator")(d, r, 0.5, u), "`lapse`")
wrong("01.ceiling_with_lapses", lambda a, lam: ref("01.ceiling_with_lapses")(a, lam**2), "square of `lapse`")
wrong("01.ceiling_with_lapses", lambda a, lam: ref("01.ceiling_with_lapses")(a, 0.4), "`lapse`")
wrong("01.doubling", of("01.doubling", lambda v, w: (v[0] / 2, v[1])), "2 times smaller")
wrong("01.doubling", of("01.doubling", lambda v, w: (v[0], v[1] * 2)), "2 times")
wrong("01.pairs_enough", of("01.pairs_enough", lambda v, w, g, t: (str(v[0]), v[1])), "text|part 1")
wrong(
    "01.pairs_enough", of("01.pairs_enough", lambda v, w, g, t: (v[0], {n: 1 - x for n, x in v[1].items()})), "1 minus"
)
wrong("02.position_kls", of("02.position_kls", lambda v, p, q: v[[0, 2, 1]]), "right|first|number|rows")
wrong("02.position_kls", of("02.position_kls", lambda v, p, q: v / 3), "3 times smaller")
wrong(
    "02.objective_and_gradient",
    lambda t, r, w, b: ref("02.objective_and_gradient")(t, r.log(), w, b),
    "logarithm of `reference`|nan",
)
wrong("02.sampled_kl", of("02.sampled_kl", lambda v, p, q, m: v.exp()), "e to the power")
wrong("02.sampled_kl", lambda p, q, m: ref("02.sampled_kl")(p.exp(), q.exp(), m), "e to the power of|probab")
wrong("03.flip_aware_loss", lambda c, r, e: ref("03.flip_aware_loss")(c, r, 0.1), "`eps`")
wrong(
    "03.flip_aware_loss", lambda c, r, e: -logsigmoid(c - r) * (1 - e) + e * logsigmoid(r - c), "label|smooth|sure|mix"
)
wrong("03.fit_with_prior", lambda w, p: ref("03.fit_with_prior")(w + 1, p), "on the way|wins|diagonal|prior")
wrong("03.read_at_eos", lambda h, m, w: ref("03.read_at_eos")(h.flip(1), m, w), "`hidden`|place|rows")
wrong("03.read_at_eos", of("03.read_at_eos", lambda v, h, m, w: v.sigmoid()), "sigmoid|probab|1 / ")
wrong("04.rloo_loss", lambda p, q, r, b: ref("04.rloo_loss")(p, q, r, b * b), "square of `beta`")
wrong("04.rloo_loss", of("04.rloo_loss", lambda v, p, q, r, b: v * b), "times `beta`|costs nothing")
wrong("04.coin", of("04.coin", lambda v, p, a, b, c: (v[0], v[1] / 2, v[2])), "2 times smaller")
wrong("04.clip_loss", lambda p, o, a, e: ref("04.clip_loss")(p, o, a, e / 2), "half of `eps`")
wrong("04.clip_loss", lambda p, o, a, e: ref("04.clip_loss")(p, o, a.abs(), e), "absolute|`advantages`|rows|sign")
wrong(
    "04.token_advantages",
    lambda r, p, q, v, b, lam: ref("04.token_advantages")(r, p, q, v.roll(-1), b, lam),
    "one place earlier|token|place",
)
wrong("05.optimum", lambda q, r, b: ref("05.optimum")(q, r - r.mean(-1, keepdim=True), b), "`policy` is right")
wrong("05.with_entropy", lambda q, r, b, a: ref("05.with_entropy")(q, r, b + a, a), "twice|alpha|beta|exponent|rows")
wrong("05.agreement", lambda p, q, r: ref("05.agreement")(p, q.roll(1, -1), r), "one place later")
wrong("06.dpo_loss", lambda *a: ref("06.dpo_loss")(*a[:4], torch.ones_like(a[4]), a[5], a[6]), "`chosen_mask` were 1")
wrong("06.dpo_loss", of("06.dpo_loss", lambda v, *a: v[::2]), "shape|column|far")
wrong("06.ranking_loss", lambda x, b: ref("06.ranking_loss")(x - x.mean(), b) / b, "divided by `beta`")
wrong("06.train", lambda z, c, r, b, lr, n: ref("06.train")(z, c, r, b, lr, n).softmax(0).log(), "log-probab")
wrong("07.brake", lambda s, b, p: ref("07.brake")(s, b, 1 - p), "1 - `label`|sign")
wrong("07.batch", of("07.batch", lambda v, q, e: (v[0], v[1].roll(1, 0))), "row|`mask`|order|first axis")
wrong("07.logps", lambda z, i, m: ref("07.logps")(z, i.roll(1, 1), m), "one place later|shift")
wrong("07.metrics", of("07.metrics", lambda v, *a: v | {"kl": abs(v["kl"])}), "absolute|`h` (is|are) right|are right")
wrong("07.metrics", of("07.metrics", lambda v, *a: v | {"accuracy": 100 * v["accuracy"]}), "100 times")
wrong("08.curve", lambda q, r, b: ref("08.curve")(q, r / 2, b), "half of `reward`|twice")
wrong("08.slopes", of("08.slopes", lambda v, q, r, b: (v[0], v[1], v[2] * b)), "times `beta`")
wrong("08.beta_for", lambda b, k, x: ref("08.beta_for")(b, k, x) * 1.1, "1.1 times")
wrong(
    "08.kl_by_beta", of("08.kl_by_beta", lambda v, *a: {b: (x[0], x[2], x[1]) for b, x in v.items()}), "number 1|right"
)
wrong("09.stops", of("09.stops", lambda v, p, f, s: v | {"dpo": v["dpo"] / math.log(2)}), "times|`ipo` is right")
wrong("09.kto_loss", lambda x, d, b, g, u: ref("09.kto_loss")(x, d, b, g, u) * b, "times `beta`")
wrong("09.orpo_loss", lambda c, r, p, q, lam: ref("09.orpo_loss")(c, r, p, q, -lam), "sign of `lam`")
wrong("10.win_rate", of("10.win_rate", lambda v, a, b: (v[0], max(v[1], 0.5), v[2])), "right|number 2")
wrong("10.sample_size", lambda p, t: ref("10.sample_size")(p, 0.3), "`ties`")
wrong("10.gain", lambda a, b: ref("10.gain")(a - a.mean(), b - b.mean()), "number|mean|review|too small|0")
wrong("10.by_type", of("10.by_type", lambda v, d, t: {k: math.sqrt(p) for k, p in v.items()}), "root")
wrong("11.break_even", lambda e, r, u: ref("11.break_even")(e, r, u + 1), "`RLOO` is right|reuse")
wrong(
    "11.shared_dpo_loss",
    lambda t, w, q, f, b: ref("11.shared_dpo_loss")(t, w, q, f, b) / len(q),
    "length of|divided|smaller",
)
wrong("12.fixes", of("12.fixes", lambda v, *a: {k: np.float64(x) * 2 for k, x in v.items()}), "2 times")
wrong(
    "12.fit_judge",
    lambda g, r: ref("12.fit_judge")(g * 2, r),
    "number 2|half|twice|2 times|right|the way|only the first",
)
wrong("12.stop_step", lambda p, q, c, r, b: ref("12.stop_step")(p, q, c, r, b * 2), "twice `budget`")
wrong("13.unseen", of("13.unseen", lambda v, *a: v / v.max()), "sum|times|case|too|factor|divided")
wrong("13.self_play_round", lambda p, q, t, e, tau: ref("13.self_play_round")(p, q, t, e * e, tau), "square of `eta`")
wrong("13.free_shares", of("13.free_shares", lambda v, pairs, n: v * 2), "2 times|twice")
wrong("14.lora_plan", of("14.lora_plan", lambda v, s, r, n: v | {"lora": v["lora"] * 1000}), "1000 times")
wrong("14.ai_labels", lambda a, b, w, r, c: ref("14.ai_labels")(a, b, w, r * r, c), "square of `reliability`")
wrong("14.price", of("14.price", lambda v, *a: {k: x.abs() for k, x in v.items()}), "absolute")
wrong("14.judgement", of("14.judgement", lambda v, *a: v | {"bias": v["bias"] / 2}), "2 times smaller")
wrong("15.token_weights", of("15.token_weights", lambda v, *a: v / 2), "2 times smaller")
wrong("15.pass_at_k", of("15.pass_at_k", lambda v, *a: 1 - v), "none|1 minus")
wrong("15.group_advantages", of("15.group_advantages", lambda v, *a: v**2), "square")
wrong("15.diet", of("15.diet", lambda v, *a: v | {"draws": v["draws"] * 2}), "2 times")
