"""Prompts, preference pairs and unpaired examples: sampled from the bundled models, labelled by the gold reward.

No film review goes in here: the prompts are openings that the SFT model invented, the completions are its own too. A
label is a coin thrown with the Bradley-Terry probability σ(r*(x, y_a) - r*(x, y_b)), not the sign of the difference:
people disagree, and so do our labels.
"""

import itertools
import math
import random
import re
from collections import Counter

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.bundle.corpus import crude_words, short_reviews
from prefcourse.bundle.tokenizer import known
from prefcourse.evaluate import typicality
from prefcourse.generate import Completion, generate, sample_ids, usable
from prefcourse.preferences import Row, encode
from prefcourse.rewards import GoldReward

PER_TYPE = {"train": 800, "validation": 80, "test": 160}  # prompts of each of the five types
TYPES = ("negative", "neutral", "positive", "first person", "question")
COMPLETIONS = 4  # per prompt, which make six pairs
MAX_NEW_TOKENS = 48

_QUESTION = re.compile(
    r"(what|why|how|who|where|when|which|is|are|was|were|do|does|did|can|could|would|should)\b", re.I
)
_FIRST_PERSON = re.compile(r"(i|i'm|i've|i'd|i'll|my|we|our|me)\b", re.I)


def form(prompt: str) -> str | None:
    """ "question" or "first person" if the prompt opens like one, else None."""
    return "question" if _QUESTION.match(prompt) else "first person" if _FIRST_PERSON.match(prompt) else None


def prompt_type(prompt: str, gold: GoldReward) -> str:
    """One of TYPES: how a review opens, by its form (question, first person) or else by its gold reward."""
    if kind := form(prompt):
        return kind
    score = gold.score(prompt) - gold.bias
    return "positive" if score > 0.3 else "negative" if score < -0.3 else "neutral"


