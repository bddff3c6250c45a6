"""Check of exercise notebook 14, exercise 2b: a verifier, a rule that a program can decide."""

import re

import torch

from prefcourse.checks.core import Case, Limit, exercise

WORD = re.compile(r"[a-z']+")
ENDS = (".", "!", "?")


def _orders(draw: torch.Generator) -> list[Case]:
    vocabulary = ["good", "plot", "music", "acting", "ending", "dull", "part"]

    def case(most: int) -> Case:
        texts = []
        for _ in range(5):
            picked = torch.randint(len(vocabulary), (int(torch.randint(2, 7, (), generator=draw)),), generator=draw)
            end = [*ENDS, "", ","][int(torch.randint(5, (), generator=draw))]
            texts.append(" ".join(vocabulary[k] for k in picked.tolist()) + end)
        asked = [vocabulary[k] for k in torch.randperm(len(vocabulary), generator=draw)[:1].tolist()]
        return {"texts": [" The plot and the music.", f" {asked[0]} acting!", *texts], "words": asked, "most": most}

    def fixed(*texts: str, words: tuple[str, ...] = ("art",), most: int = 5) -> Case:
        return {"texts": list(texts), "words": list(words), "most": most}

    both = ("music", "plot")
    return [
        fixed(" The art is good.", " The plot is good.", " art art art art art art.", " I like art", words=("art",)),
        fixed(" The music and the plot!", " The music.", " plot music?", words=both),
        Limit("a word stands inside another one", fixed(" The best part.", " Art in every part.", " artful start!")),
        Limit("a word is written with a capital", fixed(" Art is long.", " ART!", " No.", " art, art.")),
        Limit("a comma or a full stop touches a word", fixed(" Oh, art, yes.", " art.", " (art)!", " no art?")),
        Limit("the number of words is the largest allowed", fixed(" one two three four art.", " a b c d e art.")),
        Limit("there are spaces after the last sign", fixed(" art.  ", " art .\n", " art  ", " art!,")),
        Limit("a text is empty", fixed("", " ", ".", " art.", words=("art",))),
        Limit("a word has an apostrophe", fixed(" It isn't art.", " It isn t.", " isn't!", words=("isn't",))),
        Limit("a text holds digits, which are no words", fixed(" Art in 10 of 10.", " 9/10 art!", " 10.", most=3)),
        Limit("nothing is asked for but length and an end", fixed(" Fine.", " Fine", "", words=(), most=2)),
        case(6),
        case(4),
    ]


def _verdict(text: str, words: list[str], most: int, found: list[str], end: bool = True) -> float:
    kept = set(words) <= set(found) and len(found) <= most
    return float(kept and (not end or text.rstrip().endswith(ENDS)))


def _found(text: str) -> list[str]:
    return WORD.findall(text.lower())


@exercise(
    cases=_orders,
    points=2,
    where="A small constitution",
    hint='re.findall(r"[a-z\']+", text.lower()) gives the words, without what stands beside them. All of `words` must '
    "be among them, there may be at most `most`, and text.rstrip() must end with one of the three signs.",
)
def verifier(texts, words, most):
    """Reward 1 for each text that holds all words asked for, is short enough and ends, 0 otherwise."""
    return torch.tensor([_verdict(t, words, most, _found(t)) for t in texts], dtype=torch.float64)


def _scored(texts, verdict) -> torch.Tensor:
    return torch.tensor([float(verdict(text)) for text in texts], dtype=torch.float64)


@verifier.mutant("you look for letters: `art` stands in `part`, too. Compare whole words.")
def inside_a_word(texts, words, most):
    found = [all(word in text.lower() for word in words) for text in texts]
    return _scored(texts, lambda t: found[texts.index(t)] and _verdict(t, [], most, _found(t)))


@verifier.mutant("`Art` is the word `art`: compare in small letters.")
def capitals_count(texts, words, most):
    return _scored(texts, lambda t: _verdict(t, words, most, re.findall(r"[A-Za-z']+", t)))


@verifier.mutant("your words keep the sign that touches them: `art.` is not `art` in yours. Take the signs off first.")
def split_by_spaces(texts, words, most):
    return _scored(texts, lambda t: _verdict(t, words, most, t.lower().split()))


@verifier.mutant("digits make words in yours: `10` holds no letter, so it counts as no word.")
def digits_count(texts, words, most):
    return _scored(texts, lambda t: _verdict(t, words, most, re.findall(r"[\w']+", t.lower())))


@verifier.mutant("one of the words is enough in yours: all of `words` must be there.")
def any_word(texts, words, most):
    return _scored(texts, lambda t: (not words or set(words) & set(_found(t))) and _verdict(t, [], most, _found(t)) > 0)


@verifier.mutant("a text of exactly `most` words is allowed: at most means that number, too.")
def below_most(texts, words, most):
    return verifier.reference(texts, words, most - 1)


@verifier.mutant("the end does not count in yours: a text has to finish with . or ! or ?")
def without_end(texts, words, most):
    return _scored(texts, lambda t: _verdict(t, words, most, _found(t), end=False))


@verifier.mutant("spaces after the last sign are no fault: take them off before you look at the end.")
def end_before_spaces(texts, words, most):
    return _scored(texts, lambda t: t.endswith(ENDS) and _verdict(t, words, most, _found(t)))


@verifier.mutant("the length does not count in yours: more than `most` words give 0.")
def any_length(texts, words, most):
    return verifier.reference(texts, words, 10**6)


@verifier.mutant("you count characters: `most` is a number of words.")
def counts_characters(texts, words, most):
    return _scored(texts, lambda t: len(t) <= most and _verdict(t, words, 10**6, _found(t)))
