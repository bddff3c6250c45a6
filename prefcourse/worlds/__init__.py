"""The worlds of the course; `prefcourse.world.load_world` chooses one.

In which order to read: `world` (what a world is) · `models` (a model from a folder or the hub) · `bundled` (the files
in data/) · `hub` (the real GPT-2 on IMDb, which makes its pairs as `prefcourse.bundle` does and so stands above it).
"""
