"""The grids of lessons 13 and 14: arms do what they say, the tax is what it says, and the stored runs bear them out."""

import copy
from types import SimpleNamespace

import pytest
import torch

from prefcourse.comparison import frontier
from prefcourse.comparison.crossed import crossed, paired, verdicts
from prefcourse.comparison.equal_kl import gain_at_kl, measured
from prefcourse.evaluate import over_seeds
from prefcourse.logprobs import sequence_logps
from prefcourse.preferences import collate_pairs, encode
from prefcourse.results import PROTOCOL, beyond, by_prompt, column, coverage, forest, load, table, variants
from prefcourse.results.beyond_grids import COMMON
from prefcourse.train import train

PROMPTS = ["This movie", "The old film", "I think the story", "We know the cast"]


@pytest.fixture(scope="module")
def writer(tiny_gpt2, tokenizer, pairs):
    """A model that has learnt to write short sentences and to end them."""
    model = tiny_gpt2()
    train(model, pairs, tokenizer, loss="sft", lr=1e-2, steps=60, batch_size=12, progress=False)
    return model


@pytest.fixture
def world(writer, tokenizer, pairs, monkeypatch):
    """A world in which the true reward counts the letter o, and runs small enough for it."""
    sizes = {"ROUNDS": 2, "AI_ROUNDS": 2, "LABELS": 8, "BATCH": 4, "PROBE": 20, "LR": 1e-3}
    for name, value in (sizes | {"GOOD": " great", "BAD": " dull"}).items():
        monkeypatch.setattr(beyond, name, value)
    for name, value in {"PAIRS": 16, "PROBE": 20}.items():
        monkeypatch.setattr(variants, name, value)
    gold = lambda prompts, texts: torch.tensor([2.0 * text.count("o") for text in texts])  # noqa: E731
    rows = [{"prompt": p} for p in PROMPTS * 10]
    return SimpleNamespace(
        name="tiny", sft=writer, base=writer, words={"film"}, tokenizer=tokenizer, gold=gold, pairs={"train": pairs},
        prompts={"train": rows, "test": rows}, open_ended=False,
    )  # fmt: skip


@pytest.mark.parametrize("arm", list(beyond.ARMS))
def test_an_online_run_has_a_point_after_every_round(world, arm):
    found = beyond.online(world, arm, 0.1, seed=0)
    assert [point["step"] for point in found["path"]] == [2, 4] and not found["stopped"]
    assert found["metrics"]["gain"]["value"] == found["path"][-1]["gain"] and len(found["texts"]) == beyond.SHOWN


def test_a_run_whose_writer_breaks_down_is_kept_up_to_there(world, monkeypatch):
    whole = beyond.online_dpo

    def breaks(*args, rounds, after_round, **settings):
        whole(*args, rounds=1, after_round=after_round, **settings)
        raise RuntimeError("only 3 of 80 pairs can be used")

    monkeypatch.setattr(beyond, "online_dpo", breaks)
    found = beyond.online(world, "online", 0.1, seed=0)
    assert found["stopped"] and [point["step"] for point in found["path"]] == [2]


@pytest.mark.parametrize("judge", ["gold", "without tone and voice", "model"])
def test_ai_feedback_measures_every_rule(world, judge):
    found = beyond.ai_feedback(world, judge, "offline", seed=0)
    assert list(found["rules"]) == ["tone", "reason", "voice", "brief", "fresh"] and len(found["path"]) == 2
    assert 0 <= found["right"] <= 1 and {"gain", "gain_constitution", "kl"} <= set(found["metrics"])


def test_a_judge_is_found_by_its_name(world):
    assert beyond.judge_of(world, "gold") is world.gold
    assert [rule.name for rule in beyond.judge_of(world, "without tone and voice").rules] == [
        "reason",
        "brief",
        "fresh",
    ]


def test_a_coin_prefers_nothing(world):
    found = beyond.ai_feedback(world, "coin", "offline", seed=0, lr=1e-4, beta=0.1)
    assert 0 <= found["right"] <= 1 and [len(row) for row in found["by_prompt"]["gain"]] == [40]
    assert beyond.judge_of(world, "coin")(["a", "b"], ["c", "d"]).tolist() == [0, 0]


def test_an_arm_at_its_own_settings_is_looked_at_by_prompt(world, monkeypatch):
    found = beyond.online(world, "offline", 0.1, seed=0, lr=2e-3, at="tuned")
    assert [len(row) for row in found["by_prompt"]["kl"]] == [40, 40]
    with monkeypatch.context() as patched:
        patched.setattr(beyond, "climb", None)  # what is tuned to the common settings is the common run
        assert beyond.online(world, "offline", 0.1, seed=0, lr=2e-3, at="common") == found
    other = beyond.online(world, "offline", 0.1, seed=0, lr=1e-5, at="tuned")
    assert abs(found["metrics"]["kl"]["value"]) > abs(other["metrics"]["kl"]["value"])


