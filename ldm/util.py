"""Small helpers that the configs and modules share."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


class UserError(ValueError):
    """A mistake that the user can mend. The message is one line: what is wrong, where, and the fix."""
