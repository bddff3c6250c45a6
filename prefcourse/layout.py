"""Where the distinct tokens of a batch stand: the numbers by which `packing` leaves out padding and repeated prompts.

All of them are made on the CPU, in one go, before a batch moves to a GPU: there, to ask how many tokens a mask has
would make the CPU wait.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`. To a GPU it goes from memory that cannot be swapped out, so that nobody waits for it."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Layout:
    """Where the M distinct tokens of a batch stand in its N rows of T, and the C completion tokens among them.

    input_ids, position_ids: (M,). slots: (N, T), the token at each position; fillers have token 0's number. own: (M,),
    the position, counted through all rows, at which a token is computed. borrowed: positions of prompts that an earlier
    row has too. before, targets, places: (C,), the token before each completion token, its id, and where in
    (N, T - 1), counted through all rows, its log-prob belongs. last: (N,), each row's last token, if it is there.
    """

    input_ids: Tensor
    position_ids: Tensor
    slots: Tensor
    own: Tensor
    borrowed: Tensor
    before: Tensor
    targets: Tensor
    places: Tensor
    last: Tensor

    def to(self, device: torch.device | str) -> "Layout":
        """The same layout on `device`."""
        return Layout(*(send(value, device) for value in vars(self).values()))

    def rows(self, values: Tensor) -> Tensor:
        """Numbers of the completion tokens, (C,), in rows: (N, T - 1), 0 elsewhere."""
        rows, width = self.slots.shape
        return values.new_zeros(rows * (width - 1)).index_put((self.places,), values).view(rows, width - 1)


@torch.no_grad()
def lay_out(input_ids: Tensor, completion_mask: Tensor, ends: bool = False) -> Layout:
    """The layout of padded rows, (N, T) each and on the CPU.

    A row's prompt is what comes before its first completion token, and it ends with its last one. ends: is that one
    among the M? Nothing is predicted from it, but a reward model reads a text there.
    """
    rows, width = input_ids.shape
    place = torch.arange(width)
    begin = torch.where(completion_mask.any(1), completion_mask.int().argmax(1), 0)  # (N,)
    end = (place * completion_mask).amax(1) + 1  # (N,)
    leaders: dict[bytes, int] = {}  # the first row with a prompt
    prompts = (ids[:stop].numpy().tobytes() for ids, stop in zip(input_ids, begin.tolist(), strict=True))
    leader = torch.tensor([leaders.setdefault(prompt, i) for i, prompt in enumerate(prompts)])
    in_prompt = place < begin[:, None]  # (N, T)
    borrowed = in_prompt & (leader != torch.arange(rows))[:, None]
    read = end if ends else (end - 1).clamp(min=1)
    mine = (place < read[:, None]) & ~borrowed
    number = (mine.flatten().cumsum(0) - 1).view(rows, width)
    slots = torch.where(mine, number, 0)
    slots = torch.where(borrowed, slots[leader], slots)
    target = completion_mask[:, 1:]
    return Layout(
        input_ids=input_ids[mine],
        position_ids=place.expand(rows, width)[mine],
        slots=slots,
        own=mine.flatten().nonzero()[:, 0],
        borrowed=borrowed.flatten().nonzero()[:, 0],
        before=slots[:, :-1][target],
        targets=input_ids[:, 1:][target],
        places=target.flatten().nonzero()[:, 0],
        last=slots.gather(1, end[:, None] - 1)[:, 0] if ends else slots.new_zeros(0),
    )
