"""What `train` does beyond pairs in one batch: KTO, BCO, accumulation, cached references, LoRA, budgets, own losses."""

import copy
import math

import pytest
import torch
from torch import nn

from prefcourse.logprobs import sequence_logps
from prefcourse.losses import LOSSES, kto_loss
from prefcourse.preferences import Batch, collate, encode
from prefcourse.train import train
from prefcourse.training import lora
from prefcourse.training.batches import Feed, encode_rows, mismatch
from prefcourse.training.reference import ReferenceLogps, reference_logps

QUICK = {"steps": 4, "batch_size": 6, "lr": 1e-3, "precision": "fp32", "progress": False}


@pytest.fixture
def policy(tiny_gpt2):
    return tiny_gpt2()


@pytest.fixture(scope="module")
def singles(pairs):
    """Truly unpaired rows: 2 desirable to 1 undesirable."""
    return [
        {"prompt": row["prompt"], "completion": row["chosen" if n % 3 else "rejected"], "label": bool(n % 3)}
        for n, row in enumerate(pairs)
    ]


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def gap(a, b):
    return max((x - y).abs().max().item() for x, y in zip(weights(a), weights(b), strict=True))


# ------------------------------------------------------------------------------------------- KTO and BCO


def test_step_0_of_kto_is_a_half(policy, tokenizer, singles):
    history = train(policy, singles, tokenizer, loss="kto", **QUICK)
    assert history["loss"][0] == pytest.approx(0.5, abs=1e-6) and history["z0"][0] == 0
    known = [history[f"rewards/{side}"][0] for side in ("chosen", "rejected")]
    assert 0 in known and all(x == 0 or math.isnan(x) for x in known)  # nan: the batch has none of that label
    assert history["loss"][1] != history["loss"][0]


def test_a_kto_step_is_the_loss_on_matched_and_mismatched_pairs(tiny_gpt2, tokenizer, singles):
    """Step 1 by hand: z0 over the batch's own mismatched pairs, whose completions belong to other prompts."""
    policy, reference = tiny_gpt2(), tiny_gpt2(1)
    history = train(
        policy, singles, tokenizer, loss="kto", reference=reference, beta=0.5, seed=2, **QUICK | {"steps": 1}
    )
    examples = encode_rows(singles, tokenizer, needs=LOSSES["kto"].inputs(), longest=64)
    feed = Feed.plan(examples, batch_size=6, steps=1, seed=2, mismatched=True, longest=64)
    rows, mixed = feed.batches[0], [group[0] for group in feed.mixed(0)]
    for i, (prompt, completion) in zip(rows, mixed, strict=True):
        assert prompt == tokenizer(singles[i]["prompt"])["input_ids"]
        partner = feed.partners[0][i]
        assert singles[partner]["prompt"] != singles[i]["prompt"]
        assert completion == encode("x", singles[partner]["completion"], tokenizer)[1]
    own = collate([encode(singles[i]["prompt"], singles[i]["completion"], tokenizer) for i in rows])
    fresh, desirable = tiny_gpt2(), torch.tensor([singles[i]["label"] for i in rows])
    kl = [sequence_logps(model, collate(mixed)) for model in (fresh, reference)]
    matched = [sequence_logps(model, own) for model in (fresh, reference)]
    loss = kto_loss(*matched, desirable, kl_policy=kl[0], kl_reference=kl[1], beta=0.5).mean()
    assert history["loss"][0] == pytest.approx(loss.item(), abs=1e-5)
    assert history["z0"][0] == pytest.approx(max(0.0, (kl[0] - kl[1]).mean().item()), abs=1e-4)


def test_mismatched_pairs_change_every_epoch_and_use_all_completions(tokenizer, singles):
    examples = encode_rows(singles, tokenizer, needs=LOSSES["kto"].inputs())
    table = mismatch(examples, 3, seed=0)
    assert table[0] != table[1] != table[2] and table[:2] == mismatch(examples, 2, seed=0)
    for partners in table:
        assert len(set(partners)) > 25  # of 36: nearly each completion stands in once
        assert all(singles[i]["prompt"] != singles[j]["prompt"] for i, j in enumerate(partners))


def test_kto_takes_odd_batches_and_pairs(policy, tokenizer, pairs):
    history = train(policy, pairs, tokenizer, loss="kto", **QUICK | {"batch_size": 5, "steps": 20})
    assert len(history["loss"]) == 20 and all(math.isfinite(x) for x in history["loss"])
    assert history["step"][-1] == 19  # 72 examples: the second epoch begins with its own mismatched pairs


