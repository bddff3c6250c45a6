"""Rewards that a program decides, 1 or 0, and how often a policy passes them: lesson 15.

    reward = two_sentences                                  # a `rollouts.Reward`: (prompts, completions) → (N,)
    reward(["The film was"], [" dull. I left the cinema early."])    # tensor([1.])
    pass_at_k(torch.tensor([0, 3, 8]), n=8, k=2)            # of each prompt, without bias: 0, 0.64, 1
    least_kl(0.06, 0.5)                                     # nats that going from 6 % to 50 % takes at the least

`two_sentences` is the lesson's task. `new_part` is a sloppy verifier of "say something about another part of the film";
`judged_part` is its strict form, which asks for what was meant a little more closely. No model is asked.
"""

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from prefcourse.finite import number, numbers, whole
from prefcourse.rewards import words

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
FEWEST = 3  # words of a sentence of the task
OFTEN = 2  # a word may stand in a judgement so often

PARTS: dict[str, frozenset[str]] = {  # parts of a film, each by the words that name it
    name: frozenset(said.split())
    for name, said in {
        "acting": "acting actor actors actress actresses cast performance performances acted",
        "plot": "plot story script storyline writing written ending dialogue",
        "look": "camera photography cinematography effects scenery visuals shot filmed look",
        "sound": "music score soundtrack songs sound",
    }.items()
}
PRAISE_AND_BLAME = (
    "good great excellent wonderful best funny fun beautiful amazing enjoyable brilliant superb fantastic perfect "
    "interesting entertaining love loved enjoyed hilarious nice well clever touching moving powerful solid fine strong "
    "favorite worth recommend bad worst awful terrible horrible boring poor poorly dull stupid waste weak worse lame "
    "disappointing disappointed ridiculous slow predictable annoying pathetic cheap silly flat unfunny lacking avoid "
    "fails failed mess hate hated"
)
JUDGING = frozenset(PRAISE_AND_BLAME.split())


def sentences(text: str) -> list[str]:
    """`text` cut behind every . ! or ? that white space follows, or that ends it."""
    return [part for part in SENTENCE_END.split(text.strip()) if part]


def _verifier(passes: Callable[[str, str], bool]) -> Callable[[Sequence[str], Sequence[str]], Tensor]:
    """A reward of `passes(prompt, completion)`: 1 or 0 for each completion, (N,) float32."""

    def reward(prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        return torch.tensor([float(passes(p, y)) for p, y in zip(prompts, completions, strict=True)])

    reward.__name__, reward.__doc__ = passes.__name__, passes.__doc__
    return reward


@_verifier
def two_sentences(prompt: str, completion: str) -> bool:
    """Prompt and completion are exactly two sentences, each of three words or more, and not the same one twice."""
    found = [words(sentence) for sentence in sentences(prompt + completion)]
    return len(found) == 2 and min(map(len, found)) >= FEWEST and found[0] != found[1]


@_verifier
def new_part(prompt: str, completion: str) -> bool:
    """The completion names a part of the film that the prompt does not name. Sloppy: a bare list of words will do."""
    return bool(_new(prompt, completion))


@_verifier
def judged_part(prompt: str, completion: str) -> bool:
    """As `new_part`, in a sentence with praise or blame; the text ends, and has no word more than twice."""
    said = words(completion)
    if not completion.rstrip().endswith((".", "!", "?")) or any(said.count(word) > OFTEN for word in said):
        return False
    return any(_new(prompt, s) and JUDGING & set(words(s)) for s in sentences(completion))


def _new(prompt: str, text: str) -> set[str]:
    """The words of `text` for parts of the film that `prompt` does not name."""
    old, found = set(words(prompt)), set(words(text))
    return set().union(*(found & names for names in PARTS.values() if not old & names))


def parts_named(texts: Sequence[str]) -> Tensor:
    """How many words of each text name a part of the film, each as often as it stands there: (N,) float64."""
    every = frozenset().union(*PARTS.values())
    return torch.tensor([sum(word in every for word in words(text)) for text in texts], dtype=torch.float64)


# ------------------------------------------------------------------------------------------- how often it is passed


def pass_at_k(right: Tensor, n: int, k: int) -> Tensor:
    """P(at least one of k samples passes), from how many of n passed: 1 - C(n - right, k) / C(n, k), any shape.

    Unbiased for every k up to n (Chen et al. 2021, Eq. 1): it is the share of the subsets of k that hold a right one.
    1 - (1 - right / n)^k is not: it is too low on average. Raises ValueError for k above n, or a count that is none.
    """
    n, k = whole("n", n), whole("k", k)
    right = numbers("right", right, ndim=None, low=0, high=n)
    if k > n:
        raise ValueError(f"k is {k} and n is {n}; allowed is k <= n: no subset of k can be drawn from fewer")
    if not bool((right == right.round()).all()):
        raise ValueError("right holds a number that is not whole; it counts samples that passed")
    j = torch.arange(k, dtype=torch.float64)
    return 1 - ((n - right[..., None] - j).clamp(min=0) / (n - j)).prod(-1)


def least_kl(p: float, q: float) -> float:
    """q ln(q/p) + (1 - q) ln((1 - q)/(1 - p)): the least KL(π‖π_ref) in nats of any policy that passes with q.

    p is the reference's rate. No statistic of a sample can have a larger KL than the samples (data processing; Cover
    and Thomas 2006, §2.8), and the KL is convex, so it bounds means over prompts too. It is reached by a policy that
    tilts passing against failing texts, and changes nothing within either: what exp(r/β) does.
    """
    p, q = number("p", p, least=0, most=1), number("q", q, least=0, most=1)

    def part(a: float, b: float) -> float:
        return 0.0 if a == 0 else math.inf if b == 0 else a * math.log(a / b)

    return part(q, p) + part(1 - q, 1 - p)
