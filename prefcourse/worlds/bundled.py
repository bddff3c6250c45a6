"""The world `tiny-reviews`, whose files are part of the course: found, compared with their checksums, read.

`data/` at the top of a clone, or inside the installed package, holds the files; `checksums.json` there lists them, and
a file that is missing or was changed is named at once instead of giving strange numbers later.
"""

import hashlib
import json
from pathlib import Path

from prefcourse.boundary import sha256
from prefcourse.preferences import PAIRED, UNPAIRED, read_rows
from prefcourse.rewards import GoldReward
from prefcourse.worlds.models import load_model, load_tokenizer
from prefcourse.worlds.world import SPLITS, WORLDS, World

LOGPS = "sft_logps.safetensors"
WORDS = "words.json"
ROWS = {"prompts": ("prompt", "type"), "pairs": PAIRED, "unpaired": UNPAIRED}  # folder → columns
MODEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
FILES = (*(f"{model}/{name}" for model in ("base", "sft") for name in MODEL), "gold.json", WORDS)


def data_folder() -> Path:
    """Where the bundled files are: inside an installed package, or `data/` of the clone around it."""
    package = Path(__file__).parents[1]
    for folder in (package / "data", package.parent / "data"):
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
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / 'checksums.json'} is damaged ({error}). {remedy}") from None
    needed = {*FILES, *(f"{part}/{split}.jsonl" for part in ROWS for split in SPLITS)}
    if not isinstance(sums, dict) or not needed <= sums.keys():
        lack = sorted(needed - sums.keys()) if isinstance(sums, dict) else ["a table of files"]
        raise ValueError(f"{folder / 'checksums.json'} is damaged (it has no {lack[0]}). {remedy}")
    for name, expected in sums.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{folder / 'checksums.json'} names {name}, which is not in that folder. {remedy}")
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing from the bundled world. {remedy}")
        if sha256(path) != expected:
            if hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest() == expected:
                raise ValueError(  # a clone that is older than .gitattributes
                    f"{path} has CRLF at the end of its lines, where the bundled file has LF; git does that on Windows "
                    "(core.autocrlf). Delete the folder, then get it back with `git checkout -- data`."
                )
            raise ValueError(f"{path} is damaged or was changed (its checksum is not the stored one). {remedy}")


def load(folder: str | Path | None = None, device: str = "cpu") -> World:
    """The bundled world, from `folder` if another copy is meant. Raises what `data_folder` and `verify` raise."""
    folder = Path(folder) if folder else data_folder()
    verify(folder)
    rows = {
        part: {split: read_rows(folder / part / f"{split}.jsonl", columns) for split in SPLITS}
        for part, columns in ROWS.items()
    }
    return World(
        name=WORLDS[0],
        tokenizer=load_tokenizer(folder / "sft"),
        base=load_model(folder / "base").to(device),
        sft=load_model(folder / "sft").to(device),
        gold=GoldReward.load(folder / "gold.json"),
        words=frozenset(json.loads((folder / WORDS).read_text(encoding="utf-8"))),
        sft_logps=found if (found := folder / LOGPS).exists() else None,
        **rows,
    )
