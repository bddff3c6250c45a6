"""A stand-in for the world `gpt2-imdb`: small models and texts in folders, laid out as the hub lays out the real ones.

    python tests/stand_in.py build/stand-in         # about a minute; then every lesson runs on it:
    make stand-in

It differs from the bundled world in all that the real one differs in: a tokenizer of its own without padding token, a
model that never learnt to end a text, a classifier with a tokenizer of its own as gold reward, and reviews as parquet.
"""

import os
import random
import sys
from collections import Counter
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import ByteLevelBPETokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import (
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
)

from prefcourse.preferences import read_rows
from prefcourse.rewards import GoldReward
from prefcourse.worlds.bundled import data_folder

EOS = "<|endoftext|>"
REVIEWS = Path("reviews", "plain_text", "train-00000-of-00001.parquet")
WIDTH, CHUNK = 32, 64  # of the stand-in's GPT-2: hidden units, and tokens of one training text


def reviews() -> list[str]:
    """What the bundled model wrote for the training prompts, each text once."""
    rows = read_rows(data_folder() / "unpaired" / "train.jsonl", ["prompt", "completion"])
    return sorted({row["prompt"] + row["completion"] for row in rows})


def write_tokenizer(texts: list[str], folder: Path) -> GPT2TokenizerFast:
    """A byte-level BPE as GPT-2's: EOS, which is also BOS, has the last id, and there is no padding token."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=1000, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save_model(str(folder))
    tokenizer = GPT2TokenizerFast.from_pretrained(folder, bos_token=EOS, eos_token=EOS, unk_token=EOS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def train(model: torch.nn.Module, batches, rate: float) -> None:
    """AdamW over (inputs, labels) pairs; both kinds of model compute their own loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for inputs, labels in batches:
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
    model.eval()


def write_language_models(texts: list[str], folder: Path, steps: int) -> None:
    """folder/base and folder/sft: a GPT-2 after a quarter of its training, and after all of it."""
    tokenizer = write_tokenizer(texts, folder / "base")
    tokenizer.save_pretrained(folder / "sft")
    size = len(tokenizer)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=size, n_layer=1, n_embd=WIDTH, n_head=2, n_positions=256, bos_token_id=size - 1,
                   eos_token_id=size - 1, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    )  # fmt: skip
    spaced = tokenizer([f" {text}" for text in texts])["input_ids"]
    stream = torch.tensor([token for ids in spaced for token in ids])  # no EOS between texts
    rows = stream[: len(stream) // CHUNK * CHUNK].view(-1, CHUNK)
    draw = torch.Generator().manual_seed(0)
    batches = [({"input_ids": rows[i]}, rows[i]) for i in torch.randint(len(rows), (steps, 32), generator=draw)]
    train(model, batches[: steps // 4], rate=3e-3)
    model.save_pretrained(folder / "base")
    train(model, batches[steps // 4 :], rate=3e-3)
    model.save_pretrained(folder / "sft")


def word_pieces(texts: list[str], size: int = 1000) -> list[str]:
    """A vocabulary of BERT's kind: every letter, and the most frequent words. The library's own trainer breaks ties
    another way in every process, and with it what the classifier learns."""
    normal, split = BertNormalizer(lowercase=True), BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in split.pre_tokenize_str(normal.normalize_str(text)))
    letters = sorted(set("".join(words)))
    frequent = sorted(words, key=lambda word: (-words[word], word))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *frequent]))[:size]


def write_classifier(texts: list[str], folder: Path, steps: int) -> None:
    """folder/gold: a DistilBERT for two classes, the positive one first, that learns the sign of the bundled gold."""
    pieces = word_pieces(texts)
    (folder / "gold").mkdir(parents=True, exist_ok=True)
    (folder / "gold" / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    config = DistilBertConfig(
        vocab_size=len(pieces), dim=WIDTH, n_layers=1, n_heads=2, hidden_dim=2 * WIDTH,
        id2label={0: "POSITIVE", 1: "NEGATIVE"}, label2id={"POSITIVE": 0, "NEGATIVE": 1},
    )  # fmt: skip
    model = DistilBertForSequenceClassification(config)
    model.save_pretrained(folder / "gold")
    tokenizer = AutoTokenizer.from_pretrained(folder / "gold")
    tokenizer.save_pretrained(folder / "gold")
    gold, rng = GoldReward.load(data_folder() / "gold.json"), random.Random(0)
    labels = [int(gold.score(text) < 0) for text in texts]
    chosen = [rng.sample(range(len(texts)), 64) for _ in range(steps)]
    batches = [
        (
            tokenizer([texts[i] for i in rows], padding=True, return_tensors="pt", return_token_type_ids=False),
            torch.tensor([labels[i] for i in rows]),
        )
        for rows in chosen
    ]
    train(model, batches, rate=1e-3)
    model.save_pretrained(folder / "gold")


def find(folder: Path) -> dict[str, Path] | None:
    """The parts that `write` left in `folder`; None if it did not get to its end."""
    parts = {"base": folder / "base", "sft": folder / "sft", "gold": folder / "gold", "prompts": folder / "reviews"}
    return parts if (folder / REVIEWS).is_file() else None


def write(folder: Path, steps: int = 400) -> dict[str, Path]:
    """The four parts in `folder`, for `load_world("gpt2-imdb", **parts)`. Fewer steps make worse models sooner."""
    torch.manual_seed(0)
    texts = reviews()
    write_language_models(texts, folder, steps)
    write_classifier(texts, folder, steps // 2)
    (folder / REVIEWS).parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{text}<br /><br />It was   long." for text in texts]
    Dataset.from_dict({"text": lines, "label": [0] * len(lines)}).to_parquet(str(folder / REVIEWS))
    return find(folder)


if __name__ == "__main__":
    from prefcourse.world import load_world
    from prefcourse.worlds.models import quiet

    quiet()
    os.environ["PREFCOURSE_CACHE"] = str(Path(sys.argv[1]).resolve() / "cache")
    world = load_world("gpt2-imdb", **write(Path(sys.argv[1]).resolve()))
    print(f"{len(world.pairs['train'])} training pairs; the first: {world.pairs['train'][0]}")
