"""Checks of exercise notebook 11, exercise 4: the bill of a run that is evaluated on its way. See also `ex11`."""

from contextlib import nullcontext

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.tiny_gpt2 import WORDS, tiny_gpt2
from prefcourse.comparison.costs import Meter

# ---------------------------------------------------------------------------------------------- the bug


def _texts(draw: torch.Generator) -> list[Case]:
    def case(batches: int, rows: int, width: int, test: tuple[int, int]) -> Case:
        ids = torch.randint(WORDS, (batches, rows, width), generator=draw)
        return {"batches": list(ids), "test": torch.randint(WORDS, test, generator=draw)}

    a, b, c = (int(n) for n in torch.randint(2, 7, (3,), generator=draw))
    return [
        case(2, 4, 5, (8, 10)),
        Limit("there is one batch alone", case(1, 2, 3, (1, 2))),
        case(2, a, b, (5, c)),
        case(3, b, c, (a, 9)),
    ]


def score(model, ids) -> Tensor:
    """One forward pass without a gradient: what a reference does. Mean log-prob of a token."""
    with torch.no_grad():
        return -model(ids, labels=ids).loss


def learn(model, ids) -> None:
    """One forward and one backward pass; the weights stay as they are, which the bill does not notice."""
    model(ids, labels=ids).loss.backward()
    model.zero_grad()


def run_bill(answer, batches: list[Tensor], test: Tensor) -> dict:
    """What a bill comes to, and how often it evaluated, with two tiny models: used by the check and the notebook."""
    seen = _watched(answer, batches, test)
    return {"work": seen["work"], "evaluations": len(seen["batches learned at each evaluation"])}


def _watched(answer, batches: list[Tensor], test: Tensor) -> dict:
    """What a bill comes to, and what was done: which batches each model saw, and when the run was evaluated."""
    shape, looks, learned, scored, wrong, busy = {"n_layer": 2, "n_positions": 32}, [], [], [], [], []
    policy, reference = tiny_gpt2(0, **shape), tiny_gpt2(1, **shape)

    def measure() -> None:
        busy.append(True)
        looks.append(len(learned))
        score(policy, test)
        busy.clear()

    def noted(model, arguments, named) -> None:
        if not busy:
            ids = named.get("input_ids", arguments[0] if arguments else None)
            trains = torch.is_grad_enabled()
            (learned if trains else scored).append(next((i for i, b in enumerate(batches) if torch.equal(b, ids)), -1))
            wrong.append((model is policy) != trains)

    hooks = [model.register_forward_pre_hook(noted, with_kwargs=True) for model in (policy, reference)]
    try:
        work = answer(policy, reference, batches, measure)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        "work": work, "batches learned from": learned, "batches scored by the reference": scored,
        "the policy learns and the reference scores": not any(wrong), "batches learned at each evaluation": looks,
    }  # fmt: skip


def _bill(policy, reference, batches, measure, pause_look=True, pause_reference=False, look=True, last_only=False):
    meter = Meter(policy=policy, reference=reference)
    with meter:
        for i, batch in enumerate(batches):
            with meter.paused() if pause_reference else nullcontext():
                score(reference, batch)
            learn(policy, batch)
            if look and (not last_only or i == len(batches) - 1):
                with meter.paused() if pause_look else nullcontext():
                    measure()
    return meter


@exercise(
    cases=_texts,
    points=3,
    observe=_watched,
    where="The table, measured",
    hint="per token of a batch the work is 1 for the reference and 3 for the policy, 4 in all. Compare that with your "
    "number, and count how often `measure` is called: once after each batch.",
)
def bill(policy, reference, batches, measure):
    """The work of a run that is evaluated on the way, evaluation not counted."""
    return _bill(policy, reference, batches, measure).work


@bill.mutant("the evaluations are in the bill: pause the meter around `measure()`, not around the training.")
def evaluation_counted(policy, reference, batches, measure):
    return _bill(policy, reference, batches, measure, pause_look=False).work


@bill.mutant("the run is no longer evaluated at all: call `measure()` after every batch, with the meter paused.")
def no_evaluation(policy, reference, batches, measure):
    return _bill(policy, reference, batches, measure, look=False).work


@bill.mutant("the run is evaluated only once, at its end: call `measure()` after every batch.")
def evaluated_at_the_end(policy, reference, batches, measure):
    return _bill(policy, reference, batches, measure, last_only=True).work


@bill.mutant("the reference's passes are not in your bill: they are part of DPO's price, one unit for each token.")
def reference_free(policy, reference, batches, measure):
    return _bill(policy, reference, batches, measure, pause_reference=True).work


@bill.mutant("your bill counts forward tokens alone. `work` is forward + 2 · backward.")
def forward_only(policy, reference, batches, measure):
    return _bill(policy, reference, batches, measure).forward.total()


@bill.mutant("nothing is run: the bill has to come from a meter around `score` and `learn`, batch by batch.")
def not_run(policy, reference, batches, measure):
    return 4 * sum(batch.numel() for batch in batches)


@bill.mutant("the models are exchanged: the policy learns, and the reference only scores.")
def models_exchanged(policy, reference, batches, measure):
    return _bill(reference, policy, batches, measure).work


@bill.mutant("the run is evaluated before each batch: `measure()` comes after it.")
def evaluated_before(policy, reference, batches, measure):
    meter = Meter(policy=policy, reference=reference)
    with meter:
        for batch in batches:
            with meter.paused():
                measure()
            score(reference, batch)
            learn(policy, batch)
    return meter.work


@bill.mutant("all evaluations come at the end: call `measure()` after each batch.")
def all_at_the_end(policy, reference, batches, measure):
    work = _bill(policy, reference, batches, measure, look=False).work
    for _ in batches:
        measure()
    return work


@bill.mutant("the training is not in your bill: pause the meter around `measure()` alone.")
def training_free(policy, reference, batches, measure):
    meter = Meter(policy=policy, reference=reference)
    with meter, meter.paused():
        _bill(policy, reference, batches, measure)
    return meter.work
