"""Token ids of a whole data set: encoded a slice at a time, on all cores, and kept in four bytes a token.

    sequences = TokenIds(2)                              # two sequences an example: chosen and rejected
    for group in encoded(rows, ["chosen", "rejected"], tokenizer):
        sequences.append(group)
    sequences[0]                                         # ((prompt, chosen), (prompt, rejected)), lists of ints

As lists of Python's ints, ids take 36 bytes each and more, and what a tokenizer returns besides (masks, offsets, the
tokens as text) takes several times that.
"""

import contextlib
import os
import threading
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from transformers import PreTrainedTokenizerBase

from prefcourse.preferences import Row, encode_completions, encode_prompts

Ids = tuple[list[int], list[int]]  # one sequence: prompt ids, completion ids with EOS
SLICE = 256  # rows a call of the tokenizer: enough for many cores, and its output is small beside the ids
SWITCH = "TOKENIZERS_PARALLELISM"  # read by the fast tokenizers at each call
HOME, LOCK = os.getpid(), threading.Lock()


@dataclass(frozen=True)
class TokenIds(Sequence[tuple[Ids, ...]]):
    """The k sequences of each of N examples: a sequence of groups, each made of lists when it is asked for.

    A text is a prompt or a completion; all of them lie one after another. A prompt is kept once for the k sequences of
    its example, and for examples that follow one another with the same prompt.
    ids: (tokens,) int32. ends: (texts + 1,) int64; text t is ids[ends[t] : ends[t + 1]]. texts: (N · (1 + k),) int32,
    for each example the number of its prompt and of its k completions.
    """

    k: int
    ids: array = field(default_factory=lambda: array("i"), repr=False)
    ends: array = field(default_factory=lambda: array("q", [0]), repr=False)
    texts: array = field(default_factory=lambda: array("i"), repr=False)

    def append(self, group: tuple[Ids, ...]) -> None:
        """Add an example: k sequences with one prompt. Raises ValueError if they are not k."""
        if len(group) != self.k:
            raise ValueError(f"an example has {self.k} sequences here, got {len(group)}")
        prompt = group[0][0]
        again = self.texts and self.prompt(-1) == prompt
        number = self.texts[-1 - self.k] if again else self._add(prompt)
        self.texts.extend([number, *(self._add(completion) for _, completion in group)])

    def _add(self, ids: list[int]) -> int:
        """Keep a text, and return its number."""
        self.ids.fromlist(ids)
        self.ends.append(len(self.ids))
        return len(self.ends) - 2

    def _text(self, i: int, part: int) -> array:
        """The prompt (part 0) or the completion `part` - 1 of example i."""
        number = self.texts[range(len(self))[i] * (1 + self.k) + part]
        return self.ids[self.ends[number] : self.ends[number + 1]]

    def __len__(self) -> int:
        return len(self.texts) // (1 + self.k)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[j] for j in range(len(self))[i]]
        prompt = self.prompt(i)
        return tuple((prompt, self.completion(i, side)) for side in range(self.k))

    def prompt(self, i: int) -> list[int]:
        """The ids of the prompt of example i."""
        return self._text(i, 0).tolist()

    def completion(self, i: int, side: int = 0) -> list[int]:
        """The ids of one of the k completions of example i."""
        return self._text(i, 1 + side).tolist()

    def prompt_numbers(self) -> list[int]:
        """For each example the first that has its prompt: two have the same number if their prompts are the same."""
        first: dict[bytes, int] = {}
        prompts = (self._text(i, 0) for i in range(len(self)))
        return [first.setdefault(blake2b(ids, digest_size=16).digest(), i) for i, ids in enumerate(prompts)]

    def record(self, i: int) -> bytes:
        """Example i for a hash, as int64: of each sequence k, the length of its prompt, and all its ids."""
        prompt, *completions = (np.asarray(self._text(i, part), np.int64) for part in range(1 + self.k))
        head = np.array([self.k, len(prompt)], np.int64)
        return np.concatenate([part for ids in completions for part in (head, prompt, ids)]).tobytes()

    @property
    def sizes(self) -> np.ndarray:
        """(N, 1 + k) tokens of each prompt and of its k completions."""
        return np.diff(self.ends)[np.asarray(self.texts)].reshape(-1, 1 + self.k)


def encoded(
    rows: Sequence[Row], columns: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[Ids, ...]]:
    """For each row, its prompt with each of `columns`: the ids that `preferences.encode` gives, one EOS at the end.

    Many texts a call are several times faster than one, but all of them at once would fill the memory.
    """
    for begin in range(0, len(rows), SLICE):
        with all_cores(len(rows) > SLICE):
            texts = _encoded_slice(rows[begin : begin + SLICE], columns, tokenizer)
        for prompt, *completions in texts:
            yield tuple((prompt, list(ids)) for ids in completions)


def _encoded_slice(
    rows: Sequence[Row], columns: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[list[int], ...]]:
    """For each row the ids of its prompt and of each of `columns`. The pairs of a prompt repeat texts: each once."""
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    prompt_ids = dict(zip(prompts, encode_prompts(prompts, tokenizer), strict=True))
    texts = list(dict.fromkeys(row[column] for row in rows for column in columns))
    ids = dict(zip(texts, encode_completions(texts, tokenizer), strict=True))
    return ((prompt_ids[row["prompt"]], *(ids[row[column]] for column in columns)) for row in rows)


@contextlib.contextmanager
def all_cores(wanted: bool = True) -> Iterator[None]:
    """Within, the fast tokenizers use all cores although the environment says TOKENIZERS_PARALLELISM=false.

    `quiet` says so because of processes that fork: the child has no threads, and would wait for them for ever; unless
    the variable is set, the library warns of that. So it stands at "true" for the length of a call only: who forks
    afterwards finds "false". In a process that was itself forked nothing is changed. Nor is it where the variable is
    not set, and all cores are in use anyway.
    """
    if not wanted or os.environ.get(SWITCH, "").lower() != "false" or os.getpid() != HOME:
        yield
        return
    with LOCK:  # else a second thread could take our "true" for what it must put back
        before = os.environ[SWITCH]
        os.environ[SWITCH] = "true"
        try:
            yield
        finally:
            os.environ[SWITCH] = before
