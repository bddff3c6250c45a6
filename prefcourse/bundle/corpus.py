"""TinyReviews: the corpus that the bundled models learn from, cut out of the IMDb reviews.

A model of five million parameters writes coherent text only in a small language (Eldan and Li 2023, "TinyStories").
So we keep the sentences whose every word is among the most frequent ones, with no names, digits or quotes, and
join up to three neighbours into a short review. A second, wider corpus, in which rarer words are allowed, warms the
base model up, and names too: its grammar is the same and there is several times as much of it.

No review is committed. `python -m prefcourse bundle` makes the corpus again, to the byte, and the data card holds its
checksum.
"""

import codecs
import glob
import hashlib
import html
import json
import os
import random
import re
from collections import Counter
from pathlib import Path

import datasets

VOCABULARY_SIZE = 5_000  # words of TinyReviews
MIN_COUNT_WIDE = 30  # occurrences that a word of the wide corpus needs
MAX_CHARS = 200  # per sentence
MAX_SENTENCES = 3  # per short review
HELD_OUT = 3_000  # short reviews for validation, and as many for the test

# Crude, sexual and demeaning words. They are stored in rot13 (each letter moved by 13 places), so that neither a
# search nor a projector in a classroom shows them. Stems match the beginning of a word, words match whole.
_CRUDE_STEMS = codecs.decode(
    "nahf nebhf nffubyr onfgneq ovgpu obaqntr obbo oernfg oebgury ohyyfuvg ohggbpx pbaqbz penc phag qvyqb qhzonff "
    "qlxr rwnphy rerpgvba rebgvp spx shpx sbaqyvat travgny tbqqnz ubbxre ubeal ubzbfrk ubzbcubo ubzbreb vaprfg wrex "
    "xvax yrfo yhfg znfgheo zbyrfg anxrq artev artebe avtt avccyr ahqr ahqv alzcub betnfz betl crqbcuvy cravf "
    "crireg creirefr creiregr creiref cvff cbbc cbea cebfgvghg chffl dhrre enpvfg enpvfz encvfg ergneq fperj frk "
    "funt fuvg fxnax fyhg fbqbz fcnax fcrez fgevccre fgevccvat fgevcgrnfr fhpx fhvpvq gvgvyyng gbcyrff genaal "
    "genaffrk genairfg ghveq gheq haqerff hevan intva ivetva ibzvg jnax jrgonpx juber ohttre ovzob guvbat gubat "
    "cvzc cevpx fphz qbhpur whaxvr pbpnva grfgvpyr gubat zvqtrg negvfgne",
    "rot13",
).split()
_CRUDE_WORDS = codecs.decode(
    "nany nff nffrf nffrq ohgg ohggf pbpx pbpxf phz qnza qnzarq qnzavat qvpx qvpxf rerpg snt snttbg snttl uryy uryyhin "
    "uryyubyr ubzb tnl tnlf tnlarff oen oenf cnagvrf yvatrevr encr encrq encrf encvat gvg gvgf genaf pbba fcvp puvax "
    "tbbx xvxr qntb jbt artebrf artebr artel wrj wrjf urebva sneg snegf snegvat snegl nefr pebgpu fgevc fgevcf "
    "fgevccrq oynpxf juvgrf chff",
    "rot13",
).split()
_CRUDE = re.compile(
    r"\b(?:(?:" + "|".join(_CRUDE_STEMS) + r")[a-z]*|(?:" + "|".join(_CRUDE_WORDS) + r"))\b", re.IGNORECASE
)

_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_PLAIN = re.compile(r"[A-Z][A-Za-z ,;:'-]*[.!?]")  # one sentence: a capital first, one full stop last
_ODD = re.compile(r"\s[,;:-]|[,;:][A-Za-z]|--|(?<!\w)-|-(?!\w)|(?<![A-Za-z])'|'(?![A-Za-z])")


def crude_words(text: str) -> list[str]:
    """The crude words in `text`, in order, as written; empty for text that is fit for a classroom."""
    return _CRUDE.findall(text)


def read_reviews(imdb: str) -> list[str]:
    """All IMDb reviews, labelled or not, in the order of their files.

    imdb: a folder of parquet files named like `train-00000-of-00001.parquet`, or the name of a data set on the hub
    (`stanfordnlp/imdb`; Maas et al. 2011).
    """
    return [text for split in ("train", "test", "unsupervised") for text in load_imdb(imdb, split)["text"]]


