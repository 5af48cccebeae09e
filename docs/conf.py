"""How Sphinx builds the manual: `make docs`."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent / "_ext")]

project = "elbo"
author = "the authors of elbo"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docstrings"]
exclude_patterns = ["_ext", "examples"]

# Pages are Markdown, links to headings are checked, and so are references.
myst_enable_extensions = ["colon_fence", "attrs_block"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = "elbo"
html_static_path, html_css_files = ["_static"], ["wide.css"]
html_show_sphinx = html_show_copyright = html_copy_source = False
highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "github-dark"

autodoc_default_options = {"members": True, "imported-members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
toc_object_entries_show_parents = "hide"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype = False
napoleon_use_ivar = True
