"""Hints in steps: what is wrong with this answer, then where in the lesson it stands, and the recipe on request.

    result = checks.ex06.dpo_loss(my_dpo_loss)          # shows the first two steps
    result.hint()                                       # the recipe

The environment's PREFCOURSE_HINTS says how far they go: `first` stops after what is wrong, `none` says right or wrong
alone, `all` shows the recipe at once. Without it the recipe waits for `.hint()`.
"""

import os

VARIABLE = "PREFCOURSE_HINTS"
LEVELS = ("first", "all", "none")


def level() -> str:
    """What the environment asks for; "" for steps. Raises ValueError for a word that is none of LEVELS."""
    asked = os.environ.get(VARIABLE, "").strip().lower()
    if asked and asked not in LEVELS:
        raise ValueError(f"{VARIABLE} is {asked!r}; it must be {', '.join(LEVELS)}, or not set for hints in steps")
    return asked


class Hint(str):
    """The first step of a hint, as text; called it gives the recipe."""

    recipe: str = ""

    def __new__(cls, text: str = "", recipe: str = ""):
        made = super().__new__(cls, text)
        made.recipe = recipe
        return made

    def __call__(self) -> "Hint":
        """The last step: the recipe, if there is one and the environment does not withhold it."""
        if level() in ("first", "none"):
            return Hint(f"there are no recipes here: {VARIABLE} is {level()}.")
        return Hint(self.recipe or str(self) or "there is nothing to add.")

    def __repr__(self) -> str:
        return str(self)


NOTHING = Hint()


def lines(hint: Hint, where: str) -> list[str]:
    """The lines below a failure, as far as the environment allows. where: the place in a lesson, or ""."""
    asked = level()
    if asked == "none":
        return []
    found = [f"  Hint: {hint}"]
    if asked != "first":
        found += [f"  Where: {where}"] if where else []
        more = f"  Recipe: {hint.recipe}" if asked == "all" else "  More: put .hint() behind the check for the recipe."
        found += [more] if hint.recipe and hint.recipe != hint else []
    return found
