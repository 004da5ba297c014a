"""Sphinx directives for the parts of the pages that are made from the source, and for drawings."""

import re
from itertools import groupby
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from tools.reference import messages
from tools.reference.settings import rows


class _FromSource(SphinxDirective):
    """A directive whose page is made again when a file of the package has changed."""

    def _note_sources(self) -> None:
        for path in messages.PACKAGE.rglob("*.py"):
            self.env.note_dependency(str(path))


class SettingsTable(_FromSource):
    """The table of settings."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        self._note_sources()
        lines = ["| key | default | is |", "|---|---|---|"]
        lines += [f"| `{row.key}` | {row.default} | {row.description} |" for row in rows()]
        found = self.parse_text_to_nodes("\n".join(lines))
        for table in found:
            table["classes"].append("settings")
        return found


class _Messages(_FromSource):
    """One section for each kind of message, with its texts."""

    found = staticmethod(messages.error_messages)
    prefix = "messages-of"

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        self._note_sources()
        sections: list[nodes.Node] = []
        for kind, group in groupby(self.found(), lambda message: message.kind):
            section = nodes.section(ids=[f"{self.prefix}-{kind.lower()}"])
            section += nodes.title(text=kind)
            section += nodes.bullet_list(
                "",
                *(
                    nodes.list_item("", nodes.paragraph(text=text))
                    for text in sorted({m.text for m in group})
                ),
            )
            sections.append(section)
        return sections


class ErrorMessages(_Messages):
    """The messages of errors, by class."""


class LogLines(_Messages):
    """The lines of the log, by level."""

    found = staticmethod(messages.log_messages)
    prefix = "lines-at"


class Drawing(SphinxDirective):
    """An SVG drawing in the page itself, so that the drawing takes the colours of the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the drawing."""
        relative, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        svg = Path(path).read_text()
        return [nodes.raw("", f'<div class="drawing">{svg}</div>', format="html")]


def one_signature(app: Sphinx, domain: str, kind: str, content: addnodes.desc_content) -> None:
    """Show the most general signature of an overloaded method, without the markers of type variables."""
    described = content.parent
    signatures = [node for node in described.children if isinstance(node, addnodes.desc_signature)]
    for signature in signatures[:-1] if len(signatures) > 2 else ():
        described.remove(signature)
        signatures[-1]["ids"] += signature["ids"]
    for text in list(described.findall(nodes.Text)):
        if "~" in text and content not in _parents(text):
            text.parent.replace(text, nodes.Text(re.sub(r"~(?:\w+\.)*~?", "", text)))


def _parents(node: nodes.Node) -> list[nodes.Node]:
    found = []
    while (node := node.parent) is not None:
        found.append(node)
    return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("settings", SettingsTable)
    app.add_directive("error-messages", ErrorMessages)
    app.add_directive("log-lines", LogLines)
    app.add_directive("drawing", Drawing)
    app.connect("object-description-transform", one_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
