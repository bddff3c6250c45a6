"""Every public function of numbers, called with what it should refuse: nan, other shapes, texts, nothing at all.

    python tests/soak_fuzz.py                    # 20,000 calls, less than a minute
    python tests/soak_fuzz.py --calls 200000 --seed 7

A call begins with arguments that are fine; then one of them is spoilt, or all in the same way. It ends in one of four
ways:

    clear result   finite numbers, from an argument that may be so
    clear error    a ValueError or TypeError raised by a line of prefcourse, which says what is wrong
    silent         a number, or nan, from an argument that must be refused; or an argument that was changed
    traceback      any other exception, a warning of NumPy's, or an error that some library raised

The last two are faults; the exit code is 1 if there is one. `tests/test_fuzz.py` makes each kind of call once.
"""

import argparse
import copy
import dataclasses
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path

import numpy as np
import torch

import prefcourse
from prefcourse import evaluate, logprobs, losses, rewards, tabular
from prefcourse.annotation import aggregation, agreement, annotators
from prefcourse.comparison import ab_tests, costs, frontier
from prefcourse.quality import duplicates, findings, label_noise
from prefcourse.results import rlhf_table
from prefcourse.rlhf import advantages, best_of_n, calibration, table_gradients

PACKAGE = str(Path(prefcourse.__file__).parent)
N = 6  # values in a row
ALL = "all arguments"

# ------------------------------------------------------------------------------------------------ arguments


@dataclasses.dataclass(frozen=True)
class Given:
    """An argument: how a good one is made, how it is spoilt, and which of the spoilt ones are fine all the same."""

    make: Callable[[np.random.Generator], object]
    spoils: Mapping[str, Callable]
    fine: tuple[str, ...] = ()


def _put(value) -> Callable:
    def spoil(good, rng):
        found = torch.as_tensor(good, dtype=torch.float64).clone()
        found.view(-1)[int(rng.integers(found.numel()))] = value
        return found.tolist() if isinstance(good, list) else found.numpy() if isinstance(good, np.ndarray) else found

    return spoil


def _as(value) -> Callable:
    return lambda good, rng: value() if callable(value) else value


def _tensor(good) -> torch.Tensor:
    return torch.as_tensor(good, dtype=torch.float64)


NOT_NUMBERS = {
    "None": _as(None),
    "text": _as("a"),
    "a text of digits": _as("12"),
    "ragged": _as(lambda: [[1.0], [1.0, 2.0]]),
    "an object": _as(object),
    "complex": lambda good, rng: _tensor(good).to(torch.complex128),
    "complex array": lambda good, rng: _tensor(good).numpy().astype(complex),
    "texts": lambda good, rng: _tensor(good).numpy().astype(str),
    "sparse": lambda good, rng: _tensor(good).to_sparse() if _tensor(good).ndim else None,
    "meta": lambda good, rng: _tensor(good).to("meta"),
    "a dict": _as(dict),
    "a generator": _as(lambda: (x for x in (1.0, 2.0))),
    "a number too long": lambda good, rng: [10**400] * N,
}
NOT_FINITE = {"nan": _put(np.nan), "inf": _put(np.inf), "-inf": _put(-np.inf)}
# What must be refused stands above; the following may be refused or not, but no nan may come out.
ODD = {
    "ints": lambda good, rng: _tensor(good).round().long(),
    "bools": lambda good, rng: _tensor(good) > 0.5,
    "one value": lambda good, rng: _tensor(good)[:1],
    "empty": lambda good, rng: _tensor(good)[:0],
    "no dimension": lambda good, rng: _tensor(good).flatten()[0],
    "constant": lambda good, rng: torch.full_like(_tensor(good), rng.choice([0.0, 0.5, 1.0])),
    "far out": lambda good, rng: _tensor(good) * 1e4,
    "huge": lambda good, rng: _tensor(good) * 1e300,
    "tiny": lambda good, rng: _tensor(good) * 1e-300,
    "as tensor": lambda good, rng: _tensor(good),
    "as array": lambda good, rng: _tensor(good).numpy(),
    "as list": lambda good, rng: _tensor(good).tolist(),
    "float32": lambda good, rng: _tensor(good).float(),
}
FINE = tuple(ODD)
OTHER_SHAPE = {
    "one short": lambda good, rng: _tensor(good)[:-1],
    "one dimension more": lambda good, rng: _tensor(good)[None],
    "one for all": lambda good, rng: _tensor(good)[:1],
}


