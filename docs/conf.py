"""The configuration of Sphinx, which makes these pages: ``make docs``."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

project = "Flask-Background"
html_title = "Flask-Background"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "from_source"]
exclude_patterns = ["_ext"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
# Names of other libraries, and the type variables of this one, have no page here.
nitpick_ignore_regex = [
    ("py:(class|exc|meth|obj|data)", r"(?!flask_background\.).*"),
    (
        "py:class",
        r"flask_background\..*\.(P|Q|R|T|AroundItem|AroundEnqueue|StateProcessor|Options|Using|When|Callee|TaskOptions|Submitter)",
    ),
]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["docs.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
pygments_style = "default"
pygments_dark_style = "github-dark"
html_theme_options = {"top_of_page_buttons": []}
