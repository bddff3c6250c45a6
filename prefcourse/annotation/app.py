"""The labelling app: two answers side by side, a click or a key, and the label is on the disk.

    label_pairs(collector.collect(prompts), gold=world.gold)          # into `labels.my_labels()`, wherever we are

Run the cell again, or reload the page and run it, and it goes on where it stopped. Core ipywidgets only, the same in
versions 7.7 and 8. Keys come through a text box, because that works in every front end. The box is never emptied from
here: an emptied box and the next key can cross on their way, and then the key before would count twice.
"""

import html
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets

from prefcourse.annotation.collector import KEYS, agreement_with, still_open, to_label
from prefcourse.annotation.labels import LabelFile, my_labels
from prefcourse.evaluate import bootstrap
from prefcourse.finite import counted
from prefcourse.rewards import GoldReward

BUTTONS = (  # key, words on the button, its help
    ("a", "A is better (a)", "the text on the left"),
    ("b", "B is better (b)", "the text on the right"),
    ("t", "tie (t)", "both are as good"),
    ("s", "skip (s)", "you cannot say"),
    ("u", "undo (u)", "take the last label back"),
)
# Both texts as they are: line breaks, indents, words of any length, right-to-left writing that stays within its text.
# Shortcuts of JupyterLab are off in a card, where a key would else insert a cell. It scrolls: it can have the focus.
CARD = (
    '<div role="group" aria-label="text {side}" tabindex="0" data-lm-suppress-shortcuts="true" style="border: 1px '
    "solid rgba(128,128,128,0.7); border-radius: 8px; padding: 10px 14px; margin: 4px; line-height: 1.5; "
    'font-size: 15px; min-height: 5em; max-height: 20em; overflow-y: auto;"><b>{side}</b>'
    '<div dir="auto" style="white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4;">'
    '<span style="unicode-bidi: isolate; opacity: 0.7;">{prompt}</span>'
    '<span style="unicode-bidi: isolate;">{text}</span></div></div>'
)
# Wherever in the app a key is pressed, it goes into the box, and JupyterLab does not take it for a shortcut of its own.
# A front end that strips this still has the box, into which a click on a button leads (ipywidgets 8).
KEYS_ANYWHERE = """<style onload="
    const app = this.closest('.prefcourse-labels');
    app.setAttribute('data-lm-suppress-shortcuts', 'true');
    app.addEventListener('keydown', event => {
        const box = app.querySelector('input');
        if (!/^[a-z]$/i.test(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
        if (event.target === box && !event.repeat) return;
        event.preventDefault();
        event.stopPropagation();
        if (event.repeat) return;  // a key held down is one answer
        box.value += event.key;
        box.dispatchEvent(new Event('input', {bubbles: true}));
    });
"></style>"""
QUESTION = (
    '<div style="white-space: normal; line-height: 1.5;"><b>Which text is better?</b> Read both to the end. Nobody '
    "else will see your answer.</div>"
)
LINE = {"flex_flow": "row wrap", "align_items": "center"}  # on a narrow screen, what has no room goes below
_OPEN: dict[Path, LabelFile] = {}  # the file of an app in this kernel is closed when the next one opens it


