"""What `train` refuses, or warns of, before it spends your time: each in one sentence that says what to do."""

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from prefcourse.training import lora
from prefcourse.worlds.models import config_ends, context

MOST_EPOCHS = 1_000  # over the data


def check_model(model: nn.Module, tokenizer: PreTrainedTokenizerBase, what: str) -> None:
    """Raise ValueError if `tokenizer` belongs to another model, or a weight is not finite."""
    if tokenizer.eos_token_id is None:
        raise ValueError("tokenizer: it has no EOS token, so a model could not learn to stop. Set tokenizer.eos_token.")
    rows = lora.plain(model).get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(
            f"{what}: its vocabulary has {rows} tokens and the tokenizer {len(tokenizer)}, so they do not belong "
            "together. Load the tokenizer that was saved with the model."
        )
    ends = config_ends(lora.plain(model))
    if ends and tokenizer.eos_token_id not in ends:
        raise ValueError(
            f"{what}: it ends a text with token {' or '.join(map(str, ends))}, the tokenizer with "
            f"{tokenizer.eos_token_id}. Load the "
            "tokenizer that was saved with the model, or set model.config.eos_token_id if you mean to change it."
        )
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            bad = int((~weight.isfinite()).sum())
            raise ValueError(f"{what}: {bad} numbers in {name} are not finite. The model is broken; load it again.")
    check_head(model, what)


@torch.no_grad()
def check_head(model: nn.Module, what: str) -> None:
    """Raise ValueError if `model` does more than apply its output head to the last hidden state.

    `logprobs` and `generate` apply the head themselves, to the few positions that matter. Models that rescale before it
    (MiniCPM) or behind it (Cohere, Granite; Gemma 2 squashes by tanh) would get wrong log-probs without an error, so we
    look at what a model does with a few tokens. Models without a head, such as reward models, have nothing to check.
    """
    plain, seen = lora.plain(model), []
    head = getattr(plain, "get_output_embeddings", lambda: None)()
    if head is None:
        return
    count = int(min(8, context(plain)))  # several: one may be padding, whose states may be 0
    ids = torch.arange(count, device=head.weight.device)[None] % len(head.weight)
    given = {"attention_mask": torch.ones_like(ids), "use_cache": False}  # without a mask transformers may warn
    hook = head.register_forward_hook(lambda _, args, result: seen.extend([args[0], result]))
    try:
        logits = plain(ids, **given).logits
    finally:
        hook.remove()
    states = plain.base_model(ids, **given).last_hidden_state
    if not seen or not torch.equal(seen[1].float(), logits.float()) or not torch.allclose(seen[0], states, 1e-3, 1e-3):
        raise ValueError(
            f"{what}: {type(plain).__name__} rescales hidden states or logits around its output head, as Gemma 2 and "
            "Cohere do. Its log-probs would be wrong here. Take a model that does not, such as Llama, Qwen2 or GPT-2."
        )


def check_sizes(
    rows: int, steps: int, batch_size: int, micro_batch: int, lr: float, every: int, checkpoint_every: int,
    processes: int, needs: tuple[str, ...],
) -> None:  # fmt: skip
    """Raise ValueError for a size that makes no sense. rows: of examples."""
    if not (steps >= 1 and batch_size >= 1 and 0 < lr < math.inf):
        raise ValueError(f"need steps >= 1, batch_size >= 1 and a finite lr > 0, got {steps=}, {batch_size=}, {lr=}")
    if steps * batch_size > MOST_EPOCHS * rows:
        times = f"{steps * batch_size / rows:,.0f} times over the {rows:,} of the data"
        raise ValueError(
            f"{steps:,} steps of {batch_size:,} examples go {times}; at most {MOST_EPOCHS:,} are allowed. Take fewer "
            "steps or a smaller batch."
        )
    if not (micro_batch >= 1 and every >= 1 and checkpoint_every >= 1):
        raise ValueError(
            f"need micro_batch, every and checkpoint_every of 1 or more, got {micro_batch=}, {every=}, "
            f"{checkpoint_every=}"
        )
    if "kl_policy" in needs and batch_size < 2:
        raise ValueError(
            "batch_size must be 2 or more for KTO, got 1: z0, the KL that it compares with, is a mean over the "
            "mismatched pairs of a batch. To save memory, keep the batch and set micro_batch=1."
        )
    if batch_size % processes:
        raise ValueError(f"batch_size must be a multiple of the {processes} processes, got {batch_size}")


def check_numbers(epochs: float, warmup: float, max_grad_norm: float, seed: int) -> None:
    """Raise ValueError for a number that makes no sense, among them nan."""
    if not 0 < epochs < math.inf:
        raise ValueError(f"epochs must be a finite number above 0, got {epochs}")
    if not 0 <= warmup <= 1:
        raise ValueError(f"warmup is a share of the steps, from 0 to 1, got {warmup}")
    if not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm must be above 0 (math.inf: no clipping), got {max_grad_norm}")
    if not (isinstance(seed, int) and 0 <= seed < 2**63):
        raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1, got {seed}")


def check_reference(
    reference: object, tokenizer: PreTrainedTokenizerBase, has_model: bool, max_kl: float | None
) -> None:
    """Raise ValueError for a broken reference model, or for max_kl when only cached log-probs are there."""
    if isinstance(reference, nn.Module):
        check_model(reference, tokenizer, "reference")
    if max_kl is not None and not has_model:
        raise ValueError(
            "max_kl needs the reference as a model: cached log-probs know the data, not what the policy samples"
        )
    if max_kl is not None and not max_kl > 0:
        raise ValueError(f"max_kl must be above 0 nats, got {max_kl}")


def check_zero_rewards(policy: Tensor, reference: Tensor, rows: list[int], dtype: torch.dtype) -> None:
    """Raise ValueError unless log π = log π_ref, (B, k) nats each, at a first step from the reference's own weights."""
    coarse = dtype != torch.float32
    allowed = (0.1 if coarse else 1e-3) + (1e-2 if coarse else 1e-5) * reference.abs()
    gap = (policy - reference).abs()
    if bool((gap > allowed).any()):
        worst = int((gap - allowed).amax(1).argmax())
        raise ValueError(
            f"step 0: policy and reference have the same weights, but row {rows[worst]} has a log-ratio of "
            f"{gap[worst].max():.3g} nats, not 0. The cached log-probs are wrong, or a layer behaves differently in "
            "training."
        )


def diverged(step: int, rows: list[int], lr: float, what: str, checkpoint: object = None) -> str:
    """What a run says that has stopped being finite. rows: numbers of the data's rows, from 0."""
    saved = f" The last good checkpoint is {checkpoint}." if checkpoint else ""
    listed = f"{rows[:8]}{' ...' if len(rows) > 8 else ''}"
    return (
        f"step {step}: the {what} are not finite (rows {listed} of the data, counted from 0). "
        f"The policy is broken from here on; start again with a lower lr than {lr:g} or in fp32.{saved}"
    )