def test_text_that_nobody_asked_to_change_is_where_gold_stays(world, tiny_gpt2, monkeypatch):
    monkeypatch.setattr(beyond, "SAME", 100.0)
    every = beyond.taxes(world, tiny_gpt2(seed=3), unchanged=True)
    assert ("tax_unchanged" in every) == (len(beyond.held_out_texts(world)) >= 20)
    if "tax_unchanged" in every:
        assert every["tax_unchanged"].value == pytest.approx(every["tax"].value)
    monkeypatch.setattr(beyond, "SAME", -1.0)
    assert "tax_unchanged" not in beyond.taxes(world, tiny_gpt2(seed=3), unchanged=True)


def test_sft_pays_no_tax_and_a_policy_pays_what_the_texts_lose(world, tiny_gpt2):
    rows = beyond.held_out_texts(world)
    assert len({(row["prompt"], row["completion"]) for row in rows}) == len(rows) > 5
    assert all(found.value == 0 for found in beyond.taxes(world, world.sft).values())
    other = tiny_gpt2(seed=3)
    batch = collate_pairs([row | {"chosen": row["completion"], "rejected": " x"} for row in rows], world.tokenizer)
    with torch.no_grad():
        lost = [sequence_logps(model, batch)[: len(rows)] for model in (world.sft, other)]
    found = beyond.taxes(world, other)
    assert found["tax"].value == pytest.approx((lost[0] - lost[1]).mean().item(), rel=1e-4)
    low = sorted(range(len(rows)), key=lambda i: rows[i]["score"])[: -(-len(rows) // 3)]
    assert found["tax_negative"].value == pytest.approx((lost[0] - lost[1])[low].mean().item(), rel=1e-4)


def test_a_tax_per_token_is_divided_by_the_tokens_of_the_same_texts(world, tiny_gpt2):
    rows, other = beyond.held_out_texts(world), tiny_gpt2(seed=3)
    lost = beyond.text_logps(world, world.sft, rows) - beyond.text_logps(world, other, rows)
    counts = [len(encode(row["prompt"], row["completion"], world.tokenizer)[1]) for row in rows]
    found, tokens = beyond.taxes(world, other), beyond.tokens_a_text(world)
    assert found["tax"].value / tokens["tax"] == pytest.approx(lost.sum().item() / sum(counts), rel=1e-4)
    low = sorted(range(len(rows)), key=lambda i: rows[i]["score"])[: -(-len(rows) // 3)]
    assert tokens["tax_negative"] == pytest.approx(sum(counts[i] for i in low) / len(low))
    assert tokens.keys() == found.keys()


@pytest.mark.parametrize("method", list(beyond.TAX))
def test_every_method_gives_a_plain_model_that_has_moved(world, method):
    found = beyond.align(world, method, seed=0, steps=3)
    moved = [not torch.equal(a, b) for a, b in zip(found.parameters(), world.sft.parameters(), strict=True)]
    assert any(moved) and type(found) is type(world.sft)


def test_an_averaged_model_lies_between(world, tiny_gpt2):
    other = tiny_gpt2(seed=3)
    middle = beyond.averaged(other, world.sft, 0.25)
    for m, a, b in zip(middle.parameters(), other.parameters(), world.sft.parameters(), strict=True):
        torch.testing.assert_close(m, 0.25 * a + 0.75 * b)
    assert torch.equal(beyond.averaged(other, world.sft, 1.0).lm_head.weight, other.lm_head.weight)
    with pytest.raises(ValueError, match="share lies between 0 and 1, got 2"):
        beyond.averaged(copy.deepcopy(other), world.sft, 2)


# ------------------------------------------------------------------------------------------- what is stored


def ends(grid, metric, **wanted):
    """One number a seed."""
    found = [run for run in load(grid)["runs"] if wanted.items() <= run["setting"].items()]
    assert len(found) >= 3 and not any(run.get("stopped") for run in found)
    return [run["metrics"][metric]["value"] for run in found]


def both(arm, what="gain", at="common"):
    return table(by_prompt("online"), what, arm=arm, at=at)


def test_online_gains_more_than_offline_from_the_same_labels_and_goes_farther():
    family = {arm: paired(both(arm), both("offline")) for arm in ("half", "online")}
    family["tuned"] = paired(both("online", at="tuned"), both("offline", at="tuned"))
    said = {name: found.says for name, found in verdicts(family, PROTOCOL.margin).items()}
    assert said == {"half": "not told apart", "online": "differs", "tuned": "differs"}
    assert family["online"].low > 0 < family["tuned"].low
    assert paired(both("online", "kl"), both("offline", "kl")).low > 0
    assert not any(run["stopped"] for run in load("online")["runs"])


def test_at_equal_kl_writers_are_the_same_at_first_and_no_lead_is_told():
    found = {(arm, at, nats): row.at for at in ("common", "tuned")
             for (arm, nats), row in forest("online", "arm", "offline", at=at).items()}  # fmt: skip
    forms = [verdicts({k: getattr(x, form) for k, x in found.items()}, PROTOCOL.margin)
             for form in ("square_root", "rl")]  # fmt: skip
    assert len(found) == 7
    assert {form[key].says for form in forms for key in found if key[1:] == ("common", 1.5)} == {"the same"}
    assert len({form["online", "common", 3.0].says for form in forms}) == 2, "the forms disagree"
    assert {form["online", "tuned", 1.5].says for form in forms} == {"not told apart"}
    alone = forest("online", "arm", "offline", at="tuned")["online", 1.5]
    assert alone.says == "differs" and alone.at.square_root.high < 0
    each, common = by_prompt("online"), {"at": "common"}
    ours, theirs = (measured(each, arm=arm, **common) for arm in ("online", "offline"))
    assert gain_at_kl(ours, 4.0, less=theirs).square_root.low > 0
    slow = measured(each, arm="offline", at="tuned")
    assert gain_at_kl(slow, 1.5, less=theirs).square_root.low > 0
    chosen = load("online")["chosen"]
    assert chosen["arm=online, at=tuned"]["settings"] == COMMON
    assert chosen["arm=offline, at=tuned"]["settings"] == COMMON | {"lr": COMMON["lr"] / 2}


def test_all_arms_have_their_first_round_in_common():
    first = {}
    for run in load("online")["runs"]:
        if run["setting"]["at"] == "common":
            first.setdefault(run["setting"]["seed"], []).append(run["path"][0])
    assert len(first) == PROTOCOL.seeds and all(points == [points[0]] * 4 for points in first.values())


def test_without_a_fixed_reference_nothing_holds_the_policy():
    fixed, moving = (both(arm, "kl") for arm in ("online", "moving reference"))
    assert paired(moving, fixed).low > 10 and (moving.mean(1) > fixed.mean(1)).all()
    ended = over_seeds(ends("online", "eos_rate", arm="moving reference"))
    assert ended.high < 0.9 < min(ends("online", "eos_rate", arm="online", at="common"))


def test_without_the_good_half_gold_rises_and_its_top_does_not():
    each, share = by_prompt("coverage"), column(load("coverage"), "top_share", "arm")
    gains, far = ({arm: table(each, what, arm=arm) for arm in coverage.ARMS} for what in ("gain", "kl"))
    gaps = {arm: paired(gain, gains["poor"]) for arm, gain in gains.items() if arm != "poor"}
    assert all(found.says == "differs" and found.difference.low > 0
               for found in verdicts(gaps, PROTOCOL.margin).values())  # fmt: skip
    assert crossed(gains["poor"]).low > 0
    for arm in gaps:
        assert over_seeds([a - b for a, b in zip(share[arm], share["poor"], strict=True)]).low > 0
    nats = {arm: (far[arm] - far["poor"]).mean().item() for arm in gaps}
    assert nats["online"] == min(nats.values()) and max(nats, key=nats.get) == "good"
    assert nats["online"] == pytest.approx(0.5, abs=0.1) and nats["good"] == pytest.approx(3, abs=0.3)


def test_sft_as_judge_is_as_good_as_golds_coin_and_the_tone_rule_carries_the_gain():
    gains = {
        judge: ends("ai-feedback", "gain", judge=judge) for judge in ("gold", "constitution", "without tone", "model")
    }
    assert min(gains["gold"] + gains["model"]) > 0.2
    less = {name: over_seeds([a - b for a, b in zip(gains[name], gains["gold"], strict=True)]) for name in gains}
    assert abs(less["model"].value) < 0.1 and less["constitution"].high < 0
    assert all(a < b for a, b in zip(gains["without tone"], gains["constitution"], strict=True))
    coin = over_seeds(ends("ai-feedback", "gain", judge="coin"))
    assert coin.low < 0 < coin.high, "labels that say nothing teach nothing"


def test_negative_texts_pay_most_and_averaging_is_a_little_ahead_of_dpos_other_runs_at_equal_kl():
    for method in beyond.TAX:
        thirds = [ends("alignment-tax", f"tax_{name}", method=method) for name in ("negative", "neutral", "positive")]
        assert all(a > b > 0 and a > c > 0 for a, b, c in zip(*thirds, strict=True))
    sweep, lead = frontier.curves(load("beta-sweep"), by="lr")[2e-4], {}
    for method in beyond.TAX:
        points = zip(*(ends("alignment-tax", name, method=method) for name in ("kl", "gain")), strict=True)
        lead[method] = over_seeds(frontier.ahead_of(dict(enumerate(points)), sweep))
    assert 0 < lead["DPO, averaged"].low < lead["DPO, averaged"].high < 0.2 and lead["DPO"].low < 0 < lead["DPO"].high
    assert max(lead[method].high for method in ("SFT on chosen", "DPO + NLL", "DPO, β = 0.5")) < 0
