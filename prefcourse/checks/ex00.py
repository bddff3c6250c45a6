"""Checks of exercise notebook 00: probabilities of tokens and texts, masks, temperature."""

import math

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.questions import choice

END = "END"
Language = dict[tuple[str, ...], dict[str, float]]  # what stands there so far → the probabilities of the next token

# --------------------------------------------------------------------------------------------- a text in a toy language


def _texts(draw: torch.Generator) -> list[Case]:
    """Small languages in which what comes next depends on all before it, and a text of each."""

    def language(words: list[str], longest: int) -> Language:
        def shares(*tokens: str) -> dict[str, float]:
            p = torch.rand(len(tokens), generator=draw, dtype=torch.float64) + 0.1
            return dict(zip(tokens, (p / p.sum()).tolist(), strict=True))

        table, open_texts = {}, [()]
        for n in range(longest + 1):
            for text in open_texts:
                table[text] = {END: 1.0} if n == longest else shares(*words) if n == 0 else shares(*words, END)
            open_texts = [(*text, word) for text in open_texts for word in words]
        return table

    fixed = {
        (): {"slow": 0.5, "fast": 0.5},
        ("slow",): {END: 0.2, "slow": 0.8},
        ("fast",): {END: 1.0},
        ("slow", "slow"): {END: 1.0},
    }
    words = ["good", "bad"]
    return [
        {"next_token": fixed, "y": ("slow", "slow", END)},
        {"next_token": fixed, "y": ("slow", END)},
        Limit("the text is END alone", {"next_token": {(): {END: 0.25, "slow": 0.75}}, "y": (END,)}),
        {"next_token": language(words, 2), "y": ("bad", "good", END)},
        {"next_token": language(words, 3), "y": ("good", "good", "bad", END)},
        {"next_token": language(words, 3), "y": ("bad", END)},
    ]


def _factors(next_token: Language, y: tuple[str, ...]) -> list[float]:
    return [next_token[y[:t]][y[t]] for t in range(len(y))]


@exercise(
    cases=_texts,
    points=3,
    where="Step 3 · The end counts",
    hint="for each t from 0 to len(y) - 1 look up next_token[y[:t]][y[t]], the probability of token t given those "
    "before it; take math.log of each, and add them up.",
)
def log_pi(next_token, y):
    """The log-probability of a text in a toy language."""
    return sum(map(math.log, _factors(next_token, y)))


@log_pi.mutant("that is π(y|x), a product of probabilities. The exercise asks for its logarithm, a sum of logs.")
def probability(next_token, y):
    return math.prod(_factors(next_token, y))


@log_pi.mutant(
    "you divide by the number of tokens. log π(y|x) is a sum: each token is one more thing that must happen."
)
def mean_for_sum(next_token, y):
    return log_pi.reference(next_token, y) / len(y)


@log_pi.mutant("END is missing from your sum. Stopping is a choice of the model like any other: its log counts.")
def end_lost(next_token, y):
    return sum(map(math.log, _factors(next_token, y)[:-1]))


@log_pi.mutant("the first token is missing from your sum: its probability stands at next_token[()].")
def first_lost(next_token, y):
    return sum(map(math.log, _factors(next_token, y)[1:]))


@log_pi.mutant("the sign is turned round: the log of a probability is never above 0.")
def surprise(next_token, y):
    return -log_pi.reference(next_token, y)


@log_pi.mutant("your logarithm has another base. Nats are natural logarithms: math.log.")
def bits(next_token, y):
    return log_pi.reference(next_token, y) / math.log(2)


@log_pi.mutant("your logarithm has base 10. Nats are natural logarithms: math.log.")
def base_ten(next_token, y):
    return log_pi.reference(next_token, y) / math.log(10)


@log_pi.mutant("you look up each token after the one before it alone: it depends on the whole beginning, y[:t].")
def after_one_token(next_token, y):
    return sum(math.log(next_token[y[max(t - 1, 0) : t]][y[t]]) for t in range(len(y)))


@log_pi.mutant("you add up probabilities: it is their logarithms that add up, because the probabilities multiply.")
def sum_of_probabilities(next_token, y):
    return sum(_factors(next_token, y))


