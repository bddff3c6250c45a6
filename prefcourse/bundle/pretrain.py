"""Pre-train the base model: a GPT-2 of 5.3 million parameters, on a packed stream of TinyReviews and wider sentences.

The schedule is warm-up, stable, decay: the learning rate stays constant, on half TinyReviews and half wide text, and
falls to zero in the last part, on TinyReviews alone. One row in 64 holds reviews with a word outside the vocabulary,
spelt in bytes: without it, the model forgets in the decay how to read them. Matrices are trained with Muon and
everything else with AdamW, which needs far fewer tokens than AdamW alone. A checkpoint is written every 100 steps; the
same call resumes from it. Each batch is a function of its step number, so a resumed run sees what an uninterrupted one
would have seen.
"""

import functools
import json
import math
import os
import shutil
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from prefcourse.bundle.muon import Muon
from prefcourse.bundle.tokenizer import VOCAB_SIZE, known, with_rare

STEPS, DECAY_STEPS, WARMUP = 1_800, 500, 60
ROWS, LENGTH = 64, 128  # 8,192 tokens a step
LR, WEIGHT_DECAY = 3e-3, 0.1
EVERY = 100  # steps from checkpoint to checkpoint
CHECKPOINT, LAST_TENTH = "pretrain.pt", "before_last_tenth.pt"


