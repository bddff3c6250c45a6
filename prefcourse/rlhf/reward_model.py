"""A reward model: GPT-2's body and one number at the last token, trained on pairs by maximum likelihood.

    reward_model, history = train_reward_model(world.sft, world.pairs["train"], world.tokenizer)
    reward_model(prompts, completions)                # (N,) r_φ(x, y), wherever world.gold goes
    margins = pair_margins(reward_model, world.pairs["test"])            # (N,) r_φ(x, y_w) - r_φ(x, y_l)

The body starts from a language model and all of it is trained; the head starts at 0, so every pair begins at ln 2
(Ouyang et al. 2022, Sec. 3.5). r_φ is fixed by the data up to an f(x) only; we choose the constant that makes the mean
over the training completions 0. How sure it may be: `prefcourse.rlhf.calibration`.
"""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.finite import counted, number, numbers
from prefcourse.logprobs import last_states, score_all
from prefcourse.preferences import PAIRED, Batch, Row, check_rows, encode_completions, encode_prompts
from prefcourse.rewards import bradley_terry_loss
from prefcourse.train import train
from prefcourse.training import guards
from prefcourse.training.batches import Ids, encode_rows
from prefcourse.training.history import History
from prefcourse.training.saving import save_model
from prefcourse.worlds.models import context, load_tokenizer

KIND, VERSION = "prefcourse reward model", 1
SIDES = ("policy_chosen", "policy_rejected")
FILES = ("config.json", "model.safetensors", "tokenizer.json")


