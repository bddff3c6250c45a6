"""prefcourse: the tested code behind the course on preference optimisation.

    import prefcourse

    world = prefcourse.load_world("tiny-reviews")

The names below are loaded when they are first used, so that `python -m prefcourse doctor` can say what is missing
instead of failing over it. Functions that share their module's name are taken from it: `from prefcourse.train import
train`, and likewise `generate` and `evaluate`.
"""

from importlib import import_module

_HOME = {  # public name → its module, in the order of the lessons
    "World": "world", "load_world": "world",
    "Batch": "preferences", "check_rows": "preferences", "collate_pairs": "preferences", "encode": "preferences",
    "read_rows": "preferences", "split_by_prompt": "preferences",
    "GoldReward": "rewards", "fit_bradley_terry": "rewards",
    "RewardModel": "rlhf.reward_model", "train_reward_model": "rlhf.reward_model",
    "PreferenceDataCollector": "annotation.collector", "LabelFile": "annotation.labels",
    "my_labels": "annotation.labels",
    "merge_labels": "annotation.labels", "Annotator": "annotation.annotators",
    "train_on_my_labels": "annotation.personal",
    "kl_k1": "logprobs", "kl_k3": "logprobs", "token_kl": "logprobs",
    "sequence_logps": "logprobs", "token_logps": "logprobs",
    "rloo": "rlhf.policy_gradient", "ppo": "rlhf.policy_gradient",
    "LOSSES": "losses", "dpo_loss": "losses",
    "reference_logps": "training.reference", "add_lora": "training.lora",
    "Estimate": "evaluate", "bootstrap": "evaluate", "win_rate": "evaluate",
}  # fmt: skip
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"prefcourse has no {name!r}; it has: {', '.join(_HOME)}")
    try:
        return getattr(import_module(f"prefcourse.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"prefcourse needs {error.name}, which is not installed: pip install {error.name}") from error