def cut(text: str, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> tuple[str, str] | None:
    """Cut `text` after 2 to 8 tokens, before a space, into prompt and completion; None if it has no such place."""
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    places = [k for k in range(2, min(9, len(tokens) - 3)) if tokens[k].startswith("Ġ") and len(tokens[k]) > 1]
    if not places:
        return None
    prompt = tokenizer.convert_tokens_to_string(tokens[: rng.choice(places)])
    return prompt, text[len(prompt) :]


def sft_rows(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: frozenset[str], count: int, share: float
) -> tuple[list[Row], dict]:
    """Rows (prompt, completion) for supervised fine-tuning: the best of what `base` itself writes.

    At temperature 1 a model this small puts a wrong word into every other review: each token has a little chance of
    nonsense. So we let `base` write `count` reviews at temperature 0.7, keep those of 4 to 40 tokens that stay in the
    language of TinyReviews (`words`, plain sentences, nothing twice), and of these the `share` that it finds most
    typical, by nats per token. Fine-tuned on them, a model writes at temperature 1 about what `base` writes at 0.7.
    This is rejection sampling and self-distillation; no film review is used. One row in four starts from nothing (the
    prompt is `<|endoftext|>`), the others are cut in two.
    """
    ids = sample_ids(base, [[tokenizer.eos_token_id]] * count, max_new_tokens=MAX_NEW_TOKENS, temperature=0.7, seed=7)
    ended = [row[:-1] for row in ids if row[-1] == tokenizer.eos_token_id and 5 <= len(row) <= 41]
    texts = tokenizer.batch_decode(ended)
    fit = [t for t in dict.fromkeys(texts) if short_reviews(t, words) == [t]]
    sequences = [([], [*ids, tokenizer.eos_token_id]) for ids in tokenizer(fit)["input_ids"]]
    nats = dict(zip(fit, typicality(base, tokenizer, sequences).tolist(), strict=True))
    kept = sorted(fit, key=nats.__getitem__)[: round(share * len(fit))]
    rng, rows = random.Random(0), []
    for text in kept:
        whole = (tokenizer.eos_token, text)
        prompt, completion = whole if rng.random() < 0.25 else cut(text, tokenizer, rng) or whole
        rows.append({"prompt": prompt, "completion": completion})
    return rows, {"sampled": count, "ended": len(texts), "fit": len(fit), "rows": len(rows)}


def prompts(
    sft: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, gold: GoldReward, words: frozenset[str],
    batch: int = 4_000,
) -> dict[str, list[Row]]:  # fmt: skip
    """Openings of reviews that `sft` makes up from nothing, dealt to train, validation and test; no opening twice.

    Of each type there are equally many (PER_TYPE). Openings that differ in capitals only count as one. A review without
    EOS within 48 tokens, or with anything that is not plain TinyReviews language (`words`), is not used.
    """
    needed = sum(PER_TYPE.values())
    found: dict[str, list[Row]] = {kind: [] for kind in TYPES}
    seen = set()
    for attempt in range(60):
        ids = sample_ids(sft, [[0]] * batch, max_new_tokens=MAX_NEW_TOKENS, seed=1_000 + attempt)
        texts = tokenizer.batch_decode([row[:-1] for row in ids if row[-1] == 0])
        rng = random.Random(attempt)
        for text in texts:
            parts = cut(text, tokenizer, rng)
            if parts is None or parts[0].lower() in seen or crude_words(text) or short_reviews(text, words) != [text]:
                continue
            kind = prompt_type(parts[0], gold)
            if len(found[kind]) < needed:
                seen.add(parts[0].lower())
                found[kind].append({"prompt": parts[0], "type": kind})
        if all(len(rows) == needed for rows in found.values()):
            break
    else:
        raise RuntimeError(f"too few prompts of a type: { {k: len(v) for k, v in found.items()} }, {needed} needed")
    splits: dict[str, list[Row]] = {}
    for name, count in PER_TYPE.items():
        splits[name] = [found[kind].pop() for _ in range(count) for kind in TYPES]
    return splits


def fit(
    prompt: str, completion: Completion, tokenizer: PreTrainedTokenizerBase, open_ended: bool = False,
    whole_words: bool = False,
) -> bool:  # fmt: skip
    """Is it `usable`, fit for a classroom, and are its tokens and the prompt's those of the whole text at once?

    whole_words: and is every form of it a token of the bundled world's closed vocabulary?
    """
    if not usable(prompt, completion, tokenizer, open_ended) or crude_words(prompt + completion.text):
        return False
    if whole_words and not known(prompt + completion.text, tokenizer):
        return False
    prompt_ids, completion_ids = encode(prompt, completion.text, tokenizer)
    return prompt_ids + completion_ids == [*tokenizer(prompt + completion.text)["input_ids"], tokenizer.eos_token_id]


def pairs_and_unpaired(
    prompt_rows: list[Row], sft: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, gold: GoldReward, seed: int,
    open_ended: bool = False, whole_words: bool = False,
) -> tuple[list[Row], list[Row], dict]:  # fmt: skip
    """For each prompt four completions of `sft` at temperature 1: their labelled pairs, each of them alone with a
    thumb up or down, and a count of what was left out and why.

    An unpaired label is a coin too: thumb up with probability σ(r* - the mean r* of all completions here).
    open_ended: take also completions that were cut at 48 tokens. whole_words: only those without a word in bytes.
    """
    texts = [row["prompt"] for row in prompt_rows for _ in range(COMPLETIONS)]
    sampled = generate(sft, tokenizer, texts, max_new_tokens=MAX_NEW_TOKENS, seed=seed)
    rng, dropped = random.Random(seed), Counter()
    scores = gold(texts, [c.text for c in sampled]).tolist()
    by_prompt: dict[str, dict[str, float]] = {}
    for prompt, completion, score in zip(texts, sampled, scores, strict=True):
        if not (completion.finished or open_ended):
            dropped["no EOS within 48 tokens"] += 1
        elif not fit(prompt, completion, tokenizer, open_ended, whole_words):
            dropped["crude word, bytes, or not the tokens of the whole text"] += 1
        elif completion.text in by_prompt.setdefault(prompt, {}):
            dropped["same text twice"] += 1
        else:
            by_prompt[prompt][completion.text] = score

    if not any(by_prompt.values()):
        raise ValueError(f"none of {len(texts):,} completions can be used ({dict(dropped)}): is sft trained on text?")
    pairs, unpaired = [], []
    middle = sum(s for found in by_prompt.values() for s in found.values()) / sum(map(len, by_prompt.values()))
    for prompt, found in by_prompt.items():
        for (a, ra), (b, rb) in itertools.combinations(found.items(), 2):
            if rng.random() > _sigmoid(ra - rb):
                (a, ra), (b, rb) = (b, rb), (a, ra)
            pairs.append({
                "prompt": prompt, "chosen": a, "rejected": b, "chosen_score": round(ra, 3),
                "rejected_score": round(rb, 3), "probability": round(_sigmoid(ra - rb), 4),
            })  # fmt: skip
        for text, score in found.items():
            liked = rng.random() < _sigmoid(score - middle)
            unpaired.append({"prompt": prompt, "completion": text, "label": liked, "score": round(score, 3)})
    return pairs, unpaired, {"completions": len(texts), "dropped": dict(dropped), "pairs": len(pairs)}


def count_crude(sft: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt_rows: list[Row], count: int) -> dict:
    """Sample `count` completions and say how many hold a crude word, for the card."""
    texts = [prompt_rows[i % len(prompt_rows)]["prompt"] for i in range(count)]
    sampled = generate(sft, tokenizer, texts, max_new_tokens=MAX_NEW_TOKENS, seed=99)
    found = [w for p, c in zip(texts, sampled, strict=True) for w in crude_words(p + c.text)]
    return {"samples": count, "with_crude_words": len(found), "finished": sum(c.finished for c in sampled) / count}


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
