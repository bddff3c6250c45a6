"""From a model and a batch to log-probabilities of tokens and of whole completions, in nats.

Three things go wrong most often here, and each moves the numbers without an error: the logits at position t predict
the token at t + 1 (shift), only the completion counts (mask), and EOS is part of the completion (see `Batch`).
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from prefcourse.finite import together
from prefcourse.loss_inputs import looking
from prefcourse.packing import can_pack, read
from prefcourse.preferences import Batch, collate

LARGEST = 1e9  # bytes of logits, float32, at a time


def completion_states(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The last hidden state before each of a batch's C completion tokens, row by row: (C, D).

    `model` reads the batch packed, that is without padding and each prompt once, where `packing` can; else in rows.
    """
    layout = batch.layout
    if can_pack(model):
        return read(model.base_model, layout)[layout.before]
    # A causal model never looks right, so padding on the right needs no mask.
    states = model.base_model(batch.input_ids, use_cache=False).last_hidden_state  # (N, T, D)
    return states[:, :-1].flatten(0, 1)[layout.places]


def last_states(body: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The last hidden state at each row's last token: (N, D). body: a model without an output head."""
    layout = batch.whole_layout
    if can_pack(body):
        return read(body, layout)[layout.last]
    return body(batch.input_ids, use_cache=False).last_hidden_state.flatten(0, 1)[layout.own[layout.last]]


def token_logps(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """log π(token t + 1 | tokens up to t) at completion tokens, 0 elsewhere: (N, T - 1) in float32.

    The output head, by far the widest matrix, sees completion positions only: logits of prompts and padding are
    never made. The log-softmax runs in float32 whatever the model's precision (bfloat16 is 2 nats coarse at 500).
    Where all logits would be above `LARGEST`, they are made part by part, and anew in the backward pass.
    """
    head, states, targets = model.get_output_embeddings(), completion_states(model, batch), batch.layout.targets
    size = max(int(LARGEST / 4 // getattr(head, "out_features", 1)), 1)
    if len(targets) <= size:
        return batch.layout.rows(_head_logps(head, states, targets))
    parts = zip(states.split(size), targets.split(size), strict=True)
    return batch.layout.rows(torch.cat([checkpoint(_head_logps, head, *part, use_reentrant=False) for part in parts]))


def _head_logps(head: nn.Module, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log π of tokens, (C,), from the states before them, (C, D)."""
    return pick(head(states).float(), targets)


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
        table = logits.softmax(-1).mul_(-gradient[:, None])  # (C, V)
        return table.scatter_add_(-1, tokens[:, None], gradient[:, None]), None


def pick(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log_softmax(logits) at `tokens`: (C, V) and (C,) → (C,) nats."""
    return _Pick.apply(logits, tokens)


def sequence_logps(model: PreTrainedModel, batch: Batch, reduce: str = "sum") -> torch.Tensor:
    """log π(completion | prompt), EOS included: (N,) in nats, or in nats per token with reduce="mean".

    The sum is what DPO's derivation needs (Rafailov et al. 2023, eq. 7); the mean is what SimPO and ORPO use.
    """
    if reduce not in ("sum", "mean"):
        raise ValueError(f"reduce must be 'sum' or 'mean', got {reduce!r}")
    total = token_logps(model, batch).sum(-1)
    return total if reduce == "sum" else total / batch.lengths


@torch.no_grad()
def score_all(
    model: nn.Module, sequences: Sequence[tuple[list[int], list[int]]], pad_id: int | None, *, batch_size: int = 128,
    score: Callable[[nn.Module, Batch], torch.Tensor] = sequence_logps,
) -> torch.Tensor:  # fmt: skip
    """`score` of any number of (prompt ids, completion ids): (N,) on the CPU, without gradients, in the order given.

    Texts of similar length share a batch, because padding costs time, at least in the attention.
    """
    found = torch.zeros(len(sequences))
    order = sorted(range(len(sequences)), key=lambda i: sum(map(len, sequences[i])))
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        batch = collate([sequences[i] for i in rows], pad_id or 0)
        found[rows] = score(model, batch.to(model.device)).cpu()
    return found


def token_kl(policy: PreTrainedModel, reference: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """KL(π ‖ π_ref) of the next token, summed exactly over the vocabulary: (N, T - 1) nats, 0 outside the completion.

    Given sequences sampled from π, the sum over a row estimates the sequence KL with less variance than `kl_k1`, since
    only the prefixes are random (the chain rule, lesson 02). It holds two tables of C × V numbers, C completion tokens.
    """
    p, q = (
        model.get_output_embeddings()(completion_states(model, batch)).float().log_softmax(-1)
        for model in (policy, reference)
    )  # (C, V) each
    return batch.layout.rows((p.exp() * (p - q)).sum(-1))


def kl_k1(policy_logps: torch.Tensor, reference_logps: torch.Tensor) -> torch.Tensor:
    """log π - log π_ref of samples drawn from π: each entry is an unbiased estimate of KL(π ‖ π_ref), in nats.

    Single values may be negative; the mean is not, in expectation (Schulman 2020, "Approximating KL divergence").
    Raises ValueError unless both have one shape and are finite.
    """
    policy_logps, reference_logps = together(policy_logps=policy_logps, reference_logps=reference_logps)
    return policy_logps - reference_logps


def kl_k3(policy_logps: torch.Tensor, reference_logps: torch.Tensor) -> torch.Tensor:
    """exp(-d) - 1 + d with d = log π - log π_ref, samples from π: unbiased too, and never negative (ibid.).

    Raises ValueError as `kl_k1`, and where exp(-d) has no finite value: such samples are not from π.
    """
    d = kl_k1(policy_logps, reference_logps)
    found = torch.expm1(-d) + d
    if looking() and not bool(found.isfinite().all()):
        raise ValueError(
            f"policy_logps lie up to {-d.min().item():.3g} nats below reference_logps, and exp of that is infinite. "
            "Are the samples from the policy? If they are from the reference, exchange the two."
        )
    return found
