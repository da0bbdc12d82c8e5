"""The commands and programs that the documentation shows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("checkpoints/**/*.md"),
    ]
)
CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))
MODULES = sorted(  # those that can be run
    path
    for folder in ("benchmarks", "studies", "scripts")
    for path in (ROOT / folder).glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)
SCRIPTS = sorted(ROOT.glob("scripts/*.sh"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = (
    r"(?:python -m (?:eval|benchmarks|studies)\b|(?:python |bash )?scripts/\w+\.|hdpainter |conda |pip )"
)


def fences(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [block for found, block in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def replace_part(page: Path, name: str, text: str) -> None:
    """Put `text` between a page's comments ``<!-- name -->`` and ``<!-- end of name -->``."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    content = page.read_text(encoding="utf-8")
    before, after = content.split(begin)[0], content.split(end)[1]
    page.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")


def is_script(block: str) -> bool:
    """Whether a block of bash is one script, with variables and functions, not a list of commands."""
    return re.search(r"^\w+(\(\)|=)", block, re.MULTILINE) is not None


def documented() -> dict[tuple[str, str], str]:
    """{(command, folder that it is called in): where it is shown}, each command as it is written, in one line.

    Shown is what stands in a list of commands (```bash), in an indented block, in `inline code`, and in the
    descriptions of benchmarks, studies, scripts and configs.
    """
    found: dict[tuple[str, str], str] = {}
    for page in PAGES:
        for block in fences(page, "bash"):
            if not is_script(block):
                _add(found, page, _lines(block))
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        indented = "".join(re.findall(r"^ {4,}\S.*\n", text, re.MULTILINE))
        _add(found, page, (line for line in _lines(indented) if re.match(COMMAND, line)))
        for code in re.findall(r"`([^`]+)`", text):
            if re.match(COMMAND, code):
                _add(found, page, _alternatives(" ".join(code.split())))
    for path in MODULES:
        description = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        _add(found, path, re.findall(rf"^ *({COMMAND}.*)", description, re.MULTILINE))
    for path in CONFIGS:
        text = path.read_text(encoding="utf-8")
        _add(found, path, re.findall(rf"^#[^`\n]*?({COMMAND}.*)", text, re.MULTILINE))
    return found


def _add(found: dict, where: Path, lines: Iterator[str] | list[str]) -> None:
    folder = ""
    for line in lines:
        command = " ".join(re.sub(r"\s+# .*", "", line).split())
        if command.startswith("scripts/"):
            command = f"bash {command}"
        if command.startswith("cd "):
            folder = command.removeprefix("cd ")
        elif command and not command.startswith("#"):
            found.setdefault((command, folder), str(where.relative_to(ROOT)))


def _lines(block: str) -> list[str]:
    return [line.strip() for line in re.sub(r"\\\n\s*", "", block).splitlines()]


def _alternatives(code: str) -> list[str]:
    """`python -m eval score | table` are two."""
    first, *others = code.split(" | ")
    return [first, *(" ".join([*first.split()[:-1], other]) for other in others)]