@log_pi.mutant("you take the logarithm of a sum of probabilities. Take the logarithm of each first, then add.")
def log_of_sum(next_token, y):
    return math.log(sum(_factors(next_token, y)))


# ---------------------------------------------------------------------------------------------- which tokens count


def _batches(draw: torch.Generator) -> list[Case]:
    def batch(rows: int, width: int) -> Case:
        prompt = torch.randint(1, 4, (rows,), generator=draw)
        room = width - prompt
        completion = 1 + (torch.rand(rows, generator=draw) * room).long().clamp(max=room - 1)
        return {
            "token_logps": -3 * torch.rand(rows, width, generator=draw, dtype=torch.float64) - 0.1,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
        }

    fixed = {
        "token_logps": torch.tensor(
            [[-9.0, -5.0, -1.0, -2.0, -0.5, -7.0], [-9.0, -1.0, -0.2, -7.0, -7.0, -7.0]]
        ).double(),
        "prompt_tokens": torch.tensor([2, 1]),
        "completion_tokens": torch.tensor([3, 2]),
    }
    full = Limit(
        "a completion reaches the last column, as that of the longest row always does",
        fixed | {"prompt_tokens": torch.tensor([2, 3]), "completion_tokens": torch.tensor([4, 2])},
    )
    short = {"prompt_tokens": torch.tensor([5, 1]), "completion_tokens": torch.tensor([1, 1])}
    return [fixed, full, Limit("a completion is EOS alone", fixed | short), batch(4, 8), batch(3, 12)]


def _masked_sum(token_logps, prompt_tokens, completion_tokens, start=0, stop=0) -> Tensor:
    place = torch.arange(token_logps.shape[1])  # (T,)
    first, last = prompt_tokens[:, None] + start, (prompt_tokens + completion_tokens)[:, None] + stop
    return (token_logps * ((place >= first) & (place < last))).sum(-1)


@exercise(
    cases=_batches,
    points=3,
    where="Step 4 · The prompt does not count",
    hint="make a mask (N, T): true where the place is at least the prompt's length, and below prompt + completion. "
    "Multiply, and sum over the last axis.",
)
def sequence_logps(token_logps, prompt_tokens, completion_tokens):
    """log π(y|x) of every row of a batch, the mask made from lengths."""
    return _masked_sum(token_logps, prompt_tokens, completion_tokens)


@sequence_logps.mutant("the prompt is in your sum. It is given, so its tokens do not count: begin after it.")
def prompt_counted(token_logps, prompt_tokens, completion_tokens):
    return _masked_sum(token_logps, 0 * prompt_tokens, prompt_tokens + completion_tokens)


@sequence_logps.mutant(
    "the end token is missing: `completion_tokens` includes EOS, so the last place is part of the sum."
)
def eos_lost(token_logps, prompt_tokens, completion_tokens):
    return _masked_sum(token_logps, prompt_tokens, completion_tokens, stop=-1)


@sequence_logps.mutant("the filling at the end of the rows is in your sum: stop after prompt + completion tokens.")
def padding_counted(token_logps, prompt_tokens, completion_tokens):
    return _masked_sum(token_logps, prompt_tokens, completion_tokens, stop=token_logps.shape[1])


@sequence_logps.mutant(
    "your mask is one place too early: it takes the prompt's last token and loses EOS. Places are counted from 0."
)
def one_early(token_logps, prompt_tokens, completion_tokens):
    return _masked_sum(token_logps, prompt_tokens, completion_tokens, start=-1, stop=-1)


@sequence_logps.mutant("the first token of the completion is missing: begin at the place that is the prompt's length.")
def begins_late(token_logps, prompt_tokens, completion_tokens):
    return _masked_sum(token_logps, prompt_tokens, completion_tokens, start=1)


@sequence_logps.mutant("one place of the filling is in your sum: stop before the place prompt + completion.")
def ends_late(token_logps, prompt_tokens, completion_tokens):
    return _masked_sum(token_logps, prompt_tokens, completion_tokens, stop=1)