def many(make: Callable, *fine: str, shaped: bool = True) -> Given:
    """An array; `shaped`: it has to fit another argument, or has a shape of its own."""
    other = OTHER_SHAPE if shaped else {}
    return Given(make, NOT_NUMBERS | NOT_FINITE | ODD | other, FINE + fine)


def row(low: float = -2.0, high: float = 2.0, *fine: str, shaped: bool = True, size: int = N) -> Given:
    return many(lambda rng: torch.from_numpy(rng.uniform(low, high, size)), *fine, shaped=shaped)


ONE = {
    "nan": _as(np.nan), "inf": _as(np.inf), "-inf": _as(-np.inf), "None": _as(None), "text": _as("a"),
    "a text of digits": _as("0.5"), "a list": _as(lambda: [0.5, 0.5]), "empty list": _as(list),
    "complex": _as(0.5 + 1j), "an object": _as(object), "two": _as(lambda: torch.ones(2)), "too long": _as(10**400),
    "nan tensor": _as(lambda: torch.tensor(np.nan)), "meta": _as(lambda: torch.ones((), device="meta")),
    "Decimal": _as(lambda: Decimal(1)), "-1": _as(-1), "0": _as(0), "1": _as(1), "1/2": _as(0.5), "1e300": _as(1e300),
    "1e-300": _as(1e-300), "True": _as(True), "float32": _as(lambda: np.float32(0.25)),
    "tensor": _as(lambda: torch.tensor(0.25)), "many": _as(3e5),
}  # fmt: skip
ODD_ONES = ("-1", "0", "1", "1/2", "1e300", "1e-300", "True", "float32", "tensor", "many")


def one(value: float, *fine: str) -> Given:
    """A number."""
    return Given(lambda rng: value, ONE, ODD_ONES + fine)


def count(value: int, *fine: str) -> Given:
    """A whole number."""
    spoils = ONE | {"1.5": _as(1.5), "many": _as(60)}
    return Given(lambda rng: value, spoils, ("-1", "0", "1", "True", "many", "1e300", *fine))


def fixed(make: Callable) -> Given:
    """What is not spoilt."""
    return Given(lambda rng: make(), {})


SEED = count(3)
LABELS = Given(
    lambda rng: rng.integers(0, 2, (12, 4)).astype(float),
    NOT_NUMBERS | NOT_FINITE | ODD | {"half": _put(0.5), "-2": _put(-2)},
    (*FINE, "nan"),  # nan: there is no label
)
SHARES = row(0.0, 1.0)


def _policy(rng) -> torch.Tensor:
    return torch.from_numpy(rng.dirichlet(np.ones(4), 2))


TABLE = many(_policy)
REWARD = many(lambda rng: torch.from_numpy(rng.normal(size=(2, 4))))
LOGPS = many(lambda rng: torch.from_numpy(-rng.uniform(1, 9, (3, 5))))
MASK = Given(
    lambda rng: torch.arange(5) < torch.tensor([[5], [3], [2]]),
    {name: NOT_NUMBERS[name] for name in ("None", "text", "an object", "ragged")}
    | {"one short": lambda good, rng: good[:-1], "ints": lambda good, rng: good.long(),
       "empty": lambda good, rng: good[:0], "none": lambda good, rng: good & False,
       "twos": lambda good, rng: 2 * good.long()},
    ("ints", "empty", "none"),
)  # fmt: skip
WINS = many(lambda rng: torch.from_numpy(rng.integers(1, 9, (4, 4)).astype(float)))
POINTS = many(lambda rng: [(float(k + rng.random()), float(rng.normal())) for k in range(5)], shaped=False)
GROUPS = Given(lambda rng: np.array([0, 0, 1, 1, 2, 2]), NOT_NUMBERS | NOT_FINITE | ODD | OTHER_SHAPE, FINE)
PROMPTS = fixed(lambda: list("aabbcc"))


