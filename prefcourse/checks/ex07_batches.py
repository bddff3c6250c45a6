"""Checks of exercise notebook 07, exercises 1 and 2: β as a brake, the batch, log-probs. See also `ex07`."""

import math

import torch
from torch import Tensor

from prefcourse.checks.calls import Unusable
from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.preferences import Batch, collate

EOS = 0  # the pad token as well, as in the lesson

# ---------------------------------------------------------------------------------------------- β as a brake


def _pulls(draw: torch.Generator) -> list[Case]:
    fixed = [(0.01, 0.1, 1.0), (0.0, 0.5, 0.8), (0.3, 2.0, 0.9)]
    drawn = [torch.rand(3, generator=draw, dtype=torch.float64).tolist() for _ in range(3)]
    fixed += [(0.05 + 0.9 * s, 0.05 + 2 * b, 0.6 + 0.4 * p) for s, b, p in drawn]
    cases = [{"share": s, "beta": b, "label": p} for s, b, p in fixed]
    cases[1] = Limit("the pull is to be gone, share 0", cases[1])
    return cases


def _logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


@exercise(
    cases=_pulls,
    points=2,
    where="The loss, recalled",
    hint="at the start σ(0) = 1/2, so the pull is β(P - 1/2). Set β(P - σ(βh)) equal to `share` times that, "
    "divide by β, solve for σ(βh), then for h with the inverse of σ, log(p / (1 - p)).",
)
def brake(share, beta, label):
    """The h at which the pull on a pair has fallen to `share` of what it was at h = 0."""
    return _logit(label - share * (label - 0.5)) / beta


@brake.mutant("you multiply by β at the end. The equation gives βh; h is that number divided by β.")
def times_beta(share, beta, label):
    return _logit(label - share * (label - 0.5)) * beta


@brake.mutant("β is missing: the equation gives the value of βh, and h is that divided by β.")
def beta_missing(share, beta, label):
    return _logit(label - share * (label - 0.5))


@brake.mutant("your formula is right for a label of 1 alone. With a label P the pull at the start is β(P - 1/2).")
def hard_only(share, beta, label):
    return math.log(2 / share - 1) / beta


@brake.mutant(
    "you let the pull fall to `share` times β. It is compared with the pull at the start, β(P - 1/2), where σ(0) = 1/2."
)
def share_of_beta(share, beta, label):
    return _logit(label - share) / beta


@brake.mutant("σ is not inverted: log(p / (1 - p)) gives βh from σ(βh).")
def not_inverted(share, beta, label):
    return (label - share * (label - 0.5)) / beta


@brake.mutant("you solve for where 1 - share of the pull is left: it has fallen *to* the share, not by it.")
def fallen_by(share, beta, label):
    return _logit(label - (1 - share) * (label - 0.5)) / beta


@brake.mutant("the sign is lost: σ(βh) has to rise from 1/2 towards P, so h is positive.")
def negative(share, beta, label):
    return -_logit(label - share * (label - 0.5)) / beta


# ---------------------------------------------------------------------------------------------- the batch


def _token_lists(draw: torch.Generator) -> list[Case]:
    def ids(low: int, high: int) -> list[int]:
        n = int(torch.randint(low, high, (), generator=draw))
        return torch.randint(1, 50, (n,), generator=draw).tolist()

    fixed = [([7, 8], [9, 5, 6]), ([4], [3])]
    return [
        {"sequences": fixed, "eos_id": EOS},
        Limit("eos_id is not 0", {"sequences": fixed, "eos_id": 61}),
        *({"sequences": [(ids(1, 5), ids(1, 6)) for _ in range(3)] + [([2, 3, 4], [5])], "eos_id": EOS}
          for _ in range(2)),
    ]  # fmt: skip


def _kinds(value: object) -> set[str]:
    """The kinds of number in a tensor, an array, or lists of them: "int64", "bool" …"""
    if isinstance(value, list | tuple):
        return set().union(*map(_kinds, value))
    return {str(getattr(value, "dtype", {int: "int64", bool: "bool"}.get(type(value), "other"))).removeprefix("torch.")}


