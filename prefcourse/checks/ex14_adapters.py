"""Checks of exercise notebook 14, exercise 1: adapters by arithmetic. See also `ex14`."""

import torch

from prefcourse.checks.core import Case, Limit, exercise

MB = 1e6  # bytes

# ---------------------------------------------------------------------------------------------- adapters by arithmetic


def gpt2_shapes(layers: int, width: int) -> list[tuple[int, int]]:
    """(in, out) of the linear layers of a GPT-2: attention in and out, MLP in and out, for each layer."""
    return [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)] * layers


def _models(draw: torch.Generator) -> list[Case]:
    cases = [
        {"shapes": [(10, 30), (30, 5)], "rank": 2, "parameters": 1_000},
        {"shapes": gpt2_shapes(12, 768), "rank": 8, "parameters": 124_439_808},
    ]
    cases.append(Limit("one layer alone, rank 1", {"shapes": [(7, 3)], "rank": 1, "parameters": 21}))
    for _ in range(2):
        sizes = torch.randint(20, 200, (3, 2), generator=draw).tolist()
        shapes = [tuple(pair) for pair in sizes]
        rank = int(torch.randint(1, 17, (), generator=draw))
        cases.append({"shapes": shapes, "rank": rank, "parameters": 2 * sum(a * b for a, b in shapes)})
    return cases


def _plan(shapes, rank, parameters, count=lambda a, b: a + b, trained=16, beside=4, lora_frozen=1, unit=MB):
    adapters = rank * sum(count(a, b) for a, b in shapes)
    return {
        "adapters": adapters,
        "full": parameters * (16 + beside) / unit,
        "lora": (adapters * trained + lora_frozen * parameters * 4) / unit,
    }


@exercise(
    cases=_models,
    points=3,
    where="3 · LoRA: a policy and its reference in one model",
    hint="A is (rank, in) and B is (out, rank), so a layer gets rank · (in + out) numbers. A trained one takes "
    "16 bytes, a frozen one 4. In LoRA the base model is frozen and there is no second model.",
)
def lora_plan(shapes, rank, parameters):
    """Numbers in the adapters, and the memory of DPO with and without them."""
    return _plan(shapes, rank, parameters)


@lora_plan.mutant(
    "you count in · out, a whole matrix, for each layer. Two thin ones have rank · in and out · rank numbers."
)
def whole_matrices(shapes, rank, parameters):
    return _plan(shapes, rank, parameters, count=lambda a, b: a * b)


@lora_plan.mutant("one of the two thin matrices is missing: A reads (rank, in), and B writes (out, rank).")
def one_matrix(shapes, rank, parameters):
    return _plan(shapes, rank, parameters, count=lambda a, b: a)


@lora_plan.mutant(
    "your LoRA keeps a second model as reference. Switch the adapters off, and the base model is the reference."
)
def second_model(shapes, rank, parameters):
    return _plan(shapes, rank, parameters, lora_frozen=2)


@lora_plan.mutant(
    "your adapters take 4 bytes a number. They are trained: weight, gradient, Adam's two averages, 16 bytes."
)
def adapters_frozen(shapes, rank, parameters):
    return _plan(shapes, rank, parameters, trained=4)


@lora_plan.mutant(
    "your megabytes have 1,048,576 bytes. Here they have a million, as in the lesson and on a disk's label."
)
def mebibytes(shapes, rank, parameters):
    return _plan(shapes, rank, parameters, unit=2**20)


@lora_plan.mutant("`full` has a reference beside it, which is frozen: 4 more bytes for each parameter.")
def reference_forgotten(shapes, rank, parameters):
    return _plan(shapes, rank, parameters, beside=0)


@lora_plan.mutant("the frozen base model is missing in `lora`: it has to be there, 4 bytes for each parameter.")
def base_forgotten(shapes, rank, parameters):
    return _plan(shapes, rank, parameters, lora_frozen=0)


@lora_plan.mutant("the reference beside the model takes 16 bytes a number in yours: it is frozen, 4.")
def reference_trained(shapes, rank, parameters):
    return _plan(shapes, rank, parameters, beside=16)


@lora_plan.mutant("the rank is missing: A has rank · in numbers, B out · rank.")
def rank_missing(shapes, rank, parameters):
    return _plan(shapes, 1, parameters)


@lora_plan.mutant("these are bytes: a megabyte has a million of them.")
def in_bytes(shapes, rank, parameters):
    return _plan(shapes, rank, parameters, unit=1.0)


@lora_plan.mutant(
    "your adapters take 12 bytes a number: weight, gradient and *two* averages are four numbers, 16 bytes."
)
def twelve_bytes(shapes, rank, parameters):
    return _plan(shapes, rank, parameters, trained=12)
