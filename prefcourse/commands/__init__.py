"""The command line. `cli` has the list; each command is a file with `add` (its arguments) and `run`.

What a command needs is imported when it runs, so that `doctor` works where a library is missing.
"""