def _typed(answer, sequences, eos_id) -> dict[str, object] | None:
    """Ids and mask by name, and whether they have the kinds that were asked for."""
    found = answer(sequences, eos_id)
    if found is None:
        return None
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Unusable("return two things: the ids, then the mask.")
    return {
        "ids": found[0],
        "mask": found[1],
        "ids are int64": _kinds(found[0]) == {"int64"},
        "the mask is bool": _kinds(found[1]) == {"bool"},
    }


def ended(sequences, eos_id) -> Batch:
    """The batch of (prompt ids, completion ids), one EOS put at the end of each completion."""
    return collate([(prompt, [*completion, eos_id]) for prompt, completion in sequences], eos_id)


@exercise(
    cases=_token_lists,
    points=1,
    observe=_typed,
    keeps=True,
    where="From pairs to a batch",
    hint="a row is prompt + completion + one EOS, then padding. Its mask is True from len(prompt) up to and with "
    "that EOS. Print one row and its mask below each other.",
)
def batch(sequences, eos_id):
    """Token ids and completion mask of a batch, from lists of token ids."""
    made = ended(sequences, eos_id)
    return made.input_ids, made.completion_mask


@batch.mutant("EOS is never put at the end of the completion: the policy is not told that stopping was preferred.")
def no_eos(sequences, eos_id):
    made = collate(sequences, eos_id)
    return made.input_ids, made.completion_mask


@batch.mutant(
    "your mask leaves EOS out. EOS and padding have the same id, so comparing ids cannot tell them apart: build the "
    "mask from the lengths."
)
def eos_not_in_mask(sequences, eos_id):
    ids, mask = batch.reference(sequences, eos_id)
    return ids, mask & (ids != eos_id)


@batch.mutant(
    "your mask is ids != eos_id. It covers the prompt, and it loses the EOS that ends the completion, which has the id "
    "of the padding: build the mask from the lengths."
)
def ids_compared(sequences, eos_id):
    ids, _ = batch.reference(sequences, eos_id)
    return ids, ids != eos_id


@batch.mutant("your mask covers the prompt too: the loss may look at the completion and its EOS only.")
def prompt_in_mask(sequences, eos_id):
    made = ended([([], prompt + completion) for prompt, completion in sequences], eos_id)
    return made.input_ids, made.completion_mask


@batch.mutant("your mask runs to the end of the row: of the EOS tokens there only the first belongs to the completion.")
def padding_in_mask(sequences, eos_id):
    ids, mask = batch.reference(sequences, eos_id)
    return ids, mask.cumsum(1) > 0


@batch.mutant("you pad, or end, with 0: take `eos_id`, which another tokenizer has elsewhere.")
def zero_for_eos(sequences, eos_id):
    return batch.reference(sequences, 0)


@batch.mutant("you pad with 0: pad with `eos_id`.")
def padded_with_zero(sequences, eos_id):
    ids, mask = batch.reference(sequences, eos_id)
    return torch.where(mask.flip(1).cumsum(1).flip(1) > 0, ids, 0), mask


@batch.mutant("your ids are no int64: an embedding wants whole numbers, torch.long.")
def float_ids(sequences, eos_id):
    ids, mask = batch.reference(sequences, eos_id)
    return ids.float(), mask


@batch.mutant("your mask is not bool: make it with dtype=torch.bool.")
def float_mask(sequences, eos_id):
    ids, mask = batch.reference(sequences, eos_id)
    return ids, mask.float()


@batch.mutant("your rows are filled up on the left: pad on the right.")
def padded_left(sequences, eos_id):
    ids, mask = batch.reference(sequences, eos_id)
    last = mask.int().cumsum(1).argmax(1)
    moved = [
        (row.roll(len(row) - 1 - int(n)), m.roll(len(row) - 1 - int(n)))
        for row, m, n in zip(ids, mask, last, strict=True)
    ]
    return torch.stack([row for row, _ in moved]), torch.stack([m for _, m in moved])


