"""How the book is built: `sphinx-build -W docs site`."""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from tinyldm.version import __version__  # noqa: E402

project, author, release = "tinyldm", "the tinyldm authors", __version__
project_copyright = "the tinyldm authors, Apache-2.0"
extensions = ["myst_parser", "sphinx_copybutton", "book_extension"]
exclude_patterns = ["_build", "figures/made/*"]

myst_enable_extensions = ["dollarmath", "substitution", "deflist", "attrs_inline"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
# Every number in a chapter is one that a script in docs/figures/ has written: {{ autoencoder.psnr }}.
myst_substitutions = {
    path.stem: json.loads(path.read_text("utf-8")) for path in (HERE / "figures" / "made").glob("*.json")
}
suppress_warnings = ["config.cache", "misc.highlighting_failure"]  # programs with … in them

html_theme = "pydata_sphinx_theme"
html_title = "tinyldm"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
pygments_style = "a11y-high-contrast-light"
copybutton_exclude = ".linenos, .gp"
