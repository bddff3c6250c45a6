"""The training loop: its first step, its plan, an independent loop that must agree, errors, and TRL's DPOTrainer."""

import copy
import math
from collections import Counter

import pytest
import torch
from torch.nn.functional import logsigmoid

from prefcourse.losses import LOSSES
from prefcourse.preferences import encode
from prefcourse.terminal import Bar
from prefcourse.train import lr_factor, train
from prefcourse.training import devices
from prefcourse.training.batches import Feed, encode_rows, plan
from prefcourse.training.devices import bf16_is_fast, choose_precision

QUICK = {"steps": 4, "batch_size": 6, "lr": 1e-3, "precision": "fp32", "progress": False}
COLUMNS = {
    "step", "lr", "loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    "logps/chosen", "logps/rejected",
}  # fmt: skip


@pytest.fixture
def policy(tiny_gpt2):
    return tiny_gpt2()


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def lengths_of(pairs, tokenizer):
    """Tokens of each row, chosen and rejected together: what the loop hands to `plan`."""
    return [sum(len(ids) for side in ("chosen", "rejected") for ids in encode(row["prompt"], row[side], tokenizer))
            for row in pairs]  # fmt: skip


# ------------------------------------------------------------------------------------------- the first step


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_step_0_of_dpo_is_ln_2_with_a_margin_of_exactly_0(policy, tokenizer, pairs, precision):
    """The cheapest test of a trainer: policy and reference are the same model, so every reward is 0."""
    history = train(policy, pairs, tokenizer, **QUICK | {"precision": precision})
    assert set(history) == COLUMNS
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
        assert history[name][0] == 0.0, name
    assert history["loss"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert history["rewards/margins"][1] > 1e-3 and all(len(column) == 4 for column in history.values())


STEP_0 = {"cdpo": math.log(2), "rdpo": math.log(2), "dpo_norm": math.log(2), "hinge": 1, "ipo": 25, "apo_zero": 1,
          "apo_down": 1, "nca": 2 * math.log(2), "sppo_hard": 50,
          "exo": -math.log(0.36) / 2}  # fmt: skip


@pytest.mark.parametrize("loss", [name for name, spec in LOSSES.items() if spec.data == "paired" and name != "bco"])
def test_every_paired_loss_trains(policy, tokenizer, pairs, loss):
    before = weights(policy)
    history = train(policy, pairs, tokenizer, loss=loss, **QUICK | {"steps": 2})
    assert all(math.isfinite(x) for column in history.values() for x in column)
    assert not same(before, weights(policy))
    if loss in STEP_0:
        assert history["loss"][0] == pytest.approx(STEP_0[loss], abs=1e-5)
    assert ("rewards/margins" in history) == LOSSES[loss].needs_reference


def test_ipo_with_means_gets_the_lengths(policy, tokenizer, pairs):
    history = train(policy, pairs, tokenizer, loss="ipo", reduce="mean", tau=0.5, **QUICK | {"steps": 1})
    assert history["loss"] == [pytest.approx(1.0, abs=1e-6)]  # (0 - 1/(2 · 0.5))²


# ------------------------------------------------------------------------------------------- an independent loop


def by_hand(policy, reference, batches, pairs, tokenizer, lr, beta):
    """DPO in the plainest way: one text at a time, the model's own logits, one AdamW step a batch."""

    def logp(model, row, side):
        prompt, completion = encode(row["prompt"], row[side], tokenizer)
        ids = torch.tensor([prompt + completion])
        logps = model(ids).logits[0].log_softmax(-1)
        return sum(logps[t - 1, ids[0, t]] for t in range(len(prompt), ids.shape[1]))

    optimizer = torch.optim.AdamW(policy.parameters(), lr=1.0, betas=(0.9, 0.99), weight_decay=0.0)
    found = []
    for rate, rows in zip(lr, batches, strict=True):
        losses, margins, chosen = [], [], []
        for row in (pairs[i] for i in rows):
            c, r = (logp(policy, row, side) for side in ("chosen", "rejected"))
            with torch.no_grad():
                C, R = (logp(reference, row, side) for side in ("chosen", "rejected"))
            margins.append(beta * ((c - C) - (r - R)))
            losses.append(-logsigmoid(margins[-1]))
            chosen.append(c)
        optimizer.zero_grad()
        loss = torch.stack(losses).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        means = [torch.stack(x).mean() for x in (margins, chosen)]
        found.append([x.item() for x in (loss, norm, *means)])
    return [list(column) for column in zip(*found, strict=True)]


def test_the_loop_equals_one_written_by_hand(tiny_gpt2, tokenizer, pairs):
    policy, reference = tiny_gpt2(), tiny_gpt2(1)  # a reference of its own: the argument is used
    other, seed = copy.deepcopy(policy), 3
    history = train(policy, pairs, tokenizer, reference=reference, beta=0.3, seed=seed, **QUICK)
    batches = plan(lengths_of(pairs, tokenizer), 6, 4, seed)
    loss, norm, margin, chosen = by_hand(other, reference, batches, pairs, tokenizer, history["lr"], 0.3)
    assert history["loss"] == pytest.approx(loss, abs=1e-5)
    assert history["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert history["rewards/margins"] == pytest.approx(margin, abs=1e-4)
    assert history["logps/chosen"] == pytest.approx(chosen, abs=1e-4)
    for (name, a), (_, b) in zip(policy.named_parameters(), other.named_parameters(), strict=True):
        if not name.endswith("c_attn.bias"):  # the gradient of a key's bias is 0 but for rounding, which AdamW blows up
            torch.testing.assert_close(a, b, atol=2e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


# ------------------------------------------------------------------------------------------- what changes


def test_the_policy_changes_and_the_reference_does_not(tiny_gpt2, tokenizer, pairs):
    policy, reference = tiny_gpt2(), tiny_gpt2()
    before = weights(policy)
    train(policy, pairs, tokenizer, reference=reference, **QUICK)
    assert same(before, weights(reference)) and not same(before, weights(policy))
    assert all(p.grad is None for p in reference.parameters())


def test_same_seed_same_run_and_another_seed_another(tiny_gpt2, tokenizer, pairs):
    runs, ends = [], []
    for seed in (0, 0, 1):
        policy = tiny_gpt2()
        runs.append(train(policy, pairs, tokenizer, seed=seed, **QUICK))
        ends.append(weights(policy))
    assert runs[0] == runs[1] and same(ends[0], ends[1])
    assert runs[0]["loss"] != runs[2]["loss"] and not same(ends[0], ends[2])


def test_dropout_is_off(tiny_gpt2, tokenizer, pairs):
    policy = tiny_gpt2(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).train()
    history = train(policy, pairs, tokenizer, **QUICK | {"steps": 1})
    assert history["rewards/margins"] == [0.0]


def test_the_data_are_left_alone(policy, tokenizer, pairs):
    rows = copy.deepcopy(pairs)
    train(policy, rows, tokenizer, **QUICK)
    assert rows == pairs


def test_epochs_decide_the_steps(policy, tokenizer, pairs):
    settings = QUICK | {"steps": None, "batch_size": 8}
    assert train(policy, pairs, tokenizer, epochs=0.5, **settings)["step"] == [0, 1, 2]  # 18 of 36 rows in eights
    assert len(train(policy, pairs, tokenizer, **settings)["step"]) == 5


def test_measurements_come_every_so_often_with_nan_between(policy, tokenizer, pairs):
    seen = []

    def measure(model):
        assert model is policy
        seen.append(weights(model)[0].sum().item())
        return {"kl": float(len(seen))}

    before = weights(policy)[0].sum().item()
    history = train(policy, pairs, tokenizer, measure=measure, every=2, **QUICK | {"steps": 5})
    assert history["step"] == [0, 1, 2, 3, 4, 5]
    assert history["kl"] == pytest.approx([1, math.nan, 2, math.nan, 3, 4], nan_ok=True)
    assert seen[0] == before and seen[3] == weights(policy)[0].sum().item() and len(set(seen)) == 4
    assert math.isnan(history["loss"][5]) and all(map(math.isfinite, history["loss"][:5]))
    assert {len(column) for column in history.values()} == {6}


def test_dpo_learns_a_consistent_preference(policy, tokenizer, pairs):
    rows = [row | {"chosen": " is great fun.", "rejected": " was boring!"} for row in pairs]
    history = train(policy, rows, tokenizer, **QUICK | {"steps": 20, "batch_size": 12, "lr": 3e-3})
    assert history["rewards/accuracies"][-1] == 1 and history["loss"][-1] < 0.4
    assert history["rewards/margins"][-1] > 0.5


def test_sft_lowers_the_loss_on_a_tiny_corpus(policy, tokenizer, pairs):
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    settings = {"loss": "sft", "steps": 40, "batch_size": 12, "lr": 1e-2, "precision": "fp32"}
    history = train(policy, rows, tokenizer, **settings)
    assert set(history) == {"step", "lr", "loss", "grad_norm", "logps/chosen"}
    assert history["loss"][0] > 4 and history["loss"][-1] < 1.2


def test_sft_takes_the_chosen_side_of_pairs(tiny_gpt2, tokenizer, pairs):
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    a, b = (train(tiny_gpt2(), data, tokenizer, loss="sft", **QUICK) for data in (pairs, rows))
    assert a == b


# ------------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize(("rows", "batch_size"), [(930, 32), (36, 6), (64, 64), (100, 7), (2_000, 10)])
def test_every_row_comes_once_an_epoch(rows, batch_size):
    lengths = torch.randint(5, 60, (rows,), generator=torch.Generator().manual_seed(0)).tolist()
    epoch = math.ceil(rows / batch_size)
    batches = plan(lengths, batch_size, 3 * epoch, seed=0)
    assert {len(batch) for batch in batches} == {batch_size} and len(batches) == 3 * epoch
    for k in (1, 2, 3):
        counts = Counter(i for batch in batches[: k * rows // batch_size] for i in batch)
        assert max(counts.values()) == k and sum(k - counts[i] for i in range(rows)) < batch_size
    assert set(range(rows)) == {i for batch in batches[:epoch] for i in batch}
    assert batches[:epoch] != batches[epoch : 2 * epoch]


def test_a_plan_is_a_function_of_its_seed_and_longer_plans_go_on():
    lengths = list(range(100))
    assert plan(lengths, 8, 30, seed=5) == plan(lengths, 8, 30, seed=5) != plan(lengths, 8, 30, seed=6)
    assert plan(lengths, 8, 30, seed=5)[:7] == plan(lengths, 8, 7, seed=5)


def test_a_plan_puts_similar_lengths_together_and_not_in_order_of_length():
    lengths = torch.randint(5, 60, (4_096,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = plan(lengths, 32, 128, seed=0)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)  # random batches need about 1.8 times the tokens
    means = torch.tensor([sum(lengths[i] for i in batch) / 32 for batch in batches])
    steps = torch.arange(128.0)
    assert torch.corrcoef(torch.stack([means, steps]))[0, 1].abs() < 0.3


def test_a_plan_for_fewer_rows_than_a_batch():
    batches = plan([3, 4, 5], 8, 3, seed=0)
    assert [len(batch) for batch in batches] == [8, 8, 8]
    assert Counter(i for batch in batches for i in batch) == Counter({0: 8, 1: 8, 2: 8})


# ------------------------------------------------------------------------------------------- schedule and precision


def test_schedules():
    rates = {
        name: [lr_factor(step, 100, 0.1, name) for step in range(100)] for name in ("constant", "linear", "cosine")
    }
    for rate in rates.values():
        assert rate[:10] == pytest.approx([(k + 1) / 11 for k in range(10)]) and rate[10] == 1.0
    assert set(rates["constant"][10:]) == {1.0}
    assert rates["linear"][10:] == pytest.approx([1 - k / 90 for k in range(90)])
    assert rates["cosine"][55] == pytest.approx(0.5) and rates["cosine"][99] == pytest.approx(0.000305, abs=1e-6)
    assert rates["cosine"][10:] == sorted(rates["cosine"][10:], reverse=True)
    assert lr_factor(0, 1, 0.1, "cosine") > 0  # a single step does something


def test_the_history_holds_the_rate_that_was_used(policy, tokenizer, pairs):
    history = train(policy, pairs, tokenizer, warmup=0.5, schedule="linear", **QUICK)
    assert history["lr"] == pytest.approx([1e-3 * lr_factor(step, 4, 0.5, "linear") for step in range(4)])


def test_precision(monkeypatch):
    assert [choose_precision(name, "cpu") for name in ("fp32", "bf16", "fp16")] == [
        torch.float32, torch.bfloat16, torch.float16,
    ]  # fmt: skip
    for new, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, new=new: new)
        assert choose_precision("auto", "cuda") == choose_precision(None, "cuda") == expected


@pytest.mark.parametrize(
    ("amx", "avx512", "vendor", "expected"),
    [
        (True, True, "GenuineIntel", torch.bfloat16),
        (False, True, "GenuineIntel", torch.float32),  # knows the instructions, but is slower with them
        (False, True, "AuthenticAMD", torch.bfloat16),
        (False, False, "AuthenticAMD", torch.float32),
        (None, None, "AuthenticAMD", torch.float32),  # a torch that cannot say
    ],
)
def test_bf16_is_taken_where_it_is_fast_and_asked_for(monkeypatch, tmp_path, amx, avx512, vendor, expected):
    for name, value in (("amx_tile", amx), ("avx512_bf16", avx512)):
        if value is None:
            monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
        else:
            monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda value=value: value, raising=False)
    (book := tmp_path / "cpuinfo").write_text(f"vendor_id\t: {vendor}\n", encoding="utf-8")
    for path in (book, tmp_path / "no such file"):  # as on Linux, and as on Windows
        monkeypatch.setattr(devices, "Path", lambda _, path=path: path)
        monkeypatch.setattr(devices.platform, "processor", lambda: f"Family 25 Model 97, {vendor}")
        bf16_is_fast.cache_clear()
        assert choose_precision("auto", "cpu") == expected
        assert choose_precision(None, "cpu") == torch.float32  # the numbers of the course
    bf16_is_fast.cache_clear()


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "dop"}, r"no loss 'dop'; the losses are: dpo, cdpo"),
        ({"gamma": 1.0}, r"'dpo' has no parameter 'gamma'; it has: beta"),
        ({"loss": "sft", "beta": 1.0}, r"'sft' has no parameter 'beta'; it has: none"),
        ({"beta": -0.1}, r"beta is -0.1"),
        ({"schedule": "cosinus"}, r"schedule must be one of constant, linear, cosine, got 'cosinus'"),
        ({"precision": "fp8"}, r"precision must be one of auto, fp32, bf16, fp16, got 'fp8'"),
        ({"steps": 0}, r"steps=0"),
        ({"lr": 0.0}, r"lr=0"),
        ({"batch_size": 0}, r"batch_size=0"),
        ({"batch_size": 0, "steps": None}, r"batch_size=0"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_before_anything_is_trained(policy, tokenizer, pairs, settings, message):
    before = weights(policy)
    with pytest.raises(ValueError, match=message):
        train(policy, pairs, tokenizer, **QUICK | settings)
    assert same(before, weights(policy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": " and so on" * 40}, r"data, line 3: \d+ tokens, but the model takes 64"),
        ({"rejected": None}, r"data, line 3: 'rejected' must be text"),
        ({"prompt": ""}, r"data, line 3: 'prompt' is empty"),
    ],
    ids=["over-long", "no text", "no prompt"],
)
def test_a_bad_row_is_named(policy, tokenizer, pairs, change, message):
    rows = [*pairs[:2], pairs[2] | change, *pairs[3:]]
    with pytest.raises(ValueError, match=message):
        train(policy, rows, tokenizer, **QUICK)


def test_no_rows_are_refused(policy, tokenizer):
    with pytest.raises(ValueError, match="data: no rows"):
        train(policy, [], tokenizer, **QUICK)


@pytest.mark.filterwarnings("ignore:lr=1e")
def test_a_run_that_diverges_stops_and_says_where(policy, tokenizer, pairs):
    with pytest.raises(FloatingPointError, match=r"step [1-9]\d?: .* not finite \(rows \[\d+, .*lower lr than 1e\+20"):
        train(policy, pairs, tokenizer, **QUICK | {"lr": 1e20, "steps": 20, "warmup": 0.0})


def test_a_gradient_that_is_not_finite_stops_the_run(policy, tokenizer, pairs, monkeypatch):
    before = weights(policy)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(math.nan))
    with pytest.raises(FloatingPointError, match=r"step 0: the gradients are not finite"):
        train(policy, pairs, tokenizer, **QUICK)
    assert same(before, weights(policy))


def test_bars_are_silent_where_nobody_looks(monkeypatch, capsys):
    assert list(Bar(range(3), "x")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert Bar([1], "x", shown=False).disable and not Bar([1], "x").disable


# ------------------------------------------------------------------------------------------- TRL


def partners_of_trl(feed, step):
    """KTO's mismatched pairs as TRL makes them: each prompt with the completion before, within the batch."""
    batch, sequences = feed.batches[step], feed.examples.sequences
    return [((sequences[i][0][0], sequences[batch[k - 1]][0][1]),) for k, i in enumerate(batch)]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_the_loss_curve_is_that_of_trls_trainer(loss, tiny_gpt2, tokenizer, pairs, tmp_path, monkeypatch):
    """TRL 1.16's trainers, on the same batches with the same optimiser: losses, rewards and norms for fifty steps."""
    pytest.importorskip("trl")
    import datasets
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    steps, batch_size, lr, beta, rows = 50, 6, 2e-4, 0.2, pairs
    config, trainer_class = {"dpo": (DPOConfig, DPOTrainer), "kto": (KTOConfig, KTOTrainer)}[loss]
    if loss == "kto":
        sides = ("chosen", "rejected")
        rows = [{"prompt": row["prompt"], "completion": row[s], "label": s == "chosen"} for row in pairs for s in sides]
        monkeypatch.setattr(Feed, "mixed", partners_of_trl)
    history = train(
        tiny_gpt2(), rows, tokenizer, loss=loss, beta=beta, steps=steps, batch_size=batch_size, lr=lr,
        schedule="constant", warmup=0.0, max_grad_norm=1.0, precision="fp32", seed=4, progress=False,
    )  # fmt: skip
    rate = history["lr"]  # our warm-up is at least one step: TRL gets the very same rates
    lengths = encode_rows(rows, tokenizer, needs=LOSSES[loss].inputs()).lengths
    order = [i for batch in plan(lengths, batch_size, steps, seed=4) for i in batch]
    columns = ("prompt", "completion", "label") if loss == "kto" else ("prompt", "chosen", "rejected")
    data = datasets.Dataset.from_list([{k: rows[i][k] for k in columns} for i in order])
    args = config(
        output_dir=str(tmp_path), max_steps=steps, per_device_train_batch_size=batch_size, learning_rate=lr, beta=beta,
        max_grad_norm=1.0, bf16=False, gradient_checkpointing=False, use_cpu=True, logging_steps=1, report_to="none",
        save_strategy="no", train_sampling_strategy="sequential", lr_scheduler_type="constant", disable_tqdm=True,
    )  # fmt: skip
    policy = tiny_gpt2()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate[min(step, steps - 1)] / lr)
    trainer = trainer_class(
        policy, tiny_gpt2(), args, train_dataset=data, processing_class=tokenizer, optimizers=(optimizer, schedule)
    )
    trainer.train()
    logs = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logs) == steps
    names = {"loss": "loss", "grad_norm": "grad_norm", "rewards/chosen": "rewards/chosen"}
    names |= (
        {"z0": "kl"} if loss == "kto" else {"rewards/margins": "rewards/margins", "logps/rejected": "logps/rejected"}
    )
    for name, of_trl in names.items():
        theirs = [float(row.get(of_trl, math.nan)) for row in logs]  # a batch may have no chosen
        assert history[name] == pytest.approx(theirs, abs=1e-4, rel=1e-4, nan_ok=True), name
    assert min(history["loss"]) < history["loss"][0] - 0.02  # something was learnt, so the curves had room to part
