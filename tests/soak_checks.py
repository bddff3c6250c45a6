"""Every wrong answer that the checks know, on many seeds: python tests/soak_checks.py --seeds 200.

What must hold on each seed: the reference passes, and each mutant fails with its own hint. A mutant that passes once in
a hundred seeds is a learner in a hundred who is told that a wrong answer is right. `tests/checks/test_seeds.py` asks on
twenty seeds whether they fail.
"""

import argparse
import sys
from collections import Counter

from prefcourse import checks


def tried(check: checks.Check, seeds: range) -> Counter:
    """(answer, what happened) → on how many seeds, for all that did not go as it should."""
    odd: Counter = Counter()
    for seed in seeds:
        for name, answer, hint in check.answers(seed):
            result = check.judge(answer, seed)
            if result.passed != (hint is None):
                odd[name, "passes" if result.passed else "fails"] += 1
            elif hint is not None and result.hint != hint:
                odd[name, f"gets the hint “{result.hint}”"] += 1
    return odd


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("checks", nargs="*", help="such as 07.step; all without")
    options, failed = parser.parse_args(arguments), False
    for number in checks.NUMBERS:
        for check in checks.of_notebook(number).values():
            if options.checks and f"{number}.{check.name}" not in options.checks:
                continue
            odd = tried(check, range(options.first, options.first + options.seeds))
            print(
                f"{number}.{check.name:24} {len(check.mutants):3} mutants, {sum(odd.values())} of them went wrong",
                flush=True,
            )
            for (name, what), times in odd.items():
                print(f"    {name} {what} on {times} of {options.seeds} seeds")
            failed |= bool(odd)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
