"""The tokenizer of the bundled world: a closed vocabulary of 8,192 tokens, nearly all of them whole words.

A byte-level BPE learns pieces, and a model that writes in pieces joins them to words that do not exist. So a word form
that TinyReviews uses is one token here, and a token in a figure is a word that one can read. GPT-2's byte alphabet and
pre-tokenisation stay ("Ġ" is a space before a word), with one difference: a hyphenated word is one form, so that no
form without a space before it ever stands behind a hyphen. Whatever is not in the vocabulary falls back to its bytes:
every text comes back as it was. The wide corpus's rare words become one placeholder in pre-training.
"""

import functools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

VOCAB_SIZE = 8_192
MIN_COUNT = 5  # occurrences in TinyReviews that make a form a token
EOS, RARE = "<|endoftext|>", "<|rare|>"  # ids 0 and 1; EOS is the first, the last and the padding token, as GPT-2's is
SPACE = "Ġ"  # what GPT-2's byte alphabet writes for the space before a word

# GPT-2's pattern, with hyphens inside a word: contractions, words, numbers, other marks, white space.
_FORM = Regex(r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+(?:-\p{L}+)*| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Text → forms in GPT-2's byte alphabet."""
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(_FORM, behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip


def forms(text: str) -> list[str]:
    """The forms of `text` in order: words with the space before them (as "Ġ"), contractions, marks."""
    return [form for form, _ in _splitter().pre_tokenize_str(text)]


@functools.cache
def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizer()


def vocabulary(texts: Iterable[str], wide: Iterable[str]) -> list[str]:
    """The tokens in the order of their ids: EOS, the placeholder, 256 bytes, the forms that `texts` have MIN_COUNT
    times at least, most frequent first, then the commonest of `wide` until there are VOCAB_SIZE."""
    counts = Counter(form for text in texts for form in forms(text))
    more = Counter(form for text in wide for form in forms(text))
    tokens = dict.fromkeys([EOS, RARE, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    tokens.update(dict.fromkeys(f for f in _ranked(counts) if counts[f] >= MIN_COUNT))
    for form in _ranked(more):
        if len(tokens) == VOCAB_SIZE:
            break
        tokens.setdefault(form)
    return list(tokens)[:VOCAB_SIZE]


def _ranked(counts: Counter) -> list[str]:
    return sorted(counts, key=lambda form: (-counts[form], form))  # ties in the alphabet's order


def build(texts: list[str], wide: list[str], out: Path) -> PreTrainedTokenizerFast:
    """Make the tokenizer from `texts` and save it to `out`, where `AutoTokenizer.from_pretrained` finds it.

    The result depends on the texts alone: the same texts give the same file, to the byte.
    """
    ids = {token: i for i, token in enumerate(vocabulary(texts, wide))}
    made = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    made.pre_tokenizer, made.decoder = pre_tokenizer(), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (EOS, RARE)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=EOS, eos_token=EOS, unk_token=EOS, pad_token=EOS
    )
    tokenizer.model_max_length = 128
    tokenizer.clean_up_tokenization_spaces = False  # or decoding would change the text it was given
    tokenizer.save_pretrained(out)
    return tokenizer


def known(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """True if every form of `text` is one token."""
    vocab = _vocab(tokenizer)
    return all(form in vocab for form in forms(text))


def share_known(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> float:
    """Share of the forms in `texts`, each occurrence counted, that are one token."""
    vocab = _vocab(tokenizer)
    found = [form in vocab for text in texts for form in forms(text)]
    return sum(found) / len(found)


def with_rare(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of `text` in which each form outside the vocabulary is the placeholder instead of its bytes."""
    vocab = _vocab(tokenizer)
    return [vocab.get(form, vocab[RARE]) for form in forms(text)]


@functools.lru_cache(maxsize=4)
def _vocab(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    return tokenizer.get_vocab()
