"""What the tests of figures share."""


def titles(fig):
    """The titles of all panels that have one."""
    return [axes.get_title(loc="left") for axes in fig.axes if axes.get_title(loc="left")]
