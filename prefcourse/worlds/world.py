"""What a world is: a tokenizer, two models, a true reward, prompts, preference data. `prefcourse.world` loads one."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.preferences import Row
from prefcourse.rewards import GoldReward

WORLDS = ("tiny-reviews", "gpt2-imdb")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class World:
    """Everything a lesson needs. `prompts`, `pairs` and `unpaired` map a split (train, validation, test) to rows."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    base: PreTrainedModel  # pre-trained, knows the language
    sft: PreTrainedModel  # fine-tuned to finish one short review and stop
    gold: GoldReward  # the true reward r*(x, y)
    prompts: dict[str, list[Row]]  # columns prompt, type
    pairs: dict[str, list[Row]]  # columns prompt, chosen, rejected, chosen_score, rejected_score, probability
    unpaired: dict[str, list[Row]]  # columns prompt, completion, label, score
    words: frozenset[str] | None = None  # all that occur in the texts of the world, in lower case, if it is closed
    sft_logps: Path | None = None  # a file of log π_sft of pairs["train"], for train(reference=...), in fp32
    open_ended: bool = False  # sft rarely ends a text within 48 tokens, so a completion that was cut there counts too
