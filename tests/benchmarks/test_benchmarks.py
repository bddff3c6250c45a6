"""The benchmarks run, and docs/speed.md says what they stored."""

import json
from pathlib import Path
from statistics import median

import pytest

from prefcourse.world import load_world
from prefcourse.worlds.bundled import data_folder

ROOT = Path(__file__).resolve().parents[2]
STORED = data_folder() / "results"
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))


def test_both_sides_of_the_training_benchmark_do_the_same(benchmark, monkeypatch):
    pytest.importorskip("trl")
    import against_trl

    monkeypatch.setitem(against_trl.SIZES, "bundled", (4, 3))
    weights = str(data_folder() / "sft")
    a, b = (side("bundled", "dpo", weights) for side in (against_trl.ours, against_trl.theirs))
    assert len(a["losses"]) == 3 and a["losses"] == pytest.approx(b["losses"], abs=1e-4)
    assert a["losses"][0] == pytest.approx(0.693147, abs=1e-6) != a["losses"][2]
    assert min(a["seconds"], b["seconds"], a["cpu"], b["cpu"]) > 0 and a["peak"] >= a["loaded"] > 100


def test_both_sides_of_the_sampling_benchmark_sample(benchmark):
    import sampling

    found = sampling.measure((8, 12, 0), load_world(), rounds=1)
    assert set(found["seconds"]) == {"prefcourse.generate", "model.generate"} and found["ratio"]["low"] > 0
    assert all(8 <= tokens[0] <= 96 for tokens in found["tokens"].values())


@pytest.mark.slow
def test_the_script_for_a_gpu_works(benchmark):
    import on_gpu

    job = on_gpu.Job(tiny=True)
    both = on_gpu.packed(job)
    assert both["packed"]["losses"] == pytest.approx(both["padded"]["losses"], abs=1e-3)
    assert both["log-probs differ by"] < 1e-3 and both["packed"]["pairs a second"] > 0
    assert set(on_gpu.sampling(job)) == {"prefcourse.generate", "model.generate"}
    assert on_gpu.long(job)["seconds"] > 0


def test_the_page_on_speed_quotes_what_is_stored():
    """A run that is stored anew fails here until the page has its numbers; the message has the lines to paste."""
    expected = []
    for case in json.loads((STORED / "against-trl.json").read_text(encoding="utf-8"))["cases"]:
        differ = "-" if case["losses_differ_by"] is None else f"{case['losses_differ_by']:.0e}"
        memory = " / ".join(f"{median(case['above_loaded_mb'][side]):,.0f}" for side in ("ours", "trl"))
        ratio = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**case["ratio"])
        if len(case["pairs_per_second"]["ours"]) == 1:  # no interval
            ratio = f"{case['ratio']['median']:.2f}, one round"
        expected.append(f"| {case['model']} | {case['method']} | {ratio} | {memory} | {differ} |")
    for case in json.loads((STORED / "sampling.json").read_text(encoding="utf-8"))["cases"]:
        ratio = "{median:.1f} [{low:.1f}, {high:.1f}]".format(**case["ratio"])
        expected.append(f"| {case['prompts']} | {case['new_tokens']} | {case['top_k'] or 'all'} | {ratio} |")
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    missing = [line for line in expected if line not in page]
    assert not missing, "\n".join(["docs/speed.md lacks:", *expected])
