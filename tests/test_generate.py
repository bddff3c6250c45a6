"""Sampling: greedy is `model.generate`'s, frequencies are the model's probabilities, and no row knows of another."""

import math
from collections import Counter
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from prefcourse.comparison.costs import Meter
from prefcourse.generate import Completion, _at_once, _Reader, eos_ids, generate, next_token, sample_ids, usable
from prefcourse.gpt2_step import Gpt2Reader, is_plain_gpt2
from prefcourse.worlds.models import context


@pytest.fixture(scope="module")
def model(tiny_gpt2):
    return tiny_gpt2()


@pytest.fixture(scope="module")
def small(tiny_gpt2):
    """Five tokens, of which 0 is EOS: all completions of up to three tokens can be written down."""
    return tiny_gpt2(3, vocab_size=5, n_embd=16, n_layer=1, n_head=1)


@pytest.fixture(scope="module")
def prompts():
    g = torch.Generator().manual_seed(0)
    return [torch.randint(1, 300, (1 + i % 6,), generator=g).tolist() for i in range(12)]


# ------------------------------------------------------------------------------------------- greedy


@pytest.mark.parametrize("batch_size", [256, 7])
def test_greedy_is_that_of_transformers(model, prompts, batch_size):
    found = sample_ids(model, prompts, max_new_tokens=12, temperature=0, batch_size=batch_size)
    for prompt, ids in zip(prompts, found, strict=True):
        expected = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12, pad_token_id=0)
        assert ids == expected[0, len(prompt) :].tolist()
    assert len({tuple(ids) for ids in found}) > 8


def test_it_stops_at_eos_and_keeps_it(model, prompts):
    first = sample_ids(model, prompts, max_new_tokens=12, temperature=0)
    eos = Counter(token for ids in first for token in ids).most_common(1)[0][0]
    again = sample_ids(model, prompts, max_new_tokens=12, temperature=0, eos_id=eos)
    for ids, long in zip(again, first, strict=True):
        assert ids == (long[: long.index(eos) + 1] if eos in long else long)
    assert any(len(ids) < 12 for ids in again) and any(len(ids) == 12 for ids in again)


def test_it_stops_at_each_of_several_eos(model, prompts):
    long = sample_ids(model, prompts, max_new_tokens=12, temperature=0, eos_id=-1)
    ends = [token for token, _ in Counter(token for ids in long for token in ids).most_common(2)]
    found = sample_ids(model, prompts, max_new_tokens=12, temperature=0, eos_id=ends)
    for ids, whole in zip(found, long, strict=True):
        stop = next((k + 1 for k, token in enumerate(whole) if token in ends), 12)
        assert ids == whole[:stop]
    assert {ids[-1] for ids in found} >= set(ends)


# ------------------------------------------------------------------------------------------- distributions


def chi_square(counts, probabilities, n):
    """Pearson's statistic over its mean plus four standard deviations under the null: above 1 is a bad sampler."""
    expected = {key: n * p for key, p in probabilities.items()}
    assert set(counts) <= {key for key, p in probabilities.items() if p > 0}
    rare = {key for key, e in expected.items() if e < 5}
    cells = [(counts[key], e) for key, e in expected.items() if key not in rare]
    cells.append((sum(counts[key] for key in rare), sum(expected[key] for key in rare)))
    cells = [(o, e) for o, e in cells if e > 0]
    freedom = len(cells) - 1
    return sum((o - e) ** 2 / e for o, e in cells) / (freedom + 4 * math.sqrt(2 * freedom))


