"""Is a preference data set any good? Lesson 01.

In which order to read: `report` (all findings on one page) · `findings` (one function each) · `duplicates`,
`coverage`, `label_noise` (what they count).
"""
