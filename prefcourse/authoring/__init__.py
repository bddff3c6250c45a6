"""Tools for those who write the course; lessons never import them.

`notebooks` runs notebooks and writes them back, `exercises` makes the students' copies, `site` makes the pages, and
`minutes` counts what a lesson takes. Each is called by name: `python -m prefcourse.authoring.notebooks notebooks`.
"""
