"""The text of a script that does with TRL what a run of `train` does; `export` fills in the numbers.

    code = text(translate("dpo", {"beta": 0.1}), options, head)

The script needs TRL, not prefcourse. Where the two would differ and a few lines make them agree, it has the lines: our
learning rates, and in the trainers of CPO and ORPO our token ids and our NLL.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from string import Template
from typing import Any

from prefcourse.commands.trl_losses import Translation

HOMES = {"DPO": "trl", "KTO": "trl", "SFT": "trl", "CPO": "trl.experimental.cpo", "ORPO": "trl.experimental.orpo"}
WITH_OWN_IDS = ("CPO", "ORPO")  # whose trainers get our token ids, by OWN_IDS below


@dataclass(frozen=True)
class Options:
    """What a script is told besides the loss. The numbers are those of our run."""

    model: str  # as Python code: a path, or a name on the hub
    reference: str | None  # the same; None for none, or for a policy with its adapters off
    batch_size: int
    micro_batch: int
    steps: int
    warmup: int  # steps
    schedule: str
    precision: str
    max_length: int | None
    dtype: str  # in which the trained model is stored
    lora: int | None  # rank
    merge: bool  # save the whole model, adapters merged into it?
    log_dir: str | None
    settings: Mapping[str, Any]  # of the config, besides those of the loss and those that the script computes


DONE = "done = (step - WARMUP) / max(STEPS - WARMUP, 1)\n    "
RATES = {  # schedule → in words, and the lines that compute it
    "constant": ("stays", "return 1.0"),
    "linear": ("falls to 0 in a line", DONE + "return 1 - done"),
    "cosine": ("falls to 0 as a cosine does", DONE + "return (1 + math.cos(math.pi * done)) / 2"),
}
AUTO = """\
    cuda = torch.cuda.is_available()
    bf16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    precision = {"bf16": bf16, "fp16": cuda and not bf16}  # on a CPU neither: float32
"""
DROPOUT = """\
    for module in model.modules():  # no dropout, which the other trainers switch off by themselves
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
"""
REFERENCE = (
    "\n        ref_model=AutoModelForCausalLM.from_pretrained(REFERENCE, dtype=torch.float32, use_safetensors=True),"
)
LORA = """
        peft_config=LoraConfig(
            r=RANK,
            lora_alpha=2 * RANK,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
        ),"""
OWN_IDS = '''
    def tokenize_row(self, feature, model=None):
        """Prompt and completion apart, and one EOS. TRL's own puts a BOS before every prompt."""
        tokenizer = self.processing_class
        prompt = tokenizer(feature["prompt"])["input_ids"]
        row = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for side in ("chosen", "rejected"):
            completion = tokenizer(feature[side], add_special_tokens=False)["input_ids"]
            end = [] if completion[-1:] == [tokenizer.eos_token_id] else [tokenizer.eos_token_id]
            ids = [*prompt, *completion, *end][:MAX_LENGTH]
            row |= {f"{side}_input_ids": ids, f"{side}_attention_mask": [1] * len(ids)}
            row[f"{side}_labels"] = [-100] * len(prompt) + ids[len(prompt) :]
        return row
'''
OWN_NLL = '''
    def concatenated_forward(self, model, batch):
        """The NLL of the completion, text by text. TRL's is a mean over all tokens of the batch$too."""
        chosen, rejected, chosen_logits, rejected_logits, _, *rest = super().concatenated_forward(model, batch)
        $nll
        return chosen, rejected, chosen_logits, rejected_logits, nll, *rest
'''
SCRIPT = '''\
$head

import json
${math}import os
from pathlib import Path

import torch
from datasets import Dataset
${peft}from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, AutoTokenizer
from $home import ${trainer}Config, ${trainer}Trainer

HERE = Path(__file__).resolve().parent
MODEL = $model
${constants}BATCH, MICRO = $batch_size, $micro_batch  # examples a step; at most so many in memory at a time
STEPS, WARMUP = $steps, $warmup
MAX_LENGTH = $max_length  # tokens of prompt and completion together


def rate(step: int) -> float:
    """The share of the peak learning rate at a step: up for WARMUP steps, then it $falls."""
    if step < WARMUP:
        return (step + 1) / (WARMUP + 1)
    $factor


class Trainer(${trainer}Trainer):
    def create_scheduler(self, num_training_steps, optimizer=None):
        """`rate`. The schedules of transformers begin at 0, so that with a warm-up a first step changes nothing."""
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, rate)
            self._created_lr_scheduler = True
        return self.lr_scheduler
$own

def main() -> None:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if BATCH % processes:
        raise SystemExit(f"{processes} processes cannot have equal shares of {BATCH} examples a step")
    share = BATCH // processes
    size = max(n for n in range(1, min(MICRO, share) + 1) if share % n == 0)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
$precision\
    with (HERE / "rows.jsonl").open(encoding="utf-8") as file:
        rows = Dataset.from_list([json.loads(line) for line in file])
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, use_safetensors=True)
$dropout\
    config = ${trainer}Config(
        output_dir=str(HERE / "checkpoints"),
        max_steps=STEPS,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=share // size,
        max_length=MAX_LENGTH,
        use_cpu=not torch.cuda.is_available(),
        **precision,
$settings
    )
    trainer = Trainer(
        model=model,$reference
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,$lora
    )
    trainer.train()
    if trainer.is_world_process_zero():
        policy = trainer.accelerator.unwrap_model(trainer.model)$merge
        policy.to(torch.$dtype).save_pretrained(HERE / "model")
        tokenizer.save_pretrained(HERE / "model")
        (HERE / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
'''


def text(loss: Translation, options: Options, head: str) -> str:
    """The script, as Python code. head: its first lines, comments."""
    trainer = loss.trainer
    own = OWN_IDS if trainer in WITH_OWN_IDS else ""
    if loss.nll:
        own += Template(OWN_NLL).substitute(nll=loss.nll, too=", prompts included" if trainer == "ORPO" else "")
    falls, factor = RATES[options.schedule]
    constants = {"REFERENCE": options.reference, "RANK": options.lora}
    fixed = {name: options.precision == name for name in ("bf16", "fp16")}
    precision = AUTO if options.precision == "auto" else f"    precision = {fixed!r}\n"
    if options.log_dir is not None:
        precision = f'    os.environ["TENSORBOARD_LOGGING_DIR"] = {options.log_dir!r}\n' + precision
    settings = {**options.settings, **loss.settings, "report_to": "tensorboard" if options.log_dir else "none"}
    return Template(SCRIPT).substitute(
        vars(options) | {
            "head": head, "home": HOMES[trainer], "trainer": trainer, "own": own, "falls": falls, "factor": factor,
            "constants": "".join(f"{name} = {value}\n" for name, value in constants.items() if value is not None),
            "precision": precision, "settings": _arguments(settings), "math": "import math\n" * ("math." in factor),
            "dropout": DROPOUT if trainer == "SFT" else "", "reference": REFERENCE if options.reference else "",
            "peft": "from peft import LoraConfig\n" if options.lora else "", "lora": LORA if options.lora else "",
            "merge": ".merge_and_unload()" if options.lora and options.merge else "",
        }
    )  # fmt: skip


def _arguments(settings: Mapping[str, Any]) -> str:
    """Keyword arguments, a line each, their texts in double quotes."""
    return "\n".join(f"        {name}={value!r},".replace("'", '"') for name, value in settings.items())
