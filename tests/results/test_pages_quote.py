"""The pages of docs/ that quote a stored result say what is stored; docs/speed.md has its test with the benchmarks."""

from pathlib import Path

from prefcourse import results

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_on_make_run_has_the_stored_run():
    """Gold reward of both models, win rate and KL, by seed, with their intervals."""
    rows = []
    for run in results.load("main-job")["runs"]:
        sft, dpo = run["results"]["sft"], run["results"]["dpo"]
        shown = [(sft["gold_reward"], 2), (dpo["gold_reward"], 2), (dpo["win_rate"], 2), (dpo["kl"], 1)]
        cells = [f"{m['value']:.{d}f} [{m['low']:.{d}f}, {m['high']:.{d}f}]" for m, d in shown]
        rows.append(" | ".join([f"| {run['setting']['seed']}", *cells]) + " |")
    page = (DOCS / "main-job.md").read_text(encoding="utf-8")
    assert len(rows) >= 3 and [row for row in rows if row not in page] == []


def test_the_page_on_ones_own_preferences_has_the_stored_tastes():
    """Before and after by seed, and the smallest shift with its interval."""
    tastes = {}
    for run in results.load("own-labels")["runs"]:
        tastes.setdefault(run["setting"]["taste"], []).append(run)
    page = (DOCS / "your-own-preferences.md").read_text(encoding="utf-8")
    digits = {"shorter reviews": 1, "no exclamation marks": 3, "mentions acting": 2}
    assert set(tastes) == set(digits)
    for taste, runs in tastes.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {taste} |")]
        d = digits[taste]
        # a taste for less is stored as minus what is counted
        ways = [[abs(run["metrics"][when]["value"]) for when in ("before", "after")] for run in runs]
        assert "; ".join(f"{before:.{d}f} → {after:.{d}f}" for before, after in ways) in row
        least = min((run["metrics"]["shift"] for run in runs), key=lambda shift: abs(shift["value"]))
        assert f"{abs(least['value']):.{d}f} [" in row
