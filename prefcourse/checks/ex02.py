"""Checks of exercise notebook 02: the RLHF objective."""

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.questions import choice

# ---------------------------------------------------------------------------------------------- any number of tokens


def _some_tokens(draw: torch.Generator) -> list[Case]:
    def tables(words: int, tokens: int, spread: float) -> list[Tensor]:
        shapes = [(words,) * n for n in range(1, tokens + 1)]
        return [(spread * torch.randn(s, generator=draw, dtype=torch.float64)).log_softmax(-1) for s in shapes]

    first = torch.tensor([0.8, 0.2], dtype=torch.float64)
    second = torch.tensor([[0.5, 0.5], [0.1, 0.9]], dtype=torch.float64)
    third = torch.tensor([[[0.5, 0.5], [0.9, 0.1]], [[0.2, 0.8], [0.6, 0.4]]], dtype=torch.float64)
    policy = [first.log(), second.log(), third.log()]
    flat = [torch.full_like(table, 0.5).log() for table in policy]
    fixed = {"policy_tables": policy, "reference_tables": flat}
    drawn = [
        {"policy_tables": tables(v, n, 1.0), "reference_tables": tables(v, n, 0.7)} for v, n in ((2, 3), (3, 4), (2, 6))
    ]
    one = Limit("a response is one token", {"policy_tables": policy[:1], "reference_tables": flat[:1]})
    long = Limit(
        "a response has five tokens", {"policy_tables": tables(3, 5, 1.0), "reference_tables": tables(3, 5, 1)}
    )
    return [fixed, one, long, *drawn]


def _token_kls(policy: list[Tensor], reference: list[Tensor]) -> list[Tensor]:
    """KL of the next token after every prefix, policy first: shapes (), (V,), (V, V) and so on."""
    return [(p.exp() * (p - q)).sum(-1) for p, q in zip(policy, reference, strict=True)]


def _weights(tables: list[Tensor], whole: bool = True) -> list[Tensor]:
    """How likely each prefix is: shapes (), (V,), (V, V). whole: its probability, not that of its last token alone."""
    found = [tables[0].new_ones(())]
    for table in tables[:-1]:
        found.append((found[-1][..., None] if whole else 1) * table.exp())
    return found


def _weighted(kls: list[Tensor], weights: list[Tensor]) -> Tensor:
    return torch.stack([(w * kl).sum() for w, kl in zip(weights, kls, strict=True)])


@exercise(
    cases=_some_tokens,
    points=2,
    where="2 · A distance to pay for: the KL divergence",
    hint="go through the tables with a weight that begins as 1. (p * (log p - log q)).sum(-1) gives one KL for every "
    "prefix; weigh it and add up. Then the weight becomes weight[..., None] times π of the next token.",
)
def position_kls(policy_tables, reference_tables):
    """The expected token KL at each position of a response, whatever its length."""
    return _weighted(_token_kls(policy_tables, reference_tables), _weights(policy_tables))


@position_kls.mutant("your prefixes are those of the reference. The chain rule averages over what the policy writes.")
def prefixes_of_the_reference(policy_tables, reference_tables):
    return _weighted(_token_kls(policy_tables, reference_tables), _weights(reference_tables))


@position_kls.mutant(
    "all prefixes count alike in your mean. Weigh each with the probability that the policy writes it."
)
def prefixes_alike(policy_tables, reference_tables):
    return torch.stack([kls.mean() for kls in _token_kls(policy_tables, reference_tables)])


@position_kls.mutant(
    "you add up the KLs of all prefixes, as if each were written always. Weigh each with its probability."
)
def prefixes_added_up(policy_tables, reference_tables):
    return torch.stack([kls.sum() for kls in _token_kls(policy_tables, reference_tables)])


@position_kls.mutant(
    "from position 3 on a prefix has several tokens: its probability is π(a) π(b | a) …, not that of its last one."
)
def half_a_prefix(policy_tables, reference_tables):
    return _weighted(_token_kls(policy_tables, reference_tables), _weights(policy_tables, whole=False))


@position_kls.mutant(
    "you have the first three positions and no more: a response may have any number of tokens, so make a loop of it."
)
def three_alone(policy_tables, reference_tables):
    return position_kls.reference(policy_tables, reference_tables)[:3]


