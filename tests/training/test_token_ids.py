"""Token ids in little memory: the same lists as ever, four bytes a token, encoded in slices and on all cores."""

import multiprocessing
import os
import random
import tracemalloc
from array import array

import pytest

from prefcourse.preferences import encode
from prefcourse.training import token_ids
from prefcourse.training.token_ids import SWITCH, TokenIds, all_cores, encoded


def made_up(n, k, seed=0):
    """n groups of k sequences, some of them with the prompt of the group before."""
    dice, groups, prompt = random.Random(seed), [], []
    for _ in range(n):
        if not prompt or dice.random() < 0.7:
            prompt = [dice.randrange(50_000) for _ in range(dice.randint(1, 3))]
        groups.append(tuple((prompt, [dice.randrange(50_000) for _ in range(dice.randint(1, 9))]) for _ in range(k)))
    return groups


def kept(groups):
    """The same as `TokenIds`."""
    found = TokenIds(len(groups[0]))
    for group in groups:
        found.append(group)
    return found


@pytest.mark.parametrize("k", [1, 2])
def test_they_read_like_the_list_of_groups_that_they_were_given(k):
    groups = made_up(40, k)
    found = kept(groups)
    assert list(found) == groups and len(found) == 40 and found[-1] == groups[-1] and found[3:9:2] == groups[3:9:2]
    assert all(type(ids) is list for sequence in found[0] for ids in sequence)
    for i in (40, -41):
        with pytest.raises(IndexError):
            found[i]
    assert found.prompt(7) == groups[7][0][0] and found.completion(7, k - 1) == groups[7][k - 1][1]
    assert found.sizes.tolist() == [[len(x) for x in (group[0][0], *(y for _, y in group))] for group in groups]
    assert not len(TokenIds(k)) and TokenIds(k).sizes.shape == (0, 1 + k) and found != TokenIds(k) == TokenIds(k)


def test_a_prompt_is_kept_once_for_its_group_and_its_neighbours():
    found = kept([(([1, 2], [3]), ([1, 2], [4])), (([1, 2], [5]), ([1, 2], [6])), (([7], [8]), ([7], [9]))])
    assert found.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9] and found.ids.itemsize == 4
    with pytest.raises(ValueError, match="2 sequences here, got 1"):
        found.append((([1], [2]),))


def test_equal_prompts_have_equal_numbers():
    groups = made_up(300, 1)
    random.Random(1).shuffle(groups)
    prompts, numbers = [group[0][0] for group in groups], kept(groups).prompt_numbers()
    assert numbers == [prompts.index(prompt) for prompt in prompts] and len(set(numbers)) < 250


def test_a_record_is_what_fingerprints_have_always_been_made_of():
    for group in made_up(20, 2):
        old = b"".join(array("q", [2, len(x), *x, *y]).tobytes() for x, y in group)
        assert kept([group]).record(0) == old


# ------------------------------------------------------------------------------------------- encoding


@pytest.mark.parametrize("size", [1, 5, 36, 1_000])
def test_slices_give_the_ids_of_single_texts(pairs, tokenizer, size, monkeypatch):
    monkeypatch.setattr(token_ids, "SLICE", size)
    sides = ("chosen", "rejected")
    expected = [tuple(encode(row["prompt"], row[side], tokenizer) for side in sides) for row in pairs]
    assert list(encoded(pairs, sides, tokenizer)) == expected


def test_a_token_takes_four_bytes_and_the_tokenizers_output_is_not_piled_up(tokenizer, monkeypatch):
    monkeypatch.setattr(token_ids, "SLICE", 64)
    text = " never was great fun and I like it." * 8
    rows = [{"prompt": f"The old story {i}", "chosen": text, "rejected": f"{text} {i}"} for i in range(2_000)]
    found = TokenIds(2)
    tracemalloc.start()
    try:
        for group in encoded(rows, ("chosen", "rejected"), tokenizer):
            found.append(group)
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    tokens = found.sizes.sum()
    assert tokens > 300_000 and found.ids.itemsize * len(found.ids) == 4 * tokens
    assert sum(part.itemsize * len(part) for part in (found.ids, found.ends, found.texts)) < 4.5 * tokens
    assert left < 5 * tokens and peak < 6 * tokens  # as lists of ints: 38 and 46


# ------------------------------------------------------------------------------------------- all cores


def test_all_cores_are_used_for_the_length_of_a_call(monkeypatch):
    monkeypatch.setenv(SWITCH, "False")
    with all_cores():
        assert os.environ[SWITCH] == "true"
    assert os.environ[SWITCH] == "False"
    with pytest.raises(KeyError), all_cores():
        raise KeyError
    assert os.environ[SWITCH] == "False" and not token_ids.LOCK.locked()
    with all_cores(wanted=False):
        assert os.environ[SWITCH] == "False"
    monkeypatch.setattr(token_ids, "HOME", os.getpid() + 1)  # as in a child, where the threads would be missing
    with all_cores():
        assert os.environ[SWITCH] == "False"


@pytest.mark.parametrize("value", [None, "true"])
def test_what_the_environment_allows_is_left_alone(value, monkeypatch):
    monkeypatch.setenv(SWITCH, value) if value else monkeypatch.delenv(SWITCH, raising=False)
    with all_cores():
        assert os.environ.get(SWITCH) == value


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="nothing is forked here")
def test_a_child_that_is_forked_afterwards_encodes_too(pairs, tokenizer, monkeypatch, capfd):
    """It has none of the threads, so with the variable at "true" it would wait for ever."""
    monkeypatch.setenv(SWITCH, "false")
    rows, sides = pairs * 20, ("chosen", "rejected")
    expected = list(encoded(rows, sides, tokenizer))

    def run(pipe):
        pipe.send(list(encoded(rows, sides, tokenizer)) == expected)

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=run, args=(theirs,))
    process.start()
    try:
        assert ours.poll(30) and ours.recv()
    finally:
        process.kill()
        process.join()
    assert "fork" not in capfd.readouterr().err
