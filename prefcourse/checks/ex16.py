"""Checks of exercise notebook 16: what the loss sees of a conversation, and one step on several devices.

Exercise 2, how many pairs fit, stands in `ex16_memory`.
"""

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex16_memory import pairs_that_fit
from prefcourse.checks.questions import choice

__all__ = ["answer_mask", "larger_gradient", "pairs_that_fit", "shares"]
START, END, BREAK, SYSTEM, USER, ASSISTANT = range(6)  # ids of ChatML's marks, the line break, and the three roles

# ---------------------------------------------------------------------------------------------- what the loss sees


def _turn(role: int, words: list[int]) -> list[int]:
    return [START, role, BREAK, *words, END, BREAK]


def _conversations(draw: torch.Generator) -> list[Case]:
    def words(count: int) -> list[int]:
        return torch.randint(6, 60, (count,), generator=draw).tolist()

    def case(*turns: tuple[int, int], cut: int = 0) -> Case:
        ids = [i for role, count in turns for i in _turn(role, words(count))]
        return {"ids": torch.tensor(ids[: len(ids) - cut]), "start": START, "end": END, "assistant": ASSISTANT}

    def drawn() -> int:
        return int(torch.randint(1, 12, (), generator=draw))

    def written(asked: list[int], answer: list[int]) -> Case:
        return case((USER, 1)) | {"ids": torch.tensor([*_turn(USER, asked), *_turn(ASSISTANT, answer)])}

    several = (SYSTEM, 3), (USER, 4), (ASSISTANT, 6), (USER, 2), (ASSISTANT, 5)
    return [
        case((USER, 5), (ASSISTANT, 4)),
        case(*several),
        Limit("the answer is nothing but its end", case((USER, 3), (ASSISTANT, 0))),
        Limit("no line break stands behind the last end", case((USER, 3), (ASSISTANT, 4), cut=1)),
        Limit("the answer has line breaks of its own", written([7, 8], [9, BREAK, BREAK, 10])),
        Limit("the answer says the word of a role", written([7, ASSISTANT, 8], [9, ASSISTANT, BREAK, USER, BREAK, 10])),
        case(*((role, drawn()) for role in (USER, ASSISTANT, USER, ASSISTANT))),
    ]


def _last(ids: Tensor, mark: int) -> int:
    return int((ids == mark).nonzero()[-1])


def _between(ids: Tensor, first: int, last: int) -> Tensor:
    places = torch.arange(len(ids))
    return ((places >= first) & (places <= last)).double()


@exercise(
    cases=_conversations,
    points=3,
    where="1 · A chat template, taken apart",
    hint="the last turn is the answer's. It begins three tokens behind the last `start`: mark, role and line break are "
    "the prompt's. It goes up to the last `end`, that mark included; what stands behind it is the template's.",
)
def answer_mask(ids, start, end, assistant):
    """1 for each token that the loss sees, 0 for the others, (T,)."""
    return _between(ids, _last(ids, start) + 3, _last(ids, end))


@answer_mask.mutant("the end is missing: the model has to learn to write the mark with which it stops. Score it, too.")
def end_lost(ids, start, end, assistant):
    return _between(ids, _last(ids, start) + 3, _last(ids, end) - 1)


@answer_mask.mutant(
    "the mark, the role and the line break in front of the answer are scored in yours. They are the prompt's: whoever "
    "samples writes them for the model."
)
def header_scored(ids, start, end, assistant):
    return _between(ids, _last(ids, start), _last(ids, end))


@answer_mask.mutant("the role and its line break are scored in yours: skip three tokens, not only the mark.")
def role_scored(ids, start, end, assistant):
    return _between(ids, _last(ids, start) + 1, _last(ids, end))


@answer_mask.mutant("the line break behind the role is scored in yours: it belongs to the prompt, as the role does.")
def break_scored(ids, start, end, assistant):
    return _between(ids, _last(ids, start) + 2, _last(ids, end))


@answer_mask.mutant(
    "you score the line break behind the last end. The template writes it there, and no model is asked to."
)
def behind_the_end(ids, start, end, assistant):
    return _between(ids, _last(ids, start) + 3, len(ids) - 1)


