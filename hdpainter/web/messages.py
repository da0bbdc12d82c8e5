"""What a client is told of a mistake: nothing of where the server keeps its files."""

import re

from hdpainter.console import one_line
from ldm.util import UserError

# An absolute path up to its last part, on any system; a URL's or a fraction's slash is none.
_FOLDERS = re.compile(r"(?<![\w:/.])(?:[A-Za-z]:[\\/]|/)(?:[^\s'\"<>:;,/\\]+[/\\])+(?=[^\s/\\])")


def told(error: BaseException | str) -> str:
    """The message, an error of the program's as one line, with the names of files in place of their paths."""
    return _FOLDERS.sub("", str(error) if isinstance(error, str | UserError) else one_line(error))