def _questions(difference, length=0.0, a_is_chosen=None):
    asked = annotators.Questions(difference, length, a_is_chosen)
    return annotators.Annotator(0.5).accuracy(asked), annotators.panel([annotators.Annotator()] * 3, asked).labels


def _annotator(**settings):
    return annotators.Annotator(**settings).probability(annotators.Questions(np.array([1.0, -0.5, 0.0])))


def _forecast(difference, sizes):
    return annotators.forecast(annotators.Annotator(), annotators.Questions(difference), [sizes])


def _flipped(share, seed):
    return annotators.flipped([{"chosen": "a", "rejected": "b"}] * 5, share, seed=seed)[1]


def _resolve(labels):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}] * N
    return len(annotators.resolve(rows, annotators.Questions(np.ones(N), 0.0, np.ones(N, dtype=bool)), labels))


def _flips(margins, groups):
    return label_noise.flip_share(margins, groups, np.random.default_rng(0))


def _assess(margins):
    score = {"chosen_score": 1.0, "rejected_score": 0.5}
    return calibration.assess(margins, [{"prompt": p, **score} for p in "aabbcc"], bins=2)


def _assess_scores(score):
    rows = [{"prompt": p, "chosen_score": s, "rejected_score": 0.0} for p, s in zip("aabbcc", score, strict=True)]
    return calibration.assess(torch.linspace(-1, 2, N), rows, bins=2)


def _adapted(beta, kl, target, speed):
    return advantages.adapt_coefficient(beta, kl, target, speed)


# ------------------------------------------------------------------------------------------------ functions

