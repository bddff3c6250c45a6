"""How data/ is made: the corpus's rules, the tokenizer, the gold fit, resumable steps, and all of it in miniature."""

import codecs
import functools
import hashlib
import itertools
import json
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefcourse import bundle
from prefcourse.bundle import card, corpus, gold, muon, pretrain, samples, unwritten
from prefcourse.bundle import tokenizer as closed
from prefcourse.evaluate import typicality
from prefcourse.rewards import GoldReward
from prefcourse.world import load_world
from prefcourse.worlds.bundled import data_folder
from prefcourse.worlds.world import SPLITS

PERMITTED = "a i i'm it it's is was the this that film movie good not bad i've see well made"
WORDS = frozenset(PERMITTED.split())


def plain(text):
    """Decode a word that the source does not show (rot13, as in corpus.py)."""
    return codecs.decode(text, "rot13")


# ------------------------------------------------------------------------------------------- sentences


@pytest.mark.parametrize("sentence", [
    "This film is good.",
    "It's not bad, is it?",
    "I see that I'm not bad!",
    "This film, well made, is good; it's not bad.",
    "It is.",
    "A well-made movie.",
])  # fmt: skip
def test_plain_sentences(sentence):
    assert corpus.is_plain(sentence, WORDS)


@pytest.mark.parametrize("sentence", [
    "this film is good.",  # no capital
    "This film is good",  # no full stop
    "This film is Good.",  # a capital inside
    "THIS film is good.",
    "This film is excellent.",  # not one of the words
    "Good.",  # one word
    'This "film" is good.',
    "This film is good (not bad).",
    "This film is 7 good.",
    "This film is good...",
    "This film is good. It is.",  # two sentences
    "This film -- good.",
    "This film is - good.",
    "This film ,good.",
    "This film,good.",
    "This film's' good.",
    "This film is good." * 12,  # too long
    "This " + "film " * 40 + "is good.",
    "This " + "a " * 50 + "film.",  # more than 40 words
    "",
])  # fmt: skip
def test_sentences_that_are_not_plain(sentence):
    assert not corpus.is_plain(sentence, WORDS)


def test_names_are_allowed_in_the_wide_corpus_only():
    words = WORDS | {"maria"}
    assert corpus.is_plain("This is Maria.", words, names=True) and not corpus.is_plain("This is Maria.", words)
    assert not corpus.is_plain("This is Peter.", words, names=True)


def test_cleaning():
    assert corpus.clean(" It&#39;s<br /><br />a  film\n&amp; \u2018good\u2019 ") == "It's a film & 'good'"


def test_short_reviews_are_runs_of_at_most_three_plain_neighbours():
    good, bad = [f"{start} film is good." for start in ("This", "That", "The", "A")], "It cost $5."
    pieces = lambda *sentences: corpus.short_reviews(" ".join(sentences), WORDS)  # noqa: E731
    assert pieces(*good) == [" ".join(good[:3]), good[3]]
    assert pieces(good[0], bad, good[1], good[2]) == [good[0], f"{good[1]} {good[2]}"]
    assert pieces(bad, good[0], bad) == [good[0]]
    assert pieces(good[0], good[0]) == [f"{good[0]} {good[0]}"]
    assert pieces(bad) == pieces("") == []
    assert pieces(*good[:3], bad, good[3]) == [" ".join(good[:3]), good[3]]


# ------------------------------------------------------------------------------------------- crude words

CRUDE = "fuvg Fuvggl qnza uryy frkl anxrq ovgpurf"  # stems in any form and case, and whole words
FINE = "hello class assume damage grape classic shell essex cockpit analysis title document"


@pytest.mark.parametrize("word", CRUDE.split())
def test_crude_words_are_found(word):
    assert corpus.crude_words(f"What a {plain(word)}, film.") == [plain(word)], word


@pytest.mark.parametrize("word", FINE.split())
def test_words_that_only_contain_one_are_fine(word):
    assert corpus.crude_words(f"{word.capitalize()} and {word}.") == []


def test_word_lists_leave_out_names_crude_and_rare_words(monkeypatch):
    monkeypatch.setattr(corpus, "MIN_COUNT_WIDE", 3)
    crude = plain("fuvg")
    review = f"The film with Maria and the Maria and Maria was {crude} and {crude} and the {crude}. I'm b once"
    common, wide = corpus.word_lists(*corpus.count_words([review]))
    assert {"the", "film", "and", "i'm", "once"} <= common and wide == {"the", "and", "maria"}
    assert not {"maria", crude, "b"} & common
    monkeypatch.setattr(corpus, "VOCABULARY_SIZE", 2)
    assert corpus.word_lists(*corpus.count_words([review]))[0] == {"and", "the"}  # the most frequent


# ------------------------------------------------------------------------------------------- reading


def test_a_folder_without_parquet_files_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no train-\*\.parquet in this folder.*stanfordnlp/imdb") as error:
        corpus.load_imdb(str(tmp_path), "train")
    assert str(error.value).startswith(f"{tmp_path}: ")


