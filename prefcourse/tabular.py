"""The exactly solvable world: X prompts, Y responses each, every quantity of the theory computed, none sampled.

A reward r(x, y) and a policy π(y|x) are float64 tensors (X, Y); a policy's rows sum to 1. Rewards and log-probabilities
are in nats. Everything about the objective J(π) = E_π[r] - β KL(π‖π_ref) is a sum over a row:

    best = optimal_policy(reference, reward, beta)                   # π*, in closed form
    objective(best, reference, reward, beta) - beta * log_z(reference, reward, beta)          # 0
    path = gradient_ascent(reference, reward, beta)                  # (steps + 1, X, Y), climbs towards π*
    path = fit(reference, bradley_terry(reward), "dpo", beta=beta)   # DPO on soft labels ends at π*

One step nearer to language: let a response be a sequence of T tokens out of V, so Y = V**T. `sequence_logps` turns one
table of next-token logits per position into log π over whole sequences, and `next_token_logits` goes back.
With `vocabulary=V`, `gradient_ascent` and `fit` train those tables instead of one logit per response.

A response that the reference never gives stays at probability 0: KL would be infinite otherwise.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from prefcourse.finite import LARGE, counted, number, numbers, together, whole
from prefcourse.losses import LOSSES


def _check(reference: Tensor, *, reward: Tensor = ..., policy: Tensor = ..., beta: float = 1.0) -> None:
    """Refuse anything that is not a finite world, naming the argument, its value and what is allowed.

    What is left out (...) is not looked at.
    """
    number("beta", beta, above=0)
    for name, table in (("reference", reference), ("reward", reward), ("policy", policy)):
        if table is ...:
            continue
        if not isinstance(table, Tensor) or table.dtype != torch.float64 or table.ndim != 2:
            found = f"{table.dtype}, {tuple(table.shape)}" if isinstance(table, Tensor) else type(table).__name__
            raise ValueError(f"{name} is {found}; allowed is a torch.float64 tensor of shape (X, Y)")
        if table.shape != reference.shape:
            raise ValueError(
                f"{name} has shape {tuple(table.shape)}; allowed is the reference's {tuple(reference.shape)}"
            )
        numbers(name, table, ndim=2)
        if name == "reward" and table.numel() and not bool((table / beta).abs().max() <= LARGE):
            raise ValueError(f"beta is {beta}; allowed is one by which this reward can be divided without overflow")
        if name != "reward" and not bool((table >= 0).all()):
            raise ValueError(f"{name} has {table.min()}; allowed are probabilities, 0 or more")
        if name != "reward" and not bool(((table.sum(-1) - 1).abs() <= 1e-9).all()):
            row = (table.sum(-1) - 1).abs().argmax().item()
            raise ValueError(f"{name}[{row}] sums to {table[row].sum()}; allowed are rows that sum to 1")


# ------------------------------------------------------------ what the theory says


def optimal_policy(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """π*(y|x) = π_ref(y|x) exp(r(x, y)/β) / Z(x), (X, Y). Rafailov et al. 2023, Eq. 4."""
    _check(reference, reward=reward, beta=beta)
    return (reference.log() + reward / beta).softmax(-1)


def log_z(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """log Z(x) = log Σ_y π_ref(y|x) exp(r(x, y)/β), (X,), in nats. β log Z(x) is the best J there is."""
    _check(reference, reward=reward, beta=beta)
    return (reference.log() + reward / beta).logsumexp(-1)


def kl(policy: Tensor, reference: Tensor) -> Tensor:
    """KL(π‖π_ref) = Σ_y π log(π/π_ref), (X,), in nats: 0 log 0 = 0, and infinite outside the reference's support."""
    _check(reference, policy=policy)
    return (torch.xlogy(policy, policy) - torch.xlogy(policy, reference)).sum(-1)


