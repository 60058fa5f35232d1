"""The documentation site: ``sphinx-build -W -c docs . site``, from the top of the repository.

The whole repository is the source, so that links between ``docs/``, ``data_cards/`` and ``configs/`` are the same on
the site and in the repository.
"""

import metaseg

project = "metaseg"
author = "The metaseg developers"
release = version = metaseg.__version__
root_doc = "docs/contents"
include_patterns = ["docs/contents.rst", "docs/*.md", "data_cards/*.md", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "metaseg"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True
napoleon_numpy_docstring = False
