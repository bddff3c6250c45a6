"""Texts that say nearly the same, found in a time that grows with their number, not with its square.

twins = near_duplicates([words_of(text) for text in texts])      # (N,) bool
"""

import re
from collections.abc import Sequence

import numpy as np

from prefcourse.finite import numpy_generator

SAME = 0.8  # Jaccard similarity from which two texts count as nearly the same
HASHES, BAND = 64, 4
CROWD = 20  # a text is compared with so many others of its bucket: in a crowd of like texts each finds a twin there


def words_of(text: str) -> frozenset[str]:
    """The words of `text` in lower case; where it has none, such as " .", the text itself."""
    return frozenset(re.findall(r"\w+", text.lower()) or [text.strip()])


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """The similarity |a ∩ b| / |a ∪ b| of two sets of words: 1 for equal sets, 0 for sets with nothing in common."""
    return len(a & b) / len(a | b) if a or b else 1.0


def near_duplicates(texts: Sequence[frozenset[str]], *, seed: int = 0) -> np.ndarray:
    """Which texts, given as sets of words, have a twin: another with a similarity of 0.8 or more. (N,) bool

    MinHash (Broder 1997): in a random order of all words, two sets have the same first word with a probability equal to
    their similarity. Sets that agree in a band of 4 out of 64 orders are compared exactly, so what is reported is
    true, and a pair at 0.8 is missed with probability (1 − 0.8⁴)¹⁶ = 0.0002. Raises ValueError for an empty set.
    """
    for i, text in enumerate(texts):
        if not isinstance(text, set | frozenset) or not text:
            raise ValueError(f"texts[{i}] is no set of words; allowed is what `words_of` returns for a text")
    number = {word: i for i, word in enumerate(dict.fromkeys(word for text in texts for word in sorted(text)))}
    place = numpy_generator(seed).integers(2**32, size=(len(number), HASHES), dtype=np.uint32)
    first = np.array([place[[number[word] for word in text]].min(axis=0) for text in texts])  # (N, HASHES)
    twin = np.zeros(len(texts), dtype=bool)
    for start in range(0, HASHES if len(texts) else 0, BAND):
        buckets: dict[bytes, list[int]] = {}
        for i, band in enumerate(first[:, start : start + BAND]):
            bucket = buckets.setdefault(band.tobytes(), [])
            for j in bucket[-CROWD:]:
                if not (twin[i] and twin[j]) and jaccard(texts[i], texts[j]) >= SAME:
                    twin[i] = twin[j] = True
            bucket.append(i)
    return twin
