"""Models and tokenizers from a folder or the hub, as the course uses them; and the libraries' chatter switched off."""

import os
import sys
import warnings
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


def load_model(folder: str | Path, revision: str | None = None) -> PreTrainedModel:
    """A causal language model from a folder (or hub name, at `revision`), in float32 and evaluation mode."""
    config = AutoConfig.from_pretrained(folder, revision=revision)
    if getattr(config, "activation_function", None) == "gelu_new":  # GPT-2's
        config.activation_function = "gelu_pytorch_tanh"  # the same function, in one kernel in place of seven
    settings = dict(config=config, dtype=torch.float32, revision=revision)
    return AutoModelForCausalLM.from_pretrained(folder, **settings).eval()


def load_tokenizer(folder: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside a model. One without a padding token, like GPT-2's, pads with its EOS."""
    tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
    if tokenizer.pad_token_id is None:  # our masks come from lengths, so any id will do
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def quiet() -> None:
    """Silence transformers, datasets and the hub, whether they are imported already or come later."""
    warnings.filterwarnings("ignore", module=r"(torch|transformers|datasets|huggingface_hub|trl|tqdm)(\.|$)")
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
    os.environ.update(
        TRANSFORMERS_VERBOSITY="error",
        TRANSFORMERS_NO_ADVISORY_WARNINGS="1",
        DATASETS_VERBOSITY="error",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_DATASETS_DISABLE_PROGRESS_BARS="1",
        TOKENIZERS_PARALLELISM="false",
    )
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
    if "datasets" in sys.modules:
        import datasets

        datasets.logging.set_verbosity_error()
        datasets.disable_progress_bars()
