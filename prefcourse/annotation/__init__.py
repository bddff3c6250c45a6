"""How preferences come to be: lesson 01.

In which order to read: `collector` (two answers to a prompt, in a terminal) · `labels` (a label on the disk, files of
labels merged) · `app` (the same in a notebook) · `annotators` (simulated people) · `agreement` and `aggregation` (many
labels, one answer) · `reading`, `layouts` and `exchange` (files of others: bytes, what columns mean, rows for us
and for TRL) · `personal` (train on one's own labels).
"""