FUNCTIONS: dict[Callable, dict[str, Given]] = {
    ab_tests.wilson: {"wins": one(3), "n": one(10), "level": one(0.95)},
    ab_tests.preference: {"a": row(), "b": row()},
    ab_tests.difference: {"a": row(), "b": row()},
    ab_tests.p_value: {"a": row(), "b": row(), "seed": SEED},
    ab_tests.shuffle_p_value: {"a": row(shaped=False), "b": row(shaped=False), "seed": SEED},
    ab_tests.power: {"rate": one(0.6), "n": one(100), "ties": one(0.1), "alpha": one(0.05)},
    ab_tests.sample_size: {"rate": one(0.6), "ties": one(0.1), "alpha": one(0.05), "target": one(0.8)},
    ab_tests.by_group: {"values": row(), "groups": fixed(lambda: list("aabbcc"))},
    ab_tests.at_equal_length: {"difference": row(), "lengths": row(-9, 9), "seed": SEED},
    frontier.on_front: {"points": POINTS},
    frontier.fit_gain: {"points": POINTS},
    costs.model_memory: {"parameters": one(7e6), "frozen": one(1), "frozen_bytes": one(4), "trained": one(1)},
    costs.plan_memory: {"parameters": one(7e6), "frozen_bytes": one(4)},
    costs.plan_work: {"pairs": one(500), "length": one(30), "completions": one(900)},
    evaluate.bootstrap: {"values": row(shaped=False), "seed": SEED},
    evaluate.resamples: {"count": count(5), "seed": SEED},
    evaluate.percentiles: {"value": one(0.3), "resampled": row(shaped=False)},
    evaluate.over_seeds: {"values": row(shaped=False)},
    evaluate.points: {"rewards": row(), "others": row()},
    evaluate.win_rate: {"rewards": row(), "others": row()},
    evaluate.repetition: {"text": fixed(lambda: "so so so so good"), "n": count(2)},
    findings.clustered_mean: {"values": row(), "groups": GROUPS},
    findings.clustered_share: {"hits": SHARES, "groups": GROUPS},
    _flips: {"margins": row(), "groups": GROUPS},
    duplicates.near_duplicates: {"texts": fixed(lambda: [frozenset("ab"), frozenset("abc")]), "seed": SEED},
    agreement.percent_agreement: {"labels": LABELS},
    agreement.fleiss_kappa: {"labels": LABELS},
    agreement.krippendorff_alpha: {"labels": LABELS},
    agreement.expected_agreement: {"probability": row(0, 1, "one short", shaped=False)},
    agreement.ceiling: {"difference": row(shaped=False), "reliability": one(1.0)},
    agreement.accuracy_bounds: {"agreement": row(0.5, 1, shaped=False)},
    agreement.majority_accuracy: {"accuracy": row(0, 1, shaped=False), "annotators": count(5)},
    agreement.sigmoid: {"x": row(shaped=False)},
    aggregation.majority: {"labels": LABELS, "seed": SEED},
    aggregation.vote_share: {"labels": LABELS},
    aggregation.confident: {"probability": row(0, 1, shaped=False), "threshold": one(0.8)},
    aggregation.dawid_skene: {"labels": LABELS, "steps": count(20), "tolerance": one(1e-9)},
    aggregation.bradley_terry: {"labels": LABELS},
    _questions: {"difference": row(), "length": row(-9, 9)},
    _annotator: {
        "reliability": one(1.0), "length_bias": one(0.0), "position_bias": one(0.1), "lapse": one(0.2),
        "tie": one(0.1, "inf"),
    },
    _forecast: {"difference": row(shaped=False), "sizes": count(3)},
    _flipped: {"share": one(0.4), "seed": SEED},
    _resolve: {"labels": Given(lambda rng: rng.integers(-1, 2, N), LABELS.spoils | OTHER_SHAPE, LABELS.fine)},
    rewards.bradley_terry_loss: {"policy_chosen": row(), "policy_rejected": row(), "margin": one(0.1)},
    rewards.log_likelihood: {"wins": WINS, "reward": row(size=4)},
    rewards.information: {"wins": WINS, "reward": row(size=4)},
    rewards.fit_bradley_terry: {"wins": many(WINS.make, "one dimension more"), "prior": one(0.5)},
    tabular.optimal_policy: {"reference": TABLE, "reward": REWARD, "beta": one(0.5)},
    tabular.log_z: {"reference": TABLE, "reward": REWARD, "beta": one(0.5)},
    tabular.kl: {"policy": TABLE, "reference": TABLE},
    tabular.objective: {"policy": TABLE, "reference": TABLE, "reward": REWARD, "beta": one(0.5)},
    tabular.implicit_reward: {"policy": TABLE, "reference": TABLE, "beta": one(0.5)},
    tabular.bradley_terry: {"reward": many(REWARD.make, "one short", "one for all")},
    tabular.hard_labels: {"preferences": row(0, 1, shaped=False)},
    tabular.next_token_logits: {"policy": many(TABLE.make, "one short", "one for all"), "vocabulary": count(2)},
    tabular.gradient_ascent: {
        "reference": TABLE, "reward": REWARD, "beta": one(0.5), "steps": count(3), "lr": one(0.5)
    },
    advantages.rloo_advantages: {"rewards": row(shaped=False)},
    advantages.grpo_advantages: {"rewards": row(shaped=False), "eps": one(1e-4)},
    advantages.kl_penalty: {
        "rewards": row(size=3), "policy_logps": LOGPS, "reference_logps": LOGPS, "mask": MASK, "beta": one(0.1)
    },
    advantages.gae: {"rewards": LOGPS, "values": LOGPS, "mask": MASK, "gamma": one(1.0), "lam": one(0.9)},
    advantages.ppo_clip_loss: {"logps": LOGPS, "old_logps": LOGPS, "advantages": LOGPS, "eps": one(0.2)},
    advantages.masked_mean: {"values": LOGPS, "mask": MASK},
    advantages.whiten: {"values": LOGPS, "mask": MASK},
    _adapted: {"beta": one(0.1), "kl": one(3.0), "target": one(2.0), "speed": one(0.1)},
    best_of_n.best_of_n_kl: {"n": count(4)},
    best_of_n.best_of_n_policy: {"reference": TABLE, "reward": REWARD, "n": count(4)},
    best_of_n.expected_best: {"rewards": row(), "n": count(3), "by": row(-2, 2, "None")},
    calibration.confidence: {"margins": row(shaped=False)},
    calibration.rightness: {"margins": row(), "probability": row(0, 1, "None")},
    calibration.ece: {"confidence": SHARES, "right": SHARES, "bins": count(2)},
    calibration.ece_of_noise: {"confidence": row(0, 1, shaped=False), "bins": count(2), "seed": SEED},
    calibration.reliability: {"margins": row(), "prompts": PROMPTS, "bins": count(2), "probability": row(0, 1, "None")},
    _assess: {"margins": row()},
    _assess_scores: {"score": Given(lambda rng: rng.normal(size=N).tolist(), NOT_FINITE)},
    calibration.fit_temperature: {"margins": many(lambda rng: torch.tensor([3.0, 2.0, -1.0, 0.5]), shaped=False)},
    calibration.by_prompt: {"values": row(), "prompts": PROMPTS, "seed": SEED},
    table_gradients.penalised_reward: {"policy": TABLE, "reference": TABLE, "reward": REWARD, "beta": one(0.5)},
    table_gradients.exact_gradient: {"policy": TABLE, "reference": TABLE, "reward": REWARD, "beta": one(0.5)},
    table_gradients.gradient_moments: {
        "policy": TABLE, "reference": TABLE, "reward": REWARD, "beta": one(0.5), "k": count(2)
    },
    table_gradients.rloo_path: {
        "reference": TABLE, "reward": REWARD, "beta": one(0.5), "k": count(2), "steps": count(2),
        "lr": one(0.5), "seed": SEED,
    },
    table_gradients.ppo_path: {
        "reference": TABLE, "reward": REWARD, "beta": one(0.5), "samples": count(2), "steps": count(2),
        "epochs": count(1), "lr": one(0.5), "value_lr": one(0.5), "eps": one(0.2), "lam": one(0.9), "seed": SEED,
    },
    logprobs.kl_k1: {"policy_logps": row(-9, -1), "reference_logps": row(-9, -1)},
    logprobs.kl_k3: {"policy_logps": row(-9, -1), "reference_logps": row(-9, -1)},
    rlhf_table.spread: {"values": row(shaped=False, size=4)},
}  # fmt: skip
INFINITE = {
    tabular.kl,
    tabular.objective,
    tabular.implicit_reward,
    tabular.next_token_logits,
}  # where the theory says so


