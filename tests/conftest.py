"""What every test starts from: no network, no progress bars, pictures without a screen, a fixed number of threads."""

import os
import runpy
from pathlib import Path

OFFLINE = Path(__file__).parent / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # blocks the network here ...
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))  # ... and below
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", TQDM_DISABLE="1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["PYTHONIOENCODING"] = "utf-8"  # what a child prints is read as UTF-8, whatever this system takes by default

import matplotlib  # noqa: E402
import matplotlib.pyplot  # noqa: E402
import torch  # noqa: E402

matplotlib.use("Agg")  # not the variable MPLBACKEND: notebook kernels would inherit it and draw nothing
torch.set_num_threads(1)  # the models here are tiny: a second thread costs more than it brings


import pytest  # noqa: E402

TEXTS = [
    f"{start} {what} {is_} {how}{end}"
    for start in ("This", "That", "The old", "I think the", "Is the", "We know the")
    for what in ("movie", "film", "story", "ending", "cast")
    for is_ in ("is", "was", "never was")
    for how in ("wonderful", "a waste of time", "boring", "great fun", "rather dull")
    for end in (".", "!", " and I like it.")
]
RARER = [f"The {a}{b} film." for a in "bdfghklmnprst" for b in ("ax", "ex", "ix", "ox", "ux")][:61]  # a form each


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A tokenizer like the bundled one, learnt from a few hundred made-up sentences: 350 tokens."""
    from prefcourse.bundle.tokenizer import build

    return build(TEXTS, RARER, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tiny_gpt2(tokenizer):
    """Makes a GPT-2 of 2 layers x 32 for that tokenizer, random and far from uniform: tiny_gpt2(seed)."""

    def make(seed=0, **changes):
        from transformers import GPT2Config, GPT2LMHeadModel

        settings = {"vocab_size": len(tokenizer), "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
        settings |= {"initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        torch.manual_seed(seed)
        return GPT2LMHeadModel(GPT2Config(**settings | changes)).eval()

    return make


@pytest.fixture(scope="session")
def pairs():
    """36 pairs on 12 prompts, with completions of 3 to 15 words."""
    ends = (" is wonderful.", " is a waste of time and I like it.", " was boring!", " never was great fun.")
    starts = [f"{a} {b}" for a in ("This", "The old", "I think the", "We know the") for b in ("movie", "film", "story")]
    return [
        {"prompt": prompt, "chosen": ends[i], "rejected": ends[j] + " It was dull." * (n % 3)}
        for n, prompt in enumerate(starts)
        for i, j in ((0, 1), (2, 3), (0, 3))
    ]


def pytest_collection_modifyitems(items):
    """Leave out what this system cannot do, and say so."""
    if os.name != "posix":
        for item in (item for item in items if item.get_closest_marker("posix")):
            item.add_marker(pytest.mark.skip(reason="this system neither forks nor knows the signal KILL"))


@pytest.fixture(autouse=True)
def close_figures():
    """No test leaves figures to the next."""
    yield
    matplotlib.pyplot.close("all")
