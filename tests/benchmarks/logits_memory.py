"""Peak memory of log-probabilities at 16 x 256 tokens and 50,257 words: full logits against completion positions only.

    python tests/benchmarks/logits_memory.py full        # or: completion

Prints the peak resident memory of this process in MB, above what it held before, as one number. The model is a GPT-2
of one narrow layer, so that the logits are what counts; three quarters of each row are prompt.
"""

import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from prefcourse.logprobs import sequence_logps
from prefcourse.preferences import collate


def full_logits(model, batch) -> torch.Tensor:
    """The usual way: logits of every position, log-softmax over all of them, then gather and mask."""
    logps = model(batch.input_ids).logits[:, :-1].log_softmax(-1)  # (N, T-1, V)
    picked = logps.gather(-1, batch.input_ids[:, 1:, None])[..., 0]
    return (picked * batch.completion_mask[:, 1:]).sum(-1)


def peak() -> float:
    """MB. On Linux from the memory map, which is our own: ru_maxrss begins with that of the process that started us."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1024
    import resource  # macOS and the like have it

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(way: str) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=1)).eval()
    ids = torch.randint(1, 50_257, (16, 256)).tolist()
    batch = collate([(row[:192], row[192:]) for row in ids])
    before = peak()
    with torch.no_grad():
        total = (full_logits if way == "full" else sequence_logps)(model, batch).sum()
    print(f"{peak() - before:.0f} {total:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
