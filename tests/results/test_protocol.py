"""How settings are chosen, and what a world must have for it."""

from types import SimpleNamespace

import pytest

from prefcourse.results import GRIDS
from prefcourse.results import protocol as p


def tried(*rows, by="ipo"):
    """(lr, tau, seed, gold, kl) of each run."""
    return [{"setting": {"method": by, "lr": lr, "tau": tau, "seed": seed}, "gold": gold, "kl": kl}
            for lr, tau, seed, gold, kl in rows]  # fmt: skip


def test_the_highest_gold_within_the_kl_is_chosen_over_all_seeds():
    runs = tried(
        (1e-4, 0.1, 90, 0.5, 1.0), (1e-4, 0.1, 91, 0.7, 2.0),
        (3e-4, 0.1, 90, 1.4, 5.0), (3e-4, 0.1, 91, 0.4, 6.5),  # mean 0.9 at 5.75: chosen
        (1e-3, 0.1, 90, 3.0, 6.0), (1e-3, 0.1, 91, 3.0, 6.1),  # higher, and 0.05 nats too far
    )  # fmt: skip
    found = p.choose(runs, by=("method",))["method=ipo"]
    assert found.settings == {"lr": 3e-4, "tau": 0.1} and found.within and found.tried == 3
    assert (found.gold, found.kl) == (0.9, 5.75) and found.edges == ()


def test_where_nothing_is_within_the_least_kl_is_taken_and_said():
    found = p.choose(tried((1e-4, 0.1, 90, 2.0, 9.0), (3e-4, 0.1, 90, 3.0, 20.0)), by=("method",))["method=ipo"]
    assert found.settings["lr"] == 1e-4 and not found.within and found.edges == ("lr",)


def test_each_group_has_its_own_choice_and_none_means_one_for_all():
    runs = tried((1e-4, 0.1, 90, 1.0, 1.0)) + tried((3e-4, 0.2, 90, 0.5, 1.0), by="dpo")
    found = p.choose(runs, by=("method",))
    assert found["method=ipo"].settings["lr"] == 1e-4 and found["method=dpo"].settings["lr"] == 3e-4
    [(name, one)] = p.choose(runs).items()
    assert name == "all" and one.settings == {"method": "ipo", "lr": 1e-4, "tau": 0.1}


def test_a_candidate_without_its_seed_is_refused():
    with pytest.raises(ValueError, match="different seeds"):
        p.choose(tried((1e-4, 0.1, 90, 1.0, 1.0), (1e-4, 0.1, 91, 1.0, 1.0), (3e-4, 0.1, 90, 1.0, 1.0)))


def test_a_cross_varies_each_setting_alone():
    found = p.cross(seeds=(90,), method=["ipo"], lr=(1, 2, 3), tau=(0.1, 0.2, 0.3))
    pairs = [(s["lr"], s["tau"]) for s in found]
    assert pairs == [(2, 0.2), (1, 0.2), (3, 0.2), (2, 0.1), (2, 0.3)] and {s["method"] for s in found} == {"ipo"}
    assert [s["seed"] for s in p.cross(lr=(1, 2))] == [90, 91, 90, 91] and p.cross(lr=(1, 2))[0]["lr"] == 2


def test_a_world_without_validation_is_refused_before_anything_is_run():
    rows = {"train": [1], "test": [1]}
    with pytest.raises(ValueError, match="no prompts of the split 'validation'; it has train, test"):
        p.check_splits(SimpleNamespace(name="old", prompts=rows, pairs=rows | {"validation": [1]}))
    whole = rows | {"validation": [1]}
    with pytest.raises(ValueError, match="no pairs of the split 'validation'"):
        p.check_splits(SimpleNamespace(name="old", prompts=whole, pairs=rows))
    p.check_splits(SimpleNamespace(name="new", prompts=whole, pairs=whole))


def test_seeds_that_choose_are_not_reported_on():
    assert not set(p.PROTOCOL.choose_seeds) & set(range(p.PROTOCOL.seeds)) and p.PROTOCOL.seeds >= 8


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_keeps_the_protocol(name):
    grid = GRIDS[name]
    assert grid.asks.endswith("?") and grid.tells.endswith(".") and grid.what
    memory = [s for s in grid.settings if s.get("knob") == "memory"]  # peaks of memory hardly differ by seed
    points = {}
    for setting in grid.settings:
        if setting not in memory:
            key = tuple((k, v) for k, v in setting.items() if k != "seed")
            points.setdefault(key, set()).add(setting["seed"])
    first = p.PROTOCOL.choose_seeds[0] if grid.what.endswith("validation pairs") else 0  # it only chooses
    assert all(seeds == set(range(first, first + p.PROTOCOL.seeds)) for seeds in points.values())
    assert {s["seed"] for s in grid.tries} <= set(p.PROTOCOL.choose_seeds)
    assert bool(grid.tries) == (grid.trial is not None)
    if grid.chosen_with:
        assert GRIDS[grid.chosen_with].tries and not grid.tries
    keys = [tuple(sorted(map(str, s.items()))) for s in [*grid.settings, *grid.tries]]
    assert len(set(keys)) == len(keys), "no point stands there twice"


def test_all_losses_that_train_are_compared_at_tuned_settings():
    from prefcourse.losses import LOSSES
    from prefcourse.results import methods

    assert {method.loss for method in methods.METHODS.values()} == {*LOSSES, "rloo", "ppo"}
    tries = GRIDS["methods"].tries
    for name, method in methods.METHODS.items():
        own = [s for s in tries if s["method"] == name]
        assert len(own) == 2 * (3 + max(len(method.values) - 1, 0)) and len({s["lr"] for s in own}) == 3
    assert {s["flips"] for s in GRIDS["noise"].settings} == {0.0, 0.1, 0.2, 0.3, 0.4}
    assert {s["beta2"] for s in GRIDS["optimiser"].settings} == {0.9, 0.99, 0.999}