@answer_mask.mutant(
    "every answer of the assistant is scored in yours. The earlier ones are a part of the question here: only the last "
    "one was compared."
)
def all_answers(ids, start, end, assistant):
    mask, inside = torch.zeros(len(ids), dtype=torch.float64), False
    for i in range(len(ids)):
        if i >= 2 and ids[i - 2] == start:
            inside = bool(ids[i - 1] == assistant)
        elif inside:
            mask[i] = 1.0
            inside = bool(ids[i] != end)
    return mask


@answer_mask.mutant(
    "you look for the role's word, and the answer may say it, too. A turn begins at `start`: count from the last one."
)
def from_the_word(ids, start, end, assistant):
    return _between(ids, _last(ids, assistant) + 2, _last(ids, end))


@answer_mask.mutant("nothing is masked in yours: prompt and roles are read, and not scored.")
def everything(ids, start, end, assistant):
    return torch.ones(len(ids), dtype=torch.float64)


@answer_mask.mutant("your mask is turned round: 1 is for what the loss sees.")
def turned(ids, start, end, assistant):
    return 1 - answer_mask.reference(ids, start, end, assistant)


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=2)
def larger_gradient():
    """Every gradient is four times too large, and nothing is clipped. What becomes of Adam's first step?"""
    return {
        "the same step as before": None,
        "a step four times as far": "that is gradient descent. Adam divides the gradient by its own running size, and "
        "that is four times as large, too.",
        "a step twice as far": "the second average is one of squares, and it stands under a root: it grows by four as "
        "the first does.",
        "a step a quarter as far": "a large gradient does not make Adam careful: average and root grow by the same "
        "factor, and it cancels.",
    }


# ---------------------------------------------------------------------------------------------- one step, two devices


def _batches(draw: torch.Generator) -> list[Case]:
    def case(*sizes: int) -> Case:
        return {"losses": [torch.rand(n, generator=draw, dtype=torch.float64) for n in sizes]}

    fixed = {"losses": [torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([10.0]).double()]}
    alone = Limit("there is one process alone", {"losses": [torch.tensor([0.5, 0.7, 0.1]).double()]})
    even = Limit("all shares are equally large", case(4, 4))
    return [fixed, alone, even, case(5, 2, 1), case(1, 7), case(3, 3, 2, 4)]


def _scaled(losses: list[Tensor], factor) -> Tensor:
    return torch.stack([share.sum() * factor(share) for share in losses])


@exercise(
    cases=_batches,
    points=3,
    where="Optional · One step in several parts",
    hint="the mean over the processes divides by their number, so each multiplies by it: sum of its share · number of "
    "processes / number of all texts.",
)
def shares(losses):
    """What each of n processes has to minimise, so that the mean of their gradients is that of the batch, (n,)."""
    total = sum(map(len, losses))
    return _scaled(losses, lambda share: len(losses) / total)


@shares.mutant("each process takes the mean of its own share: then a text in a small share counts for more than one.")
def own_mean(losses):
    return _scaled(losses, lambda share: 1 / len(share))


@shares.mutant("the number of processes is missing: their gradients are *averaged*, so each has to count for all.")
def without_the_number(losses):
    total = sum(map(len, losses))
    return _scaled(losses, lambda share: 1 / total)


@shares.mutant("each process returns its sum: divide by the number of texts of the whole batch.")
def sums(losses):
    return _scaled(losses, lambda share: 1.0)


@shares.mutant("you divide by the number of processes once more: the average over the processes does that already.")
def divided_twice(losses):
    total = sum(map(len, losses))
    return _scaled(losses, lambda share: 1 / (total * len(losses)))


@shares.mutant("the number of processes multiplies the mean of a share in yours: divide by all texts, not by its own.")
def number_times_own_mean(losses):
    return _scaled(losses, lambda share: len(losses) / len(share))


@shares.mutant("you return the batch's mean for every process: none of them knows the losses of the others.")
def mean_for_all(losses):
    whole = torch.cat(losses).mean()
    return whole.expand(len(losses)).clone()
