"""All checks beside the record of those passed, as a table: `python -m prefcourse progress`."""

from prefcourse import checks
from prefcourse.checks import predictions, record

TITLES = {
    "00": "Start here",
    "01": "Preference data",
    "02": "The RLHF objective",
    "03": "Reward models",
    "04": "RLHF with policy gradients",
    "05": "The closed form",
    "06": "The DPO loss",
    "07": "DPO on a small GPT-2",
    "08": "β and the KL trade-off",
    "09": "Variants",
    "10": "Evaluation and A/B tests",
    "11": "DPO against RLHF",
    "12": "When it goes wrong",
    "13": "Online and on-policy",
    "14": "Beyond preferences",
    "15": "Verifiable rewards and GRPO",
    "16": "Your own model",
}


def table() -> list[tuple[str, int, int, int, int, list[str]]]:
    """A row for each exercise notebook: number, checks passed, checks, points, points there are, what is open."""
    done, rows = record.passed(), []
    for number in checks.NUMBERS:
        mine = checks.of_notebook(number).values()
        have = [check for check in mine if check.name in done.get(number, {})]
        left = [_open(check) for check in mine if check not in have]
        rows.append((number, len(have), len(mine), sum(c.points for c in have), sum(c.points for c in mine), left))
    return rows


def _open(check: checks.Check) -> str:
    """The name of a check that is open, and of a prediction whether it was made: it is scored once."""
    made = isinstance(check, checks.Choice) and set(predictions.anywhere(check.number, check.name)) & set(check.options)
    return f"{check.name} (predicted otherwise)" if made else check.name


def report() -> str:
    """The table as text."""
    lines, rows = ["notebook  passed   points  still open"], table()
    for number, have, all_, points, worth, left in rows:
        names = ", ".join(left) if left else "done"
        lines.append(f"{number:8}  {have:2} of {all_:<2} {points:4} / {worth:<3} {names}")
    have, all_, points, worth = (sum(row[k] for row in rows) for k in (1, 2, 3, 4))
    lines.append(f"{'all':8}  {have:2} of {all_:<2} {points:4} / {worth:<3}")
    return "\n".join([*lines, f"kept in {record.file()}"])
