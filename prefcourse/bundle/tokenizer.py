"""The tokenizer of the bundled world: byte-level BPE, built like GPT-2's, with 4,096 tokens learnt from TinyReviews."""

from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 4_096
EOS = "<|endoftext|>"  # id 0; like GPT-2's it is the first, the last and the padding token


def build(texts: list[str], out: Path) -> PreTrainedTokenizerFast:
    """Train the tokenizer on `texts` and save it to `out`, where `AutoTokenizer.from_pretrained` finds it.

    The result depends on the texts alone: the same texts give the same file, to the byte.
    """
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=VOCAB_SIZE, special_tokens=[EOS], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token=EOS, eos_token=EOS, unk_token=EOS, pad_token=EOS
    )
    tokenizer.model_max_length = 128
    tokenizer.clean_up_tokenization_spaces = False  # or decoding would change the text it was given
    tokenizer.save_pretrained(out)
    return tokenizer
