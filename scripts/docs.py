"""What mkdocs.yml needs beyond its plugins: links to what is no page, and arguments of docstrings as lists."""

import posixpath
import re
from typing import Any

import griffe

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#]*)(#[^)]*)?\)")
ARGUMENT = re.compile(r"(\w+(?:, \w+)*): ")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Links out of docs/ lead to the repository, where its address is known; else their text is left."""

    def link(match: re.Match) -> str:
        text, target, anchor = match.groups(default="")
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        if path.startswith("docs/"):
            return match[0]
        return (
            f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})" if config.repo_url else text
        )

    return LINK.sub(link, markdown)


class Arguments(griffe.Extension):
    """Lines `name: what it is` of a docstring, outside its sections, become a list."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_list(obj.docstring.value)


def as_list(text: str) -> str:
    """The docstring with its paragraphs of `name: text` as Markdown lists; further lines are indented."""
    lines, listed = [], False
    for line in text.splitlines():
        argument = ARGUMENT.match(line)
        if line and not line.startswith(" "):
            if bool(argument) != listed:
                lines.append("")  # a list begins and ends by an empty line
            listed = bool(argument)
        lines.append(f"- `{argument[1]}`: {line[argument.end() :]}" if argument else line)
    return "\n".join(lines)