@position_kls.mutant("this is the forward KL: the mean inside is over tokens of the policy, π log(π / π_ref).")
def forward(policy_tables, reference_tables):
    return _weighted(_token_kls(reference_tables, policy_tables), _weights(policy_tables))


@position_kls.mutant("you return the sum. It is the right KL; the exercise asks for the numbers before it.")
def summed(policy_tables, reference_tables):
    return position_kls.reference(policy_tables, reference_tables).sum()


# ---------------------------------------------------------------------------------------------- objective and gradient


def _worlds(draw: torch.Generator) -> list[Case]:
    def case(prompts: int, responses: int, beta: float) -> Case:
        rand = {"generator": draw, "dtype": torch.float64}
        return {
            "theta": torch.randn(prompts, responses, **rand),
            "reference": torch.randn(prompts, responses, **rand).softmax(-1),
            "reward": 2 * torch.randn(prompts, responses, **rand),
            "beta": beta,
        }

    lesson = {
        "theta": torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64),
        "reference": torch.tensor([[0.55, 0.35, 0.10]], dtype=torch.float64),
        "reward": torch.tensor([[0.0, 2.0, 3.0]], dtype=torch.float64),
    }
    return [{**lesson, "beta": 0.5}, case(2, 4, 0.3), case(3, 2, 2.0), case(1, 5, 1.0)]


def _climb(theta, reference, reward, beta, paid=None, baseline=True, weighted=True, sign=1.0):
    """J and its gradient from the penalised reward u; each keyword changes one thing."""
    pi = theta.softmax(-1)
    u = reward - sign * beta * (pi / reference).log() if paid is None else paid(pi)
    gradient = u - (pi * u).sum(-1, keepdim=True) if baseline else u
    return (pi * u).sum(-1), pi * gradient if weighted else gradient


@exercise(
    cases=_worlds,
    points=3,
    where="4 · The gradient, and the climb",
    hint="π = softmax(θ), then u = r - β log(π / π_ref), of the same shape. J = Σ π u and its gradient is "
    "π (u - Σ π u), both row by row.",
)
def objective_and_gradient(theta, reference, reward, beta):
    """J of each prompt, and its gradient in the logits."""
    return _climb(theta, reference, reward, beta)


@objective_and_gradient.mutant("nothing is paid for the distance: β times the log-ratio is missing from u.")
def no_price(theta, reference, reward, beta):
    return _climb(theta, reference, reward, beta, paid=lambda pi: reward)


@objective_and_gradient.mutant("β is missing: the price of a nat multiplies the log-ratio.")
def no_beta(theta, reference, reward, beta):
    return _climb(theta, reference, reward, 1.0)


@objective_and_gradient.mutant(
    "the log-ratio is added. A response above its reference has to pay: r - β log(π / π_ref)."
)
def paid_back(theta, reference, reward, beta):
    return _climb(theta, reference, reward, beta, sign=-1.0)


@objective_and_gradient.mutant("J is right. In the gradient the mean of u is missing: π (u - E[u]), not π u.")
def no_mean(theta, reference, reward, beta):
    return _climb(theta, reference, reward, beta, baseline=False)


@objective_and_gradient.mutant(
    "J is right. The gradient in a logit is weighted with π: the softmax passes on only π(k)."
)
def no_weight(theta, reference, reward, beta):
    return _climb(theta, reference, reward, beta, weighted=False)


@objective_and_gradient.mutant("you take log π for the log-ratio: the distance is measured from the reference.")
def entropy_alone(theta, reference, reward, beta):
    return _climb(theta, torch.ones_like(reference), reward, beta)


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=2)
def where_the_star_goes():
    """Good and superb have reward 2, dull has 0. Where does the best policy π_β go as β falls to 0?"""
    return {
        "to the edge between good and superb, 0.78 and 0.22": None,
        "to the middle of the edge between good and superb, 0.50 and 0.50": "equal rewards do not ask for equal "
        "shares. All policies that never say dull earn 2, so the KL decides, and it keeps the reference's ratio, "
        "35 to 10.",
        "to the corner good": "to give up superb earns nothing, as both have reward 2, and costs nats. A corner wins "
        "only where one response has the highest reward alone.",
        "to the corner superb": "it wins in the lesson because its reward is higher. Here it is not, so nothing pays "
        "for the nats of saying it more often than the reference does.",
    }