@torch.no_grad()
def enumerated(model, prompt, length, temperature=1.0):
    """The probability of every completion of up to `length` tokens: it ends at EOS = 0, or is cut at `length`."""
    every = list(product(range(5), repeat=length))
    logits = model(torch.tensor([[*prompt, *ids] for ids in every])).logits[:, len(prompt) - 1 : -1]
    logps = (
        (logits / temperature).log_softmax(-1).gather(-1, torch.tensor(every)[..., None])[..., 0]
    )  # (5^length, length)
    ends = [ids.index(0) + 1 if 0 in ids else length for ids in every]
    found = {ids[:end]: row[:end].sum().exp().item() for ids, end, row in zip(every, ends, logps, strict=True)}
    assert math.isclose(sum(found.values()), 1, abs_tol=1e-4)
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_are_the_models_probabilities(small, temperature):
    """Prompts of two lengths in one batch, each with a distribution of its own over 85 completions."""
    n, prompts = 2_000, ([1, 2, 3], [4])
    settings = {"max_new_tokens": 3, "temperature": temperature, "seed": 0, "batch_size": 2 * n}
    found = sample_ids(small, [prompts[i % 2] for i in range(2 * n)], **settings)
    exact = [enumerated(small, prompt, 3, temperature) for prompt in prompts]
    for k in (0, 1):
        counts = Counter(tuple(ids) for ids in found[k::2])
        assert chi_square(counts, exact[k], n) < 1
        assert chi_square(Counter(tuple(ids) for ids in found[1 - k :: 2]), exact[k], n) > 3  # the test can tell


def test_frequencies_are_the_models_probabilities_when_prompts_are_read_in_one_pass(small, monkeypatch):
    """The same, with prompts of 2 and of 22 tokens: the short ones have 20 fillers before them."""
    monkeypatch.setattr("prefcourse.generate.CROWD", math.inf)
    n, prompts = 2_000, ([4, 1], [1, 2, 3, 4, 2, 1, 3] * 3 + [2])
    found = sample_ids(small, [prompts[i % 2] for i in range(2 * n)], max_new_tokens=3, batch_size=2 * n)
    for k in (0, 1):
        assert chi_square(Counter(tuple(ids) for ids in found[k::2]), enumerated(small, prompts[k], 3), n) < 1


def frequencies(logits, n=20_000, **settings):
    uniform = (torch.arange(n) + 0.5) / n  # evenly spread: frequencies are exact to 1/n
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | settings
    tokens = next_token(logits.expand(n, -1), uniform, **settings)
    return torch.bincount(tokens, minlength=logits.shape[-1]) / n


LOGITS = torch.tensor([0.05, 0.4, 0.15, 0.1, 0.3]).log()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.05, 0.4, 0.15, 0.1, 0.3]),
        ({"temperature": 0.5}, [x / 0.285 for x in (0.0025, 0.16, 0.0225, 0.01, 0.09)]),
        ({"temperature": 0}, [0, 1, 0, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 0, 3 / 7]),
        ({"top_k": 1}, [0, 1, 0, 0, 0]),
        ({"top_k": 99}, [0.05, 0.4, 0.15, 0.1, 0.3]),
        ({"top_p": 0.75}, [0, 0.4 / 0.85, 0.15 / 0.85, 0, 0.3 / 0.85]),  # .4 + .3 < .75: the third crosses it
        ({"top_p": 0.65}, [0, 4 / 7, 0, 0, 3 / 7]),
        ({"top_p": 0.01}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.75, "top_k": 2}, [0, 4 / 7, 0, 0, 3 / 7]),
        ({"top_p": 0.9, "temperature": 1000.0}, [0.2] * 5),
    ],
    ids=str,
)
def test_temperature_top_k_and_top_p(settings, expected):
    found = frequencies(LOGITS, **settings)
    expected = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    assert ((found > 0) == (expected > 0)).all()


