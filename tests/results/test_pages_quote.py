"""The pages of docs/ that quote a stored result say what is stored; docs/speed.md has its test with the benchmarks."""

import math
import statistics
from pathlib import Path

from prefcourse import results
from prefcourse.comparison.crossed import student_quantile

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


def test_the_page_on_make_run_sums_the_seeds_up():
    """Means over seeds of the gain, KL and win rate with Student's interval, and the non-words."""
    runs = [run["results"] for run in results.load("main-job")["runs"]]
    means = {what: [run["dpo"][what]["value"] for run in runs] for what in ("kl", "win_rate")}
    means["gain"] = [run["dpo"]["gold_reward"]["value"] - run["sft"]["gold_reward"]["value"] for run in runs]
    half = student_quantile(0.975, len(runs) - 1) / math.sqrt(len(runs))
    page = " ".join((DOCS / "main-job.md").read_text(encoding="utf-8").split())
    for what, digits in (("gain", 2), ("kl", 1), ("win_rate", 2)):
        mean, spread = statistics.mean(means[what]), half * statistics.stdev(means[what])
        assert f" {mean:.{digits}f} [{mean - spread:.{digits}f}, {mean + spread:.{digits}f}]" in page
    odd = {model: [100 * run[model]["non_words"]["value"] for run in runs] for model in ("sft", "dpo")}
    assert f"stands in {statistics.mean(odd['sft']):.1f} % of sft's" in page
    assert f"in {statistics.mean(odd['dpo']):.1f} % of DPO's; in the worst seed in {max(odd['dpo']):.1f} %" in page


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
