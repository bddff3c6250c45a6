"""Which method is better, and at which price? Lessons 08 to 11.

In which order to read: `frontier` (reward against KL) · `ab_tests` (is the difference real?) · `crossed` (over seeds
and prompts, for a family of methods) · `equal_kl` (both at once) · `costs` (models in memory, work, seconds).
"""
