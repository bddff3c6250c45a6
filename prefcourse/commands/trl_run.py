"""What a script for TRL needs to know of a run besides its loss: rows in their order, numbers, and what differs.

    found = plan(args, "DPO")          # args: the options of `train`
    found.rows, found.options, found.differences

It goes through the same steps as `prefcourse.train.train` before its first one: the rows that the script gets are those
that our run learns from, in the order of its first epoch, so that up to there its batches are the same.
"""

import argparse
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from prefcourse import train as loop
from prefcourse.commands import rows as own_rows
from prefcourse.commands import train
from prefcourse.commands.shared import stored_dtype
from prefcourse.commands.trl_script import RATES, WITH_OWN_IDS, Options
from prefcourse.finite import counted
from prefcourse.losses import LOSSES
from prefcourse.preferences import Row
from prefcourse.training import guards, lora
from prefcourse.training.batches import Examples, encode_rows
from prefcourse.training.batches import plan as plan_batches
from prefcourse.training.devices import choose_precision
from prefcourse.training.stepping import BETAS, EPSILON, WEIGHT_DECAY
from prefcourse.training.token_ids import Ids
from prefcourse.worlds import bundled
from prefcourse.worlds.models import base_of, context, load_tokenizer
from prefcourse.worlds.world import World

START = "start"  # the folder beside the script that gets the bundled model
LOOP = {name: p.default for name, p in inspect.signature(loop.train).parameters.items()}  # what `train` is not told


@dataclass(frozen=True)
class Plan:
    """rows: as TRL's trainer takes them. differences: what would be otherwise in our run, in sentences."""

    rows: list[Row]
    options: Options
    differences: list[str]