def load_imdb(imdb: str, split: str) -> datasets.Dataset:
    """One split of IMDb with its columns `text` and `label` (1 positive, 0 negative, -1 not labelled)."""
    if not os.path.isdir(imdb):
        return datasets.load_dataset(imdb, split=split)
    files = sorted(glob.glob(os.path.join(imdb, "**", f"{split}-*.parquet"), recursive=True))
    if not files:
        raise FileNotFoundError(
            f"{imdb}: no {split}-*.parquet in this folder. Give a folder laid out like stanfordnlp/imdb on the hub, "
            "or that name itself."
        )
    return datasets.load_dataset("parquet", data_files=files, split="train")


def clean(review: str) -> str:
    """`review` without HTML, typographic quotes made plain, white space single."""
    text = html.unescape(review).replace("<br />", " ")
    text = text.replace("\u2019", "'").replace("\u2018", "'").replace("`", "'").replace("\x92", "'")
    return re.sub(r"\s+", " ", text).strip()


def count_words(reviews: list[str]) -> tuple[Counter, Counter]:
    """How often each word occurs in any case, and how often in lower case."""
    anyhow, lower = Counter(), Counter()
    for review in reviews:
        for word in _WORD.findall(review):
            anyhow[word.lower()] += 1
            if word[0].islower():
                lower[word] += 1
    return anyhow, lower


def word_lists(anyhow: Counter, lower: Counter) -> tuple[frozenset[str], frozenset[str]]:
    """The words of TinyReviews (the most frequent that are mostly lower-case, so no names) and of the wide corpus."""
    ranked = sorted(anyhow, key=lambda w: (-anyhow[w], w))  # ties in the alphabet's order, for reproducibility
    fit = [w for w in ranked if (len(w) > 1 or w in ("a", "i")) and not crude_words(w)]
    common = [w for w in fit if lower[w] > anyhow[w] / 2 or w.split("'")[0] == "i"]
    return frozenset(common[:VOCABULARY_SIZE]), frozenset(w for w in fit if anyhow[w] >= MIN_COUNT_WIDE)


def is_plain(sentence: str, words: frozenset[str], names: bool = False) -> bool:
    """True for a sentence of 2 to 40 `words`, no odd marks and, unless `names`, capitals only at its start and in I."""
    if len(sentence) >= MAX_CHARS or not _PLAIN.fullmatch(sentence) or _ODD.search(sentence):
        return False
    found = _WORD.findall(sentence)
    if not 2 <= len(found) <= 40 or any(w.lower() not in words for w in found):
        return False
    return names or all(w.islower() or w.split("'")[0] == "I" for w in [found[0][1:] or "a", *found[1:]])


def short_reviews(review: str, words: frozenset[str], names: bool = False) -> list[str]:
    """The runs of plain sentences in one review, cut into pieces of at most three neighbours."""
    pieces, run = [], []
    for sentence in [*_SENTENCE_END.split(clean(review)), ""]:
        if sentence and is_plain(sentence, words, names):
            run.append(sentence)
        if run and (len(run) == MAX_SENTENCES or not sentence or run[-1] != sentence):
            pieces.append(" ".join(run))
            run = []
    return pieces


def build(imdb: str, out: Path) -> dict:
    """Write the corpus to `out` as JSON lists of strings, and return its counts and checksum for the data card.

    Files: train.json, valid.json, test.json (short reviews; split by review, so that no film review is on two
    sides), wide.json (pieces with rarer words
    and names, none of them from a held-out review) and words.json.
    """
    out.mkdir(parents=True, exist_ok=True)
    reviews = list(dict.fromkeys(read_reviews(imdb)))
    words, wide_words = word_lists(*count_words(reviews))
    order = list(range(len(reviews)))
    random.Random(0).shuffle(order)  # so that the held-out reviews are a fair sample of the files

    seen: set[str] = set()
    parts: dict[str, list[str]] = {"test": [], "valid": [], "train": [], "wide": []}
    for index in order:
        part = next((p for p in ("test", "valid") if len(parts[p]) < HELD_OUT), "train")
        pieces = [p for p in short_reviews(reviews[index], words) if p not in seen]
        seen.update(pieces)
        parts[part] += pieces
        if part == "train":
            parts["wide"] += [p for p in short_reviews(reviews[index], wide_words, names=True) if p not in seen]
    for part in ("test", "valid"):
        parts[part] = parts[part][:HELD_OUT]
    for name, rows in [*parts.items(), ("words", sorted(words))]:
        (out / f"{name}.json").write_text(json.dumps(rows, indent=0), encoding="utf-8")
    text = "\n".join(parts["train"] + parts["valid"] + parts["test"])
    return {
        "reviews": len(reviews),
        "short_reviews": sum(len(parts[p]) for p in ("train", "valid", "test")),
        "wide": len(parts["wide"]),
        "characters": len(text),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
