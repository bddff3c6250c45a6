"""Checks of exercise notebook 01, exercise 4: a split into train and test that leaks no prompt. See also `ex01`."""

import random
from collections.abc import Callable, Collection

import torch

from prefcourse.checks.calls import Unusable
from prefcourse.checks.core import Case, Limit, exercise

# ---------------------------------------------------------------------------------------------- the split


def key(prompt: str) -> str:
    """A prompt without its capitals and with single spaces: prompts with the same key count as one."""
    text = " ".join(prompt.lower().split())
    return Salted(text, prompt.salt) if isinstance(prompt, Salted) else text


class Salted(str):
    """A text with the hash that it might have in another session of Python: who goes through a set sees its order."""

    def __new__(cls, text: str, salt: int):
        made = super().__new__(cls, text)
        made.salt = salt
        return made

    def __hash__(self) -> int:
        return hash((self.salt, str.__str__(self)))

    def lower(self) -> "Salted":
        return Salted(super().lower(), self.salt)


def _row(prompt: str, k: int) -> dict:
    return {"prompt": prompt, "chosen": f" good {k}", "rejected": f" bad {k}"}


def _splits(draw: torch.Generator) -> list[Case]:
    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    def case(prompts: int, share: float, variants: bool) -> Case:
        rows = []
        for p in range(prompts):
            for k in range(number(2, 9)):
                name = f"Prompt {p} is"
                rows.append(_row(name.lower() + " " if variants and k % 2 else name, k))
        order = torch.randperm(len(rows), generator=draw).tolist()
        return {"rows": [rows[i] for i in order], "share": share, "seed": number(0, 1000)}

    plain = [_row(f"Prompt {p} is", k) for p in range(10) for k in range(40 if p == 3 else 2)]
    spaced = [_row(f"Prompt{' ' * (1 + k % 3)}{p} is", k) for p in range(8) for k in range(4)]
    few = [_row(f"Prompt {p} is", k) for p in range(11) for k in range(2)]
    return [
        {"rows": plain, "share": 0.5, "seed": 0},
        {"rows": plain, "share": 0.3, "seed": 1},
        Limit("spellings differ in the spaces between the words", {"rows": spaced, "share": 0.5, "seed": 2}),
        Limit("share · prompts is 2.75, which rounds up", {"rows": few, "share": 0.25, "seed": 3}),
        Limit("share · prompts is 4.4, which rounds down", {"rows": few, "share": 0.4, "seed": 4}),
        case(12, 0.25, variants=True),
        case(30, 0.2, variants=True),
        case(number(18, 40), 0.3, variants=False),
    ]


def _positions(parts: tuple[list, list], rows: list[dict]) -> list[list[int]]:
    return [[rows.index(row) for row in part] for part in parts]


def split_report(answer: Callable, rows: list[dict], share: float, seed: int) -> dict:
    """What is true of a split, whichever prompts were drawn; used by the check and in the notebook."""
    train, test = answer(rows, share, seed)
    keys = [{key(row["prompt"]) for row in part} for part in (train, test)]
    order = _keys(rows)
    mark = _positions((train, test), rows)
    others = [answer(rows, share, seed + k)[1] for k in (1, 2, 3)]
    size = len(keys[1])
    return {
        "no prompt in both": not keys[0] & keys[1],
        f"test has {share:.0%} of the {len(order)} prompts": abs(size - share * len(order)) <= 0.5,
        "each row in one part, once": sorted(mark[0] + mark[1]) == list(range(len(rows))),
        "rows in their old order": all(part == sorted(part) for part in mark),
        "the same seed gives the same split": answer(rows, share, seed) == (train, test),
        "another seed gives another": any(other != test for other in others),
    }


def _inspected(answer: Callable, rows: list[dict], share: float, seed: int) -> dict:
    """The report, and what only the check asks: how many prompts each part has, and what another session would see."""
    found = answer(rows, share, seed)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Unusable("return two lists, train and test: the test set comes second.")
    if not all(isinstance(part, list | tuple) for part in found):
        raise Unusable("train and test are lists of rows: make lists of them.")
    if not all(isinstance(row, dict) and row in rows for part in found for row in part):
        raise Unusable("train and test hold the rows themselves, as they are in `rows`: not keys, numbers or copies.")

    def two_lists(*arguments) -> tuple[list, list]:
        train, test = answer(*arguments)
        return list(train), list(test)

    report = split_report(two_lists, rows, share, seed)
    prompts = [len({key(row["prompt"]) for row in part}) for part in found]
    return report | {
        "prompts to train on": prompts[0],
        "prompts to test with": prompts[1],
        "not always the first prompts of the file": not _always_first(two_lists, rows, share, seed),
        "the same split in another session": _elsewhere(two_lists, rows, share, seed),
    }


def _always_first(answer: Callable, rows: list[dict], share: float, seed: int) -> bool:
    """Whether the test set is the beginning of the file, or its end, for three seeds."""
    order, ends = _keys(rows), []
    for k in (0, 1, 2):
        test = {key(row["prompt"]) for row in answer(rows, share, seed + k)[1]}
        ends.append(test in (set(order[: len(test)]), set(order[len(order) - len(test) :])))
    return all(ends)