def _losses() -> dict[Callable, dict[str, Given]]:
    """The losses: log-probs and lengths are rows, parameters are numbers with their defaults."""
    found = {}
    for loss in losses.LOSSES.values():
        given = {}
        for argument in loss.inputs():
            row_of = row(2, 9) if argument.endswith("_lengths") else row(-9, -1)
            given[argument] = one(0.1) if argument == "delta" else row_of
            if argument == "desirable":
                given[argument] = fixed(lambda: torch.arange(N) % 2 == 0)
        odd = ("1e300", "1e-300")  # a finite loss is promised for finite log-ratios, not for a β of 1e300
        found[loss.function] = given | {
            p: Given(one(v).make, {k: s for k, s in ONE.items() if k not in odd}, ODD_ONES)
            for p, v in loss.defaults.items() if isinstance(v, float)
        }  # fmt: skip
        for argument, value in found[loss.function].items():
            spoils = {k: s for k, s in value.spoils.items() if k != "huge"}
            found[loss.function][argument] = dataclasses.replace(value, spoils=spoils)
    return found


FUNCTIONS |= _losses()

# ------------------------------------------------------------------------------------------------ calls


def numbers_in(found) -> list[float]:
    """All numbers of a result, whatever holds them."""
    if isinstance(found, torch.Tensor):
        return [np.nan] if found.is_complex() else found.detach().double().flatten().tolist()
    if isinstance(found, np.ndarray):
        return [np.nan] if np.iscomplexobj(found) else found.astype(float).flatten().tolist()
    if dataclasses.is_dataclass(found):
        return numbers_in([getattr(found, field.name) for field in dataclasses.fields(found)])
    if isinstance(found, Mapping):
        return numbers_in(list(found.values()))
    if isinstance(found, list | tuple):
        return [x for part in found for x in numbers_in(part)]
    return [] if found is None or isinstance(found, str) else [float(found)]


