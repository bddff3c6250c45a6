"""The long trials of what is read and written: python tests/soak.py [kills | files | data | arguments | models] ...

    kills       170 times `train` is killed at a random moment and goes on; the end must be the same, bit for bit
    files       every file of a checkpoint changed in many ways: the same end, or one clear sentence
    data        damaged files of preferences, as JSON lines and parquet: rows, or one clear sentence
    arguments   every option of `train` with values that cannot be meant: one clear line and exit code 2
    models      damaged model folders: one clear sentence

Each prints what it counted; "silent" and "traceback" must be 0, or the exit code is 1. Linux and macOS.
`tests/soak_labels.py` kills writers of labels, `tests/soak_fuzz.py` calls the functions of numbers.
"""

import contextlib
import io
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from conftest import TEXTS

from prefcourse.__main__ import main as command_line
from prefcourse.annotation import exchange
from prefcourse.bundle import tokenizer as tokens
from prefcourse.train import train
from prefcourse.training import checkpoint
from prefcourse.worlds.models import load_model, load_tokenizer, quiet

QUICK = {"steps": 10, "batch_size": 6, "lr": 1e-3, "precision": "fp32", "progress": False, "checkpoint_every": 2}
ROWS = [{"prompt": f"This film {i}", "chosen": " is great fun.", "rejected": " is boring."} for i in range(24)]