def test_an_unknown_step_is_answered_with_the_steps_there_are(tmp_path):
    with pytest.raises(ValueError, match="no step 'pair'; the steps are: corpus, tokenizer, base, again, sft"):
        bundle.build("nowhere", tmp_path / "out", tmp_path / "work", redo="pair")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------- tokenizer

SENTENCES = [f"{a} {b} {c}." for a in ("This", "That", "The") for b in ("film", "movie", "story")
             for c in ("is good", "was bad", "isn't a waste of time")]  # fmt: skip


WIDE = ["Maria saw a zebra.", "Maria saw a film.", "The zebra is seldom bad."]


def test_the_tokenizer_is_a_function_of_the_texts_to_the_byte(tmp_path):
    for name in ("a", "b"):
        closed.build(SENTENCES, WIDE, tmp_path / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    closed.build(SENTENCES[:9] * 2, WIDE, tmp_path / "c")
    assert (tmp_path / "c" / "tokenizer.json").read_bytes() != (tmp_path / "a" / "tokenizer.json").read_bytes()


def test_forms_are_words_with_their_space_contractions_and_marks():
    assert closed.forms("It isn't a well-made film, is it?") == [
        "It", "Ġisn", "'t", "Ġa", "Ġwell-made", "Ġfilm", ",", "Ġis", "Ġit", "?",
    ]  # fmt: skip
    assert closed.forms("I've 12 - films") == ["I", "'ve", "Ġ12", "Ġ-", "Ġfilms"]
    assert "".join(closed.forms("Ünknown\n  é-b")).replace("Ġ", "") == "ÃľnknownĊÃ©-b"


def test_the_vocabulary_is_eos_placeholder_bytes_then_forms_by_frequency(monkeypatch):
    found = closed.vocabulary(SENTENCES, WIDE)
    assert found[:2] == ["<|endoftext|>", "<|rare|>"] and len(set(found)) == len(found)
    assert all(len(token) == 1 for token in found[2:258]) and len(found[258]) > 1
    assert {"This", "Ġmovie", "Ġisn", "'t", "Ġwaste"} < set(found)
    assert found.index("Ġfilm") < found.index("Ġgood") < found.index("ĠMaria" if "ĠMaria" in found else "Maria")
    monkeypatch.setattr(closed, "MIN_COUNT", 10)  # "The" has 9 of the sentences
    monkeypatch.setattr(closed, "VOCAB_SIZE", 262)
    assert "The" not in closed.vocabulary(SENTENCES, []) and len(closed.vocabulary(SENTENCES, WIDE)) == 262


def test_the_tokenizer_loads_as_it_was_saved_and_gives_texts_back(tmp_path):
    made = closed.build(SENTENCES, WIDE, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*SENTENCES, "Ünknown , 'words' ! 7  ", " leading", "<rare> |rare|", "tab\tand\n\nlines"):
        ids = loaded(text)["input_ids"]
        assert ids == made(text)["input_ids"] and loaded.decode(ids) == text and not {0, 1} & set(ids)
    assert loaded.eos_token_id == loaded.bos_token_id == loaded.pad_token_id == 0 and loaded.model_max_length == 128


@given(text=st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back(tokenizer, text):
    for special in (closed.EOS, closed.RARE):  # these two are tokens, not text
        text = text.replace(special, "")
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_known_and_placeholder(tmp_path):
    made = closed.build(SENTENCES, WIDE[:0], tmp_path)
    assert closed.known("This story isn't bad.", made) and not closed.known("This zebra isn't bad.", made)
    assert closed.share_known(["This zebra.", "The film."], made) == 5 / 6
    assert made.convert_ids_to_tokens(closed.with_rare("This zebra isn't bad.", made)) == [
        "This", "<|rare|>", "Ġisn", "'t", "Ġbad", ".",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------- gold


def test_windows_have_40_words_and_no_word_is_lost():
    for count in (1, 39, 40, 41, 59, 61, 80, 99, 101, 140):
        words = [f"w{i}" for i in range(count)]
        found = [piece.split() for piece in gold.windows(" ".join(words))]
        assert list(itertools.chain(*found)) == words
        assert all(len(piece) == 40 for piece in found[:-1]) and len(found[-1]) <= 60
        assert len(found[-1]) >= min(count, 20)


def test_the_fit_recovers_signs(monkeypatch):
    monkeypatch.setattr(gold, "MIN_WINDOWS", 5)
    rng, texts, labels = random.Random(0), [], []
    for i in range(400):
        label, clear = i % 2, rng.random() < 0.9
        word = rng.choice(["lovely", "superb"]) if label == clear else rng.choice(["awful", "dreary"])
        texts.append(f"this film was {word}" + (" and strange" if rng.random() < 0.5 else ""))
        labels.append(label)
    texts.append("once")
    labels.append(1)
    words = {"this", "film", "was", "lovely", "superb", "awful", "dreary", "and", "once"}
    found = gold.fit(texts, labels, words)
    assert min(found.weights[w] for w in ("lovely", "superb", "was lovely")) > 0.2
    assert max(found.weights[w] for w in ("awful", "dreary", "was awful")) < -0.2
    assert abs(found.weights.get("film", 0)) < 0.1
    assert not {"strange", "and strange", "once"} & set(found.weights)  # not a word of the corpus, or too rare
    assert gold.accuracy(found, texts, labels) == pytest.approx(0.9, abs=0.03)
    assert gold.fit(texts, labels, words).weights == found.weights


def test_the_fit_is_where_the_gradient_is_zero(monkeypatch):
    monkeypatch.setattr(gold, "MIN_WINDOWS", 1)
    monkeypatch.setattr(gold, "L2", 0.5)
    texts, labels = ["good", "good", "good", "bad", "bad"], [1, 1, 0, 0, 1]
    found = gold.fit(texts, labels, {"good", "bad"})
    p = {w: torch.tensor(found.score(w)).sigmoid().item() for w in ("good", "bad")}
    assert 3 * p["good"] - 2 + 0.5 * found.weights["good"] == pytest.approx(0, abs=2e-3)
    assert 2 * p["bad"] - 1 + 0.5 * found.weights["bad"] == pytest.approx(0, abs=2e-3)
    assert 3 * p["good"] + 2 * p["bad"] - 3 == pytest.approx(0, abs=2e-3)  # the bias is not penalised


def test_accuracy():
    reward = GoldReward({"good": 1.0}, -0.5)
    assert gold.accuracy(reward, ["good", "bad", "good", "bad"], [1, 0, 0, 1]) == 0.5


# ------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(("prompt", "kind"), [
    ("What a great", "question"), ("Is it", "question"), ("I was", "first person"), ("I've seen", "first person"),
    ("My favorite", "first person"), ("A great", "positive"), ("The worst", "negative"), ("The film", "neutral"),
    ("Isolated and", "neutral"), ("Western films", "neutral"), ("Mysterious", "neutral"),
])  # fmt: skip
def test_prompt_types(prompt, kind):
    reward = GoldReward({"great": 1.0, "worst": -1.0, "film": 0.2}, bias=2.0)
    assert samples.prompt_type(prompt, reward) == kind


def test_a_cut_is_after_2_to_8_tokens_before_a_space(tokenizer):
    rng, text, prompts = random.Random(0), "I think the ending never was great fun and I like it.", set()
    for _ in range(200):
        prompt, completion = samples.cut(text, tokenizer, rng)
        ids = tokenizer(prompt)["input_ids"], tokenizer(completion)["input_ids"]
        assert prompt + completion == text and completion[0] == " " and prompt[-1] != " "
        assert 2 <= len(ids[0]) <= 8 and len(ids[1]) >= 3 and ids[0] + ids[1] == tokenizer(text)["input_ids"]
        prompts.add(prompt)
    assert len(prompts) >= 5
    assert samples.cut("This.", tokenizer, rng) is None and samples.cut("", tokenizer, rng) is None


def test_prompts_begin_like_a_review_and_come_once(tokenizer, monkeypatch):
    """The model writes each text twice, some begin in the middle of a sentence, some never end, some are crude."""
    monkeypatch.setattr(samples, "PER_TYPE", {"train": 2, "validation": 1, "test": 1})
    starts = {"question": "Is the", "first person": "I think the", "neutral": "The old", "positive": "The great",
              "negative": "The boring"}  # fmt: skip
    texts = [f"{start} {noun} was {how}." for start in starts.values() for noun in ("film", "movie", "story", "cast")
             for how in ("rather dull", "a waste of time")]  # fmt: skip
    bad = [" the old cast was great fun.", "the old ending was great fun.", f"That ending was great {plain('fuvg')}."]
    ids = [[*tokenizer(text)["input_ids"], 0] for text in (*bad, *texts)] + [
        tokenizer("That film was great fun.")["input_ids"]
    ]
    monkeypatch.setattr(samples, "sample_ids", lambda *_, **__: ids * 2)
    words = frozenset(" ".join([*texts, "fun ending"]).lower().replace(".", "").split())
    found = samples.prompts(None, tokenizer, GoldReward({"great": 1.0, "boring": -1.0}), words)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 10, "validation": 5, "test": 5}
    rows = [row for part in found.values() for row in part]
    assert len({row["prompt"] for row in rows}) == 20
    for row in rows:
        assert row["prompt"].startswith(starts[row["type"]].split()[0]) and row["prompt"][0].isupper()


