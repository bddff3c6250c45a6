"""What a run costs: tokens through each model, processor seconds, peak memory, and the sums behind them.

    meter = Meter(policy=policy, reference=world.sft, reward_model=reward_model)
    with meter:
        rloo(policy, reward_model, prompts, tokenizer, reference=world.sft)
    meter.forward["policy"], meter.backward["policy"], meter.work, meter.seconds

A token counts once for every pass through a model's body: that is what the processor has to do. Texts with the same
prompt share its tokens, and padding counts where a model is fed padded rows (`prefcourse.packing`).
A backward pass costs about two forward passes (Kaplan et al. 2020, Sec. 2.1), so `work` = forward + 2 · backward, in
units of one token through one model forward. The output head, and how wide the texts are, are not in it.
"""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from transformers import PreTrainedModel

from prefcourse.finite import number

MB = 1e6  # bytes
BYTES = {"weights": 4, "gradients": 4, "adam": 8}  # of a trained parameter in float32: 16 in all
KEPT = 17  # numbers a layer keeps of a token, for each unit of width: 34 bytes in half precision, 2 of them for dropout


class Meter:
    """Counts tokens and processor seconds of everything inside `with meter:`; several such blocks add up.

    roles: the models to tell apart, by name; any other goes under "other". forward and backward: role → tokens.
    seconds: processor time of this process, all threads together. With one thread it does not depend on what else the
    machine does, which the clock on the wall does.
    """

    def __init__(self, **roles: nn.Module):
        self.roles = {id(_body(model)): role for role, model in roles.items()}
        self.forward: Counter[str] = Counter()
        self.backward: Counter[str] = Counter()
        self.seconds = 0.0

    def __enter__(self) -> "Meter":
        self._hook = register_module_forward_hook(self._count)
        self._began = time.process_time()
        return self

    def __exit__(self, *error) -> None:
        self.seconds += time.process_time() - self._began
        self._hook.remove()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens in here, such as an evaluation during a run, is not counted."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def _count(self, module: nn.Module, args: tuple, output) -> None:
        if not isinstance(module, PreTrainedModel) or module.base_model is not module:
            return  # a layer, or the language model around the body
        hidden = output.last_hidden_state  # (B, T, D)
        role, tokens = self.roles.get(id(module), "other"), hidden.shape[0] * hidden.shape[1]
        self.forward[role] += tokens
        if hidden.requires_grad:  # kept for a backward pass, which every trainer here makes once
            self.backward[role] += tokens

    @property
    def work(self) -> int:
        """Forward tokens + 2 · backward tokens of all models."""
        return self.forward.total() + 2 * self.backward.total()


def _body(model: nn.Module) -> nn.Module:
    return model.base_model if isinstance(model, PreTrainedModel) else model.body


def peak_memory(job: Callable[..., Callable[[], None]], *arguments) -> float:
    """How many MB the resident memory rises, at most, while the function that `job(*arguments)` returns is running.

    Both run in a fresh process. `job`, a function of a module, prepares: what it has loaded is not counted. Raises
    OSError where there is no /proc/self/status (only Linux has it), RuntimeError if the job fails.
    """
    _memory("VmRSS")
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=_watch, args=(results, job, arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{job.__name__}{arguments} failed in its own process: see above")
    return results.get()


def _memory(which: str) -> float:
    """In MB, from the kernel's books: VmRSS is what this process has in memory now, VmHWM the most that it ever had."""
    status = Path("/proc/self/status")
    if not status.exists():
        raise OSError("peak_memory reads /proc/self/status, which only Linux has. Read the stored numbers instead.")
    [line] = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(which)]
    return int(line.split()[1]) * 1024 / MB


def _watch(results, job: Callable[..., Callable[[], None]], arguments: tuple) -> None:
    torch.set_num_threads(1)
    run = job(*arguments)
    before, highest = _memory("VmRSS"), _memory("VmHWM")
    run()
    if _memory("VmHWM") == highest:
        raise RuntimeError(f"preparing took more memory ({highest:.0f} MB) than the job did: make the job larger")
    results.put(_memory("VmHWM") - before)