class RewardModel(nn.Module):
    """r_φ(x, y) in nats: the difference of two rewards is the log-odds that the first is preferred.

    body: a causal language model, of which we take a copy without its output head. The head reads the hidden state at
    the last completion token, which is EOS: the only one that has seen the whole text and knows that it ended.
    """

    def __init__(self, body: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        super().__init__()
        guards.check_model(body, tokenizer, "body")
        self.body, self.tokenizer = copy.deepcopy(body.base_model).requires_grad_(True), tokenizer
        words = body.get_input_embeddings().weight  # (V, D)
        self.head = nn.Linear(words.shape[1], 1, device=words.device, dtype=words.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.eval()

    @property
    def config(self):
        """The body's configuration."""
        return self.body.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def get_input_embeddings(self) -> nn.Module:
        """The body's token embeddings."""
        return self.body.get_input_embeddings()

    def score(self, batch: Batch) -> Tensor:
        """r_φ of the N sequences of `batch`, (N,), read at each one's last completion token.

        The place comes from the mask. A search for the first or last token that is not padding would miss EOS, because
        GPT-2 pads with EOS.
        """
        return self.head(last_states(self.body, batch)).squeeze(-1).float()

    @torch.no_grad()
    def forward(self, prompts: Sequence[str], completions: Sequence[str], batch_size: int = 64) -> Tensor:
        """r_φ(x, y) for each prompt x with its completion y: (N,) float32 on the CPU, like `GoldReward`.

        EOS is added to every completion, so one that was cut off is scored as if it ended there; an empty one is EOS
        alone. Raises ValueError for an empty prompt, unequal numbers, or a text longer than the model's context.
        """
        if len(prompts) != len(completions):
            had = f"{counted(len(prompts), 'prompt')} and {counted(len(completions), 'completion')}"
            raise ValueError(f"got {had}; give one for each")
        if not len(prompts):
            return torch.zeros(0)
        sides = encode_prompts(prompts, self.tokenizer), encode_completions(completions, self.tokenizer)
        ids = list(zip(*sides, strict=True))
        longest = context(self.body)
        for i, (x, y) in enumerate(ids):
            if not x or len(x) + len(y) > longest:
                what = (
                    "the prompt is empty"
                    if not x
                    else f"{counted(len(x) + len(y), 'token')}, but the model takes {longest}"
                )
                raise ValueError(f"text {i} (from 0): {what}. It begins {prompts[i]!r:.60}; change it or leave it out.")
        return self._score_ids(ids, batch_size)

    def _score_ids(self, ids: Sequence[Ids], batch_size: int = 64) -> Tensor:
        """r_φ of prompts and completions given as token ids, (N,) on the CPU."""
        return score_all(self, ids, self.tokenizer.pad_token_id, batch_size=batch_size, score=RewardModel.score)

    @torch.no_grad()
    def shift(self, constant: float) -> None:
        """Add `constant` nats to every reward; no preference changes."""
        self.head.bias += number("constant", constant)

    @torch.no_grad()
    def divide(self, temperature: float) -> None:
        """Divide every reward by `temperature`: the order stays, the probabilities move towards ½ if it is above 1."""
        temperature = number("temperature", temperature, above=0)
        self.head.weight /= temperature
        self.head.bias /= temperature

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and configuration into an existing folder; `save` is what you want."""
        # Not transformers' config.json: from_pretrained would take it and fill in random weights without a word.
        record = {"kind": KIND, "version": VERSION, "body": self.config.to_dict()}
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, Path(folder) / "model.safetensors")
        (Path(folder) / "config.json").write_text(json.dumps(record, indent=1), encoding="utf-8")

    def save(self, folder: str | Path) -> Path:
        """Write weights, configuration and tokenizer to `folder`; `load` reads them. Raises OSError if it cannot."""
        return save_model(folder, self, self.tokenizer)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> "RewardModel":
        """The reward model that `save` wrote to `folder`.

        Raises FileNotFoundError if files are missing, and ValueError if they are damaged or no reward model.
        """
        folder = Path(folder)
        for name in FILES:
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder}: no {name}, so no reward model is here. RewardModel.save writes one."
                )
        try:
            record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{folder / 'config.json'} is damaged ({error}). Save the reward model again.") from None
        if not isinstance(record, dict) or record.get("kind") != KIND:
            raise ValueError(
                f"{folder} holds another kind of model, not a reward model. Train one on it with train_reward_model."
            )
        if record.get("version") != VERSION:
            raise ValueError(f"{folder} has version {record.get('version')}, and this package reads version {VERSION}.")
        try:
            body = AutoModel.from_config(AutoConfig.for_model(**record["body"]))
            found = cls(body, load_tokenizer(folder))
            found.load_state_dict(load_file(folder / "model.safetensors"))
        except Exception as error:  # whatever the libraries raise
            raise ValueError(f"{folder} is damaged ({str(error)[:200]}). Save the reward model again.") from None
        return found.to(device)


def train_reward_model(
    body: PreTrainedModel, pairs: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, lr: float = 1.5e-4,
    epochs: float = 1, batch_size: int = 16, margin: float = 0.0, seed: int = 0, **arguments,
) -> tuple[RewardModel, History]:  # fmt: skip
    """Fit a reward model to `pairs`, starting from a copy of `body`: the model, centred, and the history of the run.

    Minimises `bradley_terry_loss` by the loop of `prefcourse.train`, to which `arguments` go (steps, measure, every,
    checkpoint, too_long, …). margin: in nats, the same for every pair; rows with a column `margin` (TRL's name) have
    their own instead. On 2,000 pairs of the course slower rates than the default give validation labels a worse
    likelihood; twice the rate and a second pass are not told from it (stored result reward-model-rates). Raises what
    `train` raises.
    """
    model = RewardModel(body, tokenizer)
    rows = check_rows(pairs, PAIRED, where="pairs")
    own = "margin" in rows[0]
    if own and margin:
        raise ValueError(f"margin={margin}, but the pairs have a column 'margin'. Give one of the two.")
    loss: dict = {"loss": _own_margins} if own else {"loss": bradley_terry_loss, "margin": margin}
    history = train(model, rows, tokenizer, score=RewardModel.score, lr=lr, epochs=epochs, batch_size=batch_size,
                    seed=seed, **loss, **arguments)  # fmt: skip
    longest = context(model, arguments.get("max_length"))
    seen = encode_rows(rows, tokenizer, needs=SIDES, longest=longest, too_long=arguments.get("too_long", "error"))
    model.shift(-model._score_ids([sequence for group in seen.sequences for sequence in group]).mean().item())
    return model, history


def _own_margins(policy_chosen: Tensor, policy_rejected: Tensor, margin: Tensor) -> Tensor:
    return bradley_terry_loss(policy_chosen, policy_rejected, margin=margin)


def pair_margins(reward: Callable[[list[str], list[str]], Tensor], pairs: Sequence[Row]) -> Tensor:
    """Δ = r(x, y_w) - r(x, y_l) of every pair, (N,) nats, for a reward model, a `GoldReward`, or a function of yours.

    σ(Δ) is the probability that the reward gives to the label. Each text is scored once, however many pairs it is in.
    Raises ValueError if the reward does not return a finite number for each text.
    """
    pairs = check_rows(pairs, PAIRED, where="pairs")
    texts = list(dict.fromkeys((row["prompt"], row[side]) for row in pairs for side in ("chosen", "rejected")))
    found = torch.as_tensor(reward([x for x, _ in texts], [y for _, y in texts]))
    if len(numbers("reward(prompts, completions)", found)) != len(texts):
        had = f"{counted(len(found), 'number')} for {counted(len(texts), 'text')}"
        raise ValueError(f"reward(prompts, completions) returned {had}; allowed is one for each")
    place = {text: i for i, text in enumerate(texts)}
    chosen, rejected = ([place[row["prompt"], row[side]] for row in pairs] for side in ("chosen", "rejected"))
    return found[chosen] - found[rejected]
