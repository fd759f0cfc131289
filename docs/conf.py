"""How Sphinx builds the documentation: `sphinx-build -W -b html docs build/docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # docstrings.py

import cbokernels

project = "cbokernels"
author = copyright = "The cbokernels developers"
version = release = cbokernels.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # the formulas are set without a network
    "docstrings",
]
exclude_patterns = ["build"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
smartquotes = False
nitpicky = True
# Parts of signatures that are no names of this package.
nitpick_ignore_regex = [("py:.*", ".*")]
autodoc_mock_imports = ["torch"]  # which is large, and of which one function is documented
autodoc_typehints = "none"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"cbokernels {version}"
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": True,
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {page: [] for page in ("index", "tutorial", "choosing", "trouble")}
