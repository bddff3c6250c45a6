"""The world of the course: a tokenizer, two models, a true reward, prompts and preference data, ready to use.

world = load_world("tiny-reviews")      # offline, 30 MB, part of the course: `prefcourse.worlds.bundled`
world = load_world("gpt2-imdb")         # the real GPT-2, from the hub: `prefcourse.worlds.hub`
world.sft, world.gold, world.pairs["train"][0]
"""

import os
from pathlib import Path

from prefcourse.worlds import bundled
from prefcourse.worlds.world import WORLDS, World

_current = WORLDS[0]  # the world that `load_world` loaded last


def current_world() -> str:
    """The name of the world that was loaded last; "tiny-reviews" before any."""
    return _current


def load_world(
    name: str | None = None, *, folder: str | Path | None = None, device: str = "cpu", **parts: str | Path
) -> World:
    """Load a world by name; without one, what the environment's PREFCOURSE_WORLD names, or else "tiny-reviews".

    folder: another copy of the bundled files. parts: for "gpt2-imdb", what `worlds.hub.load` takes (base, sft, gold,
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
    if name == "tiny-reviews" and parts:
        raise ValueError(f"{', '.join(parts)}: only the world 'gpt2-imdb' is put together from parts")
    world = _from_hub(device, parts) if name == "gpt2-imdb" else None
    world = world or bundled.load(folder, device)
    _current = world.name
    return world


def _from_hub(device: str, parts: dict[str, str | Path]) -> World | None:
    """The world gpt2-imdb, or None, and a word about it, if the hub cannot be reached and no part was named."""
    from prefcourse.worlds import hub  # it needs more libraries than a learner of the bundled world has to wait for

    parts = hub.from_environment() | parts
    try:
        return hub.load(device=device, **parts)
    except OSError as error:
        if parts:
            raise
        print(f"gpt2-imdb is not to be had here ({str(error).splitlines()[0]})")
        print("We take the bundled world tiny-reviews instead. On Colab: switch the internet on and run this again.")
        return None