# ---------------------------------------------------------------------------------------------- a KL that is too small


def _texts(draw: torch.Generator) -> list[Case]:
    def case(rows: int, width: int) -> Case:
        lengths = torch.randint(1, width, (rows,), generator=draw)
        policy, reference = -3 * torch.rand(2, rows, width, generator=draw, dtype=torch.float64)
        mask = (torch.arange(width) < lengths[:, None]).double()
        return {"policy_logps": policy, "reference_logps": reference, "mask": mask}

    fixed = {
        "policy_logps": torch.tensor([[-1.0, -0.5, -0.2, -9.0], [-2.0, -3.0, -7.0, -9.0]], dtype=torch.float64),
        "reference_logps": torch.tensor([[-2.0, -1.5, -0.7, -8.0], [-1.0, -4.0, -9.0, -6.0]], dtype=torch.float64),
        "mask": torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]], dtype=torch.float64),
    }
    whole = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    full = Limit("a text reaches the last column, as the longest of a batch does", fixed | {"mask": whole})
    return [fixed, full, case(4, 6), case(3, 9), case(8, 5)]


@exercise(
    cases=_texts,
    points=3,
    where="6 · KL from samples",
    hint="the log-ratio of a text is the sum of its tokens' log-ratios where the mask is 1; the KL is the mean of that "
    "over the texts, one number.",
)
def sampled_kl(policy_logps, reference_logps, mask):
    """The KL of texts, estimated from samples of the policy with k1."""
    return ((policy_logps - reference_logps) * mask).sum(-1).mean()


@sampled_kl.mutant("you still divide by the width of the batch: take the sum over the tokens of a text, not the mean.")
def mean_over_width(policy_logps, reference_logps, mask):
    return ((policy_logps - reference_logps) * mask).mean()


@sampled_kl.mutant("this is a KL per token: you divide by the number of tokens. That of a text is the sum over them.")
def mean_over_tokens(policy_logps, reference_logps, mask):
    return ((policy_logps - reference_logps) * mask).sum() / mask.sum()


@sampled_kl.mutant("each text's sum is divided by its own length. Then β / T is the price, another one for every text.")
def mean_of_means(policy_logps, reference_logps, mask):
    return (((policy_logps - reference_logps) * mask).sum(-1) / mask.sum(-1)).mean()


@sampled_kl.mutant("the padding counts in your sum: multiply by the mask first.")
def padding_counts(policy_logps, reference_logps, mask):
    return (policy_logps - reference_logps).sum(-1).mean()


@sampled_kl.mutant("the sign is turned: the policy wrote the texts, so the log-ratio is log π - log π_ref.")
def turned(policy_logps, reference_logps, mask):
    return ((reference_logps - policy_logps) * mask).sum(-1).mean()


@sampled_kl.mutant("you take absolute values: single log-ratios may be negative, and the mean needs them as they are.")
def absolute(policy_logps, reference_logps, mask):
    return ((policy_logps - reference_logps) * mask).sum(-1).abs().mean()


@sampled_kl.mutant("that is k3, e^-k1 - 1 + k1 of each text. Asked is the mean of k1, the log-ratio itself.")
def k3(policy_logps, reference_logps, mask):
    k1 = ((policy_logps - reference_logps) * mask).sum(-1)
    return ((-k1).exp() - 1 + k1).mean()


@sampled_kl.mutant(
    "you weigh log-ratios with π. The texts were drawn from it already: their plain mean is the estimate."
)
def weighed_again(policy_logps, reference_logps, mask):
    return ((policy_logps.exp() * (policy_logps - reference_logps)) * mask).sum(-1).mean()


@sampled_kl.mutant("that is k2, half of the squared log-ratio. Asked is the mean of k1, the log-ratio itself.")
def k2(policy_logps, reference_logps, mask):
    return (((policy_logps - reference_logps) * mask).sum(-1) ** 2 / 2).mean()


@sampled_kl.mutant("you return one number for each text: take the mean over the texts as well.")
def for_each_text(policy_logps, reference_logps, mask):
    return ((policy_logps - reference_logps) * mask).sum(-1)


@sampled_kl.mutant("you add up the whole batch: over texts take the mean, over tokens the sum.")
def sum_over_texts(policy_logps, reference_logps, mask):
    return ((policy_logps - reference_logps) * mask).sum()
