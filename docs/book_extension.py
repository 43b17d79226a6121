"""What the book needs of Sphinx beside MyST: equations as MathML, and the reference from Markdown docstrings.

MathML needs no script, no font and no network: browsers draw it themselves. `{reference} tinyldm.ops.conv` on a page
stands for the docstring of the module and those of what it defines, read as the Markdown that they are.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import stringify_signature

LOGGER = logging.getLogger(__name__)

# The alphabets of mathematics, which browsers draw only where the letters are those of Unicode: where "A" and "a" are.
ALPHABETS = {
    "bold": (0x1D400, 0x1D41A),
    "bold-italic": (0x1D468, 0x1D482),
    "script": (0x1D49C, 0x1D4B6),
    "double-struck": (0x1D538, 0x1D552),
    "sans-serif": (0x1D5A0, 0x1D5BA),
}
# Letters that had a place of their own before the alphabets came.
OLDER = {
    "script": dict(zip("BEFHILMRego", "ℬℰℱℋℐℒℳℛℯℊℴ", strict=True)),
    "double-struck": dict(zip("CHNPQRZ", "ℂℍℕℙℚℝℤ", strict=True)),
}
UNKNOWN_TO_CONVERTER = {r"\arg": r"\operatorname{arg}"}
LETTER = re.compile(rf'<mi mathvariant="({"|".join(ALPHABETS)})">([A-Za-z])</mi>')
UPRIGHT = re.compile(r'(?:<mi mathvariant="normal">[^<]</mi>){2,}')  # the letters of a name, which are drawn as one
LEFT_OVER = re.compile(r">(\\[^<]*)<")


def mathml(latex: str, display: str) -> str:
    """An equation as MathML; `display` is "block" or "inline"."""
    for command, known in UNKNOWN_TO_CONVERTER.items():
        latex = re.sub(re.escape(command) + r"(?![A-Za-z])", lambda _, known=known: known, latex)
    drawn = LETTER.sub(lambda found: f"<mi>{letter(found[2], found[1])}</mi>", convert(latex, display=display))
    drawn = UPRIGHT.sub(lambda found: f"<mi>{re.sub('<[^>]*>', '', found[0])}</mi>", drawn)
    for command in LEFT_OVER.findall(drawn):
        LOGGER.warning("the equation %r has a command that can't be drawn: %s", latex, command)
    return drawn


def letter(character: str, alphabet: str) -> str:
    """A Latin letter of an alphabet of mathematics."""
    upper, lower = ALPHABETS[alphabet]
    place = upper + ord(character) - ord("A") if character.isupper() else lower + ord(character) - ord("a")
    return OLDER.get(alphabet, {}).get(character, chr(place))


def visit_math(self: Any, node: nodes.math) -> None:
    """An equation in a line."""
    self.body.append(f'<span class="math">{mathml(node.astext(), "inline")}</span>')
    raise nodes.SkipNode


def visit_math_block(self: Any, node: nodes.math_block) -> None:
    """An equation on lines of its own."""
    self.body.append(f'<div class="math" tabindex="0">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


class Reference(SphinxDirective):
    """`{reference} NAME`: what a module, or each module of a package, says of itself and of what it defines."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes of all that."""
        package = importlib.import_module(self.arguments[0])
        inner = [name for _, name, _ in pkgutil.iter_modules(getattr(package, "__path__", []), f"{package.__name__}.")]
        lines = [*(inspect.getdoc(package) or "").splitlines(), ""] if inner else list(reference_of(package))
        for name in inner:
            if not name.rpartition(".")[2].startswith("_"):
                module = importlib.import_module(name)
                self.env.note_dependency(module.__file__ or "")
                lines += [f"## {name}", "", *reference_of(module)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def reference_of(module: types.ModuleType) -> Iterator[str]:
    """The Markdown of a module: its docstring, then what it defines in the order of the file."""
    yield from [f"```{{py:module}} {module.__name__}", "```", ""]
    yield from [*(inspect.getdoc(module) or "").splitlines(), ""]
    own = [v for v in vars(module).values() if getattr(v, "__module__", None) == module.__name__]
    defined = {v.__name__: v for v in own if inspect.isfunction(v) or inspect.isclass(v)}
    for name, thing in defined.items():
        if not name.startswith("_") and thing.__doc__:
            yield from class_reference(thing) if inspect.isclass(thing) else described("function", thing)


def class_reference(thing: type) -> Iterator[str]:
    """A class, and those of its methods and properties that are public, documented and its own."""
    inner = []
    for name, member in vars(thing).items():
        if not name.startswith("_") and inspect.getdoc(member) and not inspect.isclass(member):
            if isinstance(member, property):
                inner += entry("property", name, inspect.getdoc(member))
            elif inspect.isfunction(member):
                inner += described("method", member)
    yield from entry("class", thing.__name__ + signature(thing), inspect.getdoc(thing), inner)


def described(kind: str, function: Any) -> list[str]:
    """A function or a method."""
    return entry(kind, function.__name__ + signature(function), inspect.getdoc(function))


def entry(kind: str, head: str, text: str | None, inner: list[str] | None = None) -> list[str]:
    """A description in Sphinx's domain of Python; a fence is longer than those inside it."""
    fence = "`" * (8 if kind == "class" else 6)
    return [f"{fence}{{py:{kind}}} {head}", "", *(text or "").splitlines(), "", *(inner or []), fence, ""]


def signature(thing: Any) -> str:
    """The arguments of a function or a class, on one line, without types: the docstring has the shapes."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    arguments = [p for p in found.parameters.values() if p.name != "self"]
    return stringify_signature(found.replace(parameters=arguments), show_annotation=False)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.add_directive("reference", Reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
