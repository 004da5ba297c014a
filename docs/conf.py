"""How Sphinx makes these pages: ``make docs``."""

project = "Flask-Background"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {"description": "Work after the response, for Flask", "page_width": "60rem"}
html_show_copyright = False
