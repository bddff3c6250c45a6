"""The world `gpt2-imdb`: the real GPT-2 on IMDb, from the hub; what the DPO paper's Sec. 6 does, for a GPU.

    world = load_world("gpt2-imdb", device="cuda")                           # the defaults, `HUB`
    world = load_world("gpt2-imdb", sft="me/my-gpt2@1f3c…", prompts="reviews/")     # a name, name@revision, or folder
    PREFCOURSE_WORLD=gpt2-imdb PREFCOURSE_SFT=me/my-gpt2@1f3c… jupyter lab          # the same for all lessons

It has the parts of `tiny-reviews`, so code for the one runs on the other. The pairs are made here, as for the bundled
world: four completions of each prompt by `sft`, labelled by a coin that the gold reward loads. That takes a minute or
two on a GPU; the result is kept in the cache folder, and used again for the same models, revisions and settings.

What differs is that a model of whole reviews hardly ever ends one within 48 tokens. So completions that were cut there
count (`World.open_ended`), and in training an EOS stands after both sides of a pair, as in the DPO paper's own code.
"""

import hashlib
import json
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.bundle.samples import TYPES, cut, form, pairs_and_unpaired
from prefcourse.feedback.judges import ClassifierJudge
from prefcourse.preferences import Row, write_whole
from prefcourse.training.reference import weights_digest
from prefcourse.worlds.models import load_model, load_tokenizer
from prefcourse.worlds.world import WORLDS, World

HUB = {
    "base": "openai-community/gpt2@607a30d783dfa663caf39e06633721c8d4cfcd7e",
    "sft": "lvwerra/gpt2-imdb@main",  # `doctor --hub` says which revision that is: PREFCOURSE_SFT=…@revision pins it
    "gold": "lvwerra/distilbert-imdb@0fc02cd68445b599a9cb2da2368050e7fb31d29a",
    "prompts": "stanfordnlp/imdb@e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
}  # name@revision
POSITIVE = ("positive", "pos", "label_pos", "good")  # what a positive class is called, in lower case
PER_TYPE = {"train": 320, "validation": 40, "test": 80}  # of each type; the bundled world has more


@dataclass(frozen=True)
class ClassifierGold(ClassifierJudge):
    """r*(x, y): a classifier's log-odds, in nats, that the review x + y is positive. Used like `GoldReward`."""

    @property
    def bias(self) -> float:
        """What an empty text gets."""
        return self.score("")

    def score(self, text: str) -> float:
        """The log-odds of one text."""
        return self([""], [text]).item()

    def explain(self, text: str) -> list[tuple[str, float]]:
        """How much the log-odds fall when a word is left out, for each word, strongest first."""
        words = text.split()
        without = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
        falls = (self.score(text) - self([""] * len(words), without)).tolist()
        return sorted(zip(words, falls, strict=True), key=lambda part: -abs(part[1]))


def from_environment() -> dict[str, str]:
    """The parts that PREFCOURSE_BASE, PREFCOURSE_SFT, PREFCOURSE_GOLD and PREFCOURSE_PROMPTS name."""
    found = {part: os.environ.get(f"PREFCOURSE_{part.upper()}") for part in HUB}
    return {part: name for part, name in found.items() if name}


def reach(part: str, name: str) -> tuple[bool, str]:
    """Can `name` be had as `part` of the world, and if so from where; nothing is downloaded. For `doctor`."""
    import huggingface_hub

    plain, revision = split_name(name)
    if Path(plain).is_dir():
        return True, "a folder, there"
    kind = "dataset" if part == "prompts" else "model"
    try:
        found = huggingface_hub.HfApi().repo_info(plain, repo_type=kind, revision=revision, timeout=10)
        return True, f"on the hub, revision {found.sha}"
    except Exception as error:  # the hub's own errors, and those of the libraries under it, have no common class
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kept = huggingface_hub.try_to_load_from_cache(
        plain, "README.md" if kind == "dataset" else "config.json", revision=revision, repo_type=kind
    )
    if isinstance(kept, str):
        return True, "in the hub's cache on this machine, at least in part; the hub cannot be asked"
    return False, why


def positive_label(names: Sequence[str]) -> str:
    """The class that means "positive", by its name: class numbers differ between models.

    Raises ValueError, with the names there are, if none or several are called so.
    """
    found = [name for name in names if str(name).lower() in POSITIVE]
    if len(found) != 1:
        raise ValueError(
            f"the classifier's classes are {', '.join(map(str, names))}; exactly one must be called "
            f"{' or '.join(POSITIVE[:2])}. Give another classifier as gold=, or set id2label in its config."
        )
    return found[0]


def split_name(name: str | Path) -> tuple[str, str | None]:
    """ "owner/name@revision" → (owner/name, revision); a folder has no revision."""
    if Path(name).is_dir():
        return str(name), None
    plain, _, revision = str(name).partition("@")
    return plain, revision or None


@contextmanager
def named(part: str, name: str) -> Iterator[None]:
    """An error of the hub does not always say what was asked for: put that in front."""
    try:
        yield
    except OSError as error:
        raise FileNotFoundError(f"{part} = {name}: {str(error).splitlines()[0]}") from error


def load_causal(name: str | Path) -> PreTrainedModel:
    """A causal model from a folder or name@revision, in float32 and evaluation mode."""

    plain, revision = split_name(name)
    return load_model(plain, revision=revision)


def load_gold(name: str | Path, device: str = "cpu") -> ClassifierGold:
    """The classifier as gold reward; ValueError if its positive class cannot be told by name."""
    plain, revision = split_name(name)
    model = load_model(plain, revision, kind=AutoModelForSequenceClassification).to(device)
    label = positive_label(list(model.config.label2id))
    return ClassifierGold(model, load_tokenizer(plain, revision), label=label)


