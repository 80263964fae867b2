"""Write docs/api.md: every public name of normpipe, from its docstring.

python examples/make_api_page.py (needs griffe2md); a test compares the page.
"""

import logging
import re
from pathlib import Path

import griffe
from griffe2md import default_config, render_object_docs

import normpipe

logging.getLogger("griffe").setLevel(logging.ERROR)
ROOT = Path(__file__).resolve().parent.parent
HEAD = """# The Python API

Made from the docstrings by `examples/make_api_page.py`. For an introduction read
[python.md](python.md). Names are imported from `normpipe`.

"""
STYLE = {
    "docstring_style": "google",
    "docstring_section_style": "list",
    "heading_level": 2,
    "show_root_heading": True,
    "show_root_full_path": False,
    "show_object_full_path": False,
    "show_root_members_full_path": False,
    "separate_signature": True,
    "show_signature_annotations": True,
    "signature_crossrefs": False,
    "show_bases": False,
    "merge_init_into_class": True,
    "members_order": "source",
    "show_submodules": False,
    "summary": False,
    "show_category_heading": False,
    "group_by_category": False,
    "line_length": 100,
    "filters": [],
}


def page() -> str:
    """Return the page's text."""
    parts = [HEAD]
    for name in (one for one in normpipe.__all__ if not one.startswith("_")):
        module = normpipe._HOMES[name]  # pyright: ignore[reportPrivateUsage]
        path = ROOT / f"{module.replace('.', '/')}.py"
        code = path.read_text(encoding="utf-8")
        found = griffe.visit(f"normpipe.{module}", path, code, docstring_parser="google")[name]
        if isinstance(found, griffe.Class):
            for member in [*found.members]:
                own = found.members[member]
                if member != "__init__" and (member in _HIDDEN or not own.has_docstring):
                    found.del_member(member)
        parts.append(render_object_docs(found, {**default_config, **STYLE}, format_md=False))
    text = "\n\n".join(part.strip() for part in parts)
    for pattern, plain in _PLAIN.items():
        text = re.sub(pattern, plain, text, flags=re.M)
    return text + "\n"


#: What Markdown on GitHub does not need: roles of Sphinx, links to nowhere, HTML, empty lines.
_PLAIN = {
    r":(?:func|class|meth|attr):`~?(?:normpipe\.)?([\w.]+)`": r"`\1`",
    r"\[([^\]]+)\]\(#[^)]*\)": r"\1",
    r"</?code>": "`",
    r"(?<!`)``(?!`)": "`",
    r"[ \t]+$": "",
    r"\n{3,}": "\n\n",
}
#: For pickle alone.
_HIDDEN = ("__getstate__", "__setstate__", "__getitems__")


if __name__ == "__main__":
    (ROOT / "docs/api.md").write_text(page(), encoding="utf-8")