@sequence_logps.mutant("you divide by the number of tokens: log π(y|x) is a sum, never a mean.")
def mean_for_sum_of_tokens(token_logps, prompt_tokens, completion_tokens):
    return _masked_sum(token_logps, prompt_tokens, completion_tokens) / completion_tokens


@sequence_logps.mutant(
    "a slice cannot begin at another place in each row. Compare torch.arange(T), the places, with the lengths, and you "
    "have a mask for all rows at once."
)
def one_slice_for_all(token_logps, prompt_tokens, completion_tokens):
    return token_logps[:, prompt_tokens : prompt_tokens + completion_tokens].sum(-1)


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=2)
def twice_as_likely():
    """At temperature 1 one token is twice as likely as another. How much likelier is it at temperature 0.5?"""
    return {
        "four times as likely": None,
        "twice as likely, as before": "temperature changes the distribution: π_T is proportional to π to the power "
        "1/T, and here 1/T is not 1.",
        "once as likely: both are equal": "equal is what a *high* temperature tends to. A low one sharpens.",
        "1.4 times as likely": "that is the root of 2, the answer for temperature 2. Here the power is 1/0.5.",
    }


# ---------------------------------------------------------------------------------------------- the bug


def _scores(draw: torch.Generator) -> list[Case]:
    fixed = torch.tensor([2.0, 1.0, 0.0, -3.0], dtype=torch.float64)
    drawn = torch.randn(3, 6, generator=draw, dtype=torch.float64) * 2
    pairs = zip(drawn, (0.7, 1.6, 0.0), strict=True)
    return [
        *({"logits": fixed, "temperature": t} for t in (0.5, 2.0, 0.0)),
        Limit(
            "the temperature is 0 and the likeliest token is not the first one",
            {"logits": fixed.roll(2), "temperature": 0.0},
        ),
        Limit("the temperature is a whole number", {"logits": fixed, "temperature": 3}),
        *({"logits": logits, "temperature": t} for logits, t in pairs),
    ]


def _coldest(logits: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()


@exercise(
    cases=_scores,
    points=3,
    where="Step 5 · Temperature",
    hint="divide the logits by the temperature first, then softmax. Temperature 0 stands for the limit: 1 for the "
    "likeliest token and 0 for all others; no division by zero is needed for that.",
)
def tempered(logits, temperature):
    """The distribution of the next token at a temperature."""
    return (logits / temperature).softmax(-1) if temperature > 0 else _coldest(logits)


@tempered.mutant(
    "your temperature changes nothing: a division of probabilities cancels when they are made to sum to 1, and what is "
    "added to logits cancels in the softmax. Divide the logits, before the softmax."
)
def divides_probabilities(logits, temperature):
    p = logits.softmax(-1) / (temperature or 1.0)
    return p / p.sum() if temperature > 0 else _coldest(logits)


@tempered.mutant("your hot is cold: you multiply the logits by the temperature. Divide them.")
def multiplies(logits, temperature):
    return (logits * temperature).softmax(-1) if temperature > 0 else _coldest(logits)


@tempered.mutant("your numbers do not sum to 1: π to the power 1/T is only *proportional* to π_T. Divide by the sum.")
def not_normalised(logits, temperature):
    return logits.softmax(-1) ** (1 / temperature) if temperature > 0 else _coldest(logits)


@tempered.mutant(
    "at temperature 0 you divide by zero. Treat it by itself: 1 for the likeliest token, 0 for all others."
)
def divides_by_zero(logits, temperature):
    return (logits / temperature).softmax(-1)


@tempered.mutant("at temperature 0 you leave the model as it is. 0 means the likeliest token always: 1 for it, else 0.")
def zero_means_one(logits, temperature):
    return (logits / (temperature or 1.0)).softmax(-1)


@tempered.mutant("at temperature 0 you always take the first token: find the largest logit, logits.argmax().")
def first_token(logits, temperature):
    return tempered.reference(logits, temperature) if temperature > 0 else _coldest(-torch.arange(len(logits)).double())


@tempered.mutant("these are log-probabilities. The exercise asks for probabilities: softmax, not log_softmax.")
def logs(logits, temperature):
    return (logits / temperature).log_softmax(-1) if temperature > 0 else _coldest(logits).log()
