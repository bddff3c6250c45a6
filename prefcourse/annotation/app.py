"""The labelling app: two answers side by side, a click or a key, and the label is on the disk.

    label_pairs(collector.collect(prompts), "runs/my-labels.jsonl", gold=world.gold)

Run the cell again, or reload the page and run it, and it goes on where it stopped. Core ipywidgets only, the same in
versions 7.7 and 8. Keys come through a text box, because that works in every front end: click into it once, then type.
"""

import html
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets

from prefcourse.annotation.collector import KEYS, agreement_with, still_open, to_label
from prefcourse.annotation.labels import LabelFile
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
CARD = (
    '<div style="border: 1px solid rgba(128,128,128,0.7); border-radius: 8px; padding: 10px 14px; margin: 4px; '
    'line-height: 1.5; min-height: 5em; font-size: 15px;"><b>{side}</b><br>'
    '<span style="opacity: 0.65;">{prompt}</span>{text}</div>'
)
_OPEN: dict[Path, LabelFile] = {}  # the file of an app in this kernel is closed when the next one opens it


def label_pairs(
    pairs: Sequence[dict[str, Any]], path: str | Path, *, gold: GoldReward | None = None, seed: int = 0,
    annotator: str = "me",
) -> ipywidgets.VBox:  # fmt: skip
    """The app over `pairs` (rows with chosen and rejected, or what a collector gave), writing labels to `path`.

    Which text stands left is drawn from `seed`. Agreement with `gold` is shown when all pairs are done, not before.
    Raises ValueError for pairs without the columns, BlockingIOError if another process has the file open.
    """
    items = to_label(pairs, seed=seed)
    place = Path(path).resolve()
    if place in _OPEN:
        _OPEN.pop(place).close()
    file = _OPEN[place] = LabelFile(path)
    progress, question, report = (ipywidgets.HTML() for _ in range(3))
    wide = {"width": "50%"}
    cards = {side: ipywidgets.HTML(layout=wide) for side in "ab"}
    bar = ipywidgets.IntProgress(min=0, max=len(items), layout={"width": "240px"})
    buttons = {key: ipywidgets.Button(description=words, tooltip=hint) for key, words, hint in BUTTONS}
    keys = ipywidgets.Text(placeholder="keys: a b t s u", layout={"width": "160px"}, continuous_update=True)
    state = {"began": time.monotonic(), "note": file.note}

    def draw() -> None:
        waiting = still_open(items, file.records)
        done = len(items) - len(waiting)
        bar.value = done
        progress.value = f"&nbsp; {done} of {len(items)} labelled. {html.escape(state['note'])}"
        for key, button in buttons.items():
            button.disabled = not file.records if key == "u" else not waiting
        if waiting:
            item = waiting[0]
            question.value = "<b>Which review is better?</b> Read both to the end. Nobody else will see your answer."
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

    def typed(change) -> None:
        for key in change["new"].strip().lower():
            press(key)
        if change["new"]:
            keys.value = ""

    for key, button in buttons.items():
        button.on_click(lambda _, key=key: press(key))
    keys.observe(typed, names="value")
    draw()
    rows = [ipywidgets.HBox([bar, progress]), question, ipywidgets.HBox(list(cards.values()))]
    return ipywidgets.VBox([*rows, ipywidgets.HBox([*buttons.values(), keys]), report])


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