@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"top_p": 0.6}, {"top_k": 40, "top_p": 0.95}])
def test_the_edges_of_the_unit_interval_stay_in_the_set(settings):
    """A uniform number of 0 or just under 1 meets the rounding of a sum of 4,096 float32 probabilities."""
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | settings
    logits = torch.randn(64, 4_096, generator=torch.Generator().manual_seed(0))
    logits[:, -1] = -math.inf  # the last token is impossible, and must not be where rounding ends
    probs, order = logits.softmax(-1).sort(-1, descending=True)
    size = (probs.cumsum(-1) < settings["top_p"]).sum(-1) + 1
    size = size.clamp(max=settings["top_k"] or 4_095)
    for u in (0.0, 1 - 2**-24):
        tokens = next_token(logits, torch.full((64,), u), **settings)
        rank = (order == tokens[:, None]).int().argmax(-1)
        assert (rank < size).all() and (logits.gather(-1, tokens[:, None]) > -math.inf).all()


def test_a_whole_sample_never_leaves_the_top_k(model, prompts):
    found = sample_ids(model, prompts, max_new_tokens=8, top_k=3, seed=5)
    for prompt, ids in zip(prompts, found, strict=True):
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        best = logits.topk(3).indices
        assert (best == torch.tensor(ids)[:, None]).any(-1).all()
    assert found != sample_ids(model, prompts, max_new_tokens=8, seed=5)


# ------------------------------------------------------------------------------------------- independence


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}], ids=str)
def test_a_row_is_the_same_whatever_the_batch(model, prompts, settings):
    settings |= {"max_new_tokens": 10, "seed": 2}
    whole = sample_ids(model, prompts, **settings)
    for batch_size in (1, 5):
        assert sample_ids(model, prompts, batch_size=batch_size, **settings) == whole
    assert sample_ids(model, prompts[:4], **settings) == whole[:4]  # fewer other rows
    others = [prompt if i == 7 else [9, 9, 9, 9] for i, prompt in enumerate(prompts)]
    assert sample_ids(model, others, **settings)[7] == whole[7]  # different other rows
    assert sample_ids(model, prompts, **settings | {"max_new_tokens": 4}) == [ids[:4] for ids in whole]


def test_rows_and_seeds_draw_their_own_numbers(model):
    a, b = (sample_ids(model, [[5, 6]] * 30, max_new_tokens=10, seed=seed) for seed in (0, 1))
    long = [tuple(ids) for ids in a + b if len(ids) == 10]  # a short one may come twice by chance
    assert len(long) > 30 and len(set(long)) == len(long)


def test_the_global_generator_is_left_alone(model):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sample_ids(model, [[5, 6]], max_new_tokens=3)
    assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------------------------------- text and errors


def test_texts_are_the_ids_without_eos(tiny_gpt2, tokenizer):
    prompts = ["This movie", "I think the film is"] * 20
    found = generate(tiny_gpt2(1), tokenizer, prompts, max_new_tokens=40, seed=1)
    assert {c.finished for c in found} == {True, False}
    for completion in found:
        ids = completion.ids[:-1] if completion.finished else completion.ids
        assert completion.text == tokenizer.decode(ids) and tokenizer.eos_token_id not in ids
        assert completion.finished or len(ids) == 40


def test_every_eos_that_the_model_names_ends_a_text(tiny_gpt2, tokenizer):
    model, settings = tiny_gpt2(1), {"max_new_tokens": 40, "seed": 1}
    prompts = ["This movie", "I think the film is"] * 20
    before = generate(model, tokenizer, prompts, **settings)
    common = Counter(token for c in before for token in set(c.ids)).most_common()
    first, second = [token for token, _ in common if token != tokenizer.eos_token_id][:2]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, first]  # as Llama 3 and Qwen have it
    model.config.eos_token_id = second
    ends = {tokenizer.eos_token_id, first, second}
    assert eos_ids(model, tokenizer) == sorted(ends)
    found = generate(model, tokenizer, prompts, **settings)
    for completion, long in zip(found, before, strict=True):
        ids = completion.ids
        assert ids == long.ids[: len(ids)] and completion.finished == (ids[-1] in ends)
        assert not ends & set(ids[:-1]) and (completion.finished or len(ids) == 40)
        assert completion.text == tokenizer.decode(ids[:-1] if completion.finished else ids)
    assert {c.ids[-1] for c in found if c.finished} == ends


