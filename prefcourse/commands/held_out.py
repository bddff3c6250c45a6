"""How a policy ranks rows that it was not trained on, beside its reference: once in `evaluate`, on the way in `train`.

held = HeldOut.of(rows, tokenizer, reference)
held.measure(policy)                          # {"eval_accuracy": 0.71, "eval_margin": 1.9}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prefcourse.preferences import Row
    from prefcourse.training.batches import Examples

AT_ONCE = 16  # sequences scored at a time


@dataclass(frozen=True)
class HeldOut:
    """Encoded rows with the reference's log-probs."""

    examples: "Examples"
    pad: int
    reference: "torch.Tensor"  # (N, k) nats: chosen and rejected, or one completion

    @classmethod
    def of(
        cls, rows: "Sequence[Row]", tokenizer: "PreTrainedTokenizerBase", reference: "PreTrainedModel",
        too_long: str = "error", max_length: int | None = None,
    ) -> "HeldOut":  # fmt: skip
        """Encode `rows` and score them with `reference`. Raises ValueError as `encode_rows` does."""
        from prefcourse.losses import LOSSES
        from prefcourse.training.batches import encode_rows
        from prefcourse.worlds.models import context

        needs = LOSSES["dpo" if "chosen" in rows[0] else "kto" if "label" in rows[0] else "sft"].inputs()
        longest = context(reference, max_length)
        examples = encode_rows(rows, tokenizer, needs=needs, longest=longest, too_long=too_long)
        empty = cls(examples, tokenizer.pad_token_id, None)
        return cls(examples, tokenizer.pad_token_id, empty.logps(reference))

    def logps(self, model: "PreTrainedModel") -> "torch.Tensor":
        """log π of every completion, (N, k) nats on the CPU."""
        from prefcourse.logprobs import score_all

        sequences = [one for group in self.examples.sequences for one in group]
        return score_all(model, sequences, self.pad, batch_size=AT_ONCE).view(len(self.examples), -1)

    def log_ratios(self, policy: "PreTrainedModel") -> "torch.Tensor":
        """log π/π_ref of every completion, (N, k) nats, float64."""
        return (self.logps(policy) - self.reference).double()

    def measure(self, policy: "PreTrainedModel") -> dict[str, float]:
        """The share of pairs that the policy ranks right (a tie is one half), and their mean log-ratio difference h.

        Of unpaired rows: how far the mean log-ratio of the desirable ones lies above that of the others, in nats.
        """
        h = self.log_ratios(policy)
        if h.shape[1] == 2:
            gap = h[:, 0] - h[:, 1]
            return {"eval_accuracy": (0.5 + 0.5 * gap.sign()).mean().item(), "eval_margin": gap.mean().item()}
        if not self.examples.desirable:
            return {"eval_log_ratio": h.mean().item()}
        wanted = h.new_tensor(self.examples.desirable).bool()
        return {"eval_margin": (h[wanted].mean() - h[~wanted].mean()).item()}