def test_one_prompt_is_not_enough_for_kto(policy, tokenizer, singles):
    rows = [row | {"prompt": "This film"} for row in singles]
    with pytest.raises(ValueError, match=r"data, line \d+: no other prompt.*Add rows with other prompts"):
        train(policy, rows, tokenizer, loss="kto", **QUICK)


def test_bco_keeps_the_running_mean_of_rewards(tiny_gpt2, tokenizer, pairs):
    history = train(tiny_gpt2(), pairs, tokenizer, loss="bco", reference=tiny_gpt2(1), **QUICK)
    means = [(c + r) / 2 for c, r in zip(history["rewards/chosen"], history["rewards/rejected"], strict=True)]
    running = [0.0] + [sum(means[:k]) / k for k in (1, 2, 3)]
    assert history["delta"] == pytest.approx(running, abs=1e-5) and abs(running[-1]) > 1e-3


# ------------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("loss", ["dpo", "orpo", "kto", "bco"])
@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_micro_batches_change_nothing(tiny_gpt2, tokenizer, pairs, loss, micro_batch):
    settings = QUICK | {"loss": loss, "batch_size": 8, "lr": 1e-4}
    whole, parts = tiny_gpt2(), tiny_gpt2()
    a = train(whole, pairs, tokenizer, **settings)
    b = train(parts, pairs, tokenizer, micro_batch=micro_batch, **settings)
    assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
    moved = gap(whole, tiny_gpt2())
    keys = [n for n, _ in whole.named_parameters() if n.endswith("c_attn.bias")]  # their gradient is rounding alone
    for (name, x), (_, y) in zip(whole.named_parameters(), parts.named_parameters(), strict=True):
        assert name in keys or (x - y).abs().max().item() < 0.05 * moved, name


def test_the_gradient_of_8_is_that_of_4_times_2(tiny_gpt2, tokenizer, pairs):
    gradients = []
    for micro_batch in (8, 2):
        policy, seen = tiny_gpt2().double(), []
        policy.transformer.wte.weight.register_post_accumulate_grad_hook(lambda p, s=seen: s.append(p.grad.clone()))
        train(policy, pairs, tokenizer, reference=tiny_gpt2(1).double(), micro_batch=micro_batch,
              **QUICK | {"batch_size": 8, "steps": 1})  # fmt: skip
        gradients.append(seen[-1])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)  # log-probs are float32
    assert gradients[0].abs().max() > 1e-3


# ------------------------------------------------------------------------------------------- the reference


def test_a_cached_reference_gives_the_same_run(tiny_gpt2, tokenizer, pairs, tmp_path):
    a, b, c = tiny_gpt2(), tiny_gpt2(), tiny_gpt2()
    path = tmp_path / "cache" / "reference.safetensors"
    cache = reference_logps(tiny_gpt2(1), pairs, tokenizer, precision="fp32", path=path)
    model = train(a, pairs, tokenizer, reference=tiny_gpt2(1), **QUICK)
    cached = train(b, pairs, tokenizer, reference=cache, **QUICK)
    from_file = train(c, pairs, tokenizer, reference=path, **QUICK)
    assert model["loss"] == pytest.approx(cached["loss"], abs=1e-5) and cached == from_file
    assert reference_logps(tiny_gpt2(1), pairs, tokenizer, precision="fp32", path=path).logps.equal(cache.logps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": 30}, "the rows are others"),
        ({"precision": "bf16"}, "the precision is another"),
        ({"too_long": "truncate", "max_length": 8}, "the token ids are others"),
    ],
    ids=["data", "precision", "tokens"],
)
def test_another_runs_cache_is_refused(tiny_gpt2, tokenizer, pairs, change, message):
    cache = reference_logps(tiny_gpt2(), pairs, tokenizer, precision="fp32")
    rows = pairs[: change.pop("data", 36)]
    with pytest.raises(ValueError, match=message):
        train(tiny_gpt2(), rows, tokenizer, reference=cache, **QUICK | change)


