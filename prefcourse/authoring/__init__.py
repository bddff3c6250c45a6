"""Tools for those who write the course; lessons never import them.

`notebooks` runs notebooks and writes them back, `bands` runs them with other seeds, `minutes` counts what a lesson
takes, `exercises` makes the students' copies, `guide` counts the instructors' hours, `slides` makes the decks, for
which `parts` takes a lesson apart, `front_door` the picture that README and the site open with; `publish` sets the
links. Each is called by name: `python -m prefcourse.authoring.notebooks notebooks`. The site is made in docs/.
"""
