"""The bundled world: whole, small, consistent with itself and fit for a classroom; and clear errors where it is not."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefcourse.bundle.corpus import crude_words
from prefcourse.bundle.samples import TYPES
from prefcourse.preferences import encode
from prefcourse.world import load_world
from prefcourse.worlds import bundled as module
from prefcourse.worlds.bundled import verify
from prefcourse.worlds.models import load_model, load_tokenizer
from prefcourse.worlds.world import SPLITS

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture(scope="module")
def world():
    return load_world(folder=DATA)


@pytest.fixture
def copied(tmp_path):
    return Path(shutil.copytree(DATA, tmp_path / "copy"))


# ------------------------------------------------------------------------------------------- the files


def test_the_bundle_is_small_and_every_file_of_it_is_checked():
    files = {p.relative_to(DATA).as_posix(): p.stat().st_size for p in DATA.rglob("*") if p.is_file()}
    assert sum(files.values()) < 40e6
    listed = set(json.loads((DATA / "checksums.json").read_text(encoding="utf-8")))
    results = {name for name in files if name.startswith("results/")}
    assert listed == set(files) - results - {"README.md", "checksums.json", "__init__.py"}
    assert {Path(name).suffix for name in listed} <= {".json", ".jsonl", ".safetensors"}  # nothing is unpickled
    verify(DATA)


@pytest.mark.parametrize("name", ["base", "sft"])
def test_a_checkpoint_loads_with_the_auto_classes_and_is_stored_in_fp16(name):
    with safe_open(DATA / name / "model.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    model = AutoModelForCausalLM.from_pretrained(DATA / name)
    tokenizer = AutoTokenizer.from_pretrained(DATA / name)
    assert type(model).__name__ == "GPT2LMHeadModel" and model.config.vocab_size == len(tokenizer) == 8_192
    for config in (model.config, model.generation_config):
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 0, 0)
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    assert tokenizer.eos_token == "<|endoftext|>"
    text = "It's a film, isn't it? I liked it!  Two  spaces."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_both_checkpoints_share_one_tokenizer():
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (DATA / "base" / name).read_bytes() == (DATA / "sft" / name).read_bytes()


# ------------------------------------------------------------------------------------------- the objects


def test_a_world_is_ready_to_use(world):
    assert world.name == "tiny-reviews"
    for model in (world.base, world.sft):
        assert model.dtype == torch.float32 and not model.training
    for part in (world.prompts, world.pairs, world.unpaired):
        assert tuple(part) == SPLITS and all(part.values())


def test_the_bundled_world_is_the_default():
    """Inside the wheel, or in the clone: either way the folder holds the same files."""
    found = module.data_folder()
    assert (found / "checksums.json").read_bytes() == (DATA / "checksums.json").read_bytes()
    module.verify(found)


def test_sft_and_base_are_different_models_that_know_the_language(world):
    rows = world.unpaired["validation"][:150]  # what sft wrote
    per_token = {}
    for name, model in (("base", world.base), ("sft", world.sft)):
        total = count = 0
        for row in rows:
            prompt, completion = encode(row["prompt"], row["completion"], world.tokenizer)
            ids = torch.tensor([prompt + completion])
            with torch.no_grad():
                logps = model(ids).logits[0, :-1].log_softmax(-1)
            total -= logps.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :].sum().item()
            count += len(completion)
        per_token[name] = total / count
    assert per_token["sft"] < per_token["base"] < math.log(8_192) - 3 and per_token["sft"] < 4


# ------------------------------------------------------------------------------------------- prompts and pairs


def test_no_prompt_is_in_two_splits(world):
    rows = [row["prompt"] for split in SPLITS for row in world.prompts[split]]
    assert len(rows) == len(set(rows))
    for part in (world.pairs, world.unpaired):
        for split in SPLITS:
            assert {row["prompt"] for row in part[split]} <= {row["prompt"] for row in world.prompts[split]}


def test_types_are_balanced(world):
    for split in SPLITS:
        counts = Counter(row["type"] for row in world.prompts[split])
        assert set(counts) == set(TYPES) and len(set(counts.values())) == 1


def test_prompts_have_2_to_8_tokens_and_do_not_end_in_a_space(world):
    for split in SPLITS:
        for row in world.prompts[split]:
            assert 2 <= len(world.tokenizer(row["prompt"])["input_ids"]) <= 8
            assert row["prompt"] == row["prompt"].strip()


def texts(world):
    """Every (prompt, completion) in the bundle, with the score that is stored for it."""
    for split in SPLITS:
        for row in world.pairs[split]:
            for side in ("chosen", "rejected"):
                yield row["prompt"], row[side], row[f"{side}_score"]
        for row in world.unpaired[split]:
            yield row["prompt"], row["completion"], row["score"]


def test_tokens_of_prompt_and_completion_are_those_of_the_whole_text(world):
    for prompt, completion in dict.fromkeys((p, c) for p, c, _ in texts(world)):
        prompt_ids, completion_ids = encode(prompt, completion, world.tokenizer)
        assert prompt_ids + completion_ids == [*world.tokenizer(prompt + completion)["input_ids"], 0], (
            prompt + completion
        )
        assert len(completion_ids) <= 48 and 0 not in completion_ids[:-1]


def test_no_text_is_crude(world):
    found = [p + c for p, c, _ in texts(world) if crude_words(p + c)]
    found += [row["prompt"] for split in SPLITS for row in world.prompts[split] if crude_words(row["prompt"])]
    assert len(found) == 0, f"{len(found)} texts (not shown)"


def test_stored_scores_are_golds(world):
    for prompt, completion, score in texts(world):
        assert abs(world.gold.score(prompt + completion) - score) <= 0.0005 + 1e-9


def test_probabilities_are_bradley_terrys(world):
    for split in SPLITS:
        for row in world.pairs[split]:
            difference = row["chosen_score"] - row["rejected_score"]
            # stored for the pair as it was drawn, before the coin said which of the two is chosen
            assert row["probability"] == pytest.approx(1 / (1 + math.exp(-difference)), abs=0.0004)


def test_labels_are_coins_and_not_the_sign(world):
    rows = [row for split in SPLITS for row in world.pairs[split]]
    agree = sum(row["chosen_score"] > row["rejected_score"] for row in rows) / len(rows)
    expected = [1 / (1 + math.exp(-abs(row["chosen_score"] - row["rejected_score"]))) for row in rows]
    spread = math.sqrt(sum(p * (1 - p) for p in expected)) / len(rows)
    assert abs(agree - sum(expected) / len(rows)) < 4 * spread and agree < 0.95


def test_pairs_are_of_one_prompt_and_of_different_texts(world):
    for split in SPLITS:
        counts = Counter(row["prompt"] for row in world.pairs[split])
        assert max(counts.values()) == 6
        keys = [(row["prompt"], *sorted((row["chosen"], row["rejected"]))) for row in world.pairs[split]]
        assert len(keys) == len(set(keys))


def test_unpaired_labels_are_true_or_false_and_balanced(world):
    labels = [row["label"] for split in SPLITS for row in world.unpaired[split]]
    assert set(labels) == {True, False} and 0.4 < sum(labels) / len(labels) < 0.6


# ------------------------------------------------------------------------------------------- errors


def test_a_copy_loads_from_any_folder(copied):
    assert load_world(folder=copied).gold.score("A waste of time.") < 0
    assert load_world(folder=str(copied)).name == "tiny-reviews"


def test_an_unknown_name_is_answered_with_the_names_there_are():
    with pytest.raises(ValueError, match="no world 'tiny-review'; the worlds are: tiny-reviews"):
        load_world("tiny-review")


@pytest.mark.parametrize("name", ["pairs/train.jsonl", "sft/model.safetensors", "gold.json"])
def test_a_damaged_file_is_named(copied, name):
    path = copied / name
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"{name} is damaged or was changed.*git checkout"):
        load_world(folder=copied)


def test_line_ends_of_windows_are_called_by_their_name(copied):
    """Advice to get the file back is of no use while git goes on changing it."""
    path = copied / "gold.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(ValueError, match=r"gold\.json has CRLF .*core\.autocrlf.*Delete the folder.*git checkout"):
        load_world(folder=copied)


@pytest.mark.parametrize("name", ["unpaired/test.jsonl", "base/model.safetensors"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing.*git checkout"):
        load_world(folder=copied)


def test_a_row_without_its_column_is_named(copied):
    path = copied / "pairs" / "test.jsonl"
    rows = path.read_text(encoding="utf-8").splitlines()
    rows[2] = rows[2].replace('"chosen"', '"choosen"')
    path.write_text("\n".join(rows), encoding="utf-8")
    resum(copied, "pairs/test.jsonl")
    with pytest.raises(ValueError, match=r"test\.jsonl, line 3: no column 'chosen'"):
        load_world(folder=copied)


def test_a_folder_without_a_world_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checksums\.json"):
        load_world(folder=tmp_path)


def resum(folder, name):
    """Give a changed file the checksum that it has now."""
    sums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
    (folder / "checksums.json").write_text(json.dumps(sums | {name: module.sha256(folder / name)}), encoding="utf-8")


@pytest.mark.parametrize("text", ['{"gold.json": ', "[]", "{}", '{"gold.json": "0"}', "null", "[" * 100_000])
def test_damaged_checksums_are_named(copied, text):
    (copied / "checksums.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"checksums\.json is damaged"):
        load_world(folder=copied)


def test_checksums_stay_within_their_folder(copied):
    (copied.parent / "secret").write_text("x", encoding="utf-8")
    sums = json.loads((copied / "checksums.json").read_text(encoding="utf-8"))
    (copied / "checksums.json").write_text(json.dumps(sums | {"../secret": "0"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"names \.\./secret, which is not in that folder"):
        load_world(folder=copied)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"bias": 0}', '{"bias": "0", "weights": {}}', '{"bias": NaN, "weights": {}}']
)
def test_a_malformed_gold_reward_is_named(copied, text):
    (copied / "gold.json").write_text(text, encoding="utf-8")
    resum(copied, "gold.json")
    with pytest.raises(ValueError, match=r"gold\.json: not a gold reward \("):
        load_world(folder=copied)


MODELS = {  # what is done to the folder of sft → what is said of it
    "layers": (lambda sft: change_config(sft, n_layer=6), "24 missing|26 missing|missing, such as"),
    "width": (lambda sft: change_config(sft, n_embd=128, n_head=2), "cannot be loaded"),
    "no MLP": (lambda sft: drop_tensors(sft, "mlp"), "missing, such as transformer.h.0.mlp"),
    "too many": (lambda sft: drop_tensors(sft, "", more="score.weight"), "1 not of this model, such as score.weight"),
    "cut": (
        lambda sft: (sft / "model.safetensors").write_bytes((sft / "model.safetensors").read_bytes()[:999]),
        "cannot be",
    ),
    "empty": (lambda sft: (sft / "model.safetensors").write_bytes(b""), "cannot be loaded"),
    "gone": (lambda sft: (sft / "model.safetensors").unlink(), "no model.safetensors there"),
    "pickle": (
        lambda sft: (sft / "model.safetensors").rename(sft / "pytorch_model.bin"),
        "is a pickle, which could run",
    ),
    "code": (lambda sft: change_config(sft, model_type="own", auto_map={"AutoConfig": "own.Own"}), "cannot be loaded"),
    "config": (lambda sft: (sft / "config.json").write_text("{", encoding="utf-8"), "cannot be loaded"),
    "list": (lambda sft: (sft / "config.json").write_text("[]", encoding="utf-8"), "cannot be loaded"),
    "no config": (lambda sft: (sft / "config.json").unlink(), "no model there"),
    "another kind": (lambda sft: change_config(sft, model_type="bert"), "sft: "),
}


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def drop_tensors(folder, part, more=""):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not part or part not in name}
    kept |= {more: torch.zeros(2, 256)} if more else {}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_not_whole_is_refused_in_one_sentence(copied, name):
    """transformers draws missing tensors at random and goes on; a pickle and a model's own code could do anything."""
    harm, message = MODELS[name]
    harm(copied / "sft")
    with pytest.raises((ValueError, OSError), match=message) as error:
        load_model(copied / "sft")
    assert "\n" not in str(error.value) and str(copied / "sft") in str(error.value)


def test_a_folder_without_a_tokenizer_is_named(copied):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (copied / "sft" / file).unlink()
    with pytest.raises((ValueError, OSError), match=r"sft: (no tokenizer there|the tokenizer cannot be loaded)"):
        load_tokenizer(copied / "sft")


@pytest.mark.parametrize("name", ["", " ", "/no/such/folder", "./nothing", "a/b/c/d"])
def test_a_name_at_which_there_is_no_model_is_named(name):
    for load in (load_model, load_tokenizer):
        with pytest.raises(FileNotFoundError, match=r"is empty|no model there"):
            load(name)


def test_a_package_without_data_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "prefcourse" / "worlds" / "bundled.py"))
    with pytest.raises(FileNotFoundError, match=r"no data/checksums\.json.*python -m prefcourse bundle"):
        module.data_folder()
