"""Language models as judges: for AI feedback on texts that no word list can judge.

    judge = ModelJudge(model, tokenizer, good=" I loved it.", bad=" I hated it.")
    judge = ClassifierJudge(classifier, tokenizer, label="POSITIVE")
    judge(prompts, completions)                             # (B,) nats, like world.gold
    pairs = PairJudge(model, tokenizer, principle="Choose the response that is friendlier about the film.")
    pairs(prompts, first, second)                           # (B,) log-odds that `first` is better

All of them read a probability off the model and sample nothing, so a judgement costs one pass over the text (Lee et
al. 2023). The first two are rewards like `world.gold`. The last sees both texts at once, in both orders: a judge
that favours the first place would otherwise put that into the labels (Zheng et al. 2023, Sec. 3.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.finite import counted
from prefcourse.logprobs import sequence_logps
from prefcourse.preferences import Batch, collate

QUESTION = """\
{principle}

Text so far: {prompt}
Response 1:{first}
Response 2:{second}
The better response is response"""


@dataclass(frozen=True)
class ModelJudge:
    """A causal model as judge of one text: log p(good | text) - log p(bad | text), (B,) nats.

    template: what the model reads, with {prompt} and {completion} in it. For a chat model, make it with
    `tokenizer.apply_chat_template(..., tokenize=False, add_generation_prompt=True)` and let it answer "Yes" or "No".
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: str = "{prompt}{completion}"
    good: str = " I loved it."
    bad: str = " I hated it."
    batch_size: int = 64

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        _same_length(prompts=prompts, completions=completions)
        texts = [_fill(self.template, prompt=x, completion=y) for x, y in zip(prompts, completions, strict=True)]
        return answer_odds(self.model, self.tokenizer, texts, self.good, self.bad, self.batch_size)


@dataclass(frozen=True)
class PairJudge:
    """A causal model that reads a principle and two responses and says which is better: log-odds of the first, (B,).

    The mean over both orders: exchanging the responses changes the sign and nothing else.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    principle: str
    template: str = QUESTION
    answers: tuple[str, str] = (" 1", " 2")
    batch_size: int = 32

    def __call__(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        straight, turned = self.both_orders(prompts, first, second)
        return (straight - turned) / 2

    def both_orders(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Log-odds of "1" with `first` in first place, and with `second` there: (B,) each. Their sum is the bias."""
        _same_length(prompts=prompts, first=first, second=second)
        found = []
        for one, two in ((first, second), (second, first)):
            texts = [
                _fill(self.template, principle=self.principle, prompt=x, first=a, second=b)
                for x, a, b in zip(prompts, one, two, strict=True)
            ]
            found.append(answer_odds(self.model, self.tokenizer, texts, *self.answers, self.batch_size))
        return found[0], found[1]


@dataclass(frozen=True)
class ClassifierJudge:
    """A sequence classifier as judge: the log-odds that it gives to its class `label`, (B,) nats.

    The class is looked up by its name in the model's config, because its number differs between models. Raises
    ValueError, with the names there are, if there is no such class.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    label: str = "POSITIVE"
    batch_size: int = 64

    def __post_init__(self):
        if self.label not in self.model.config.label2id:
            names = ", ".join(map(str, self.model.config.label2id))
            raise ValueError(f"the classifier has no class {self.label!r}; its classes are: {names}")

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        _same_length(prompts=prompts, completions=completions)
        texts = [x + y for x, y in zip(prompts, completions, strict=True)]
        k, found = int(self.model.config.label2id[self.label]), []
        for start in range(0, len(texts), self.batch_size):
            batch = self.tokenizer(
                texts[start : start + self.batch_size], padding=True, truncation=True, return_tensors="pt"
            ).to(self.model.device)  # fmt: skip
            logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
            others = [i for i in range(logits.shape[-1]) if i != k]
            found.append((logits[:, k] - logits[:, others].logsumexp(-1)).cpu())
        return torch.cat(found) if found else torch.zeros(0)


@torch.no_grad()
def answer_odds(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], good: str, bad: str,
    batch_size: int = 64,
) -> Tensor:  # fmt: skip
    """log p(good | text) - log p(bad | text) of each text, (B,) nats: sums over the answers' tokens, without EOS.

    Raises ValueError for an answer without tokens, two answers with the same tokens, or a text too long for the model.
    """
    answers = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in (good, bad)]
    if not all(answers) or answers[0] == answers[1]:
        raise ValueError(f"the answers {good!r} and {bad!r} must have tokens, and different ones")
    found, room = torch.zeros(len(texts)), getattr(model.config, "max_position_embeddings", None)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    for i, row in enumerate(ids):
        if room and len(row) + max(map(len, answers)) > room:
            raise ValueError(
                f"text {i} has {counted(len(row), 'token')}; with its answer it must fit into {room}: shorten it"
            )
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch: Batch = collate([(ids[i], answer) for answer in answers for i in rows], tokenizer.pad_token_id or 0)
        logps = sequence_logps(model, batch.to(model.device)).view(2, -1).cpu()
        found[rows] = logps[0] - logps[1]
    return found


def _fill(template: str, **parts: str) -> str:
    """Put texts into a template. Braces inside a text stay what they are, unlike with str.format on the result."""
    try:
        return template.format(**parts)
    except (KeyError, IndexError, ValueError) as error:
        fields = ", ".join(f"{{{name}}}" for name in parts)
        raise ValueError(f"the template {template!r:.80} can hold {fields} and no other field ({error})") from None


def _same_length(**columns: Sequence) -> None:
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"give one of each for every text, got {sizes}")