@batch.mutant(
    "your mask stands one place to the left. The shift comes later, with the logits; here a True stands at the token "
    "itself."
)
def shifted(sequences, eos_id):
    ids, mask = batch.reference(sequences, eos_id)
    return ids, mask.roll(-1, 1)


# ---------------------------------------------------------------------------------------------- log-probs


def _logit_tables(draw: torch.Generator) -> list[Case]:
    def case(sequences, vocabulary: int, t: Tensor) -> Case:
        made = collate(sequences, EOS)
        rows, width = made.input_ids.shape
        logits = t if t is not None else torch.randn(rows, width, vocabulary, generator=draw, dtype=torch.float64)
        return {"logits": logits, "ids": made.input_ids, "mask": made.completion_mask}

    t, v = torch.arange(6)[:, None], torch.arange(5)[None]
    by_pencil = (((7 * t + 3 * v) % 5) / 2)[None].double()  # (1, 6, 5), the lesson's tiny case
    drawn = [[([1, 2], torch.randint(1, 6, (n,), generator=draw).tolist()) for n in (2, 4, 5)] for _ in "ab"]
    short = case([([1, 2, 3], [0]), ([4], [5, 2, 0])], 6, None)
    return [
        case([([1, 2], [3, 0, 4, 2])], 5, by_pencil),
        Limit("a completion is EOS alone", short),
        *(case(sequences, 6, None) for sequences in drawn),
    ]


def _picked(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]  # (N, T - 1)


@exercise(
    cases=_logit_tables,
    points=2,
    where="Log-probabilities, from scratch",
    hint="log-softmax over the vocabulary; drop the last position of it and the first of ids and mask; pick with "
    "gather; multiply by the mask and sum over tokens.",
)
def logps(logits, ids, mask):
    """log π(y|x) of each row, from logits, ids and completion mask."""
    return (_picked(logits, ids) * mask[:, 1:]).sum(-1)


@logps.mutant("the mask is not shifted with the ids: the first column of it belongs to a token that nothing predicts.")
def mask_not_shifted(logits, ids, mask):
    return (_picked(logits, ids) * mask[:, :-1]).sum(-1)


@logps.mutant("the logits are not shifted: the logits at position t predict the token at t + 1.")
def logits_not_shifted(logits, ids, mask):
    return (logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0] * mask).sum(-1)


@logps.mutant("you return log-probs of single tokens: sum them over the completion, one number for each row.")
def not_summed(logits, ids, mask):
    return _picked(logits, ids) * mask[:, 1:]


@logps.mutant("you add up probabilities: log_softmax, not softmax, and then the sum.")
def probabilities(logits, ids, mask):
    return (_picked(logits, ids).exp() * mask[:, 1:]).sum(-1)


@logps.mutant("your softmax runs over positions: the vocabulary is the last axis of the logits.")
def over_positions(logits, ids, mask):
    picked = logits.log_softmax(1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    return (picked * mask[:, 1:]).sum(-1)


@logps.mutant("you average over tokens. log π(y|x) is a sum: DPO is about the probability of whole completions.")
def mean_for_sum(logits, ids, mask):
    return logps.reference(logits, ids, mask) / mask.sum(-1)


@logps.mutant("you sum logits. A logit is a log-probability only after log_softmax over the vocabulary.")
def raw_logits(logits, ids, mask):
    return (logits[:, :-1].gather(-1, ids[:, 1:, None])[..., 0] * mask[:, 1:]).sum(-1)


@logps.mutant("the last token of the completion is lost. It is EOS, and its probability counts.")
def eos_dropped(logits, ids, mask):
    end = mask.cumsum(1).argmax(1, keepdim=True)
    return logps.reference(logits, ids, mask.scatter(1, end, False))


@logps.mutant("prompt and padding are in your sum: multiply by the mask before you sum.")
def mask_ignored(logits, ids, mask):
    return _picked(logits, ids).sum(-1)
