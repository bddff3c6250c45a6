"""The world gpt2-imdb, on a small local copy in the hub's layout: nothing is fetched."""

import copy
from types import SimpleNamespace

import pytest
import stand_in
import torch
from datasets import Dataset
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from prefcourse import world as world_module
from prefcourse.generate import generate
from prefcourse.train import train
from prefcourse.world import current_world, load_world
from prefcourse.worlds import hub as hub_world
from prefcourse.worlds.hub import ClassifierGold, load_gold, positive_label, split_name

PER_TYPE = {"train": 6, "validation": 2, "test": 2}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Folders as the hub lays them out, with models that have hardly learnt anything."""
    return stand_in.write(tmp_path_factory.mktemp("hub"), steps=80)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFCOURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(world_module, "_current", "tiny-reviews")  # what other tests assert depends on it
    return tmp_path / "cache"


@pytest.fixture
def world(hub):
    return load_world("gpt2-imdb", **hub, per_type=PER_TYPE)


def test_it_has_the_parts_of_the_bundled_world(world):
    tiny = load_world()
    assert world.name == "gpt2-imdb" and tiny.name == "tiny-reviews"
    for part in ("prompts", "pairs", "unpaired"):
        ours, theirs = getattr(world, part), getattr(tiny, part)
        assert set(ours) == set(theirs)
        assert all(set(ours[split][0]) == set(theirs[split][0]) for split in ours)
    kinds = [row["type"] for row in world.prompts["train"]]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(hub_world.TYPES, PER_TYPE["train"])
    texts = [row["prompt"] for rows in world.prompts.values() for row in rows]
    assert len(texts) == len(set(texts)) and not any("<br" in text or "  " in text for text in texts)
    prompts = {split: {row["prompt"] for row in rows} for split, rows in world.prompts.items()}
    assert all({row["prompt"] for row in rows} <= prompts[split] for split, rows in world.pairs.items())
    gold = world.gold([r["prompt"] for r in world.pairs["test"]], [r["chosen"] for r in world.pairs["test"]])
    assert torch.allclose(gold, torch.tensor([r["chosen_score"] for r in world.pairs["test"]]), atol=1e-3)


def test_the_lessons_code_trains_and_samples_on_it(world):
    policy = copy.deepcopy(world.sft)
    history = train(
        policy, world.pairs["train"], world.tokenizer, reference=world.sft, steps=2, batch_size=4, progress=False
    )
    assert abs(history["loss"][0] - 0.693147) < 1e-4
    written = generate(policy, world.tokenizer, [row["prompt"] for row in world.prompts["test"]], max_new_tokens=8)
    assert len(written) == len(world.prompts["test"])


def test_pairs_are_made_once_and_again_for_another_model_or_seed(hub, cache, world, monkeypatch, capsys):
    (kept,) = cache.iterdir()
    monkeypatch.setattr(hub_world, "read_reviews", lambda name: pytest.fail("the cache was there"))
    assert load_world("gpt2-imdb", **hub, per_type=PER_TYPE).pairs == world.pairs
    monkeypatch.undo()
    monkeypatch.setenv("PREFCOURSE_CACHE", str(cache))
    other = load_world("gpt2-imdb", **hub, per_type=PER_TYPE, seed=1)
    assert other.pairs != world.pairs and len(list(cache.iterdir())) == 2
    kept.write_text("{", encoding="utf-8")
    assert load_world("gpt2-imdb", **hub, per_type=PER_TYPE).pairs == world.pairs
    assert "damaged" in capsys.readouterr().out


def test_the_positive_class_is_found_by_its_name(hub):
    assert positive_label(["NEGATIVE", "POSITIVE"]) == "POSITIVE" and positive_label(["pos", "neg"]) == "pos"
    for bad in (["LABEL_0", "LABEL_1"], ["positive", "pos"]):
        with pytest.raises(ValueError, match="exactly one must be called positive or pos"):
            positive_label(bad)
    gold = load_gold(hub["gold"])
    assert isinstance(gold, ClassifierGold) and gold.label == "POSITIVE"
    ids = gold.tokenizer("a good film", return_tensors="pt")["input_ids"]
    logits = gold.model(input_ids=ids).logits[0]
    assert gold.score("a good film") == pytest.approx((logits[0] - logits[1]).item(), abs=1e-5)
    parts = gold.explain("a good film")
    assert sorted(word for word, _ in parts) == ["a", "film", "good"]
    assert abs(parts[0][1]) >= abs(parts[-1][1])


def test_names_with_and_without_a_revision(tmp_path):
    assert split_name("me/model@abc") == ("me/model", "abc") and split_name("me/model") == ("me/model", None)
    odd = tmp_path / "a@b"
    odd.mkdir()
    assert split_name(odd) == (str(odd), None)
    assert all(split_name(name)[1] for name in hub_world.HUB.values())


def test_offline_the_defaults_fall_back_and_say_so_but_a_named_part_is_an_error(hub, capsys):
    world = load_world("gpt2-imdb")
    said = capsys.readouterr().out
    assert world.name == "tiny-reviews" and "We take the bundled world tiny-reviews instead" in said
    with pytest.raises(OSError, match="sft = nobody/nowhere: "):
        load_world("gpt2-imdb", **hub | {"sft": "nobody/nowhere"})
    with pytest.raises(ValueError, match="only the world 'gpt2-imdb'"):
        load_world("tiny-reviews", sft="me/model")


def test_the_environment_chooses_the_world_and_its_parts(hub, monkeypatch):
    monkeypatch.setenv("PREFCOURSE_WORLD", "mars")
    with pytest.raises(ValueError, match="no world 'mars'"):
        load_world()
    monkeypatch.setenv("PREFCOURSE_WORLD", "gpt2-imdb")
    for part, path in hub.items():
        monkeypatch.setenv(f"PREFCOURSE_{part.upper()}", str(path))
    assert load_world(per_type=PER_TYPE).name == current_world() == "gpt2-imdb"
    assert load_world("tiny-reviews").name == current_world() == "tiny-reviews"
    monkeypatch.setenv("PREFCOURSE_SFT", "nobody/nowhere")
    with pytest.raises(OSError, match="sft = nobody/nowhere: "):  # named by the learner: no other world in its place
        load_world()


def test_parts_that_do_not_fit_are_named(hub, tmp_path):
    other = tmp_path / "other"
    GPT2LMHeadModel(GPT2Config(vocab_size=100, n_layer=1, n_embd=16, n_head=2)).save_pretrained(other)
    with pytest.raises(ValueError, match="vocabularies of 100 and 1001"):
        load_world("gpt2-imdb", **hub | {"base": other})
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=1001, n_layer=1, n_embd=16, n_head=2)).save_pretrained(other)
    AutoTokenizer.from_pretrained(hub["sft"]).save_pretrained(other)
    with pytest.raises(ValueError, match=r"none of \d+ completions can be used .*is sft trained on text"):
        load_world("gpt2-imdb", **hub | {"sft": other}, per_type=PER_TYPE)
    with pytest.raises(FileNotFoundError, match=r"no train-\*\.parquet"):
        load_world("gpt2-imdb", **hub | {"prompts": tmp_path}, per_type=PER_TYPE)
    with pytest.raises(ValueError, match=r"only \d+ openings of the type"):
        load_world("gpt2-imdb", **hub, per_type={"train": 5_000})
    Dataset.from_dict({"review": ["a"]}).to_parquet(str(tmp_path / "train-0.parquet"))
    with pytest.raises(ValueError, match="no column 'text' \\(there is review\\)"):
        load_world("gpt2-imdb", **hub | {"prompts": tmp_path}, per_type=PER_TYPE)


def test_where_a_part_can_be_had_from(hub, monkeypatch):
    assert hub_world.reach("sft", str(hub["sft"])) == (True, "a folder, there")
    there, why = hub_world.reach("sft", "me/model@abc")
    assert not there and why
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: "config.json")
    assert "in the hub's cache" in hub_world.reach("sft", "me/model@abc")[1]
    asked = []

    def repo_info(self, name, **settings):
        asked.append((name, settings["repo_type"], settings["revision"]))
        return SimpleNamespace(sha="0123456789abcdef")

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", repo_info)
    assert hub_world.reach("prompts", "me/texts@abc") == (True, "on the hub, revision 0123456789abcdef")
    assert hub_world.reach("gold", "me/model")[0]
    assert asked == [("me/texts", "dataset", "abc"), ("me/model", "model", None)]