def same(one, other) -> bool:
    """Has an argument stayed what it was?"""
    try:
        return numbers_in(one) == numbers_in(other) or bool(np.isnan(numbers_in(one)).any())
    except Exception:
        return True  # no numbers at all


def outcome(function: Callable, arguments: dict, must_fail: bool) -> tuple[str, str]:
    """One of the four ways a call ends, and what it said."""
    before = {
        name: copy.deepcopy(v) for name, v in arguments.items() if isinstance(v, torch.Tensor | np.ndarray | list)
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = numbers_in(function(**arguments))
    except (ValueError, TypeError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        clear = last.filename.startswith(PACKAGE) and len(str(error)) > 10
        return "clear error" if clear else "traceback", f"{type(error).__name__} in {last.name}: {error}"
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    if any(not same(before[name], arguments[name]) for name in before):
        return "silent", "an argument was changed"
    if any(np.isnan(found)) or (function not in INFINITE and not np.isfinite(found).all()):
        return "silent", f"not finite: {found[:4]}"
    if must_fail:
        return "silent", f"a result all the same: {found[:4]}"
    return "clear result", ""


def call(function: Callable, rng: np.random.Generator, spoilt: str = "", how: str = "") -> tuple[str, str]:
    """Call `function` with good arguments, one of them spoilt; outcome and what it was."""
    given = FUNCTIONS[function]
    arguments = {name: argument.make(rng) for name, argument in given.items()}
    for name in [name for name in given if spoilt in (name, ALL) and how in given[name].spoils]:
        arguments[name] = given[name].spoils[how](arguments[name], rng)
    must_fail = spoilt in given and how not in given[spoilt].fine
    name = function.__name__.lstrip("_")
    found, said = outcome(function, arguments, must_fail)
    return found, f"{name}({spoilt} {how}): {said}" if spoilt else f"{name}(): {said}"


def every_spoilt() -> list[tuple[Callable, str, str]]:
    """All functions × arguments × ways to spoil them, good arguments first."""
    ways = [(function, "", "") for function in FUNCTIONS]
    ways += [(function, ALL, how) for function in FUNCTIONS for how in ODD]
    return ways + [(f, name, how) for f, given in FUNCTIONS.items() for name in given for how in given[name].spoils]


def run(calls: int, seed: int = 0, show: int = 40) -> tuple[Counter, list[str]]:
    """Go through all ways in random order, again and again, until there were so many calls; counts and the faults."""
    rng, counts, faults = np.random.default_rng(seed), Counter(), {}
    ways = every_spoilt()
    for i in range(calls):
        if i % len(ways) == 0:
            order = rng.permutation(len(ways))
        found, said = call(ways[order[i % len(ways)]][0], rng, *ways[order[i % len(ways)]][1:])
        counts[found] += 1
        if found in ("silent", "traceback"):
            faults.setdefault(said.partition(":")[0], f"{found}: {said}")
    return counts, list(faults.values())[:show]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=40, help="faults that are printed")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    counts, faults = run(asked.calls, asked.seed, asked.show)
    for line in faults:
        print(line[:400])
    print(f"{asked.calls:,} calls of {len(FUNCTIONS)} functions, seed {asked.seed}")
    for way in ("clear result", "clear error", "silent", "traceback"):
        print(f"{way:<14}{counts[way]:>8,}")
    sys.exit(1 if counts["silent"] or counts["traceback"] else 0)
