"""RLHF as it was before DPO, lessons 03, 04 and 11, and with rewards that a program decides, lesson 15.

In which order to read: `reward_model` and `calibration` (a GPT-2 that scores) · `advantages` (what a sample gets for
its reward) · `rollouts` (sample, score) · `policy_gradient` (RLOO and PPO) · `best_of_n` · `table_gradients` (the
same on the exactly solvable world) · `verifiers` (programs as rewards, pass@k) · `grpo` (GRPO and its successors).
"""
