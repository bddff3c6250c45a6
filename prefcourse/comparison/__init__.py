"""Which method is better, and at which price? Lessons 08 to 11.

In which order to read: `frontier` (reward against KL) · `ab_tests` (is the difference real?) · `costs` (models in
memory, work, seconds).
"""