def test_too_few_prompts_of_a_type_are_an_error(tokenizer, monkeypatch):
    monkeypatch.setattr(
        samples, "sample_ids", lambda *_, **__: [[*tokenizer("The old film was great fun.")["input_ids"], 0]]
    )
    with pytest.raises(RuntimeError, match=r"too few prompts of a type: .*'question': 0"):
        samples.prompts(None, tokenizer, GoldReward({}), frozenset(["the", "old", "film", "was", "great", "fun"]))


def test_sft_rows_are_the_most_typical_of_what_base_writes(tiny_gpt2, tokenizer, monkeypatch):
    """Texts twice, unended, too short, too long, not plain: none of them is a row; of the rest we keep a share."""
    fit = [f"{start} {noun} was {how}." for start in ("This", "That", "The old", "I think the") for how in
           ("great fun", "boring", "a waste of time") for noun in ("film", "cast", "story", "movie")]  # fmt: skip
    words = frozenset(word.lower().strip(".") for text in fit for word in text.split())
    bad = [
        "That.",
        "This zebra was boring.",
        "this film was boring.",
        " ".join([fit[0]] * 3 + [fit[1]]),
        f"{fit[0]} " * 9,
    ]
    ids = [[*tokenizer(text)["input_ids"], 0] for text in (*bad, *fit, *fit)] + [
        tokenizer("This film was dull.")["input_ids"]
    ]
    base, asked = tiny_gpt2(), {}
    monkeypatch.setattr(
        samples, "sample_ids", lambda model, prompts, **settings: asked.update(settings, n=len(prompts)) or ids
    )
    rows, facts = samples.sft_rows(base, tokenizer, words, 99, 0.5)
    assert asked["n"] == 99 and asked["temperature"] == 0.7
    assert facts["fit"] == 48 and facts["rows"] == len(rows) == 24 and facts["sampled"] == 99
    texts = [(row["prompt"] + row["completion"]).removeprefix(tokenizer.eos_token) for row in rows]
    assert len(set(texts)) == 24 and set(texts) <= set(fit)
    alone = [([], [*ids, 0]) for ids in tokenizer(fit)["input_ids"]]
    nats = dict(zip(fit, typicality(base, tokenizer, alone), strict=True))
    assert max(nats[text] for text in texts) <= min(nats[text] for text in fit if text not in texts)
    alone = sum(row["prompt"] == tokenizer.eos_token for row in rows)
    assert 1 <= alone <= 12 and all(row["completion"][0] == " " for row in rows if row["prompt"] != tokenizer.eos_token)
    assert samples.sft_rows(base, tokenizer, words, 99, 0.5)[0] == rows


