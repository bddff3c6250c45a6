"""Preferences without people: lessons 13 and 14.

In which order to read: `judges` (a model that compares) · `constitution` (rules that it follows) · `online` (DPO on
pairs that the policy has written and a judge has labelled).
"""