def _elsewhere(answer: Callable, rows: list[dict], share: float, seed: int) -> bool:
    """Whether a session in which texts have other hashes, as each new one has, draws the same rows."""
    here = [sorted(part) for part in _positions(answer(rows, share, seed), rows)]
    for salt in (1, 2):
        salted = [row | {"prompt": Salted(row["prompt"], salt)} for row in rows]
        there = [sorted(part) for part in _positions(answer(salted, share, seed), salted)]
        whole = sorted(there[0] + there[1]) == list(range(len(rows))) and len(there[1]) > 0
        if there != here and whole:  # else it compares texts in a way of its own, which the salt disturbs
            return False
    return True


def _keys(rows: list[dict]) -> list[str]:
    """The different keys, in the order in which they come."""
    return list(dict.fromkeys(key(row["prompt"]) for row in rows))


def _parted(rows: list[dict], test: Collection[str], spelled: Callable = key) -> tuple[list[dict], list[dict]]:
    """Train and test: `test` holds the keys of the test set, or the prompts as `spelled`."""
    return [r for r in rows if spelled(r["prompt"]) not in test], [r for r in rows if spelled(r["prompt"]) in test]


@exercise(
    cases=_splits,
    points=2,
    observe=_inspected,
    keeps=True,
    where="Optional · What goes wrong: a leak",
    hint="list the different keys in the order in which they come, shuffle the list with random.Random(seed), give the "
    "first round(share · number of keys) to the test set, and let each row follow the key of its prompt.",
)
def split(rows, share, seed):
    """A split into train and test that leaks no prompt."""
    keys = _keys(rows)
    random.Random(seed).shuffle(keys)
    test = set(keys[: round(share * len(keys))])
    return _parted(rows, test)


@split.mutant(
    "you deal pairs, so the pairs of one prompt go to both sides. Deal the prompts; each pair follows its own."
)
def pairs_dealt(rows, share, seed):
    picked = set(random.Random(seed).sample(range(len(rows)), round(share * len(rows))))
    train = [row for i, row in enumerate(rows) if i not in picked]
    return train, [row for i, row in enumerate(rows) if i in picked and row not in train]


@split.mutant("two spellings of one prompt stand on different sides: compare keys, not the prompts' texts.")
def spellings(rows, share, seed):
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    random.Random(seed).shuffle(prompts)
    return _parted(rows, prompts[: round(share * len(prompts))], spelled=str)


@split.mutant(
    "nothing leaks, but rows are lost: you deal pairs and throw out of the test set what leaks. Deal prompts."
)
def thrown_out(rows, share, seed):
    picked = set(random.Random(seed).sample(range(len(rows)), round(share * len(rows))))
    train = [row for i, row in enumerate(rows) if i not in picked]
    known = {key(row["prompt"]) for row in train}
    return train, [row for i, row in enumerate(rows) if i in picked and key(row["prompt"]) not in known]


@split.mutant("train and test are exchanged: the test set comes second, and gets the share.")
def exchanged(rows, share, seed):
    return split.reference(rows, share, seed)[::-1]


@split.mutant("you count rows: the test set gets a share of the prompts, however many pairs each of them has.")
def share_of_rows(rows, share, seed):
    keys = _keys(rows)
    random.Random(seed).shuffle(keys)
    test = set()
    while sum(key(row["prompt"]) in test for row in rows) < share * len(rows):
        test.add(keys[len(test)])
    return _parted(rows, test)


@split.mutant("the seed changes nothing: your test set takes the first prompts of the file. Shuffle them first.")
def not_shuffled(rows, share, seed):
    keys = _keys(rows)
    test = set(keys[: round(share * len(keys))])
    return _parted(rows, test)


@split.mutant("your seed is a constant: random.Random(seed) takes the one that is given.")
def constant_seed(rows, share, seed):
    return split.reference(rows, share, 0)


@split.mutant(
    "another session of Python gives another split: the order of a set of texts changes with each. Sort the keys, or "
    "use dict.fromkeys, before you draw."
)
def order_of_a_set(rows, share, seed):
    keys = list({key(row["prompt"]) for row in rows})
    return _parted(rows, random.Random(seed).sample(keys, round(share * len(keys))))


@split.mutant("you cut the number of test prompts off: round(share · number), not int().")
def cut_off(rows, share, seed):
    keys = _keys(rows)
    return _parted(rows, random.Random(seed).sample(keys, int(share * len(keys))))


@split.mutant("you draw with the general `random`, which the seed does not steer: use random.Random(seed).")
def general_random(rows, share, seed):
    keys = _keys(rows)
    return _parted(rows, random.sample(keys, round(share * len(keys))))


@split.mutant("each prompt goes to the test set by its own coin, so their number is left to chance: draw a number.")
def coin_for_each(rows, share, seed):
    rng = random.Random(seed)
    return _parted(rows, [k for k in _keys(rows) if rng.random() < share])


@split.mutant("your rows are not in their old order: go through `rows`, and let each follow its prompt.")
def by_prompt(rows, share, seed):
    keys = _keys(rows)
    random.Random(seed).shuffle(keys)
    rows = sorted(rows, key=lambda row: keys.index(key(row["prompt"])))
    return _parted(rows, keys[: round(share * len(keys))])