def model() -> torch.nn.Module:
    """A small GPT-2, always the same."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 400, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.2}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, pad_token_id=0)).eval()


def weights(policy: torch.nn.Module) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in policy.parameters())


def judged(run: Callable[[], object], expected: object = None) -> str:
    """ "identical" (or "fine", where nothing is expected), "clear error", "silent" or "traceback"."""
    try:
        found = run()
    except (ValueError, OSError) as error:
        return "clear error" if "\n" not in str(error) and len(str(error)) > 20 else "traceback"
    except BaseException as error:
        print(f"  {type(error).__name__}: {str(error)[:120]}")
        return "traceback"
    return "fine" if expected is None else "identical" if found == expected else "silent"


def damaged(data: bytes, rng: random.Random, count: int) -> list[bytes]:
    """The same bytes, changed: empty, cut, longer, and with bits flipped."""
    found = [b"", data[: len(data) // 2], data[:-1], data + b"\0"]
    while len(found) < count:
        at = rng.randrange(len(data))
        found.append(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
    return found


def kills(folder: Path, tokenizer, rng: random.Random) -> Counter:
    """Runs of six losses that are killed, each twice, and go on."""
    counts = Counter()

    def killed(settings: dict, steps: int, delay: float) -> None:
        def measure(policy) -> dict:
            nonlocal steps
            steps -= 1
            if steps < 0:
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
                steps = math.inf
            time.sleep(0.005)
            return {}

        train(model(), ROWS, tokenizer, measure=measure, every=1, **settings)

    for number in range(85):
        loss = ("dpo", "kto", "orpo", "sft", "bco", "simpo")[number % 6]
        whole, again, where = model(), model(), folder / str(number)
        train(whole, ROWS, tokenizer, loss=loss, every=1, measure=lambda _: {}, **QUICK)
        settings = QUICK | {"loss": loss, "checkpoint": where, "resume": True}
        for first, last in ((0, 6), (0, 3)):
            given = (settings, rng.randint(first, last), rng.uniform(0, 0.04))
            process = multiprocessing.get_context("fork").Process(target=killed, args=given)
            process.start()
            process.join(60)
            counts["kills"] += process.exitcode == -signal.SIGKILL
        train(again, ROWS, tokenizer, every=1, measure=lambda _: {}, **settings)
        counts["identical" if weights(again) == weights(whole) else "silent"] += 1
    return counts


def files(folder: Path, tokenizer, rng: random.Random) -> Counter:
    """A checkpoint of which one file is not what it was."""
    settings = QUICK | {"checkpoint": folder / "run"}
    whole = model()
    train(whole, ROWS, tokenizer, **settings)
    done = checkpoint.latest(folder / "run")
    shutil.rmtree(done)  # so that there is something left to train
    place, counts, expected = checkpoint.latest(folder / "run"), Counter(), weights(whole)
    for file in [*sorted(place.iterdir()), folder / "run" / "reference.safetensors"]:
        data = file.read_bytes()
        for changed in [*damaged(data, rng, 24), None]:
            shutil.rmtree(folder / "trial", ignore_errors=True)
            shutil.copytree(folder / "run", folder / "trial")
            target = folder / "trial" / file.relative_to(folder / "run")
            target.unlink() if changed is None else target.write_bytes(changed)

            def resumed() -> bytes:
                policy = model()
                train(policy, ROWS, tokenizer, **QUICK | {"checkpoint": folder / "trial", "resume": True})
                return weights(policy)

            counts[judged(resumed, expected)] += 1
    return counts


def data(folder: Path, tokenizer, rng: random.Random) -> Counter:
    """Files of pairs with flipped bits, cut, or of another kind."""
    counts = Counter()
    exchange.save(ROWS, folder / "rows.jsonl")
    exchange.save(ROWS, folder / "rows.parquet")
    odd = ["[" * 100_000, "null", "1", "[]", "{}", '"text"', '{"prompt": 1}', "\ufeff", "\0", "NaN", '{"a": 1e999}',
           '{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}', '{"prompt": "a", "chosen": "b", "chosen": "c"}',
           '{"prompt": "", "chosen": "b", "rejected": "c"}', '{"prompt": "a", "chosen": "b", "rejected": "b"}',
           '{"prompt": "a", "chosen": null, "rejected": "b"}',
           '{"prompt": [], "chosen": [], "rejected": []}']  # fmt: skip
    cases = [(text.encode(), ".jsonl") for text in odd]
    for suffix in (".jsonl", ".parquet"):
        cases += [(changed, suffix) for changed in damaged((folder / f"rows{suffix}").read_bytes(), rng, 60)]
    for number, (changed, suffix) in enumerate(cases):
        (path := folder / f"{number}{suffix}").write_bytes(changed)
        counts[judged(lambda path=path: exchange.load(path))] += 1
    return counts


def models(folder: Path, tokenizer, rng: random.Random) -> Counter:
    """Model folders of which one file is missing, cut or changed."""
    counts = Counter()
    model().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        content = (folder / "model" / name).read_bytes()
        changes = [b"", content[: len(content) // 2], content[:-3], b"{}", b"[]", b"\x80\x04pickle", None]
        if name == "config.json":
            config = json.loads(content)
            others = [
                {"n_layer": 4},
                {"n_layer": 1},
                {"n_embd": 64},
                {"vocab_size": 7},
                {"model_type": "own"},
                {"n_head": 3},
            ]
            changes += [json.dumps(config | other).encode() for other in others]
        for changed in changes:
            shutil.rmtree(folder / "trial", ignore_errors=True)
            shutil.copytree(folder / "model", folder / "trial")
            target = folder / "trial" / name
            target.unlink() if changed is None else target.write_bytes(changed)

            def loaded() -> None:
                load_model(folder / "trial")
                load_tokenizer(folder / "trial")

            found = judged(loaded)
            if found == "fine":
                print(f"  {name} changed to {str(changed)[:60]} is loaded")
            counts["silent" if found == "fine" else found] += 1
    return counts


def arguments(folder: Path, tokenizer, rng: random.Random) -> Counter:
    """Options of `train` with what cannot be meant."""
    counts = Counter()
    model().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    exchange.save(ROWS, folder / "rows.jsonl")
    bad = {"": "all", "x": "all", "nan": "all", "inf": "all", "-inf": "all", "-1": "all", "0": "all", "1e30": "all",
           str(10**30): "all"}  # fmt: skip
    wholes = ("--steps", "--batch-size", "--micro-batch", "--every", "--checkpoint-every", "--lora", "--max-length")
    reals = ("--lr", "--epochs", "--max-kl", "--beta", "--parameter beta")
    words = (
        "--loss",
        "--data",
        "--model",
        "--reference",
        "--world",
        "--schedule",
        "--precision",
        "--too-long",
        "--split",
    )
    fine = {("--max-kl", "inf"), ("--max-kl", "1e30"), *((option, value) for option in wholes for value in ("1e30",))}
    cases = [(option, value) for option in (*wholes, *reals, "--seed") for value in bad]
    cases += [(option, value) for option in words for value in ("", " ", "nope", "/nope", "../..", "\ud800")]
    for option, value in cases:
        if (option, value) in fine | {("--seed", "0"), ("--micro-batch", str(10**30)), ("--every", str(10**30)),
                                      ("--checkpoint-every", str(10**30)), ("--max-length", str(10**30)),
                                      ("--beta", "1e30"), ("--parameter beta", "1e30"), ("--beta", str(10**30)),
                                      ("--parameter beta", str(10**30)), ("--max-kl", str(10**30))}:  # fmt: skip
            continue
        given = ["train", "--data", str(folder / "rows.jsonl"), "--model", str(folder / "model"), "--output"]
        given += [str(folder / "out"), *([] if option == "--epochs" else ["--steps", "2"]), "--batch-size", "4"]
        given += [f"--parameter=beta={value}"] if option == "--parameter beta" else [f"{option}={value}"]
        said, began = io.StringIO(), time.monotonic()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                code = command_line(given)
        except SystemExit as stop:  # argparse: usage, and one line
            code = stop.code
        except BaseException as error:
            print(f"  {option}={value!a}: {type(error).__name__}: {str(error)[:100]}")
            counts["traceback"] += 1
            continue
        if time.monotonic() - began > 15:
            print(f"  {option}={value!a} took {time.monotonic() - began:.0f} s")
        last = said.getvalue().strip().splitlines()[-1:]
        kind = "clear error" if code == 2 and last and "rror" not in last[0][:5] else "silent"
        if kind == "silent":
            print(f"  {option}={value!a}: exit code {code} {last}")
        counts[kind] += 1
        shutil.rmtree(folder / "out", ignore_errors=True)
    return counts


TRIALS = {"kills": kills, "files": files, "data": data, "arguments": arguments, "models": models}


def main() -> int:
    """Run the trials that are named, or all; print the counts."""
    quiet()
    torch.set_num_threads(1)
    bad = 0
    for name in sys.argv[1:] or TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = tokens.build(TEXTS, Path(folder) / "tokenizer")
            counts = TRIALS[name](Path(folder), tokenizer, random.Random(0))
        print(f"{name:10} " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items())), flush=True)
        bad += counts["silent"] + counts["traceback"]
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main())
