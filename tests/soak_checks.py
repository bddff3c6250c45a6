"""Every wrong answer that the checks know, on many seeds: python tests/soak_checks.py --seeds 200.

What must hold on each seed: the reference passes, and each mutant fails. A mutant that passes once in a hundred seeds
is one learner in a hundred who is told that a wrong answer is right. With `--hints` each must get its own hint, too,
which takes longer. `tests/checks/test_seeds.py` does it with 20 seeds.
"""

import argparse
import sys
from collections import Counter

import torch

from prefcourse import checks
from prefcourse.checks.values import difference


def accepted(check: checks.Exercise, seeds: range) -> Counter:
    """Name of a mutant → on how many seeds it passes; "reference" → on how many it fails."""
    odd: Counter = Counter()
    for seed in seeds:
        cases = check.cases(torch.Generator().manual_seed(seed))
        expected = [check.outcome(check.reference, case) for case in cases]
        for mutant in check.mutants:
            pairs = zip(cases, expected, strict=True)
            odd[mutant.name] += all(agrees(check, mutant.function, case, right) for case, right in pairs)
        pairs = zip(cases, expected, strict=True)
        odd["reference"] += not all(agrees(check, check.reference, case, right) for case, right in pairs)
    return +odd


def agrees(check: checks.Exercise, answer, case, expected) -> bool:
    found = check.outcome(answer, case)
    return not isinstance(found, BaseException) and not difference(found, expected, check.tol)


def misled(check: checks.Check, seeds: range) -> Counter:
    """(answer, hint that it gets) → on how many seeds it is not its own."""
    odd: Counter = Counter()
    for seed in seeds:
        for name, answer, hint in check.answers(seed):
            result = check.judge(answer, seed)
            if (result.hint or None) != hint:
                odd[f"{name} gets “{result.hint}”"] += 1
    return odd


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--hints", action="store_true", help="each must get its own hint, too")
    parser.add_argument("names", nargs="*", help="such as 07.step; all without")
    options, failed = parser.parse_args(arguments), False
    for number in checks.NUMBERS:
        for check in checks.of_notebook(number).values():
            name = f"{number}.{check.name}"
            if (options.names and name not in options.names) or isinstance(check, checks.Choice):
                continue
            odd = (misled if options.hints else accepted)(check, range(options.seeds))
            said = ", ".join(f"{what} on {times} of {options.seeds} seeds" for what, times in odd.items())
            print(f"{name:26} {len(check.mutants):3} mutants: {said or 'all as it should be'}", flush=True)
            failed |= bool(odd)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
