"""Models and tokenizers from a folder or the hub, as the course uses them; and the libraries' chatter switched off."""

import json
import math
import os
import sys
import warnings
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.boundary import told

SAFE = {"use_safetensors": True, "trust_remote_code": False}  # pickles can run code, and so can a model's own files
ADAPTERS = "adapter_config.json"  # marks a folder of adapters, as config.json marks a model
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def load_model(
    folder: str | Path, revision: str | None = None, kind: type = AutoModelForCausalLM, **settings
) -> PreTrainedModel:
    """A causal language model (or another `kind`) from a folder or hub name, at `revision`, in float32, not training.

    settings: more arguments of `from_pretrained`. Raises FileNotFoundError if there is none, and ValueError if its
    weights are not those that its config.json asks for, are pickled, or need code of the model's own.
    """
    if base_of(folder) != str(folder):
        return _with_adapters(Path(folder), kind, **settings)
    require_folder(folder, "config.json", "model")
    if Path(folder).is_dir() and not any((Path(folder) / name).is_file() for name in WEIGHTS):
        pickled = ", ".join(file.name for file in sorted(Path(folder).glob("*.bin")))
        raise FileNotFoundError(
            f"{folder}: no model.safetensors there"
            + (f", and {pickled} is a pickle, which could run any code. Save the model as safetensors." if pickled else
               ". Save the model there with save_pretrained.")
        )  # fmt: skip
    with told(f"{folder}: the model cannot be loaded", "Is it a whole model that save_pretrained wrote?"):
        config = AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=False)
        if getattr(config, "activation_function", None) == "gelu_new":  # GPT-2's
            config.activation_function = "gelu_pytorch_tanh"  # the same function, in one kernel in place of seven
        settings = {"config": config, "dtype": torch.float32, "revision": revision, **SAFE, **settings}
        model, found = kind.from_pretrained(folder, output_loading_info=True, **settings)
    require_whole(found, folder)
    return model.eval()


def base_of(folder: str | Path) -> str:
    """The model that the adapters in `folder` were trained on; `folder` itself if it holds no adapters."""
    place = Path(folder)
    if not (place / ADAPTERS).is_file() or (place / "config.json").is_file():
        return str(folder)
    with told(f"{folder}: {ADAPTERS} cannot be read", "Save the adapters again."):
        return str(json.loads((place / ADAPTERS).read_text(encoding="utf-8"))["base_model_name_or_path"])


def _with_adapters(folder: Path, kind: type, **settings) -> PreTrainedModel:
    """The model that adapters of peft were trained on, with the adapters merged into it."""
    base = base_of(folder)
    with told(f"{folder}: the adapters cannot be loaded", f"Are they whole, and is their base model, {base}, there?"):
        if not (folder / "adapter_model.safetensors").is_file():
            raise FileNotFoundError("no adapter_model.safetensors there")
        from peft import PeftModel

        model = (
            PeftModel.from_pretrained(load_model(base, kind=kind, **settings), str(folder)).merge_and_unload().eval()
        )
    # Adapters that are trained on it name it as their base, and not the model below.
    model.name_or_path = model.config._name_or_path = str(folder)
    return model


def require_whole(found: dict, where: str | Path) -> None:
    """Raise ValueError unless every tensor was found, and none too many. found: transformers' loading info.

    transformers draws what is missing at random and goes on.
    """
    kinds = {"missing": "missing_keys", "not of this model": "unexpected_keys", "of another shape": "mismatched_keys"}
    wrong = {name: sorted(map(str, found.get(key) or ())) for name, key in kinds.items()}
    listed = "; ".join(f"{len(keys)} {name}, such as {keys[0]}" for name, keys in wrong.items() if keys)
    if listed:
        raise ValueError(
            f"{where}: the weights are not those of the model in config.json ({listed}). Save or download it again."
        )


def load_tokenizer(folder: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside a model. One without a padding token, like GPT-2's, pads with its EOS.

    Raises FileNotFoundError if there is none, ValueError if it cannot be read.
    """
    require_folder(folder, "config.json" if base_of(folder) == str(folder) else ADAPTERS, "model")
    with told(f"{folder}: the tokenizer cannot be loaded", "Save it there with tokenizer.save_pretrained."):
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision, trust_remote_code=False)
        ids = tokenizer("The film").input_ids
    if not ids:  # transformers makes an empty one where it finds no file
        raise FileNotFoundError(f"{folder}: no tokenizer there. Save the model's own with tokenizer.save_pretrained.")
    if tokenizer.pad_token_id is None:  # our masks come from lengths, so any id will do
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def context(model: nn.Module, max_length: int | None = None) -> float:
    """The most tokens that a sequence may have: the model's context, or `max_length` if that is less."""
    named = (getattr(model.config, name, None) for name in ("max_position_embeddings", "max_seq_len"))  # MPT's
    longest = next((size for size in named if size), math.inf)  # Bloom has no limit
    return longest if max_length is None else min(longest, max_length)


def config_ends(model: nn.Module) -> list[int]:
    """The token ids that end a text by the model's configuration and its generation_config; empty if it names none."""
    places = (model.config, getattr(model, "generation_config", None))
    named = [getattr(place, "eos_token_id", None) for place in places]
    return sorted({i for ids in named if ids is not None for i in ([ids] if isinstance(ids, int) else ids)})


def require_folder(name: str | Path, file: str, what: str) -> None:
    """Raise FileNotFoundError if `name` is empty, or a folder without `file`, or a path at which nothing is.

    Anything else may be a name on the hub.
    """
    path, text = Path(name), str(name)
    if not text.strip():
        raise FileNotFoundError(f"the name of the {what} is empty. Give a folder, or a name on the hub.")
    looks_like_a_path = path.is_absolute() or text.startswith(".") or text.count("/") > 1 or "\\" in text
    if path.is_file() or (looks_like_a_path and not path.exists()):
        raise FileNotFoundError(f"{name}: no {what} there, and no folder of that name.")
    if path.is_dir() and not (path / file).is_file():
        raise FileNotFoundError(f"{name}: no {what} there (no {file}).")


def quiet() -> None:
    """Silence transformers, datasets and the hub, whether they are imported already or come later."""
    warnings.filterwarnings("ignore", module=r"(torch|transformers|datasets|huggingface_hub|trl|tqdm)(\.|$)")
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
    os.environ.update(
        TRANSFORMERS_VERBOSITY="error",
        TRANSFORMERS_NO_ADVISORY_WARNINGS="1",
        DATASETS_VERBOSITY="critical",  # it reports each failure, and then raises it
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

        datasets.logging.set_verbosity(50)
        datasets.disable_progress_bars()