def test_a_file_for_another_reference_is_refused(tiny_gpt2, tokenizer, pairs, tmp_path):
    path = tmp_path / "r.safetensors"
    reference_logps(tiny_gpt2(0), pairs, tokenizer, path=path)
    with pytest.raises(ValueError, match="the reference's weights are others"):
        reference_logps(tiny_gpt2(1), pairs, tokenizer, path=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a file of reference log-probs"):
        ReferenceLogps.load(path)
    with pytest.raises(FileNotFoundError, match="Make it with reference_logps"):
        ReferenceLogps.load(tmp_path / "none")


def test_the_kl_is_measured_where_the_cached_reference_is_the_policy_itself(tiny_gpt2, tokenizer, pairs, monkeypatch):
    cache = reference_logps(tiny_gpt2(), pairs, tokenizer, precision="fp32")
    looks = {"prompts": ["This film", "I think the story"], "every": 2}
    cached = train(tiny_gpt2(), pairs, tokenizer, reference=cache, **QUICK | looks)
    beside = train(tiny_gpt2(), pairs, tokenizer, **QUICK | looks)
    assert [k == k for k in cached["kl"]] == [k == k for k in beside["kl"]]
    assert cached["kl"][-1] == pytest.approx(beside["kl"][-1], abs=1e-3) and cached["kl"][-1] != 0
    other = train(tiny_gpt2(1), pairs, tokenizer, reference=cache, **QUICK | looks)
    assert "kl" not in other  # no model to measure it with


def test_wrong_cached_numbers_show_at_step_0(tiny_gpt2, tokenizer, pairs):
    """The marks fit, the numbers do not: rewards at step 0 are not 0, and that must stop the run."""
    cache = reference_logps(tiny_gpt2(), pairs, tokenizer, precision="fp32")
    wrong = ReferenceLogps(cache.logps + 1, cache.mismatched, cache.fingerprint)
    with pytest.raises(ValueError, match=r"step 0: .* row \d+ has a log-ratio of 1 nats, not 0"):
        train(tiny_gpt2(), pairs, tokenizer, reference=wrong, **QUICK)


# ------------------------------------------------------------------------------------------- LoRA


@pytest.mark.filterwarnings("error")
def test_lora_starts_at_the_reference_and_trains_adapters_only(tiny_gpt2, tokenizer, pairs):
    base = tiny_gpt2()
    policy = lora.add_lora(copy.deepcopy(base), rank=4)
    history = train(policy, pairs, tokenizer, **QUICK | {"lr": 1e-2})
    assert history["rewards/margins"][0] == 0 and abs(history["rewards/margins"][-1]) > 1e-3
    with lora.adapters_off(policy):
        batch = collate([encode("This film", " is great fun.", tokenizer)])
        assert torch.equal(sequence_logps(lora.plain(policy), batch), sequence_logps(base, batch))
    ours = sequence_logps(lora.plain(policy), batch)
    torch.testing.assert_close(sequence_logps(policy.merge_and_unload(), batch), ours)
    assert not torch.equal(ours, sequence_logps(base, batch))


def test_a_lora_policy_against_its_own_base_after_training(tiny_gpt2, tokenizer, pairs):
    """reference="base" is the model with adapters off, also when the adapters are no longer fresh."""
    policy = lora.add_lora(tiny_gpt2(), rank=4)
    train(policy, pairs, tokenizer, **QUICK | {"lr": 1e-2})
    again = train(copy.deepcopy(policy), pairs, tokenizer, reference="base", **QUICK)
    plain = train(copy.deepcopy(policy), pairs, tokenizer, reference=tiny_gpt2(), **QUICK)
    assert again["loss"] == pytest.approx(plain["loss"], abs=1e-6) and again["rewards/margins"][0] != 0
    with pytest.raises(ValueError, match="this policy has no adapters"):
        train(tiny_gpt2(), pairs, tokenizer, reference="base", **QUICK)


# ------------------------------------------------------------------------------------------- looking, stopping


def test_samples_give_kl_eos_rate_and_length(policy, tokenizer, pairs):
    seen = []
    prompts = ["This film", "I think the story"]
    history = train(policy, pairs, tokenizer, prompts=prompts, every=2, on_samples=lambda *x: seen.append(x), **QUICK)
    assert [step for step, _ in seen] == [0, 2, 4] and all(len(completions) == 2 for _, completions in seen)
    assert history["kl"][0] == pytest.approx(0, abs=1e-4) and history["kl"][2] != 0 and math.isnan(history["kl"][1])
    assert history["length"][0] == sum(len(c.ids) for c in seen[0][1]) / 2
    assert 0 <= history["eos_rate"][0] <= 1


def test_max_kl_stops_the_run(tiny_gpt2, tokenizer, pairs):
    settings = QUICK | {"steps": 60, "lr": 1e-2, "every": 2}
    history = train(tiny_gpt2(), pairs, tokenizer, max_kl=0.5, **settings)
    kl = [x for x in history["kl"] if math.isfinite(x)]
    assert history["step"][-1] < 60 and kl[-1] > 0.5 and all(x <= 0.5 for x in kl[:-1])
    with pytest.raises(ValueError, match="max_kl must be above 0"):
        train(tiny_gpt2(), pairs, tokenizer, max_kl=0.0, **QUICK)
    cache = reference_logps(tiny_gpt2(1), pairs, tokenizer, precision="fp32")
    with pytest.raises(ValueError, match="max_kl needs the reference as a model"):
        train(tiny_gpt2(), pairs, tokenizer, max_kl=1.0, reference=cache, **QUICK)


def test_a_loss_of_your_own(tiny_gpt2, tokenizer, pairs):
    def squared(policy_chosen, policy_rejected, reference_chosen, reference_rejected, *, target=1.0):
        h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
        return (h - target) ** 2

    history = train(tiny_gpt2(), pairs, tokenizer, loss=squared, target=2.0, **QUICK)
    assert history["loss"][0] == pytest.approx(4.0)
    ipo = train(tiny_gpt2(), pairs, tokenizer, loss="ipo", tau=0.25, **QUICK)
    assert history["loss"] == pytest.approx(ipo["loss"], rel=1e-6)
    with pytest.raises(ValueError, match="needs 'temperature'; the loop supplies"):
        train(tiny_gpt2(), pairs, tokenizer, loss=lambda policy_chosen, temperature: policy_chosen, **QUICK)


class Scorer(nn.Module):
    """A reward model in five lines: GPT-2's body and a number at the last token."""

    def __init__(self, model):
        super().__init__()
        self.body, self.head, self.config = model.transformer, nn.Linear(32, 1), model.config
        nn.init.zeros_(self.head.weight)

    device = property(lambda self: self.head.weight.device)

    def get_input_embeddings(self):
        return self.body.wte


def last_token(model: Scorer, batch: Batch):
    last = batch.completion_mask.shape[1] - 1 - batch.completion_mask.flip(1).int().argmax(1)
    hidden = model.body(batch.input_ids).last_hidden_state
    return model.head(hidden[torch.arange(len(last)), last])[:, 0]


def test_the_same_loop_trains_a_reward_model(tiny_gpt2, tokenizer, pairs):
    def bradley_terry(policy_chosen, policy_rejected):
        return -nn.functional.logsigmoid(policy_chosen - policy_rejected)

    model = Scorer(tiny_gpt2())
    rows = [row | {"chosen": " is great fun.", "rejected": " was boring!"} for row in pairs]
    history = train(model, rows, tokenizer, loss=bradley_terry, score=last_token, **QUICK | {"steps": 20, "lr": 3e-3})
    assert history["loss"][0] == pytest.approx(math.log(2), abs=1e-6) and history["loss"][-1] < 0.4
    assert history["rewards/accuracies"][-1] == 1 and "logps/chosen" not in history


# ------------------------------------------------------------------------------------------- rows and guards


def test_too_long_rows_are_counted(policy, tokenizer, pairs):
    lines = []
    rows = [*pairs, pairs[0] | {"chosen": " and so on" * 40}]
    for too_long, words in (("drop", "36 examples (too long: 1 dropped)"), ("truncate", "37 examples (too long: 1 tr")):
        train(copy.deepcopy(policy), rows, tokenizer, too_long=too_long, say=lines.append, **QUICK)
        assert words in lines[-1] and "fp32" in lines[-1] and "steps 0 to 4" in lines[-1]
    with pytest.raises(ValueError, match="too_long must be one of error, drop, truncate, left, got 'cut'"):
        train(policy, rows, tokenizer, too_long="cut", **QUICK)


def test_long_prompts_are_cut_from_the_left_and_keep_their_bos(tokenizer, pairs):
    long = {"prompt": "This film " * 40 + "was", "chosen": " wonderful.", "rejected": " a waste of time."}
    own = copy.copy(tokenizer)
    prompt, chosen = encode(long["prompt"], long["chosen"], tokenizer)
    for bos in (None, prompt[0]):
        own.bos_token_id = bos
        found = encode_rows([pairs[0], long], own, needs=LOSSES["dpo"].inputs(), longest=40, too_long="left")
        (cut, kept), (again, rejected) = found.sequences[1]
        assert cut == again and len(cut) + len(rejected) == 40 and kept == chosen and found.truncated == 2
        assert cut == (prompt[-len(cut) :] if bos is None else [bos, *prompt[1 - len(cut) :]])
        assert found.sequences[0][0] == encode(pairs[0]["prompt"], pairs[0]["chosen"], tokenizer)  # it fits: untouched
    endless = pairs[0] | {"chosen": " and so on" * 40}
    with pytest.raises(ValueError, match=r"data, line 1: a completion alone has .* and the model takes 40"):
        encode_rows([endless], tokenizer, needs=LOSSES["dpo"].inputs(), longest=40, too_long="left")


def test_a_prompt_without_room_to_be_completed_is_named_before_the_reference_pass(policy, tokenizer, pairs):
    long = {"prompt": "This" + " film" * 24, "chosen": " good.", "rejected": " bad."}
    with pytest.raises(ValueError, match=r"prompts: prompt 1 \(from 0\) has \d+ tokens, and to complete it"):
        train(policy, pairs, tokenizer, prompts=["This film", long["prompt"]], **QUICK)
    history = train(policy, [*pairs, long], tokenizer, max_kl=1e3, **QUICK)  # its own prompts are those that fit
    assert history["kl"][0] == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="prompt 0"):
        train(policy, pairs, tokenizer, prompts=["This film"], sample_tokens=64, **QUICK)
    with pytest.raises(ValueError, match=r"line 37: the prompt alone has \d+ tokens, but the model takes 64"):
        train(policy, [*pairs, pairs[0] | {"prompt": "so on " * 60}], tokenizer, too_long="truncate", **QUICK)


