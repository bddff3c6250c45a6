"""From a model and a batch to log-probabilities of tokens and of whole completions, in nats.

Three things go wrong most often here, and each moves the numbers without an error: the logits at position t predict
the token at t + 1 (shift), only the completion counts (mask), and EOS is part of the completion (see `Batch`).
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from prefcourse.preferences import Batch, collate

GROUPS = 2  # into how many groups by length a batch is split; more cost more than the padding they save
SMALLEST = 8  # rows of a group


def completion_states(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The last hidden state before each of a batch's M completion tokens, (M, D), and their places, (N, T - 1) bool.

    Entry (n, t) says whether position t predicts a completion token: the mask of the ids, shifted by one.
    """
    target = batch.completion_mask[:, 1:]
    return model.base_model(batch.input_ids, use_cache=False).last_hidden_state[:, :-1][target], target


def token_logps(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """log π(token t + 1 | tokens up to t) at completion tokens, 0 elsewhere: (N, T - 1) in float32.

    The output head, by far the widest matrix, sees completion positions only: logits of prompts and padding are
    never made. The log-softmax runs in float32 whatever the model's precision (bfloat16 is 2 nats coarse at 500).
    """
    hidden, target = completion_states(model, batch)  # (M, D), M completion tokens in all; (N, T-1)
    logits = model.get_output_embeddings()(hidden).float()  # (M, V)
    picked = pick(logits, batch.input_ids[:, 1:][target])  # (M,)
    return torch.zeros(target.shape, device=logits.device).masked_scatter(target, picked)


class _Pick(torch.autograd.Function):
    """The gradient of `pick` by hand, d log p_y / d logits = onehot(y) - softmax: autograd makes three such tables."""

    @staticmethod
    def forward(ctx, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(logits, tokens)
        return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, tokens = ctx.saved_tensors
        table = logits.softmax(-1).mul_(-gradient[:, None])  # (M, V)
        return table.scatter_add_(-1, tokens[:, None], gradient[:, None]), None


def pick(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log_softmax(logits) at `tokens`: (M, V) and (M,) → (M,) nats."""
    return _Pick.apply(logits, tokens)


def sequence_logps(model: PreTrainedModel, batch: Batch, reduce: str = "sum") -> torch.Tensor:
    """log π(completion | prompt), EOS included: (N,) in nats, or in nats per token with reduce="mean".

    The sum is what DPO's derivation needs (Rafailov et al. 2023, eq. 7); the mean is what SimPO and ORPO use.
    On a CPU we read short rows apart from long ones: padding costs as much as text, and one long row pads all others.
    """
    if reduce not in ("sum", "mean"):
        raise ValueError(f"reduce must be 'sum' or 'mean', got {reduce!r}")
    rows = len(batch.input_ids)
    size = max(rows // GROUPS, SMALLEST) if batch.input_ids.device.type == "cpu" else rows
    if rows <= size:
        total = token_logps(model, batch).sum(-1)
    else:
        groups = list(batch.by_length(size))
        order = torch.cat([rows for rows, _ in groups])
        total = torch.cat([token_logps(model, part).sum(-1) for _, part in groups])[order.argsort()]  # (N,)
    return total if reduce == "sum" else total / batch.lengths


@torch.no_grad()
def score_all(
    model: nn.Module, sequences: Sequence[tuple[list[int], list[int]]], pad_id: int | None, *, batch_size: int = 128,
    score: Callable[[nn.Module, Batch], torch.Tensor] = sequence_logps,
) -> torch.Tensor:  # fmt: skip
    """`score` of any number of (prompt ids, completion ids): (N,) on the CPU, without gradients, in the order given.

    Texts of similar length share a batch, because padding costs as much as text.
    """
    found = torch.zeros(len(sequences))
    batches = collate(sequences, pad_id or 0).by_length(batch_size) if sequences else ()
    for rows, batch in batches:
        found[rows] = score(model, batch.to(model.device)).cpu()
    return found


def token_kl(policy: PreTrainedModel, reference: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """KL(π ‖ π_ref) of the next token, summed exactly over the vocabulary: (N, T - 1) nats, 0 outside the completion.

    Given sequences sampled from π, the sum over a row estimates the sequence KL with less variance than `kl_k1`, since
    only the prefixes are random (the chain rule, lesson 02). It holds two tables of M × V numbers, M completion tokens.
    """
    states = [completion_states(model, batch) for model in (policy, reference)]  # (M, D) and (N, T-1), twice
    p, q = (
        model.get_output_embeddings()(hidden).float().log_softmax(-1)
        for model, (hidden, _) in zip((policy, reference), states, strict=True)
    )  # (M, V) each
    target = states[0][1]
    return torch.zeros(target.shape, device=p.device).masked_scatter(target, (p.exp() * (p - q)).sum(-1))


def kl_k1(policy_logps: torch.Tensor, reference_logps: torch.Tensor) -> torch.Tensor:
    """log π - log π_ref of samples drawn from π: each entry is an unbiased estimate of KL(π ‖ π_ref), in nats.

    Single values may be negative; the mean is not, in expectation (Schulman 2020, "Approximating KL divergence").
    """
    return policy_logps - reference_logps


def kl_k3(policy_logps: torch.Tensor, reference_logps: torch.Tensor) -> torch.Tensor:
    """exp(-d) - 1 + d with d = log π - log π_ref, samples from π: unbiased too, and never negative (ibid.)."""
    d = policy_logps - reference_logps
    return torch.expm1(-d) + d
