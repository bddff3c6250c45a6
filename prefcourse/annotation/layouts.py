"""What a row of somebody's data means: which columns hold the question and the answers.

    talk, layout = understand({"instruction": "2 + 2?", "input": "", "chosen": "4", "rejected": "5"})

Known are TRL's layouts (prompt, chosen, rejected; chosen and rejected that share a beginning; prompt, completion,
label; the same as messages), Alpaca's (instruction, input), and HH's dialogues. What else looks like a question is
refused: a row without its question would train a model on answers to nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from prefcourse.chat import Messages, dialogue
from prefcourse.preferences import Row

QUESTIONS = ("instruction", "question", "query", "system", "input", "messages", "conversations")
OURS = ("prompt", "chosen", "rejected", "completion", "label", "margin")  # columns that we read
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Talk:
    """A row understood: what was asked and each answer, as texts or as messages, and the columns that are left."""

    prompt: str | Messages | None  # None: there is none
    answers: dict[str, Any]  # chosen and rejected, or completion: text, or messages
    rest: Row
    layout: str  # the name of what was recognised

    @property
    def messages(self) -> bool:
        """Are prompt and answers messages?"""
        return isinstance(self.prompt, list)


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """`row` with the columns that `columns` names: {"prompt": "question"} takes the prompt from the column question.

    {"system": ""} leaves the column system out. Raises ValueError for a column that is not there.
    """
    row = dict(row)
    for target, source in columns.items():
        name = source or target
        if name not in row:
            raise ValueError(f"no column '{name}' (there is {', '.join(map(str, row)) or 'nothing'})")
        value = row.pop(name)
        if source:
            row[target] = value
    return row


def understand(row: Any) -> Talk:
    """What `row` means. Raises ValueError, without the row's number, for one that we cannot use, or only half.

    Alpaca's questions and answers have no border between them, as texts that follow one another have; so they become
    messages.
    """
    if not isinstance(row, dict):
        raise ValueError(f"must be a dict of columns, got {row!r:.80}")
    row = dict(row)
    if "messages" in row and "prompt" not in row:
        row, layout = _of_messages(row), "messages"
    elif "prompt" not in row and isinstance(row.get("instruction"), str):
        parts = [row.pop("instruction"), row.pop("input", None) or ""]
        row["prompt"] = [{"role": "user", "content": "\n\n".join(filter(str.strip, map(str, parts)))}]
        sides = [name for name in (*SIDES, "completion") if isinstance(row.get(name), str)]
        row |= {side: [{"role": "assistant", "content": row[side]}] for side in sides}
        layout = "Alpaca's (instruction, input)"
    else:
        layout = ""
    sides = SIDES if "chosen" in row or "rejected" in row else ("completion",)
    for side in sides:
        if side not in row:
            raise ValueError(f"no '{side}' (there is {', '.join(map(str, row)) or 'nothing'})")
    for name in ("prompt", *sides):
        if name in row and row[name] is None:
            raise ValueError(f"'{name}' is null. Remove the row or fill it in.")
    alone = [side for side in sides if isinstance(row[side], dict) and "role" in row[side]]
    row |= {side: [row[side]] for side in alone}  # one message without a list
    _refuse_questions(row)
    if "label" in row:
        row["label"] = _label(row["label"])
    talks = [name for name in ("prompt", *sides) if isinstance(row.get(name), list)]
    found, how = _conversation(row, sides, talks) if talks else _text(row, sides)
    rest = {name: value for name, value in row.items() if name not in ("prompt", *sides)}
    return Talk(found.get("prompt"), {side: found[side] for side in sides}, rest, layout or how)


def _of_messages(row: Row) -> Row:
    """A row with a column messages: the prompt, or, where no other column has an answer, prompt and completion."""
    talk = row.pop("messages")
    if {*SIDES, "completion"} & row.keys():
        return {**row, "prompt": talk}
    if not isinstance(talk, list) or len(talk) < 2:
        raise ValueError(f"'messages' must hold a question and an answer, got {talk!r:.80}")
    return {**row, "prompt": talk[:-1], "completion": talk[-1:]}


def _refuse_questions(row: Row) -> None:
    """Raise ValueError for a column that looks like a question and that we would not read."""
    for name in QUESTIONS:
        if row.get(name) not in (None, "", [], {}, *(row.get(side) for side in SIDES)):
            how = "" if "prompt" in row else f" Is it the prompt? Then say --columns prompt={name}."
            raise ValueError(
                f"column '{name}' looks like a part of the question, and would not be read.{how} If it is to be left "
                f"out, say --columns {name}="
            )


def _label(label: Any) -> Any:
    """True or False for the ways in which files write it; anything else as it is, which the check refuses."""
    named = {"true": True, "false": False, "1": True, "0": False}
    if isinstance(label, str):
        return named.get(label.strip().lower(), label)
    return bool(label) if isinstance(label, int) and label in (0, 1) else label


def _text(row: Row, sides: Sequence[str]) -> tuple[Row, str]:
    """A row of texts. Where there is no prompt, it is the beginning that both share."""
    kind = "TRL's (prompt, chosen, rejected)" if len(sides) == 2 else "TRL's (prompt, completion)"
    texts = [row[side] for side in sides]
    if "prompt" in row or len(sides) < 2 or not all(isinstance(text, str) for text in texts):
        return row, kind
    if all(dialogue(text) for text in texts):
        return dict(zip(("prompt", *sides), _last_turn(*texts), strict=True)), "HH's dialogues"
    return dict(zip(("prompt", *sides), shared_prompt(*texts), strict=True)), "TRL's with a shared beginning"


def _last_turn(chosen: str, rejected: str) -> tuple[str, str, str]:
    """HH: the prompt goes up to the last "Assistant:" of both; all before it must be the same."""
    mark = "\n\nAssistant:"
    cuts = [text.rfind(mark) + len(mark) for text in (chosen, rejected)]
    if min(cuts) < len(mark) or chosen[: cuts[0]] != rejected[: cuts[1]]:
        raise ValueError("chosen and rejected are dialogues that differ before the last answer")
    return chosen[: cuts[0]], chosen[cuts[0] :], rejected[cuts[1] :]


def shared_prompt(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt, chosen, rejected of a pair whose prompt is the beginning that both texts share.

    We cut before the last space or line break of that beginning, so that no word is cut in two and neither rest is
    empty; TRL's `extract_prompt` cuts at the first character that differs. Both agree where whole words differ.
    Raises ValueError if nothing is shared.
    """
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    cut = max(chosen.rfind(" ", 0, same), chosen.rfind("\n", 0, same))
    if cut <= 0 or not chosen[:cut].strip():
        raise ValueError("there is no 'prompt', and chosen and rejected share no beginning that could be one")
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _conversation(row: Row, sides: Sequence[str], talks: Sequence[str]) -> tuple[Row, str]:
    """A row of messages: what was asked, and one message of the assistant as each answer."""
    texts = [name for name in ("prompt", *sides) if isinstance(row.get(name), str)]
    doubled = texts == ["prompt"] and all(len(row[side]) > 1 for side in sides)  # as ultrafeedback_binarized has it
    if texts and not doubled:
        raise ValueError(f"'{talks[0]}' is a conversation and '{texts[0]}' is text; use one form for all")
    whole = {name: messages_of(name, row[name]) for name in ("prompt", *sides) if isinstance(row.get(name), list)}
    answers, prompt = {side: whole.get(side, []) for side in sides}, whole.get("prompt", [])
    if not prompt and len(sides) == 2:  # implicit: the messages that both share
        chosen, rejected = answers.values()
        prompt = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))]
        answers = {side: talk[len(prompt) :] for side, talk in answers.items()}
    if not prompt:
        raise ValueError("there is no 'prompt', and the conversations share no message that could be one")
    if doubled and row["prompt"] not in (m["content"] for m in prompt):
        raise ValueError("'prompt' is text, and the conversations do not have it. Leave it out: --columns prompt=")
    for side, talk in answers.items():
        if len(talk) != 1 or talk[0]["role"] != "assistant":
            raise ValueError(
                f"'{side}' must add one message of the assistant to the prompt, got {len(talk)}: "
                f"{[message['role'] for message in talk]}"
            )
        if not talk[0]["content"].strip():
            raise ValueError(f"'{side}' is empty. Remove the row or fill it in.")
    return {"prompt": prompt, **answers}, "TRL's, as messages"


def messages_of(name: str, talk: Sequence[Any]) -> list[dict[str, Any]]:
    """The messages of a column, checked; content in parts becomes its text."""
    found = []
    for number, message in enumerate(talk, start=1):
        place = f"'{name}', message {number}"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise ValueError(f"{place} must have role and content, got {message!r:.80}")
        content = message["content"]
        if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(content, str) or not isinstance(message["role"], str):
            raise ValueError(f"{place}: 'content' must be text, got {content!r:.80}")
        # what `datasets` fills in where only other rows have the field is not this message's
        found.append({**{k: v for k, v in message.items() if v is not None}, "content": content})
    return found