def plan(args: argparse.Namespace, trainer: str) -> Plan:
    """The plan of the run that `train` would do with `args`, for a trainer such as "DPO".

    Raises ValueError and FileNotFoundError for what `train` would refuse before its first step, but does not look at
    the weights.
    """
    own_rows.require_data(args)
    if args.model and base_of(args.model) != str(args.model):
        raise ValueError(f"{args.model} holds adapters, and the script cannot begin there. Train them with --merge.")
    if args.schedule not in RATES:
        raise ValueError(f"schedule must be one of {', '.join(RATES)}, got {args.schedule!r}")
    choose_precision(args.precision, "cpu")  # refuses other names
    world = None if args.data and args.model else bundled.load(args.world)
    tokenizer = load_tokenizer(args.model) if args.model else world.tokenizer
    data = own_rows.load(args, tokenizer) if args.data else world.pairs["train"]
    shape = _shape(args, world)
    args = argparse.Namespace(**{**vars(args), **train.settle(args, shape, bool(args.data or args.model), len(data))})
    longest = context(shape, args.max_length)
    needs = LOSSES[args.loss].inputs()
    examples = encode_rows(data, tokenizer, needs=needs, longest=longest, too_long=args.too_long)
    options = _options(args, len(examples), needs, longest)
    if trainer == "KTO" and options.micro_batch < 2:
        raise ValueError("kto in TRL takes z0 from each micro-batch by itself: --micro-batch must be 2 or more for it")
    batches = plan_batches(examples.lengths, args.batch_size, -(-len(examples) // args.batch_size), args.seed)
    order = list(dict.fromkeys(i for batch in batches for i in batch))
    rows = [_row(data, examples, i, needs) for i in order]
    differences = _differences(args, options, len(rows))
    odd = _odd_tokens(rows, [examples.sequences[i] for i in order], tokenizer, trainer, options.max_length)
    if odd:
        differences.append(
            f"the tokens of {counted(len(odd), 'row')} of {len(rows):,}, such as line {odd[0] + 1} of rows.jsonl: TRL "
            "tokenises prompt and completion in one go, ours each by itself, and where they meet, or end, they differ."
        )
    return Plan(rows, options, differences)


def _shape(args: argparse.Namespace, world: World | None) -> nn.Module:
    """The model of the run without its weights, adapters included: its sizes decide rate and length."""
    config = AutoConfig.from_pretrained(args.model) if args.model else world.sft.config
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(config)
        return shape if args.lora is None else lora.add_lora(shape, args.lora)


def _options(args: argparse.Namespace, count: int, needs: tuple[str, ...], longest: float) -> Options:
    """The numbers of the run on `count` examples."""
    guards.check_numbers(args.epochs, LOOP["warmup"], LOOP["max_grad_norm"], args.seed)
    steps = math.ceil(args.epochs * count / max(args.batch_size, 1)) if args.steps is None else args.steps
    micro = args.batch_size if args.micro_batch is None else args.micro_batch
    every = 1 if args.checkpoint_every is None else args.checkpoint_every
    guards.check_sizes(count, steps, args.batch_size, micro, args.lr, 1, every, 1, needs)
    settings = {
        "learning_rate": args.lr, "optim": "adamw_torch_fused", "adam_beta1": BETAS[0], "adam_beta2": BETAS[1],
        "adam_epsilon": EPSILON, "weight_decay": WEIGHT_DECAY, "max_grad_norm": LOOP["max_grad_norm"],
        "gradient_checkpointing": args.gradient_checkpointing, "train_sampling_strategy": "sequential",
        "seed": args.seed, "data_seed": args.seed, "logging_steps": 1,
    }  # fmt: skip
    saves = {"save_strategy": "steps", "save_steps": every} if args.checkpoint_every else {"save_strategy": "no"}
    return Options(
        model=_code(args.model), reference=_reference(args, needs), batch_size=args.batch_size,
        micro_batch=min(micro, args.batch_size), steps=steps, warmup=round(LOOP["warmup"] * steps),
        schedule=args.schedule, precision=args.precision, max_length=int(longest) if longest < math.inf else None,
        dtype=str(stored_dtype(args.model)).removeprefix("torch."), lora=args.lora, merge=args.merge,
        log_dir=args.log_dir, settings=settings | saves,
    )  # fmt: skip


def _code(model: str | None) -> str:
    """A model's name as Python code of the script: a folder with its whole path, the bundled one beside the script."""
    if model is None:
        return f'str(HERE / "{START}")'
    return repr(str(Path(model).resolve()) if Path(model).exists() else model)


def _reference(args: argparse.Namespace, needs: tuple[str, ...]) -> str | None:
    """The reference as Python code; None where TRL needs none. Raises ValueError for a file of log-probs."""
    if not any(need.startswith("reference") for need in needs):
        return None
    if args.reference is None:
        return None if args.lora else "MODEL"
    if Path(args.reference).is_file():
        raise ValueError(
            f"--reference {args.reference} is a file of log-probs, which TRL cannot read. Name the model that they are "
            "of: --reference MODEL."
        )
    return _code(args.reference)


def _row(data: Sequence[Row], examples: Examples, i: int, needs: tuple[str, ...]) -> Row:
    """Example i as a row of TRL's formats: a pair, a completion with a label, or a completion."""
    row = data[examples.rows[i]]
    if "policy_rejected" in needs:
        return {name: row[name] for name in ("prompt", "chosen", "rejected")}
    if not examples.desirable:
        return {"prompt": row["prompt"], "completion": row["chosen" if "chosen" in row else "completion"]}
    good = examples.desirable[i]
    side = ("chosen" if good else "rejected") if "chosen" in row else "completion"
    return {"prompt": row["prompt"], "completion": row[side], "label": good}


def _differences(args: argparse.Namespace, options: Options, count: int) -> list[str]:
    """What is not the same whatever the loss."""
    batch, micro = options.batch_size, options.micro_batch
    found = [
        "what our run refuses on the way, such as rewards that are not 0 at step 0: TRL's goes on, and so with nan."
    ]
    if options.steps * batch > count:
        found.append(
            "the order of the rows from the second epoch on: ours draws a new one and puts rows of similar length side "
            "by side; the script repeats the first (for another, train_sampling_strategy='random', but not with kto)."
        )
        if count % batch:
            found.append(
                f"the last batch of an epoch: ours fills it with rows of the next; TRL's has the {count % batch} left."
            )
    if args.too_long == "left":
        found.append("--too-long left: ours cuts the beginning of a long prompt; TRL cuts the end of its completion.")
    if batch % micro:
        size = max(n for n in range(1, micro + 1) if batch % n == 0)
        found.append(
            f"--micro-batch {micro}: TRL wants equal parts of the {batch} examples, so the script takes {size}."
        )
    if options.precision != "fp32":
        auto = " On a CPU the script's auto is fp32; ours asks the processor." if options.precision == "auto" else ""
        found.append(
            f"--precision {options.precision}: ours takes log-softmax and sums in float32; TRL computes them as its "
            f"autocast does.{auto}"
        )
    if args.reference and not options.reference:
        found.append(f"--reference {args.reference}: {args.loss} compares with none, there or here.")
    return found


def _odd_tokens(
    rows: Sequence[Row], ours: Sequence[tuple[Ids, ...]], tokenizer: PreTrainedTokenizerBase, trainer: str,
    longest: int | None,
) -> list[int]:  # fmt: skip
    """The rows for which the script has other token ids than our run. ours: the sequences of each row."""
    sides = [side for side in ("chosen", "rejected", "completion") if side in rows[0]]
    prompts, odd = [row["prompt"] for row in rows], set()
    for k, side in enumerate(sides):
        theirs = _their_tokens(prompts, [row[side] for row in rows], tokenizer, trainer)
        for i, ids in enumerate(theirs):
            prompt, completion = ours[i][k]
            if ids[:longest] != [*prompt, *completion]:
                odd.add(i)
    return sorted(odd)


def _their_tokens(
    prompts: Sequence[str], texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, trainer: str
) -> list[list[int]]:
    """The ids of each prompt with its completion, as TRL's trainer makes them, or the script itself (`OWN_IDS`)."""
    end = tokenizer.eos_token
    if trainer not in WITH_OWN_IDS:
        ended = (text if text.endswith(end) else text + end for text in texts)
        return tokenizer([prompt + text for prompt, text in zip(prompts, ended, strict=True)])["input_ids"]
    rest = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    pairs = zip(tokenizer(list(prompts))["input_ids"], rest, strict=True)
    last = tokenizer.eos_token_id
    return [[*prompt, *completion, *([] if completion[-1:] == [last] else [last])] for prompt, completion in pairs]
