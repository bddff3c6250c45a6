"""Marks for a class, given where a student's code cannot reach: `python -m prefcourse grade FOLDER`.

A student's functions run in a process of their own that has no references, no checks and no verdict: it gets arguments
and gives back values, as plain data. What is right, and the comparison, stay in another process.

In which order to read: `wire` is the plain data, `stripped` the copy of the package without answers, `confine` what
holds the student's process, `child` that process, `nursery` where it comes from, `remote` the function that stands for
it at the check. Then `cells` finds the cells that a function needs, `marking` gives the verdicts on one notebook,
`workers` and `classroom` on those of a class; `suspicion` finds cells that deserve a question, and `reports` writes the
tables and pages. Lessons never import this room.
"""