def test_bad_inputs_are_named_and_nothing_is_trained_or_written(tiny_gpt2, tokenizer, pairs, singles, tmp_path):
    policy, quick = tiny_gpt2(), QUICK | {"checkpoint": tmp_path / "run"}
    before = weights(policy)
    far = [pairs[0] | {"prompt": "so on " * 60}]
    unlabelled = [{k: row[k] for k in ("prompt", "completion")} for row in singles]
    for data, settings, message in (
        ([], {}, "data: no rows"),
        (far, {}, r"data, line 1: the prompt alone has \d+ tokens, but the model takes 64"),
        ([{"prompt": "This", "chosen": " film."}], {}, "data, line 1: no column 'rejected'"),
        (unlabelled, {"loss": "kto"}, "data, line 1: no column 'label'"),
        (singles, {"loss": "kto", "batch_size": 1}, "batch_size must be 2 or more for KTO, got 1: z0.*micro_batch=1"),
        (pairs, {"beta": 0.0}, "beta is 0.0; allowed is a finite number above 0"),
        (pairs, {"micro_batch": 0}, "micro_batch=0"),
        (pairs, {"reference": tiny_gpt2(vocab_size=100)}, "reference: its vocabulary has 100 tokens and the tokenizer"),
    ):
        with pytest.raises(ValueError, match=message):
            train(policy, data, tokenizer, **quick | settings)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(policy), strict=True))
    with pytest.raises(ValueError, match="policy: its vocabulary has 100 tokens and the tokenizer"):
        train(tiny_gpt2(vocab_size=100), pairs, tokenizer, **quick)
    with pytest.raises(ValueError, match="policy: it ends a text with token 7, the tokenizer with 0"):
        train(tiny_gpt2(eos_token_id=7), pairs, tokenizer, **quick)
    with torch.no_grad():
        policy.transformer.wpe.weight[3, :2] = math.nan
    with pytest.raises(ValueError, match=r"policy: 2 numbers in transformer\.wpe\.weight are not finite"):
        train(policy, pairs, tokenizer, **quick)
    assert not (tmp_path / "run").exists()


def test_a_rate_far_above_sane_is_warned_of(tiny_gpt2, tokenizer, pairs):
    with pytest.warns(UserWarning, match=r"lr=0.1 is \d+ times what a model of width 32 takes.*Adam moves"):
        train(tiny_gpt2(), pairs, tokenizer, **QUICK | {"lr": 0.1, "steps": 1})