def model_memory(parameters: float, frozen: int, frozen_bytes: float = 4, trained: int = 1) -> float:
    """MB of `trained` models in training by Adam and `frozen` ones, each of `parameters` parameters.

    A trained parameter takes 16 bytes: weight, gradient, and Adam's two averages, in float32. Mixed precision takes
    16 too: 2 + 2 in half precision, 12 for the float32 weight and the averages (Rajbhandari et al. 2020, Sec. 3.1).
    """
    parameters, frozen = (
        number("parameters", parameters, least=0, most=1e15),
        number("frozen", frozen, least=0, most=1e6),
    )
    trained, frozen_bytes = (
        number("trained", trained, least=0, most=1e6),
        number("frozen_bytes", frozen_bytes, least=0, most=64),
    )
    return parameters * (trained * sum(BYTES.values()) + frozen * frozen_bytes) / MB


def plan_memory(parameters: float, frozen_bytes: float = 4) -> dict[str, dict[str, float]]:
    """GB of weights, gradients and Adam's averages while the policy trains: method → {"trained": …, "frozen": …}."""
    each = {  # trained models, frozen models
        "DPO, reference cached": (1, 0),
        "DPO, reference beside": (1, 1),
        "RLOO": (1, 2),
        "PPO, value head on the policy": (1, 2),
        "PPO, value model of its own": (2, 2),
    }
    return {
        method: {
            "trained": model_memory(parameters, 0, trained=trained) / 1e3,
            "frozen": model_memory(parameters, frozen, frozen_bytes, trained=0) / 1e3,
        }
        for method, (trained, frozen) in each.items()
    }


def step_memory(
    parameters: float, layers: int, width: int, vocabulary: int, tokens: float, scored: float, *,
    adapters: float | None = None, weight_bytes: float = 4, kept_bytes: float = 4, beside: int = 0,
    recompute: bool = False,
) -> dict[str, float]:  # fmt: skip
    """GB of one step by Adam: weights, gradients and Adam, reference, activations, logits.

    tokens: in memory at a time, `scored` of them of completions. adapters: trained numbers of LoRA, over weights of
    `weight_bytes`; None trains all weights, in float32. kept_bytes: of a number kept for the backward pass, for which
    attention is fused and dropout off (Korthikanti et al. 2022, Eq. 1). beside: reference models in memory. recompute:
    gradient checkpointing, which keeps each layer's input and one layer.
    """
    trained = parameters if adapters is None else adapters
    frozen = 0 if adapters is None else weight_bytes * parameters
    kept = (layers + KEPT if recompute else layers * KEPT) * width * tokens
    parts = {
        "weights": BYTES["weights"] * trained + frozen, "gradients and Adam": 12 * trained,
        "reference": beside * weight_bytes * parameters, "activations": kept_bytes * kept,
        "logits": 2 * 4 * scored * vocabulary,  # a table in float32, and its gradient
    }  # fmt: skip
    return {name: number(name, size, least=0, most=1e24) / 1e9 for name, size in parts.items()}


def plan_work(
    pairs: float, length: float, completions: float, *, epochs: float = 1, reward_epochs: float = 1, reuse: float = 2
) -> dict[str, dict[str, float]]:
    """Work of each method, in forward-token equivalents: method → what it is spent on.

    length: tokens of a prompt with its completion. completions: how many are sampled in all. reuse: PPO's epochs over
    each of them. A trained token costs 3: one forward and twice that for the backward pass.
    """
    sizes = {"pairs": pairs, "length": length, "completions": completions, "epochs": epochs, "reuse": reuse}
    for name, size in (sizes | {"reward_epochs": reward_epochs}).items():
        number(name, size, least=0, most=1e15)
    reward_model, sampled = 6 * pairs * reward_epochs * length, completions * length
    return {
        "DPO": {"scoring": 2 * pairs * length, "learning": 6 * pairs * epochs * length},
        "RLOO": {"reward model": reward_model, "sampling": sampled, "scoring": 2 * sampled, "learning": 3 * sampled},
        "PPO": {
            "reward model": reward_model,
            "sampling": sampled,
            "scoring": 3 * sampled,  # reference, reward model, and the policy that drew the samples, with its values
            "learning": 3 * reuse * sampled,
        },
    }
