"""How `data/` was made: every file in it, from the IMDb reviews.

    python -m prefcourse bundle --imdb stanfordnlp/imdb        # or a folder with the same parquet files

Eight steps, each a function of the ones before: corpus, tokenizer, base, sft, gold, prompts, pairs; then the card.
Between base and sft the last tenth of the pre-training runs again on other rows, which measures the models' band.
What a step found is kept in `build/steps/STEP.json`, and a step that has one is not run again, so an interrupted run
goes on where it stopped (pre-training within the step too). On two cores it takes about two hours, nearly all of it
pre-training. Corpus, tokenizer and gold reward come out the same to the byte; the models depend on the machine's
arithmetic and come out within the band that the card states, and what they write (prompts, pairs) with them.
"""

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer

from prefcourse.bundle import card, corpus, gold, pretrain, samples, tokenizer, unwritten
from prefcourse.preferences import write_rows, write_whole
from prefcourse.rewards import GoldReward
from prefcourse.train import train
from prefcourse.training.reference import reference_logps
from prefcourse.worlds.bundled import LOGPS, WORDS
from prefcourse.worlds.models import load_model

STEPS = ("corpus", "tokenizer", "base", "again", "sft", "gold", "prompts", "pairs")
SFT_SAMPLES, SFT_SHARE, SFT_LR = 48_000, 0.7, 5e-4


def build(imdb: str, out: Path, work: Path = Path("build"), redo: str | None = None) -> None:
    """Run the steps that have not run yet, then write the card and the checksums.

    redo: run this step and all after it again. Raises ValueError for a step that does not exist.
    """
    if redo and redo not in STEPS:
        raise ValueError(f"there is no step {redo!r}; the steps are: {', '.join(STEPS)}")
    for step in STEPS[STEPS.index(redo) :] if redo else ():
        _record(work, step).unlink(missing_ok=True)
        if step == "base":
            shutil.rmtree(work / "pretrain", ignore_errors=True)
    facts = {step: run_step(step, imdb, out, work) for step in STEPS}
    facts["made_with"] = {
        "python": platform.python_version(), "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__, "processor": platform.machine(),
    }  # fmt: skip
    card.write(out, facts)
    print(f"data card and checksums written to {out}", flush=True)


def run_step(step: str, imdb: str, out: Path, work: Path) -> dict:
    """Run one step unless it has run before, and return what it found."""
    done, title = _record(work, step), f"[{STEPS.index(step) + 1}/{len(STEPS)}] {step}"
    if done.exists():
        print(f"{title}: done before", flush=True)
        return json.loads(done.read_text(encoding="utf-8"))
    print(f"{title} ...", flush=True)
    functions: dict[str, Callable[[], dict]] = {
        "corpus": lambda: _corpus(imdb, out, work),
        "tokenizer": lambda: _tokenizer(out, work),
        "base": lambda: pretrain.build(work / "corpus", _load(out / "base"), out / "base", work / "pretrain"),
        "again": lambda: pretrain.again(work / "corpus", _load(out / "base"), work / "pretrain"),
        "sft": lambda: _sft(out, work),
        "gold": lambda: gold.build(imdb, work / "corpus" / "words.json", out / "gold.json"),
        "prompts": lambda: _prompts(out, work),
        "pairs": lambda: _pairs(out),
    }
    began = time.time()
    found = functions[step]()
    write_whole(done, json.dumps({**found, "seconds": round(time.time() - began)}, indent=1))
    print(f"      {json.dumps(found)}  ({time.time() - began:.0f} s)", flush=True)
    return json.loads(done.read_text(encoding="utf-8"))


def _record(work: Path, step: str) -> Path:
    return work / "steps" / f"{step}.json"


def _words(work: Path) -> frozenset[str]:
    return frozenset(json.loads((work / "corpus" / "words.json").read_text(encoding="utf-8")))


def _texts(work: Path, *names: str) -> dict[str, list[str]]:
    return {name: json.loads((work / "corpus" / f"{name}.json").read_text(encoding="utf-8")) for name in names}


def _load(folder: Path):
    return AutoTokenizer.from_pretrained(folder)


def _corpus(imdb: str, out: Path, work: Path) -> dict:
    found = corpus.build(imdb, work / "corpus")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(work / "corpus" / "words.json", out / WORDS)
    return found


def _tokenizer(out: Path, work: Path) -> dict:
    texts = _texts(work, "train", "wide", "valid", "test")
    for name in ("base", "sft"):
        made = tokenizer.build(texts["train"], texts["wide"], out / name)
    unknown = sum(not tokenizer.known(text, made) for text in texts["train"]) / len(texts["train"])
    return {
        "tokens": len(made),
        "sha256": hashlib.sha256((out / "base" / "tokenizer.json").read_bytes()).hexdigest(),
        "reviews_with_unknown": round(unknown, 4),
        **{f"known_{split}": round(tokenizer.share_known(texts[split], made), 5) for split in ("valid", "test")},
    }


def _sft(out: Path, work: Path) -> dict:
    tokens, model = _load(out / "base"), load_model(out / "base")
    texts = _texts(work, "train", "valid", "test")
    rows, counts = samples.sft_rows(model, tokens, _words(work), SFT_SAMPLES, SFT_SHARE)
    never = unwritten.unwritten((text for text in texts["train"] if tokenizer.known(text, tokens)), tokens)
    before = unwritten.mean_share(model, rows[: unwritten.SHOWN], tokens, never)
    unwritten.silence(model, rows, tokens, never)
    history = train(model, rows, tokens, loss="sft", lr=SFT_LR, epochs=1, batch_size=64, seed=0)
    after = unwritten.mean_share(model, rows[: unwritten.SHOWN], tokens, never)
    if after > before:
        shares = f"{before:.1f} → {after:.1f} nats"
        raise RuntimeError(
            f"tokens that make no word have become likelier ({shares}): lower NATS in bundle/unwritten.py"
        )
    model.half().save_pretrained(out / "sft")
    model.float()
    last = history["loss"][-50:]
    return {
        **counts,
        "loss_last_50_steps": round(sum(last) / len(last), 3),
        "unwritten": int(never.sum()),
        "log_share_before": round(before, 2),
        "log_share_after": round(after, 2),
        **{split: pretrain.held_out_nats(model, texts[split], tokens) for split in ("valid", "test")},
    }


def _prompts(out: Path, work: Path) -> dict:
    splits = samples.prompts(
        load_model(out / "sft"), _load(out / "sft"), GoldReward.load(out / "gold.json"), _words(work)
    )
    for split, rows in splits.items():
        write_rows(out / "prompts" / f"{split}.jsonl", rows)
    return {split: len(rows) for split, rows in splits.items()}


def _pairs(out: Path) -> dict:
    sft, tokens = load_model(out / "sft"), _load(out / "sft")
    reward, facts = GoldReward.load(out / "gold.json"), {}
    for seed, split in enumerate(("train", "validation", "test")):
        rows = [
            json.loads(line) for line in (out / "prompts" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        pairs, unpaired, facts[split] = samples.pairs_and_unpaired(rows, sft, tokens, reward, seed, whole_words=True)
        write_rows(out / "pairs" / f"{split}.jsonl", pairs)
        write_rows(out / "unpaired" / f"{split}.jsonl", unpaired)
        if split == "train":
            facts["crude_check"] = samples.count_crude(sft, tokens, rows, 10_000)
            # Every run that begins with sft asks for these; computing them is a quarter of its work.
            (out / LOGPS).unlink(missing_ok=True)  # those of an earlier sft, which would not be taken
            reference_logps(sft, pairs, tokens, path=out / LOGPS, precision="fp32")
    return facts