def test_no_eos_is_named_twice_and_none_is_no_token(tokenizer):
    eos = tokenizer.eos_token_id
    for config, ends in ((None, [eos]), (eos, [eos]), ([7, eos], sorted([7, eos]))):
        config = SimpleNamespace(eos_token_id=config)
        assert eos_ids(SimpleNamespace(config=config), tokenizer) == ends
        assert eos_ids(SimpleNamespace(config=config, generation_config=config), tokenizer) == ends


def test_a_text_is_usable_whichever_eos_ended_it(tokenizer):
    drawn = tokenizer(" was great fun.")["input_ids"]
    for end in (tokenizer.eos_token_id, 7):
        assert usable("The film", Completion(" was great fun.", [*drawn, end], True), tokenizer)
    assert not usable("The film", Completion(" was great fun.", drawn, False), tokenizer)
    assert usable("The film", Completion(" was great fun.", drawn, False), tokenizer, open_ended=True)


@pytest.mark.parametrize("bad", ["", "  ", None, 3])
def test_a_prompt_must_be_text(model, tokenizer, bad):
    with pytest.raises(ValueError, match=r"prompt 1 is .*must be text that is not empty"):
        generate(model, tokenizer, ["This movie", bad])


@pytest.mark.parametrize(("prompt", "new", "message"), [
    ([], 4, "prompt 1 has 0 tokens"),
    ([5] * 61, 4, r"prompt 1 has 61 tokens; with max_new_tokens=4 this model takes 1 to 60"),
    ([5], 64, "prompt 0 has 1 token;"),
])  # fmt: skip
def test_a_prompt_must_fit(model, prompt, new, message):
    with pytest.raises(ValueError, match=message):
        sample_ids(model, [[5], prompt], max_new_tokens=new)


def test_the_longest_prompt_that_fits_does(model):
    assert len(sample_ids(model, [[5] * 60, [5]], max_new_tokens=4, eos_id=-1)[0]) == 4


@pytest.mark.parametrize(
    "settings", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}, {"max_new_tokens": 0},
                 {"batch_size": 0}], ids=str)  # fmt: skip