def test_what_fits_into_the_pairs(tokenizer):
    from prefcourse.generate import Completion

    def usable(text, ids=None, finished=True, prompt="This movie"):
        ids = [*tokenizer(text)["input_ids"], 0] if ids is None else ids
        return samples.fit(prompt, Completion(text, ids, finished), tokenizer)

    assert usable(" is boring.")
    assert not usable(" is boring.", finished=False)
    assert not usable(" ") and not usable(f" is {plain('fuvg')}.")
    assert not usable("ie is boring.", prompt="This mov")  # together they make other tokens
    spelt = [i for letter in " is boring." for i in tokenizer(letter)["input_ids"]]
    assert not usable(" is boring.", ids=[*spelt, 0])  # right text, other tokens


def test_labels_are_coins_with_bradley_terrys_probability(tokenizer, monkeypatch):
    """Two completions, one 1.5 nats better: it is chosen in σ(1.5) of many pairs."""
    from prefcourse.generate import Completion

    kinds = [" is wonderful.", " is boring."]

    def sample(model, words, texts, **settings):
        chosen = [kinds[k % 2] for k in range(len(texts))]
        return [Completion(text, [*tokenizer(text)["input_ids"], 0], True) for text in chosen]

    monkeypatch.setattr(samples, "generate", sample)
    rows = [{"prompt": f"This movie {k}"} for k in range(1_000)]
    reward = GoldReward({"wonderful": 1.0, "boring": -0.5})
    pairs, unpaired, facts = samples.pairs_and_unpaired(rows, None, tokenizer, reward, seed=0)
    assert len(pairs) == 1_000 and len(unpaired) == 2_000 and facts["dropped"] == {"same text twice": 2_000}
    better = [row for row in pairs if row["chosen"] == kinds[0]]
    p = torch.tensor(1.5).sigmoid().item()
    assert len(better) / 1_000 == pytest.approx(p, abs=4 * (p * (1 - p) / 1_000) ** 0.5)
    assert {row["probability"] for row in better} == {round(p, 4)}
    assert {row["probability"] for row in pairs} == {round(p, 4), round(1 - p, 4)}
    assert all((row["chosen_score"], row["rejected_score"]) == (1.0, -0.5) for row in better)
    liked = sum(row["label"] for row in unpaired if row["completion"] == kinds[0]) / 1_000
    assert liked == pytest.approx(torch.tensor(0.75).sigmoid().item(), abs=0.06)


# ------------------------------------------------------------------------------------------- pre-training


@pytest.fixture
def small_rows(monkeypatch):
    monkeypatch.setattr(pretrain, "ROWS", 4)
    monkeypatch.setattr(pretrain, "LENGTH", 16)
    pretrain.epoch_order.cache_clear()  # what it keeps was made with another LENGTH
    yield
    pretrain.epoch_order.cache_clear()


def test_a_batch_is_a_function_of_its_step(small_rows):
    data = {"simple": torch.arange(1_000), "wide": torch.arange(5_000, 7_000), "spelt": torch.arange(9_000, 9_200)}
    batches = {step: pretrain.batch(step, data, 40, 10) for step in range(40)}
    for step in (37, 3, 29, 30, 0):  # in any order
        assert torch.equal(batches[step], pretrain.batch(step, data, 40, 10))
        assert not torch.equal(batches[step], pretrain.batch(step, data, 40, 10, seed=1))
    for step, rows in batches.items():
        assert rows.shape == (4, 17) and (rows.diff(dim=1) == 1).all()
        assert (rows[:, 0] >= 9_000).sum() == 1
        assert ((rows[:, 0] >= 5_000) & (rows[:, 0] < 9_000)).sum() == (2 if step < 30 else 0)


