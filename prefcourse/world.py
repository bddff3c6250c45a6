"""The world of the course: a tokenizer, two models, a true reward, prompts and preference data, ready to use.

    world = load_world("tiny-reviews")      # offline, 20 MB, part of the course
    world = load_world("gpt2-imdb")         # the real GPT-2, from the hub; see `prefcourse.hub_world`
    world.sft, world.gold, world.pairs["train"][0]

`data/` at the top of a clone, or inside the installed package, holds the files; `checksums.json` there lists them, and
a file that is missing or was changed is named at once instead of giving strange numbers later.
"""

import hashlib
import json
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.preferences import PAIRED, UNPAIRED, Row, read_rows
from prefcourse.rewards import GoldReward

WORLDS = ("tiny-reviews", "gpt2-imdb")
SPLITS = ("train", "validation", "test")
_current = WORLDS[0]  # the world that `load_world` loaded last


@dataclass(frozen=True)
class World:
    """Everything a lesson needs. `prompts`, `pairs` and `unpaired` map a split (train, validation, test) to rows."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    base: PreTrainedModel  # pre-trained, knows the language
    sft: PreTrainedModel  # fine-tuned to finish one short review and stop
    gold: GoldReward  # the true reward r*(x, y)
    prompts: dict[str, list[Row]]  # columns prompt, type
    pairs: dict[str, list[Row]]  # columns prompt, chosen, rejected, chosen_score, rejected_score, probability
    unpaired: dict[str, list[Row]]  # columns prompt, completion, label, score
    open_ended: bool = False  # sft rarely ends a text within 48 tokens, so a completion that was cut there counts too


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


def data_folder() -> Path:
    """Where the bundled files are: inside an installed package, or `data/` of the clone around it."""
    for folder in (Path(__file__).parent / "data", Path(__file__).parent.parent / "data"):
        if (folder / "checksums.json").is_file():
            return folder
    raise FileNotFoundError(
        "The bundled world is not there: no data/checksums.json in the package or beside it. Clone the repository or "
        "install the package anew; `python -m prefcourse bundle` makes the files again from the IMDb reviews."
    )


def verify(folder: Path) -> None:
    """Compare every file listed in `folder/checksums.json` with its SHA-256.

    Raises FileNotFoundError for a missing file and ValueError for a changed one; both name it and say what to do.
    """
    remedy = "Get it back with `git checkout -- data`, or reinstall the package."
    try:
        sums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder}: no checksums.json, so this is not the folder of a bundled world.") from None
    except ValueError as error:
        raise ValueError(f"{folder / 'checksums.json'} is damaged ({error}). {remedy}") from None
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing from the bundled world. {remedy}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ValueError(f"{path} is damaged or was changed (its checksum is not the stored one). {remedy}")


def load_model(folder: str | Path, revision: str | None = None) -> PreTrainedModel:
    """A causal language model from a folder (or hub name, at `revision`), in float32 and evaluation mode."""
    config = AutoConfig.from_pretrained(folder, revision=revision)
    if getattr(config, "activation_function", None) == "gelu_new":  # GPT-2's
        config.activation_function = "gelu_pytorch_tanh"  # the same function, in one kernel in place of seven
    settings = dict(config=config, dtype=torch.float32, revision=revision)
    return AutoModelForCausalLM.from_pretrained(folder, **settings).eval()


def current_world() -> str:
    """The name of the world that was loaded last; "tiny-reviews" before any."""
    return _current


def load_world(
    name: str | None = None, *, folder: str | Path | None = None, device: str = "cpu", **parts: str | Path
) -> World:
    """Load a world by name; without one, what the environment's PREFCOURSE_WORLD names, or else "tiny-reviews".

    folder: another copy of the bundled files. parts: for "gpt2-imdb", what `hub_world.load` takes (base, sft, gold,
    prompts: a hub name, name@revision, or a folder; also from PREFCOURSE_BASE and so on). If the hub cannot be reached
    and no part was named, we say so and load the bundled world instead.
    Raises ValueError for an unknown name, FileNotFoundError or ValueError for missing or damaged files.
    """
    global _current
    if name is None and folder is None:
        name = os.environ.get("PREFCOURSE_WORLD")
    name = name or "tiny-reviews"
    if name not in WORLDS:
        raise ValueError(f"there is no world {name!r}; the worlds are: {', '.join(WORLDS)}")
    if name == "gpt2-imdb":
        from prefcourse import hub_world  # it needs more libraries than a learner of the bundled world has to wait for

        parts = hub_world.from_environment() | parts
        try:
            world = World(name=name, **hub_world.load(device=device, **parts))
            _current = name
            return world
        except OSError as error:
            if parts:
                raise
            print(f"gpt2-imdb is not to be had here ({str(error).splitlines()[0]})")
            print(
                "We take the bundled world tiny-reviews instead. On Colab: switch the internet on and run this again."
            )
    elif parts:
        raise ValueError(f"{', '.join(parts)}: only the world 'gpt2-imdb' is put together from parts")
    name = "tiny-reviews"
    folder = Path(folder) if folder else data_folder()
    verify(folder)
    rows = {
        part: {split: read_rows(folder / part / f"{split}.jsonl", columns) for split in SPLITS}
        for part, columns in (("prompts", ("prompt", "type")), ("pairs", PAIRED), ("unpaired", UNPAIRED))
    }
    world = World(
        name=name,
        tokenizer=AutoTokenizer.from_pretrained(folder / "sft"),
        base=load_model(folder / "base").to(device),
        sft=load_model(folder / "sft").to(device),
        gold=GoldReward.load(folder / "gold.json"),
        **rows,
    )
    _current = name
    return world