def new_model(layers: int = 4, width: int = 256, vocab_size: int = VOCAB_SIZE) -> GPT2LMHeadModel:
    """A fresh GPT-2 without dropout; `<|endoftext|>` is token 0 and serves as first, last and padding token."""
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=128, n_embd=width, n_layer=layers, n_head=width // 64,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def pack(rows: list[list[int]], seed: int) -> torch.Tensor:
    """All `rows` of token ids in a shuffled order as one stream (N,), an EOS after each."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.tensor([token for i in order for token in (*rows[i], 0)])


def streams(texts: dict[str, list[str]], tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """Three streams of token ids: `simple`, the reviews whose every form is a token; `spelt`, the others; `wide`.

    Where there are no others, as in a small corpus, `spelt` is `simple`. Raises ValueError if all are others.
    """
    simple = [text for text in texts["train"] if known(text, tokenizer)]
    spelt = [text for text in texts["train"] if not known(text, tokenizer)] or simple
    if not simple:
        raise ValueError(
            f"none of {len(texts['train']):,} training texts is made of the tokenizer's words: is it theirs?"
        )
    return {
        "simple": pack(tokenizer(simple)["input_ids"], 1),
        "spelt": pack(tokenizer(spelt)["input_ids"], 3),
        "wide": pack([with_rare(text, tokenizer) for text in texts["wide"]], 2),
    }


@functools.lru_cache(maxsize=8)
def epoch_order(rows: int, epoch: int, seed: int) -> tuple[torch.Tensor, int]:
    """The order in which an epoch visits its `rows`, and the offset at which it begins to cut the stream."""
    generator = torch.Generator().manual_seed(1_000 * seed + epoch)
    offset = int(torch.randint(LENGTH, (1,), generator=generator))
    return torch.randperm(rows, generator=generator), offset


def rows_of(stream: torch.Tensor, first: int, count: int, seed: int) -> torch.Tensor:
    """Rows number `first` to `first + count` (count, LENGTH + 1) of an endless sequence of shuffled epochs of `stream`.

    Each epoch cuts the stream at another offset, so that no row comes back exactly. A short one is repeated first.
    """
    stream = stream.repeat(max(1, math.ceil(3 * LENGTH / len(stream))))
    per_epoch = len(stream) // LENGTH - 2
    picked = []
    for number in range(first, first + count):
        epoch, k = divmod(number, per_epoch)
        order, offset = epoch_order(per_epoch, epoch, seed)
        start = int(order[k]) * LENGTH + offset
        picked.append(stream[start : start + LENGTH + 1])
    return torch.stack(picked)


def batch(step: int, data: dict[str, torch.Tensor], steps: int, decay_steps: int, seed: int = 0) -> torch.Tensor:
    """The rows (ROWS, LENGTH + 1) of `step`: one spelt, the others half wide, and only simple once the decay has begun.

    seed: other rows in another order.
    """
    half, stable = ROWS // 2, steps - decay_steps
    spelt = rows_of(data["spelt"], step, 1, 10 * seed + 3)
    if step < stable:
        simple = rows_of(data["simple"], step * (half - 1), half - 1, 10 * seed + 1)
        return torch.cat([spelt, simple, rows_of(data["wide"], step * half, half, 10 * seed + 2)])
    first = stable * (half - 1) + (step - stable) * (ROWS - 1)
    return torch.cat([spelt, rows_of(data["simple"], first, ROWS - 1, 10 * seed + 1)])


def learning_rate(step: int, steps: int, decay_steps: int) -> float:
    """Linear warm-up, constant, then linear to zero over the last `decay_steps`."""
    return LR * min(1.0, (step + 1) / WARMUP, (steps - step) / decay_steps)


def optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the rest."""
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
    return [
        Muon(hidden, lr=LR, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(rest, lr=LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]


@torch.no_grad()
def held_out_nats(model: GPT2LMHeadModel, texts: list[str], tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """-log p in nats of all `texts`, per token and per character: {"nats_per_token", "nats_per_character"}.

    Each text is scored alone, after an EOS and with the EOS that ends it. Only the second can be compared between
    tokenizers.
    """
    total, count = 0.0, 0  # of nats, and of tokens
    device = next(model.parameters()).device
    rows = sorted(([0, *ids, 0] for ids in tokenizer(texts)["input_ids"]), key=len)
    for start in range(0, len(rows), 64):
        part = [torch.tensor(r[:129]) for r in rows[start : start + 64]]
        ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=-100).to(device)  # (B, T)
        logits = model(ids[:, :-1].clamp(min=0)).logits.float()
        total += F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
        count += int((ids[:, 1:] >= 0).sum())
    return {
        "nats_per_token": round(total / count, 4),
        "nats_per_character": round(total / sum(map(len, texts)), 4),
    }


def build(corpus: Path, tokenizer: PreTrainedTokenizerFast, out: Path, work: Path, steps: int = STEPS,
          decay_steps: int = DECAY_STEPS, seed: int = 0) -> dict:  # fmt: skip
    """Pre-train for `steps`, save the model to `out` and return the facts for the card; checkpoints go to `work`."""
    torch.manual_seed(0)
    texts = {
        name: json.loads((corpus / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("train", "wide", "valid", "test")
    }
    data = streams(texts, tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = new_model(vocab_size=len(tokenizer)).to(device)
    optims = optimizers(model)
    work.mkdir(parents=True, exist_ok=True)
    first, seconds = _resume(work / CHECKPOINT, model, optims)

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        hidden = model.transformer(ids[:, :-1], use_cache=False).last_hidden_state
        return F.cross_entropy(model.lm_head(hidden).flatten(0, 1), ids[:, 1:].flatten())

    compiled, losses = torch.compile(loss_of), []
    began = time.time()
    for step in range(first, steps):
        for optim in optims:
            optim.param_groups[0]["lr"] = learning_rate(step, steps, decay_steps)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = compiled(batch(step, data, steps, decay_steps, seed).to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"pre-training: loss {losses[-1]} at step {step}; lower LR in {__file__}")
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            seconds, began = seconds + time.time() - began, time.time()
            state = {"model": model.state_dict(), "optims": [o.state_dict() for o in optims]}
            torch.save({**state, "step": step + 1, "seconds": seconds}, work / "pretrain.tmp")
            os.replace(work / "pretrain.tmp", work / CHECKPOINT)
            if step + 1 == before_last_tenth(steps):
                shutil.copy(work / CHECKPOINT, work / LAST_TENTH)
            _report(step + 1, steps, losses, held_out_nats(model, texts["valid"][:500], tokenizer), seconds)
            losses = []
    model.half().save_pretrained(out)
    model.float()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "minutes": round(seconds / 60),
        "tokens": steps * ROWS * LENGTH,
        **{f"tokens_{name}": len(stream) for name, stream in data.items()},
        **{split: held_out_nats(model, texts[split], tokenizer) for split in ("valid", "test")},
    }


def again(corpus: Path, tokenizer: PreTrainedTokenizerFast, work: Path, steps: int = STEPS,
          decay_steps: int = DECAY_STEPS) -> dict:  # fmt: skip
    """The last tenth of the pre-training once more, on other rows: how far two runs of it are apart."""
    other = work / "again"
    if not (other / CHECKPOINT).exists():
        other.mkdir(parents=True, exist_ok=True)
        shutil.copy(work / LAST_TENTH, other / CHECKPOINT)
    found = build(corpus, tokenizer, other / "model", other, steps=steps, decay_steps=decay_steps, seed=1)
    return {"from_step": before_last_tenth(steps), "valid": found["valid"], "test": found["test"]}


def before_last_tenth(steps: int) -> int:
    """The last checkpoint that leaves a tenth of `steps` at least."""
    return (steps - steps // 10) // EVERY * EVERY


def _resume(checkpoint: Path, model: torch.nn.Module, optims: list[torch.optim.Optimizer]) -> tuple[int, float]:
    """The step to begin with, and the seconds spent before; model and optimizers as the checkpoint has them, if any."""
    if not checkpoint.exists():
        return 0, 0.0
    state = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(state["model"])
    for optim, saved in zip(optims, state["optims"], strict=True):
        optim.load_state_dict(saved)
    print(f"resume at step {state['step']}", flush=True)
    return state["step"], state["seconds"]


def _report(step: int, steps: int, losses: list[float], held_out: dict[str, float], seconds: float) -> None:
    train, valid = sum(losses) / len(losses), held_out["nats_per_character"]
    found = f"train {train:.3f} nats a token, held out {valid:.4f} a character"
    print(f"step {step}/{steps}  {found}  {seconds / 60:.1f} min", flush=True)
