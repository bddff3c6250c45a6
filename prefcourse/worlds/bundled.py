"""The world `tiny-reviews`, whose files are part of the course: found, compared with their checksums, read.

`data/` at the top of a clone, or inside the installed package, holds the files; `checksums.json` there lists them, and
a file that is missing or was changed is named at once instead of giving strange numbers later.
"""

import hashlib
import json
from pathlib import Path

from prefcourse.preferences import PAIRED, UNPAIRED, read_rows
from prefcourse.rewards import GoldReward
from prefcourse.worlds.models import load_model, load_tokenizer
from prefcourse.worlds.world import SPLITS, WORLDS, World

LOGPS = "sft_logps.safetensors"
WORDS = "words.json"


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
    except ValueError as error:
        raise ValueError(f"{folder / 'checksums.json'} is damaged ({error}). {remedy}") from None
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing from the bundled world. {remedy}")
        content = path.read_bytes()
        if _digest(content) != expected:
            if _digest(content.replace(b"\r\n", b"\n")) == expected:
                raise ValueError(  # a clone that is older than .gitattributes
                    f"{path} has CRLF at the end of its lines, where the bundled file has LF; git does that on Windows "
                    "(core.autocrlf). Delete the folder, then get it back with `git checkout -- data`."
                )
            raise ValueError(f"{path} is damaged or was changed (its checksum is not the stored one). {remedy}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def load(folder: str | Path | None = None, device: str = "cpu") -> World:
    """The bundled world, from `folder` if another copy is meant. Raises what `data_folder` and `verify` raise."""
    folder = Path(folder) if folder else data_folder()
    verify(folder)
    rows = {
        part: {split: read_rows(folder / part / f"{split}.jsonl", columns) for split in SPLITS}
        for part, columns in (("prompts", ("prompt", "type")), ("pairs", PAIRED), ("unpaired", UNPAIRED))
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