def test_no_simple_row_comes_twice_within_an_epoch_when_the_decay_begins(small_rows):
    data = {"simple": torch.arange(3_000), "wide": torch.arange(5_000, 7_000), "spelt": torch.arange(9_000, 9_200)}
    starts = [start for step in range(60) for start in pretrain.batch(step, data, 60, 30)[:, 0].tolist()]
    simple = [start for start in starts if start < 5_000]
    assert len(simple) == 30 * 1 + 30 * 3 and len(set(simple)) == len(simple)


def test_streams_part_the_reviews_by_what_the_vocabulary_knows(tmp_path):
    made = closed.build(SENTENCES, [], tmp_path)
    texts = {"train": [*SENTENCES, "This zebra is good."], "wide": ["A zebra."], "valid": [], "test": []}
    found = pretrain.streams(texts, made)
    assert sorted(made.decode(found["simple"]).split(closed.EOS)[:-1]) == sorted(SENTENCES)
    assert made.decode(found["spelt"]) == "This zebra is good." + closed.EOS
    assert made.convert_ids_to_tokens(found["wide"].tolist()) == ["A", closed.RARE, ".", closed.EOS]


def test_an_epoch_shows_each_row_once_and_the_next_cuts_elsewhere(small_rows):
    stream = torch.arange(1_000)
    per_epoch = 1_000 // 16 - 2
    first, second = (pretrain.rows_of(stream, k * per_epoch, per_epoch, seed=1)[:, 0] for k in (0, 1))
    for starts in (first, second):
        assert starts.unique().numel() == per_epoch and (starts.sort().values.diff() == 16).all()
        assert starts.tolist() != sorted(starts.tolist())
    assert first.min() != second.min()


def test_rows_of_another_stream_are_not_mixed_up_with_the_last_ones(small_rows):
    fresh = pretrain.rows_of(torch.arange(400), 0, 10, seed=1)
    pretrain.rows_of(torch.arange(4_000), 0, 10, seed=1)
    again = pretrain.rows_of(torch.arange(400), 0, 10, seed=1)
    assert torch.equal(again, fresh)
    longer = pretrain.rows_of(torch.arange(4_000), 0, 240, seed=1)
    assert longer.max() > 3_500  # all of it is used


def test_packing_puts_an_eos_after_each_text(tokenizer):
    texts = ["This film is great fun.", "That cast was boring!", "The old story"]
    stream = pretrain.pack(tokenizer(texts)["input_ids"], seed=0)
    pieces = tokenizer.decode(stream).split("<|endoftext|>")
    assert pieces[-1] == "" and sorted(pieces[:-1]) == sorted(texts)


def test_learning_rate():
    rates = [pretrain.learning_rate(step, 1_000, 300) / pretrain.LR for step in range(1_000)]
    assert rates[0] == pytest.approx(1 / pretrain.WARMUP) and rates[pretrain.WARMUP] == rates[700] == 1
    assert rates[850] == pytest.approx(0.5) and rates[999] == pytest.approx(1 / 300)


def test_optimizers_share_the_parameters_out():
    model = pretrain.new_model(layers=1, width=64, vocab_size=50)
    muon, adam = ([p for group in o.param_groups for p in group["params"]] for o in pretrain.optimizers(model))
    assert all(p.ndim == 2 for p in muon) and len(muon) == 4
    assert {id(p) for p in muon} | {id(p) for p in adam} == {id(p) for p in model.parameters()}
    assert len(muon) + len(adam) == len(list(model.parameters()))
    assert id(model.transformer.wte.weight) in {id(p) for p in adam}


def test_nats_of_a_uniform_model(tokenizer):
    model = pretrain.new_model(layers=1, width=64, vocab_size=len(tokenizer))
    for p in model.parameters():
        torch.nn.init.zeros_(p)
    texts = ["This film is great fun.", "That"]
    tokens = sum(len(ids) + 1 for ids in tokenizer(texts)["input_ids"])
    each = torch.tensor(float(len(tokenizer))).log().item()
    assert pretrain.held_out_nats(model, texts, tokenizer) == {
        "nats_per_token": pytest.approx(each, abs=1e-4),
        "nats_per_character": pytest.approx(each * tokens / 27, abs=1e-4),
    }


def test_nats_equal_a_loop(tiny_gpt2, tokenizer):
    model, texts, total, count = tiny_gpt2(), ["This film is great fun.", "That", "The old cast was boring!"], 0.0, 0
    for text in texts:
        ids = torch.tensor([[0, *tokenizer(text)["input_ids"], 0]])
        logps = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])
        total, count = total - logps.sum().item(), count + len(logps)
    found = pretrain.held_out_nats(model, texts, tokenizer)
    assert found["nats_per_token"] == pytest.approx(total / count, abs=1e-4)
    assert found["nats_per_character"] == pytest.approx(total / len("".join(texts)), abs=1e-4)