def test_settings_out_of_range_are_refused(model, settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is {next(iter(settings.values()))}; allowed"):
        sample_ids(model, [[5]], **settings)


def test_no_prompts_make_no_completions(model, tokenizer):
    assert generate(model, tokenizer, []) == []


@pytest.mark.parametrize("way", ["gpt2_step", "the model's own"])
def test_past_keys_are_computed_once(way, tiny_gpt2, monkeypatch):
    """Each step after the first reads one token a row, and finished rows leave the batch."""
    shapes, model = [], tiny_gpt2()  # its own: an older pytest leaves a trace where `forward` was replaced
    place, name = (Gpt2Reader, "_pass") if way == "gpt2_step" else (model.base_model, "forward")
    body = getattr(place, name)

    def spy(*args, **settings):
        shapes.append(tuple(args[-1].shape))
        return body(*args, **settings)

    monkeypatch.setattr(place, name, spy)  # a model whose forward was replaced reads for itself
    assert is_plain_gpt2(model) == (way == "gpt2_step")
    prompts, settings = [[5, 6 + i] for i in range(10)] + [[7, 8 + i, 9] for i in range(10)], {"max_new_tokens": 30}
    long = sample_ids(model, prompts, eos_id=-1, seed=1, **settings)
    eos = Counter(token for ids in long for token in ids).most_common(1)[0][0]  # so that some rows end early
    shapes.clear()
    found = sample_ids(model, prompts, eos_id=eos, seed=1, **settings)
    lengths = [len(ids) for ids in found]
    assert shapes[0] == (20, 2) and all(width == 1 for _, width in shapes[1:])
    assert min(lengths) < 30 and shapes[-1][0] < 20
    assert len(shapes) <= 31


@pytest.mark.parametrize("settings", [{}, {"top_k": 5}, {"temperature": 0}, {"batch_size": 7}], ids=str)
def test_the_lean_way_and_the_general_way_give_the_same(model, prompts, monkeypatch, settings):
    """Rows of several lengths, some of them repeated, that leave one after the other."""
    prompts = [*prompts, *prompts, *([7, 8, 9 + i] for i in range(20))]
    settings = {"max_new_tokens": 24, "seed": 3} | settings
    long = sample_ids(model, prompts, eos_id=-1, **settings)
    settings["eos_id"] = Counter(token for ids in long for token in set(ids)).most_common(1)[0][0]
    lean = sample_ids(model, prompts, **settings)
    monkeypatch.setattr("prefcourse.generate.is_plain_gpt2", lambda _: False)
    assert sample_ids(model, prompts, **settings) == lean
    assert len({len(ids) for ids in lean}) > 2


def test_what_the_lean_way_reads_is_what_the_model_reads(model):
    """Hidden states: bit for bit where the first pass is not shared, to rounding where it is."""
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 300, (30, 9), generator=g)
    for rows, exact in ((ids, True), (ids[torch.arange(60) % 30], False)):
        reader = Gpt2Reader(model, room=9)
        with torch.no_grad():
            read = [reader.read(part) for part in (rows[:, :4], *(rows[:, k : k + 1] for k in range(4, 9)))]
            whole = model.base_model(rows).last_hidden_state
        torch.testing.assert_close(torch.stack(read, 1), whole[:, 3:], atol=1e-4, rtol=1e-4)
        if not exact:
            assert reader.past.shape[2] == 60 and torch.equal(read[-1][:30], read[-1][30:])


def test_repeated_prompts_share_the_first_pass(model, monkeypatch):
    rows, body = [], Gpt2Reader._pass
    monkeypatch.setattr(Gpt2Reader, "_pass", lambda self, ids: rows.append(len(ids)) or body(self, ids))
    sample_ids(model, [[5, 6 + i % 10] for i in range(40)], max_new_tokens=2, eos_id=-1)
    assert rows == [10, 40]


