"""The battery, tried: right answers pass, wrong ones fail, and four in five are told what is wrong with them."""

import re
from collections import Counter
from functools import cache

import battery_00_04
import battery_05_09
import battery_10_14
import battery_15
import battery_16
import battery_holdout
import pytest
from battery import Answer, general

from prefcourse import checks

pytestmark = pytest.mark.slow
SEEDS = (11, 12, 13)
FOLLOWS_A_GRADIENT = {"04.rloo_loss", "04.clip_loss", "09.kto_loss", "09.orpo_loss", "11.shared_dpo_loss"}
WITHOUT_NUMBERS = {"01.split", "01.pipeline", "07.step", "11.bill"}  # reports of what an answer does
EXERCISES = {
    f"{number}.{check.name}": check
    for number in checks.NUMBERS
    for check in checks.of_notebook(number).values()
    if isinstance(check, checks.Exercise)
}
UNSEEN = battery_holdout.B.answers
PARTS = (battery_00_04, battery_05_09, battery_10_14, battery_15, battery_16)
OWN = [answer for part in PARTS for answer in part.B.answers]
MADE = [
    answer
    for name, check in EXERCISES.items()
    if name not in WITHOUT_NUMBERS
    for answer in general(name, check.reference, name in FOLLOWS_A_GRADIENT)
]


VAGUE = re.compile(r"work this case|agrees?, case \d|wherever they are wrong|Look at|read the error's last words")
WHICH_PART = re.compile(r"(is|are) right\. ")


def names(pattern: str, hint: str) -> bool:
    """Whether a hint names the mistake: it says what it has to, and where it is vague at least which part is wrong."""
    clear = not VAGUE.search(hint) or WHICH_PART.search(hint)
    return bool(re.search(pattern, hint, re.IGNORECASE)) and bool(clear)


@cache
def tried(answer: Answer) -> str:
    """ "as it should be", "false refusal", "false acceptance", "named" or "not named"."""
    check, said = EXERCISES[answer.check], "as it should be"
    for seed in SEEDS if answer.kind == "own" else SEEDS[:1]:
        result = check.judge(answer.function, seed)
        if result.passed != (not answer.names):
            return "false acceptance" if result.passed else "false refusal"
        if answer.names and seed == SEEDS[0]:
            said = "named" if names(answer.names, result.hint) else "not named"
    return said


def counted(answers: list[Answer]) -> Counter:
    return Counter(tried(answer) for answer in answers)


def share_named(found: Counter) -> float:
    return found["named"] / (found["named"] + found["not named"])


@pytest.mark.parametrize("name", EXERCISES)
def test_right_answers_pass_and_wrong_ones_fail(name):
    mine = [answer for answer in OWN if answer.check == name]
    assert sum(not answer.names for answer in mine) >= 2 and sum(bool(answer.names) for answer in mine) >= 4
    found = counted([*mine, *(answer for answer in (*MADE, *UNSEEN) if answer.check == name)])
    assert not found["false acceptance"] and not found["false refusal"], found


def test_four_in_five_wrong_answers_are_told_what_is_wrong(capsys):
    kinds = {"written for one check": OWN, "made of any reference": MADE, "written when all hints stood": UNSEEN}
    found = {kind: counted(answers) for kind, answers in kinds.items()}
    with capsys.disabled():
        for kind, count in found.items():
            print(f"\n{sum(count.values())} answers {kind}: {dict(count)}, {share_named(count):.0%} named")
    assert all(share_named(count) >= 0.8 for count in found.values())
