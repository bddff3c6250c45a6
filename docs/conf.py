"""Sphinx's settings, and what myst-nb and the theme leave undone. Read in build/site-source, where make_site.py put it.

Nothing is run: the pages show the outputs that are stored. SITE_URL is the address of the published site, for the
picture that others show beside a link to it.
"""

import json
import os
import re
from html import escape
from pathlib import Path

from docutils import nodes

FACTS = json.loads(Path(__file__).with_name("facts.json").read_text(encoding="utf-8"))
REPOSITORY, TAG = FACTS["repository"]
SITE_URL = os.environ.get("SITE_URL", "").rstrip("/")

FIGURE = re.compile(r'(<a [^>]*>\s*)?(<img [^>]*?src="([^"]+\.png)"[^>]*>)')
FULL_SIZE = '<a class="full-size" href="{2}">{1}</a>'

project = html_title = "Preference optimisation, understood"
author = "the prefcourse authors"
copyright = "text and figures CC BY 4.0, code MIT"
language = "en"
extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx_copybutton"]
exclude_patterns = [".doctrees", "_static"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_code_prompt_show, nb_code_prompt_hide = "Show the code", "Hide the code"
nb_mime_priority_overrides = [("html", "image/png", 5), ("html", "text/html", 6), ("html", "text/markdown", 7)]
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_block"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

mathjax_path = "mathjax/tex-svg.js"  # SVG needs no fonts, so that it works from disk
mathjax3_config = {"options": {"menuOptions": {"settings": {"assistiveMml": True}}}}

html_theme = "sphinx_book_theme"
html_baseurl = f"{SITE_URL}/" if SITE_URL else ""
html_static_path = ["_static"]
html_extra_path = ["404.html"]
html_css_files = ["course.css"]
html_favicon = "_static/favicon.svg"
templates_path = ["_templates"]
html_show_sourcelink = False
html_theme_options = {
    "repository_url": f"https://github.com/{REPOSITORY}",
    "repository_branch": TAG,
    "use_repository_button": True,
    "use_issues_button": True,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "home_page_in_toc": False,
    "navbar_persistent": [],  # else a second search field, in a bar of its own above the page
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"**": ["home.html", "search-button-field.html", "sbt-sidebar-nav.html"]}
copybutton_selector = "div.cell_input div.highlight pre, div[class*=highlight-]:not(.output) pre"
copybutton_exclude = ".linenos, .gp, .go"


def mend_tree(app, doctree):
    """Alt texts of figures; a table whose head is empty has none."""
    for image in list(doctree.findall(nodes.image)):
        image["alt"] = FACTS["alt"].get(Path(image["uri"]).stem) or image.get("alt", "")
    for head in list(doctree.findall(nodes.thead)):
        if not head.astext().strip():
            head.parent.remove(head)


def mend_page(app, pagename, templatename, context, doctree):
    """An empty corner of a table heads no column; a figure leads to itself at full size; what is shown of a link."""
    if "body" in context:
        body = re.sub(r'<th class="head([^"]*)"><p></p></th>', r'<td class="head\1"></td>', context["body"])
        context["body"] = FIGURE.sub(lambda found: found[0] if found[1] else FULL_SIZE.format(*found.groups()), body)
    said = FACTS["description"].get(pagename) or (
        "From the RLHF objective through the closed form to DPO and its variants, on a small GPT-2, offline."
    )
    title = re.sub("<[^>]*>", "", context.get("title") or project)
    facts = {"og:type": "article", "og:site_name": project, "og:title": title, "og:description": said}
    if SITE_URL:
        facts |= {"og:url": f"{SITE_URL}/{pagename}.html", "og:image": f"{SITE_URL}/_images/front-door.png"}
    context["metatags"] = context.get("metatags", "") + "".join(
        [f'<meta name="description" content="{escape(said)}">\n']
        + [f'<meta property="{name}" content="{escape(text)}">\n' for name, text in facts.items()]
    )


def setup(app):
    """Hang the two in."""
    app.connect("doctree-read", mend_tree)
    app.connect("html-page-context", mend_page)