def read_reviews(name: str | Path) -> list[str]:
    """The texts of split train: from parquet files in a folder (train-*.parquet, IMDb's layout) or from the hub."""
    from datasets import load_dataset

    plain, revision = split_name(name)
    folder = Path(plain)
    if folder.is_dir():
        files = sorted(str(f) for f in folder.rglob("train-*.parquet"))
        if not files:
            raise FileNotFoundError(f"{folder}: no train-*.parquet in it, which is how the hub lays IMDb out")
        rows = load_dataset("parquet", data_files=files, split="train")
    else:
        rows = load_dataset(plain, split="train", revision=revision)
    if "text" not in rows.column_names:
        raise ValueError(f"{name}: no column 'text' (there is {', '.join(rows.column_names)})")
    return [" ".join(text.replace("<br />", " ").split()) for text in rows["text"]]


def openings(
    reviews: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    gold: ClassifierGold,
    per_type: dict[str, int],
    seed: int,
) -> dict[str, list[Row]]:
    """The first 2 to 8 tokens of reviews in random order, none twice, equally many of each of the five types.

    Questions and the first person are told by their form; the others, by the gold reward of the opening, are the lowest
    third (negative), the middle (neutral) and the highest (positive). Raises ValueError if there are too few.
    """
    rng, found = random.Random(seed), {}
    for text in rng.sample(list(reviews), len(reviews)):
        parts = cut(text[:400], tokenizer, rng)
        if parts and parts[0] not in found:
            found[parts[0]] = form(parts[0])
    by_type = {kind: [p for p, k in found.items() if k == kind] for kind in TYPES}
    plain = [p for p, k in found.items() if k is None][: 30 * sum(per_type.values())]
    scores = gold([""] * len(plain), plain).tolist()
    ranked = [p for _, p in sorted(zip(scores, plain, strict=True))]
    third = len(ranked) // 3
    by_type |= {"negative": ranked[:third], "neutral": ranked[third : 2 * third], "positive": ranked[2 * third :]}
    splits = {}
    for kind, prompts in by_type.items():
        if len(prompts) < sum(per_type.values()):
            raise ValueError(
                f"only {len(prompts)} openings of the type {kind!r} in {len(reviews):,} reviews, "
                f"{sum(per_type.values())} are needed: give more reviews, or a smaller per_type="
            )
        by_type[kind] = rng.sample(prompts, len(prompts))
    for split, count in per_type.items():
        splits[split] = [{"prompt": by_type[kind].pop(), "type": kind} for _ in range(count) for kind in TYPES]
    return splits


def cache_folder() -> Path:
    """Where made pairs are kept: ~/.cache/prefcourse, or what the environment's PREFCOURSE_CACHE names."""
    return Path(os.environ.get("PREFCOURSE_CACHE") or Path.home() / ".cache" / "prefcourse")


def make_rows(
    names: dict[str, str], sft: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, gold: ClassifierGold,
    per_type: dict[str, int], seed: int,
) -> dict[str, dict[str, list[Row]]]:  # fmt: skip
    """{"prompts": …, "pairs": …, "unpaired": …}, each split → rows; from the cache if the same was made before."""
    made_of = {
        **names, "sft": weights_digest(sft), "gold": weights_digest(gold.model), "per_type": per_type, "seed": seed
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / f"gpt2-imdb-{key}.json"
    if path.is_file():
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            print(f"{path} is damaged; the pairs are made again.")
    prompts = openings(read_reviews(names["prompts"]), tokenizer, gold, per_type, seed)
    found = {"prompts": prompts, "pairs": {}, "unpaired": {}}
    for k, (split, rows) in enumerate(prompts.items()):
        pairs, unpaired, _ = pairs_and_unpaired(rows, sft, tokenizer, gold, seed=seed + k, open_ended=True)
        found["pairs"][split], found["unpaired"][split] = pairs, unpaired
    try:
        write_whole(path, json.dumps(found))
    except OSError as error:
        print(f"the pairs are not kept for the next time: {error}")
    return found


def load(
    *, base: str | Path | None = None, sft: str | Path | None = None, gold: str | Path | None = None,
    prompts: str | Path | None = None, device: str = "cpu", per_type: dict[str, int] | None = None, seed: int = 0,
) -> World:  # fmt: skip
    """The world, its parts from the hub or from folders; what is not given comes from `HUB`.

    Raises OSError if a part can be neither fetched nor found in the hub's cache, ValueError for a part of a wrong kind
    (naming it), such as an `sft` whose tokenizer differs from `base`'s.
    """
    given = {"base": base, "sft": sft, "gold": gold, "prompts": prompts}
    names = {part: str(name or HUB[part]) for part, name in given.items()}
    plain, revision = split_name(names["sft"])
    with named("sft", names["sft"]):
        tokenizer = load_tokenizer(plain, revision=revision)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {plain} has no EOS token, so no completion could end")
    models = {}
    for part in ("base", "sft"):
        with named(part, names[part]):
            models[part] = load_causal(names[part]).to(device)
    sizes = {part: model.config.vocab_size for part, model in models.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"base and sft have vocabularies of {sizes['base']} and {sizes['sft']} tokens; give a matching pair"
        )
    with named("gold", names["gold"]):
        judge = load_gold(names["gold"], device)
    with torch.no_grad(), named("prompts", names["prompts"]):
        rows = make_rows(names, models["sft"], tokenizer, judge, per_type or PER_TYPE, seed)
    return World(name=WORLDS[1], tokenizer=tokenizer, **models, gold=judge, **rows, open_ended=True)