def objective(policy: Tensor, reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """J(π) = E_π[r] - β KL(π‖π_ref) for each prompt, (X,). Rafailov et al. 2023, Eq. 3."""
    _check(reference, reward=reward, policy=policy, beta=beta)
    return (policy * reward).sum(-1) - beta * kl(policy, reference)


def implicit_reward(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """r̂ = β log π/π_ref, (X, Y). Of π* it is r(x, y) - β log Z(x): the reward up to an f(x). Rafailov et al., Eq. 5.

    Where both policies give 0 it is unknown: nan.
    """
    _check(reference, policy=policy, beta=beta)
    return beta * (policy.log() - reference.log())


def bradley_terry(reward: Tensor) -> Tensor:
    """P[x, i, j] = σ(r_i - r_j), the probability that response i is preferred to j, (X, Y, Y). Soft labels.

    Raises ValueError unless `reward` is a table (X, Y) of finite numbers.
    """
    [reward] = together(reward=reward)
    numbers("reward", reward, ndim=2)
    return (reward[:, :, None] - reward[:, None, :]).sigmoid()


def hard_labels(preferences: Tensor) -> Tensor:
    """The same table with the likelier winner winning always: 1, 0, and 1/2 for a tie.

    Raises ValueError for a number outside 0 to 1.
    """
    [preferences] = together(preferences=preferences)
    numbers("preferences", preferences, ndim=None, low=0, high=1)
    return (preferences > 0.5).double() + 0.5 * (preferences == 0.5).double()


# ------------------------------------------------------------------ sequences: a table per position


def sequence_logps(tables: list[Tensor]) -> Tensor:
    """log π of every sequence, (X, V**T), from next-token logits: tables[t] is (X, V**t, V), one row per prefix.

    Sequences are in counting order: with V = 2 and T = 2 they are 00, 01, 10, 11. A logit may be -inf: that token never
    comes. Raises ValueError for nan and +inf, and for tables that do not follow each other.
    """
    _check_tables(tables)
    logps = tables[0].new_zeros(len(tables[0]), 1)
    for table in tables:
        logps = (logps[:, :, None] + table.log_softmax(-1)).flatten(1)  # (X, V**t, V) -> (X, V**(t+1))
    return logps


def next_token_logits(policy: Tensor, vocabulary: int) -> list[Tensor]:
    """The tables of any distribution over sequences, (X, V**T), by the chain rule: sequence_logps takes us back."""
    _check(policy)
    V, Y = whole("vocabulary", vocabulary, 0), policy.shape[1]
    T = round(math.log(Y, V)) if V >= 2 and Y >= 1 else 0
    if V**T != Y or T < 1:
        raise ValueError(
            f"vocabulary is {V}; allowed is a V >= 2 with V**T = {counted(Y, 'response')} for a whole T >= 1"
        )
    tables = []
    for t in range(
        1, T + 1
    ):  # log-probability of every prefix of t tokens: a softmax over the last token normalises it
        prefix = policy.reshape(len(policy), V ** (t - 1), V, -1).sum(-1)
        tables.append(torch.where(prefix.sum(-1, keepdim=True) > 0, prefix.log(), 0.0))
    return tables


# ------------------------------------------------------------------------ learning


def gradient_ascent(
    reference: Tensor,
    reward: Tensor,
    beta: float,
    *,
    steps: int = 1000,
    lr: float = 1.0,
    natural: bool = False,
    vocabulary: int | None = None,
) -> Tensor:
    """Climb J from the reference in the logits of a softmax policy; returns the path (steps + 1, X, Y).

    The gradient is π (u - E_π[u]) with u = r - β log π/π_ref: rare responses move slowly. The natural gradient,
    u - E_π[u], moves all alike: each step multiplies the distance to π* by 1 - lr β, and lr = 1/β arrives at once.
    """
    _check(reference, reward=reward, beta=beta)
    steps, lr = whole("steps", steps, 0), number("lr", lr, above=0)
    if natural and vocabulary is not None:
        raise ValueError(f"vocabulary is {vocabulary}; allowed is None with natural=True")

    def advantage(logps: Tensor) -> Tensor:  # u
        return reward - beta * torch.where(reference > 0, logps - reference.log(), 0.0)

    if not natural:  # summed over prompts, so that each climbs at its own pace
        return _descend(lambda logps: -(logps.exp() * advantage(logps)).sum(), reference, steps, lr, vocabulary)
    path = [reference]
    for _ in range(steps):
        logps = path[-1].log()
        path.append(_next([(logps + lr * advantage(logps))[:, None]], lr, len(path)))
    return torch.stack(path)


def fit(
    reference: Tensor,
    preferences: Tensor,
    loss: str = "dpo",
    *,
    steps: int = 100,
    lr: float | None = None,
    vocabulary: int | None = None,
    **arguments,
) -> Tensor:
    """Train a policy on preferences by any pairwise loss of `LOSSES`; returns the path (steps + 1, X, Y).

    preferences[x, i, j] is the probability that i beats j, (X, Y, Y): soft (`bradley_terry`), hard (`hard_labels`) or
    the frequencies of a sample. We minimise the expected loss over all pairs of a prompt, averaged over the pairs and
    summed over prompts, by gradient descent: with steps of size `lr`, or, without it, with steps that measure the
    curvature, which bring DPO to rounding error in about 50. `arguments` go to the loss; lengths are filled in.
    """
    _check(reference)
    X, Y = reference.shape
    steps, lr = whole("steps", steps, 0), lr if lr is None else number("lr", lr, above=0)
    if loss not in LOSSES or LOSSES[loss].data != "paired":
        pairwise = ", ".join(name for name in LOSSES if LOSSES[name].data == "paired")
        raise ValueError(f"loss is {loss!r}; allowed is a pairwise loss: {pairwise}")
    found = numbers("preferences", preferences, ndim=3)
    if found.shape != (X, Y, Y) or getattr(preferences, "dtype", None) != torch.float64:
        what = getattr(preferences, "dtype", type(preferences).__name__)
        raise ValueError(f"preferences is {what}, {tuple(found.shape)}; allowed: float64, {(X, Y, Y)}")
    if not (((preferences + preferences.mT - 1).abs() < 1e-9) & (preferences >= 0)).all():
        raise ValueError("preferences has P < 0, or P[x, i, j] + P[x, j, i] other than 1; allowed are probabilities")

    alive = reference > 0
    prompt, i, j = (alive[:, :, None] & alive[:, None, :]).triu(1).nonzero(as_tuple=True)  # each pair once
    weight = 1 / torch.bincount(prompt, minlength=X)[prompt].double()
    p = preferences[prompt, i, j]
    length = torch.full_like(p, round(math.log(Y, vocabulary)) if vocabulary else 1)
    names = [name for name in LOSSES[loss].inputs(**arguments) if name not in arguments]

    def losses(logps: Tensor, chosen: Tensor, rejected: Tensor) -> Tensor:
        batch = {"chosen_lengths": length, "rejected_lengths": length}
        for model, table in (("policy", logps), ("reference", reference.log())):
            batch[f"{model}_chosen"], batch[f"{model}_rejected"] = table[prompt, chosen], table[prompt, rejected]
        return LOSSES[loss].function(**{name: batch[name] for name in names if name in batch}, **arguments)

    def expected(logps: Tensor) -> Tensor:
        return (weight * (p * losses(logps, i, j) + (1 - p) * losses(logps, j, i))).sum()

    return _descend(expected, reference, steps, lr, vocabulary)


def kl_at_steps(reference: Tensor, preferences: Tensor, beta: Tensor, steps: list[int], *, lr: float = 0.25) -> Tensor:
    """KL(π‖π_ref) in nats after each of `steps` plain steps on DPO's loss, one run for each beta: (len(steps), N).

    The gradient in the logit of i is -β Σ_j (P_ij - σ(Δ_ij)), over the number of pairs (lesson 06, steps 7 and 8), so
    a step costs next to nothing. reference: (1, Y). preferences: (1 or N, Y, Y), P(i beats j). beta: (N, 1, 1).
    """
    Y, wanted, seen = reference.shape[-1], set(steps), []
    ratios = reference.new_zeros(len(beta), Y)  # log π/π_ref, up to a constant
    for step in range(1, max(steps) + 1):
        error = preferences - (beta * (ratios[:, :, None] - ratios[:, None, :])).sigmoid()  # (N, Y, Y)
        ratios = ratios + lr * (beta * error).sum(-1) / (Y * (Y - 1) / 2)
        if step in wanted:
            policy = (reference.log() + ratios).softmax(-1)
            seen.append(kl(policy, reference.expand_as(policy)))
    return torch.stack(seen)


def _descend(
    loss: Callable[[Tensor], Tensor], reference: Tensor, steps: int, lr: float | None, vocabulary: int | None
) -> Tensor:
    """Minimise loss(log π) by gradient descent from π_ref, over the logits (X, Y) or over next-token tables.

    Without `lr` a step is s·s / s·y, with s the last move and y the change of gradient along it (Barzilai and Borwein
    1988): one over the curvature just seen. It needs no loss values, so it ends only where gradients are rounding.
    """
    tables = [reference.log()[:, None]] if vocabulary is None else next_token_logits(reference, vocabulary)
    path, s, g, steepest = [reference], None, None, 0.0
    for _ in range(steps):
        tables = [table.detach().requires_grad_() for table in tables]
        grads = torch.autograd.grad(loss(sequence_logps(tables)), tables)
        last, g = g, torch.cat([grad.flatten() for grad in grads])
        size = g.norm().item()
        steepest = max(steepest, size)
        step = lr
        if lr is None and size <= 1e-13 * steepest:  # only rounding is left
            step = 0.0
        elif lr is None and s is None:
            step = 0.1 / size
        elif lr is None:
            curvature = (s @ (g - last)).abs().item()
            step = (s @ s).item() / curvature if curvature > 0 else 0.0
        s = -step * g
        tables = [table - step * grad for table, grad in zip(tables, grads, strict=True)]
        path.append(_next(tables, lr, len(path)))
    return torch.stack(path)


def _next(tables: list[Tensor], lr: float | None, step: int) -> Tensor:
    """The policy of `tables`, (X, Y). Raises ValueError if the step that led there was too large for one."""
    if not all(bool((table < math.inf).all()) for table in tables):  # nor nan; -inf is a response that never comes
        raise ValueError(f"lr is {lr}: after step {step} the policy is not finite; take a smaller one")
    return sequence_logps(tables).detach().exp()


def _check_tables(tables: list[Tensor]) -> None:
    """Raise ValueError unless tables[t] is (X, V**t, V), of floats that are finite or -inf."""
    if not isinstance(tables, list | tuple) or not tables or not all(isinstance(t, Tensor) for t in tables):
        raise ValueError("tables is no list of tensors; allowed is one for each position, (X, V**t, V)")
    for t, table in enumerate(tables):
        X, V = len(tables[0]) if tables[0].ndim else 0, tables[0].shape[-1] if tables[0].ndim else 0
        if not table.is_floating_point() or table.shape != (X, V**t, V):
            raise ValueError(f"tables[{t}] is {table.dtype}, {tuple(table.shape)}; allowed is float, {(X, V**t, V)}")
        if not bool((table < math.inf).all()):  # nor nan
            raise ValueError(f"tables[{t}] has nan or inf; allowed are finite numbers, and -inf for what never comes")
