"""What the loop in `prefcourse.train` stands on.

In which order to read: `batches` (rows → what a step is fed; `token_ids` holds the ids) · `objective` (which loss, and
what it asks for) ·
`scoring` (a batch → log-probs, on the device and in its precision) · `reference` (log π_ref, once) · `looking`
(samples and KL on the way) · `history` (what is written down) · `checkpoint` (kill and resume). Beside them: `guards`
(what is refused, in a sentence), `devices` and `sharding` (several processes), `lora`, `optional` (packages that
may be missing).
"""
