"""Chat templates: what TRL renders we render, a text ends once, and begins once, whatever the tokenizer adds."""

import copy
from types import SimpleNamespace

import pytest
from tokenizers.processors import TemplateProcessing

from prefcourse import chat
from prefcourse.annotation.exchange import load, load_prompts
from prefcourse.generate import eos_ids
from prefcourse.preferences import encode, encode_completions, encode_prompts, write_rows

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (  # writes its BOS, and takes no system message
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}"
    "{% endif %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}"
    "{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
USER = {"role": "user", "content": "What colour is the sky?"}
GOOD, BAD = ({"role": "assistant", "content": word} for word in ("Blue.", "Green."))
TALK = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}


def with_marks(tokenizer, template, eos=None, **names):
    """A copy of `tokenizer` with the marks of a chat model, and perhaps its own EOS and BOS."""
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<s>"]})
    own.eos_token = eos or own.eos_token
    for name, token in names.items():
        setattr(own, name, token)
    own.chat_template = template
    return own


@pytest.fixture(scope="module")
def chatml(tokenizer):
    return with_marks(tokenizer, CHATML, eos="<|im_end|>")


@pytest.mark.parametrize("more", [{}, {"system": True}], ids=["", "with a system message"])
def test_rows_of_messages_are_what_trl_makes_of_them(chatml, more):
    from trl import apply_chat_template

    prompt = [{"role": "system", "content": "Be terse."}] * bool(more) + [USER, GOOD, USER]
    row = {**TALK, "prompt": prompt}
    theirs = apply_chat_template(row, chatml)
    (ours,) = load([row], tokenizer=chatml)
    assert ours["prompt"] == theirs["prompt"] and ours["prompt"].endswith("<|im_start|>assistant\n")
    for side in ("chosen", "rejected"):  # theirs has the line break behind the end of a turn
        assert ours[side] + "\n" == theirs[side] and ours[side].endswith(".<|im_end|>")
    liked = {"prompt": prompt, "completion": [GOOD], "label": True}
    assert load([liked], tokenizer=chatml)[0]["completion"] == ours["chosen"]


def test_a_template_writes_the_bos_once_and_says_what_it_refuses(tokenizer):
    own = with_marks(tokenizer, LLAMA, bos_token="<s>")
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", own.convert_tokens_to_ids("<s>"))]
    )
    bos = own.bos_token_id
    assert own("[INST]")["input_ids"][0] == bos  # the tokenizer would put one before each text
    (row,) = load([TALK], tokenizer=own)
    prompt, answer = encode(row["prompt"], row["chosen"], own)
    assert prompt.count(bos) == 1 and prompt[0] == bos and bos not in answer
    assert encode_prompts(["The film"], own)[0][0] == bos  # and here, where the text has none
    assert answer[-1] == own.eos_token_id and answer.count(own.eos_token_id) == 1
    with pytest.raises(ValueError, match=r"data, line 1: the chat template refuses it \(no system here\)"):
        load([{**TALK, "prompt": [{"role": "system", "content": "x"}, USER]}], tokenizer=own)


@pytest.mark.parametrize("text", ["It is 4.", "It is 4.<|im_end|>", "It is 4.<|im_end|>\n", "It is 4.<|im_end|>\n \n"])
def test_a_completion_has_one_end_whatever_it_came_with(chatml, text):
    ids = encode_completions([text], chatml)[0]
    assert chatml.decode(ids) == "It is 4.<|im_end|>" and ids.count(chatml.eos_token_id) == 1
    assert encode("The sum", text, chatml)[1] == ids


def test_a_turn_may_end_with_another_token_than_a_text(tokenizer):
    own = with_marks(tokenizer, CHATML)  # as Gemma and Phi do: EOS ends a text, <|im_end|> a turn
    end = own.convert_tokens_to_ids("<|im_end|>")
    assert own.eos_token_id == 0 and chat.end_of_turn(own) == end
    (row,) = load([TALK], tokenizer=own)
    assert encode(row["prompt"], row["chosen"], own)[1][-1] == end  # and no EOS behind it
    config = SimpleNamespace(eos_token_id=0)
    assert eos_ids(SimpleNamespace(config=config), own) == sorted({0, end})  # sampling stops at either
    assert chat.end_of_turn(tokenizer) is None


def test_a_completion_that_goes_on_after_its_end_is_refused(chatml):
    with pytest.raises(ValueError, match=r"a completion goes on after its end, <\|im_end\|>: 'Yes.<\|im_end\|>And no"):
        encode_completions(["Yes.<|im_end|>And no.<|im_end|>"], chatml)


def test_a_tokenizer_that_ends_each_text_does_not_end_the_prompt(tokenizer):
    own = copy.deepcopy(tokenizer)
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    assert own("The film")["input_ids"][-1] == 0
    for text in ("The film", "The film was so good that"):
        assert encode(text, " good.", own) == encode(text, " good.", tokenizer)


def test_which_template_is_in_use(chatml, tokenizer):
    text = {"prompt": "Why?", "chosen": " Yes.", "rejected": " No."}
    assert load([text], tokenizer=chatml) == [text]  # texts stay as they are, unless we say otherwise
    (row,) = load([text], tokenizer=chatml, template="chat")
    assert row["prompt"] == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert row["chosen"] == "Yes.<|im_end|>"
    (row,) = load([text], template="plain")
    assert row == {"prompt": "User: Why?\nAssistant:", "chosen": " Yes.", "rejected": " No."}
    assert load([TALK], tokenizer=tokenizer)[0]["prompt"] == "User: What colour is the sky?\nAssistant:"
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        load([TALK], tokenizer=tokenizer, template="chat")
    with pytest.raises(ValueError, match="make no text without a template"):
        load([TALK], tokenizer=chatml, template="none")
    with pytest.raises(ValueError, match="must be one of chat, plain, none, got 'alpaca'"):
        load([TALK], tokenizer=chatml, template="alpaca")


def test_tools_go_through_the_template_and_not_into_plain_lines(tokenizer):
    own = with_marks(tokenizer, "{{ (tools or []) | length }}" + CHATML, eos="<|im_end|>")
    tools = '[{"name": "weather"}]'
    assert load([{**TALK, "tools": tools}], tokenizer=own)[0]["prompt"].startswith("1<|im_start|>")
    assert load([TALK], tokenizer=own)[0]["prompt"].startswith("0<|im_start|>")
    with pytest.raises(ValueError, match="there are tools, for which 'plain' has no line"):
        load([{**TALK, "tools": tools}])


def test_prompts_alone_go_through_the_template(chatml, tmp_path):
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": [USER]}, {"prompt": "Why?"}])
    asked = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    assert load_prompts(tmp_path / "prompts.jsonl", chatml) == [asked.format(USER["content"]), "Why?"]
    assert load_prompts(tmp_path / "prompts.jsonl", chatml, "chat")[1] == asked.format("Why?")
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "Why?"}, {"text": "x"}])
    with pytest.raises(ValueError, match="line 2: no column 'prompt'"):
        load_prompts(tmp_path / "prompts.jsonl", chatml)