def test_only_a_plain_gpt2_is_read_the_lean_way(tiny_gpt2):
    model = tiny_gpt2()
    assert is_plain_gpt2(model) and not is_plain_gpt2(sliding_window())
    assert not is_plain_gpt2(tiny_gpt2().train())
    for part in (model.base_model, model.base_model.h[0], model.base_model.h[1].attn):
        handle = part.register_forward_hook(lambda *_: None)
        assert not is_plain_gpt2(model)
        handle.remove()
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_plain_gpt2(model)
    with Meter():  # counts the calls of all modules, by a hook of torch's own
        assert not is_plain_gpt2(model)
    assert is_plain_gpt2(model)
    model.set_attn_implementation("eager")
    assert not is_plain_gpt2(model)
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(tiny_gpt2(), peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    assert not is_plain_gpt2(wrapped.eval())


def built(name, **changes):
    """A tiny model of another kind, with RoPE and heads that share keys; those of Mistral see 8 tokens back."""
    import transformers

    torch.manual_seed(0)
    width = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings = {"vocab_size": 300, "max_position_embeddings": 64, "num_key_value_heads": 1, "initializer_range": 0.2}
    config = getattr(transformers, f"{name}Config")(**width | settings | changes)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def sliding_window(**changes):
    return built("Mistral", sliding_window=8, **changes)


@pytest.mark.parametrize("kind", ["gpt2", "sliding window"])
def test_a_row_keeps_its_own_past_when_others_leave(kind, model, prompts):
    """When a row ends, the last one takes its place in the cache: or its text would change."""
    network = model if kind == "gpt2" else sliding_window()
    long = sample_ids(network, prompts, max_new_tokens=24, temperature=0, eos_id=-1)
    eos = Counter(token for ids in long for token in set(ids)).most_common(1)[0][0]
    found = sample_ids(network, prompts, max_new_tokens=24, temperature=0, eos_id=eos)
    alone = [
        sample_ids(network, [prompt], max_new_tokens=24, temperature=0, eos_id=eos)[0] for prompt in prompts
    ]  # fmt: skip
    assert found == alone
    assert len({len(ids) for ids in found}) > 2


# ------------------------------------------------------------------------------------------- prompts of unequal length


KINDS = ("gpt2_step", "GPT2", "Llama", "Qwen2", "sliding window")


@pytest.fixture(scope="module", params=KINDS)
def reading(request, tiny_gpt2):
    """A model for 400 tokens, and how many tokens of a row each of its calls read: a list that grows."""
    widths, patch = [], pytest.MonkeyPatch()
    if request.param in ("gpt2_step", "GPT2"):
        network = tiny_gpt2(n_positions=400)
    elif request.param == "sliding window":
        network = sliding_window(max_position_embeddings=400)
    else:
        network = built(request.param, max_position_embeddings=400)
    if request.param == "gpt2_step":
        for name in ("_pass", "_unequal"):
            read = getattr(Gpt2Reader, name)
            patch.setattr(Gpt2Reader, name, lambda self, ids, read=read: widths.append(ids.shape[1]) or read(self, ids))
    else:  # who hooks into GPT-2 has it read by `_Reader`
        network.base_model.register_forward_hook(lambda _, args, __: widths.append(args[0].shape[1]))
    assert is_plain_gpt2(network) == (request.param == "gpt2_step")
    yield network, widths
    patch.undo()


@pytest.fixture(scope="module")
def unequal():
    """32 prompts of 38 to 328 tokens, in no order."""
    g = torch.Generator().manual_seed(0)
    lengths = [38 + 290 * (7 * i % 32) // 31 for i in range(32)]
    return [torch.randint(1, 300, (n,), generator=g).tolist() for n in lengths]


def test_unequal_prompts_take_one_call_a_new_token(reading, unequal):
    """And the samples are those of each prompt on its own, rows that leave early included."""
    network, widths = reading
    settings = {"max_new_tokens": 16, "temperature": 0}
    alone = [sample_ids(network, [prompt], eos_id=-1, **settings)[0] for prompt in unequal]
    ends = [token for token, _ in Counter(token for ids in alone for token in set(ids)).most_common(3)]
    widths.clear()
    found = sample_ids(network, unequal, eos_id=ends, **settings)
    packed = network.config.model_type != "mistral" and not is_plain_gpt2(network)  # all prompts as one row
    assert widths[0] == (sum(map(len, unequal)) if packed else 328)
    assert set(widths[1:]) == {1} and len(widths) <= 17
    for ids, whole in zip(found, alone, strict=True):
        assert ids == whole[: next((k + 1 for k, token in enumerate(whole) if token in ends), 16)]
    assert len({len(ids) for ids in found}) > 2


def test_one_pass_draws_what_token_by_token_draws(reading, unequal, monkeypatch):
    network, widths = reading
    settings = {"max_new_tokens": 6, "seed": 4, "eos_id": -1}
    widths.clear()
    found = sample_ids(network, unequal, **settings)
    assert len(widths) == 6
    assert sample_ids(network, unequal, batch_size=5, **settings) == found
    monkeypatch.setattr("prefcourse.generate.FEW", math.inf)
    assert sample_ids(network, unequal, **settings) == found
    assert len(widths) > 300


@pytest.mark.parametrize("reader", [Gpt2Reader, _Reader])
def test_what_is_read_with_fillers_is_what_the_model_reads_without(reader, model):
    """Hidden states, after the first pass and after each step, of distinct rows and of repeated ones; rows leave."""
    g = torch.Generator().manual_seed(2)
    lengths = [5, 30, 1, 17, 30, 5]
    rows = [torch.randint(1, 300, (n + 3,), generator=g) for n in lengths]
    rows[4], rows[5] = rows[1], rows[0]
    first = torch.stack([torch.cat([torch.full((30 - n,), -1), row[:n]]) for row, n in zip(rows, lengths, strict=True)])
    kept, found, read = list(range(6)), [], reader(model, room=33)
    with torch.no_grad():
        found.append(read.read(first))
        for step in range(3):
            found.append(read.read(torch.stack([rows[k][lengths[k] + step :][:1] for k in kept])))
            if step == 0:  # row 1 leaves, and the last one takes its place
                read.drop([1], [5], 5)
                kept = [0, 5, 2, 3, 4]
        for step, hidden in enumerate(found):
            for k, state in zip(kept if step > 1 else range(6), hidden, strict=True):
                alone = model.base_model(rows[k][None, : lengths[k] + step]).last_hidden_state[0, -1]
                torch.testing.assert_close(state, alone, atol=1e-4, rtol=1e-4)


def test_repeated_prompts_of_unequal_length_share_the_first_pass(tiny_gpt2, monkeypatch):
    rows, first = [], Gpt2Reader._unequal
    monkeypatch.setattr(Gpt2Reader, "_unequal", lambda self, ids: rows.append(len(ids)) or first(self, ids))
    prompts = [[5, 6], [6] * 40, [0, 5, 6]] * 8  # token 0 is no filler
    found = sample_ids(tiny_gpt2(), prompts, max_new_tokens=4, temperature=0, eos_id=-1)
    assert rows == [3] and found == found[:3] * 8


@pytest.mark.parametrize("fault", ["it leaves out positions", "it takes no positions", "it leaves out the mask"])
def test_a_model_that_cannot_read_fillers_reads_token_by_token(fault, tiny_gpt2, unequal):
    network, widths = tiny_gpt2(n_positions=400), []
    forward = network.base_model.forward

    def faulty(input_ids, position_ids=None, attention_mask=None, **settings):
        widths.append(input_ids.shape[1])
        if fault == "it takes no positions" and position_ids is not None:
            raise TypeError("forward() got an unexpected keyword argument 'position_ids'")
        if fault == "it leaves out the mask":
            return forward(input_ids, position_ids=position_ids, **settings)
        return forward(input_ids, attention_mask=attention_mask, **settings)

    network.base_model.forward = faulty
    found = sample_ids(network, unequal[:4], max_new_tokens=4, temperature=0, eos_id=-1)
    del network.base_model.forward
    assert found == [sample_ids(network, [p], max_new_tokens=4, temperature=0, eos_id=-1)[0] for p in unequal[:4]]
    assert len(widths) > max(map(len, unequal[:4])) - min(map(len, unequal[:4]))


def test_lengths_decide_how_prompts_are_read(model):
    assert not _at_once(model, [2] * 100 + [8])  # the bundled prompts
    assert _at_once(model, [2] * 8 + [40] * 100) and not _at_once(model, [2] * 100 + [40] * 8)
    gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    assert not _at_once(gpu, [2] * 100 + [8])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefcourse.generate.is_plain_gpt2", lambda _: True)
        assert _at_once(gpu, [2] * 100 + [40] * 8)


@pytest.mark.parametrize("kind", ["Bloom", "Mpt"])
def test_models_that_name_their_context_otherwise_or_have_none_can_write(kind, tokenizer):
    import transformers

    small = {"Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
             "Mpt": {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 20}}[kind]  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, pad_token_id=0, **small
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    assert context(model) == (20 if kind == "Mpt" else math.inf)
    assert 1 <= len(generate(model, tokenizer, ["The film", "I"], max_new_tokens=4)[0].ids) <= 4
    if kind == "Mpt":
        with pytest.raises(ValueError, match="with max_new_tokens=19 this model takes 1 to 1"):
            generate(model, tokenizer, ["The film was"], max_new_tokens=19)