def label_pairs(
    pairs: Sequence[dict[str, Any]], path: str | Path | None = None, *, gold: GoldReward | None = None, seed: int = 0,
    annotator: str = "me",
) -> ipywidgets.VBox:  # fmt: skip
    """The app over `pairs` (rows with chosen and rejected, or what a collector gave), writing labels to `path`.

    path: by default `my_labels()`, the file that `python -m prefcourse collect` and `train_on_my_labels` take, too.
    Which text stands left is drawn from `seed`. Agreement with `gold` is shown when all pairs are done, not before.
    Raises ValueError for pairs without the columns, BlockingIOError if another process has the file open.
    """
    items = to_label(pairs, seed=seed)
    path = Path(my_labels() if path is None else path)
    place = path.resolve()
    if place in _OPEN:
        _OPEN.pop(place).close()
    file = _OPEN[place] = LabelFile(path)
    progress, question, report = (ipywidgets.HTML() for _ in range(3))
    cards = {side: ipywidgets.HTML(layout={"flex": "1 1 17em", "min_width": "0", "width": "auto"}) for side in "ab"}
    bar = ipywidgets.IntProgress(min=0, max=len(items), layout={"width": "200px"})
    keys = ipywidgets.Text(placeholder="keys: a b t s u", layout={"width": "130px"}, continuous_update=True)
    has_focus = hasattr(keys, "focus")  # ipywidgets 8: the printed keys work where the focus can be led to the box
    buttons = _buttons(has_focus)
    state, turn = {"began": time.monotonic(), "note": file.note}, threading.RLock()

    def draw() -> None:
        waiting = still_open(items, file.records)
        done = len(items) - len(waiting)
        bar.value = done
        progress.value = f"&nbsp; {done} of {len(items)} labelled. {html.escape(state['note'])}"
        for key, button in buttons.items():
            button.disabled = not file.records if key == "u" else not waiting
        if waiting:
            item = waiting[0]
            question.value = QUESTION
            for side, card in cards.items():
                text = html.escape(item[f"response_{side}"])
                card.value = CARD.format(side=side.upper(), prompt=html.escape(item["prompt"]), text=text)
            report.value = ""
        else:
            done = counted(len(items), "pair is", "pairs are")
            question.value = f"<b>All {done} labelled.</b> They are in {html.escape(str(path))}."
            for card in cards.values():
                card.value = ""
            report.value = summary(file.records, gold)
        state["began"] = time.monotonic()

    def press(key: str) -> None:
        waiting = still_open(items, file.records)
        state["note"] = ""
        try:
            if key == "u":
                state["note"] = "Undone." if file.undo() else "There is nothing to undo."
            elif key in KEYS and waiting:
                seconds = round(time.monotonic() - state["began"], 1)
                file.append(
                    {**waiting[0], "label": KEYS[key], "shown_first": "A", "annotator": annotator, "seconds": seconds}
                )
                state["note"] = f"Last: {KEYS[key]}."
            elif key not in KEYS:
                state["note"] = f"“{key}” is none of a, b, t, s, u."
        except (OSError, ValueError) as error:  # a full disk, a closed file: front ends hide what a click raises
            state["note"] = str(error)
        draw()

    def click(key: str) -> None:
        if has_focus:  # first of all, so that the next key finds the box
            keys.focus()
        press(key)

    def typed(change) -> None:
        for key in "".join(added(change["old"], change["new"]).split()).lower():
            press(key)

    for key, button in buttons.items():
        button.on_click(_one_by_one(turn, lambda _, key=key: click(key)))
    keys.observe(_one_by_one(turn, typed), names="value")
    draw()
    return _laid_out([bar, progress], question, [keys, *buttons.values()], list(cards.values()), report)


def _one_by_one(turn: threading.RLock, handler: Callable[..., None]) -> Callable[..., None]:
    """`handler`, in turn with the others: newer JupyterLabs hand the events of each widget to a thread of its own."""

    def held(*event) -> None:
        with turn:
            handler(*event)

    return held


def _buttons(keys_work: bool) -> dict[str, ipywidgets.Button]:
    """A button for each key, which is printed on it where it works."""
    return {
        key: ipywidgets.Button(
            description=words if keys_work else words.removesuffix(f" ({key})"), tooltip=hint, layout={"width": "auto"}
        )
        for key, words, hint in BUTTONS
    }


def _laid_out(
    status: list, question: ipywidgets.HTML, controls: list, cards: list, report: ipywidgets.HTML
) -> ipywidgets.VBox:
    """The parts in one box. The buttons stand above the texts: there they stay, however long these are."""
    texts = ipywidgets.HBox(cards, layout=LINE | {"align_items": "stretch"})
    status, controls = (
        ipywidgets.HBox(line, layout=LINE) for line in (status, [*controls, ipywidgets.HTML(KEYS_ANYWHERE)])
    )
    app = ipywidgets.VBox([status, question, controls, texts, report])
    app.add_class("prefcourse-labels")
    return app


def added(old: str, new: str) -> str:
    """What was put into `old` to make `new`: `new` without what both have at the beginning and at the end.

    >>> added("ab", "abt"), added("ab", "a"), added("", "ab")
    ('t', '', 'ab')
    """
    head = _shared(old, new)
    tail = _shared(old[head:][::-1], new[head:][::-1])
    return new[head : len(new) - tail]


def _shared(a: str, b: str) -> int:
    """How many letters both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def summary(records: Sequence[dict[str, Any]], gold: GoldReward | None = None) -> str:
    """What the labels say about the labeller, as HTML: agreement with the true reward, the place, and the pace."""
    picked = [r["label"] for r in records if r["label"] in ("A", "B")]
    others = counted(len(records) - len(picked), "tie or skip", "ties and skips")
    lines = [f"{counted(len(picked), 'choice')}, {others}."]
    if gold is not None:
        same, total = agreement_with(gold, records)
        if total > 1:
            rate = bootstrap([1.0] * same + [0.0] * (total - same))
            lines.append(
                f"The true reward of this world chooses as you did in {same} of {counted(total, 'pair')}: "
                f"{rate:.0%}. It counts "
                "words of praise and blame; where you differ, you may well be right."
            )
    if len(picked) > 1:
        left = bootstrap([float(label == "A") for label in picked])
        verdict = "fair" if left.low <= 0.5 <= left.high else "not left to chance: look again at the close ones"
        lines.append(f"You chose the text on the left in {left:.0%} of cases, which is {verdict}.")
    times = sorted(r["seconds"] for r in records if "seconds" in r)
    if times:
        lines.append(f"A choice took you {counted(round(times[len(times) // 2]), 'second')}, in the median.")
    return "<br>".join(html.escape(line) for line in lines)