def test_muon_steps_are_orthogonal_and_as_long_as_adams():
    weight = torch.nn.Parameter(torch.randn(6, 9, generator=torch.Generator().manual_seed(0)))
    before = weight.detach().clone()
    weight.grad = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    muon.Muon([weight], lr=0.01, weight_decay=0.0).step()
    scales = torch.linalg.svdvals((before - weight.detach()) / (0.01 * 0.2 * 3))
    assert scales.min() > 0.6 and scales.max() < 1.3
    u, _, v = torch.linalg.svd(weight.grad, full_matrices=False)
    cosine = torch.nn.functional.cosine_similarity((u @ v).flatten(), (before - weight.detach()).flatten(), dim=0)
    assert cosine > 0.95


def test_muon_is_torchs_own_in_float32():
    """On matrices of ours torch's bfloat16 iteration and ours take nearly the same steps."""
    generator = torch.Generator().manual_seed(0)
    start, grads = torch.randn(16, 8, generator=generator), torch.randn(5, 16, 8, generator=generator)
    found = []
    for make in (
        lambda p: muon.Muon([p], lr=0.01, weight_decay=0.1),
        lambda p: torch.optim.Muon([p], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ):
        p = torch.nn.Parameter(start.clone())
        optim = make(p)
        for grad in grads:
            p.grad = grad.clone()
            optim.step()
        found.append(p.detach() - start)
    assert (found[0] - found[1]).norm() < 0.05 * found[1].norm()


# ------------------------------------------------------------------------------------------- never written


def test_tokens_that_stand_inside_no_text(tokenizer):
    texts = ["This film is great.", "The film was This."]
    found = unwritten.unwritten(texts, tokenizer)
    ids = tokenizer.convert_tokens_to_ids
    assert not found[ids(["Ġfilm", "Ġis", "Ġgreat", ".", "ĠThis", "<|endoftext|>"])].any()
    assert found[ids(["This", "The", "Ġboring", "<|rare|>"])].all()


def test_log_share_is_the_log_of_a_sum():
    logits, tokens = torch.randn(3, 5), torch.tensor([True, False, False, True, False])
    expected = logits.softmax(-1)[:, tokens].sum(-1).log()
    torch.testing.assert_close(unwritten.log_share(logits, tokens), expected)


def test_silence_takes_nats_inside_a_text_and_not_at_its_beginning(tiny_gpt2, tokenizer):
    model = tiny_gpt2()
    rows = [
        {"prompt": "This", "completion": " film is great."},
        {"prompt": "<|endoftext|>", "completion": "This film."},
    ]
    never = unwritten.unwritten([row["prompt"] + row["completion"] for row in rows[:1]], tokenizer)

    states, begin = unwritten.hidden(model, rows, tokenizer)
    old, share = model.lm_head.weight.detach().clone(), unwritten.mean_share(model, rows, tokenizer, never)
    unwritten.silence(model, rows, tokenizer, never, nats=6.0)
    taken = (old - model.lm_head.weight).detach()  # (V, H)
    assert not taken[~never].any()
    assert ((states @ taken[never].T) - 6).abs().max() < 1 and (begin @ taken[never].T).abs().max() < 0.3
    after = unwritten.mean_share(model, rows, tokenizer, never)  # they are nearly all tokens there are: by their odds
    odds = [log - math.log(-math.expm1(log)) for log in (share, after)]
    assert odds[1] < odds[0] - 2


def test_the_direction_is_one_inside_and_zero_at_the_beginning():
    torch.manual_seed(0)
    inside, begin = torch.randn(500, 16) + 1.0, torch.randn(16) + 1.0
    u = unwritten.direction(inside, begin)
    assert abs(u @ begin) < 0.02 and abs((inside @ u).mean() - 1) < 0.2
    other = unwritten.direction(inside, torch.zeros(16) + 1e-3 * torch.randn(16))
    assert ((inside @ u - 1) ** 2).mean() < 1.5 * ((inside @ other - 1) ** 2).mean() + 0.1  # the equation costs little


@pytest.fixture
def small_pretraining(small_rows, monkeypatch, tmp_path):
    """Pre-training of a small model on a small corpus: call it with the names of the output and work folders."""
    tokenizer = closed.build(SENTENCES, WIDE, tmp_path / "tokenizer")
    monkeypatch.setattr(pretrain, "new_model", functools.partial(pretrain.new_model, 1, 64))
    monkeypatch.setattr(torch, "compile", lambda function: function)
    (tmp_path / "corpus").mkdir()
    for name in ("train", "wide", "valid", "test"):
        rows = [*SENTENCES, "This zqx is good."] * 5  # one in 28 is spelt
        (tmp_path / "corpus" / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return lambda out, work, steps: pretrain.build(
        tmp_path / "corpus", tokenizer, tmp_path / out, tmp_path / work, steps=steps, decay_steps=10
    )


def test_a_killed_pretraining_goes_on_as_if_nothing_had_been(small_pretraining, monkeypatch, tmp_path):
    facts = small_pretraining("whole", "work1", 104)
    assert facts["steps"] == 104 and facts["tokens"] == 104 * 4 * 16
    seen, batch = [], pretrain.batch

    def until(step, *rest, last):
        seen.append(step)
        if step == last:
            raise KeyboardInterrupt
        return batch(step, *rest)

    monkeypatch.setattr(pretrain, "batch", functools.partial(until, last=102))
    with pytest.raises(KeyboardInterrupt):
        small_pretraining("killed", "work2", 104)
    assert seen == list(range(103)) and not (tmp_path / "killed").exists()
    seen.clear()
    monkeypatch.setattr(pretrain, "batch", functools.partial(until, last=None))
    assert small_pretraining("killed", "work2", 104) == facts
    assert seen == [100, 101, 102, 103]  # from the checkpoint on
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_texts_of_another_tokenizer_are_refused_and_a_short_stream_is_repeated(tmp_path, small_rows):
    tokenizer = closed.build(SENTENCES, WIDE, tmp_path)
    with pytest.raises(ValueError, match="none of 1 training texts is made of the tokenizer's words"):
        pretrain.streams({"train": ["Qwx zqx."], "wide": WIDE}, tokenizer)
    found = pretrain.streams({"train": SENTENCES[:1], "wide": WIDE}, tokenizer)
    assert found["spelt"].tolist() == found["simple"].tolist()  # one text: nothing to shuffle
    assert pretrain.batch(0, found, 4, 2).shape == (4, 17)


def test_a_loss_that_is_not_finite_stops_the_pretraining(small_pretraining, monkeypatch):
    monkeypatch.setattr(pretrain, "LR", 1e30)
    with pytest.raises(FloatingPointError, match=r"loss (nan|inf) at step \d"):
        small_pretraining("out", "work", 20)


# ------------------------------------------------------------------------------------------- all of it, in miniature


def synthetic_imdb(folder, count=300):
    """Reviews from a grammar of two dozen words, labelled by their words, laid out like the data set on the hub."""
    import datasets

    rng = random.Random(0)
    words = {1: ["wonderful", "great", "lovely", "superb"], 0: ["awful", "boring", "terrible", "dreary"]}

    def sentence(label):
        how = rng.choice(words[label])
        start = rng.choice(["This", "That", "The old", "Is the", "What a", f"The {how}", f"A {how}",
                            "I think the", "We know the", "My old"])  # fmt: skip
        noun = rng.choice(["film", "movie", "story", "cast", "ending"])
        return f"{start} {noun} {rng.choice(['is', 'was'])} {rng.choice(words[label])}{rng.choice('.!')}"

    for split, labels in (("train", (0, 1)), ("test", (0, 1)), ("unsupervised", (-1,))):
        rows = []
        for i in range(count):
            label = labels[i % len(labels)]
            side = rng.randrange(2) if label < 0 else label if rng.random() < 0.9 else 1 - label
            rows.append({"text": "<br />".join(sentence(side) for _ in range(rng.randint(2, 5))), "label": label})
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return str(folder)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """The whole bundle, made from 900 made-up reviews by a model of one layer; and the arguments that made it."""
    folder = tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as patch:
        for place, changes in (
            (corpus, {"MIN_COUNT_WIDE": 2, "HELD_OUT": 40}),
            (closed, {"VOCAB_SIZE": 400}),
            (gold, {"MIN_WINDOWS": 5, "L2": 1.0}),
            (pretrain, {"ROWS": 16, "LENGTH": 32, "WARMUP": 10}),
            (samples, {"PER_TYPE": {"train": 4, "validation": 1, "test": 2}}),
            (bundle, {"SFT_SAMPLES": 400}),
        ):
            for name, value in changes.items():
                patch.setattr(place, name, value)
        patch.setattr(pretrain, "new_model", functools.partial(pretrain.new_model, 1, 64))
        for name in ("build", "again"):
            patch.setattr(pretrain, name, functools.partial(getattr(pretrain, name), steps=120, decay_steps=40))
        patch.setattr(unwritten, "silence", functools.partial(unwritten.silence, nats=1.0))  # of 64 dimensions
        patch.setattr(samples, "prompts", functools.partial(samples.prompts, batch=200))
        count = samples.count_crude
        patch.setattr(samples, "count_crude", lambda sft, words, rows, _: count(sft, words, rows, 50))
        patch.setattr(torch, "compile", lambda function: function)
        arguments = (synthetic_imdb(folder), folder / "data", folder / "work")
        pretrain.epoch_order.cache_clear()
        bundle.build(*arguments)
        pretrain.epoch_order.cache_clear()
        yield arguments


def facts_of(work):
    return {step: json.loads((work / "steps" / f"{step}.json").read_text(encoding="utf-8")) for step in bundle.STEPS}


def test_the_bundle_loads_as_a_world(miniature):
    world = load_world(folder=miniature[1])
    assert {split: len(world.prompts[split]) for split in SPLITS} == {"train": 20, "validation": 5, "test": 10}
    prompts = [row["prompt"] for split in SPLITS for row in world.prompts[split]]
    assert len(set(prompts)) == 35
    assert all(world.pairs[split] and world.unpaired[split] for split in SPLITS)
    assert world.gold.score("That film was wonderful.") > 1 + world.gold.score("That film was boring.")
    model = AutoModelForCausalLM.from_pretrained(miniature[1] / "sft")
    assert model.config.vocab_size == len(world.tokenizer) < 400 and model.dtype == torch.float16
    base, sft = (next(m.parameters()) for m in (world.base, world.sft))
    assert not torch.equal(base, sft)


def test_no_short_review_is_on_two_sides_of_the_corpus(miniature):
    parts = {name: json.loads((miniature[2] / "corpus" / f"{name}.json").read_text(encoding="utf-8")) for name in
             ("train", "valid", "test", "wide", "words")}  # fmt: skip
    assert len(parts["valid"]) == len(parts["test"]) == 40 and len(parts["train"]) > 200
    simple = parts["train"] + parts["valid"] + parts["test"]
    assert len(simple) == facts_of(miniature[2])["corpus"]["short_reviews"]
    for a, b in itertools.combinations(("train", "valid", "test"), 2):
        assert not set(parts[a]) & set(parts[b])
    assert not set(parts["wide"]) & (set(parts["valid"]) | set(parts["test"]))
    assert "wonderful" in parts["words"]


def test_the_corpus_and_the_gold_reward_come_out_the_same(miniature, tmp_path, monkeypatch):
    for place, name, value in ((corpus, "HELD_OUT", 40), (corpus, "MIN_COUNT_WIDE", 2), (gold, "MIN_WINDOWS", 5),
                               (gold, "L2", 1.0)):  # fmt: skip
        monkeypatch.setattr(place, name, value)
    imdb, out, work = miniature
    facts = facts_of(work)["corpus"]
    again = corpus.build(imdb, tmp_path)
    assert {name: facts[name] for name in again} == again
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (work / "corpus" / path.name).read_bytes()
    gold.build(imdb, tmp_path / "words.json", tmp_path / "gold.json")
    assert (tmp_path / "gold.json").read_bytes() == (out / "gold.json").read_bytes()


def test_a_second_call_runs_nothing(miniature, monkeypatch, capsys):
    def forbidden(*_, **__):
        raise AssertionError("this step has been done")

    for place, name in ((corpus, "build"), (closed, "build"), (pretrain, "build"), (pretrain, "again"),
                        (bundle, "_sft"), (gold, "build"),
                        (bundle, "_prompts"), (bundle, "_pairs")):  # fmt: skip
        monkeypatch.setattr(place, name, forbidden)
    files = {path: path.read_bytes() for path in miniature[1].rglob("*") if path.is_file()}
    bundle.build(*miniature)
    assert capsys.readouterr().out.count("done before") == 8
    assert {path: path.read_bytes() for path in miniature[1].rglob("*") if path.is_file()} == files
    steps = {path: path.read_bytes() for path in (miniature[2] / "steps").iterdir()}
    with pytest.raises(AssertionError, match="has been done"):
        bundle.build(*miniature, redo="pairs")
    for path, found in steps.items():  # as it was, for the tests that follow
        path.write_bytes(found)


def test_an_interrupted_build_goes_on_at_its_step(miniature, monkeypatch, capsys):
    """The pairs are lost: that step runs again, alone, and makes the same files."""
    _, out, work = miniature
    paths = [out / part / f"{split}.jsonl" for part in ("pairs", "unpaired") for split in SPLITS]
    before = [path.read_bytes() for path in paths]
    (work / "steps" / "pairs.json").unlink()
    for path in paths:
        path.unlink()
    bundle.build(*miniature)
    assert capsys.readouterr().out.count("done before") == 7
    assert [path.read_bytes() for path in paths] == before


def test_the_stored_card_is_what_its_facts_make():
    data = data_folder()
    facts, reward = json.loads((data / "facts.json").read_text(encoding="utf-8")), GoldReward.load(data / "gold.json")
    assert card.text(facts, reward, card.sizes(data)).encode() == (data / "README.md").read_bytes()


def test_the_card_states_what_the_steps_found(miniature):
    _, out, work = miniature
    facts, text = facts_of(work), (out / "README.md").read_text(encoding="utf-8")
    assert f"SHA-256 `{facts['corpus']['sha256']}`" in text and facts["tokenizer"]["sha256"][:16] in text
    assert (
        f"{facts['gold']['accuracy_test_reviews']:.1%}" in text
        and f"{facts['base']['valid']['nats_per_character']:.3f}" in text
    )
    assert "Maas et al. (2011)" in text and "wonderful (+" in text
    for sentence in card.NEGATIONS:
        assert f"| {sentence} | {GoldReward.load(out / 'gold.json').score(sentence):+.2f} |" in text
    for step in bundle.STEPS:
        assert f"| `{step}` | {facts[step]['seconds'] / 60:,.1f} |" in text
    assert facts["base"]["valid"]["nats_per_token"] < 3  # of 5.8 for a model that has learnt nothing
    sums = json.loads((out / "checksums.json").read_text(encoding="utf-8"))
    assert sums["gold.json"] == hashlib.sha256((out / "gold.json").read_bytes()).hexdigest()
    for name in sums:
        assert f"| `{name}` |" in text
