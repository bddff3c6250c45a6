"""Conversations as text: through the chat template that comes with a tokenizer, or as lines "User: …".

    prompt, (good, bad) = render([user], [[answer], [other]], tokenizer, "chat")

A conversation is a list of messages, dicts of role and content. A model that was trained with a template has seen its
marks around every turn; without them it is asked in a language that it does not know.
"""

import re
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

TEMPLATES = ("chat", "plain", "none")
ROLES = ("system", "user", "assistant")  # that `plain` has a line for
Message = Mapping[str, Any]
Messages = Sequence[Message]


def choose(template: str | None, messages: bool, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """The template in use: `template`, or by default "chat" for messages where the tokenizer has one, else "plain".

    messages: are the rows conversations? Texts are by default left as they are, "none". Raises ValueError for a
    template that there is not, or that cannot be.
    """
    has_one = bool(getattr(tokenizer, "chat_template", None))
    if template is None:
        return "none" if not messages else "chat" if has_one else "plain"
    if template not in TEMPLATES:
        raise ValueError(f"the template must be one of {', '.join(TEMPLATES)}, got {template!r}")
    if template == "chat" and not has_one:
        raise ValueError("the tokenizer has no chat template. Take --template plain, or a model that has one.")
    if template == "none" and messages:
        raise ValueError(
            "the rows are messages, or questions and answers, which make no text without a template. Take --template "
            "chat or plain."
        )
    return template


def render(
    prompt: Messages, answers: Sequence[Messages], tokenizer: PreTrainedTokenizerBase | None, template: str,
    tools: Sequence[Any] | None = None,
) -> tuple[str, list[str]]:  # fmt: skip
    """The text that all answers follow, up to where the assistant begins, and the text of each answer.

    With "chat" this is what TRL's `apply_chat_template` makes, but an answer ends with the template's own mark and not
    with the space behind it. Raises ValueError for what the template refuses.
    """
    if template == "plain":
        if tools:
            raise ValueError("there are tools, for which 'plain' has no line. Take --template chat.")
        return "\n".join([*map(_line, prompt), "Assistant:"]), [" " + answer[0]["content"] for answer in answers]
    try:
        asked = tokenizer.apply_chat_template(list(prompt), tools=tools, add_generation_prompt=True, tokenize=False)
        whole = [tokenizer.apply_chat_template([*prompt, *answer], tools=tools, tokenize=False) for answer in answers]
    except Exception as error:  # of jinja, or of the template itself: any kind
        raise ValueError(f"the chat template refuses it ({str(error).splitlines()[0]:.120})") from error
    asked = commonprefix([asked, *whole])  # noqa: RUF071 (no paths; some templates open a turn in another way)
    marks = tuple(tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer))))
    answers = [text[len(asked) :] for text in whole]
    # Behind the mark that ends a turn many templates write a line break, which no model is asked to write.
    return asked, [text.rstrip() if text.rstrip().endswith(marks) else text for text in answers]


def _line(message: Message) -> str:
    if message["role"] not in ROLES:
        raise ValueError(f"the role {message['role']!r} has no line in 'plain'; there are {', '.join(ROLES)}")
    return f"{message['role'].capitalize()}: {message['content']}"


_ends: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, int | None]] = WeakKeyDictionary()


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the tokenizer's chat template ends a turn of the assistant; None without such a mark."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    if not template:
        return None
    known = _ends.get(tokenizer)
    if known is None or known[0] != template:
        known = _ends[tokenizer] = (template, _find_end(tokenizer))
    return known[1]


def _find_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    asked, said = {"role": "user", "content": "Question"}, {"role": "assistant", "content": "The answer is here."}
    try:
        _, (answer,) = render([asked], [[said]], tokenizer, "chat")
    except ValueError:  # a template for something else
        return None
    _, found, rest = answer.partition(said["content"])
    ids = tokenizer(rest, add_special_tokens=False)["input_ids"] if found and rest else []
    return next((i for i in ids if i in special_ids(tokenizer)), None)


_special: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, frozenset[int]]] = WeakKeyDictionary()


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of the tokenizer's special tokens, those of its template among them."""
    known = _special.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        marks = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        known = _special[tokenizer] = (len(tokenizer), frozenset(marks | set(tokenizer.all_special_ids)))
    return known[1]


TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")  # the marks of Anthropic's HH dialogues (Bai et al. 2022)


def dialogue(text: str) -> list[dict[str, str]] | None:
    """A text "\\n\\nHuman: … \\n\\nAssistant: …" as messages; None if it does not begin with the human."""
    parts = TURN.split(text)  # before the first mark, then mark and words in turn
    if len(parts) < 3 or parts[0].strip() or parts[1] != "Human":
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": words} for who, words in zip(parts[1::2], parts[2::2], strict=True)]
