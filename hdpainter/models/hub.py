"""Files of the Hugging Face hub through its own client: a cache shared with other programs, tokens, mirrors.

The client reads the user's settings: $HF_ENDPOINT (a mirror), $HF_TOKEN, $HF_HOME, $HF_HUB_OFFLINE.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from hdpainter.console import one_line
from hdpainter.files import CannotWrite

_HUB = "https://huggingface.co"


class Refused(Exception):
    """A source does not have the file; there is no point in asking it again."""


@dataclass(frozen=True)
class HubFile:
    """A file of a model's repository, as of a branch, a tag or a commit."""

    repository: str
    revision: str
    file: str

    @classmethod
    def at(cls, url: str) -> "HubFile | None":
        """The file that an address of the hub or of the user's mirror stands for; None for any other address."""
        for base in (_HUB, _endpoint()):
            path = url.partition("?")[0].removeprefix(f"{base}/")
            if path != url and (match := re.fullmatch(r"([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)):
                repository, revision, file = map(unquote, match.groups())
                return cls(repository, revision, file)
        return None

    @property
    def cached_as(self) -> str:
        """The repository's name in the hub's cache, for ``hf cache``."""
        return f"model/{self.repository}"

    def fetch(self, accept: Callable[[int], None], patience: float) -> tuple[Path, str | None]:
        """(the file in the hub's cache, the SHA-256 that the hub announces for it), fetched if need be.

        Without the network, or without access by now, a file that is in the cache already will do.

        accept: raises whatever it likes for the size in bytes of a file that is not the one sought, before it is
        fetched where the hub announces the size. patience: seconds without an answer.
        Raises Refused, ConnectionError for what may pass, and CannotWrite for a cache that cannot be written.
        """
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

        endpoint, where = _endpoint(), (self.repository, self.file)
        # What the client raises besides OSErrors depends on its version, as that on its HTTP library.
        try:
            url = hf_hub_url(*where, revision=self.revision, endpoint=endpoint)
            about = get_hf_file_metadata(url, timeout=patience)
        except Exception as error:
            try:
                cached = hf_hub_download(*where, revision=self.revision, local_files_only=True)
            except Exception:
                raise self._told(error) from None
            return self._checked(Path(cached), None, accept)
        if about.commit_hash is None or about.etag is None:
            raise Refused(f"{endpoint} does not answer as a hub does; look at $HF_ENDPOINT and your proxy")
        if about.size is not None:
            accept(about.size)
        try:
            path = hf_hub_download(*where, revision=self.revision, endpoint=endpoint)
        except Exception as error:
            if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
                folder = constants.HF_HUB_CACHE
                raise CannotWrite(
                    f"{folder} cannot be written: {error.strerror}; name another cache in $HF_HOME"
                ) from None
            raise self._told(error) from None
        return self._checked(Path(path), about.etag, accept)

    @staticmethod
    def _checked(path: Path, tag: str | None, accept: Callable[[int], None]) -> tuple[Path, str | None]:
        accept(path.stat().st_size)
        if tag is None and path.is_symlink():  # to a file that has the tag for a name
            tag = path.readlink().name
        return path.resolve(), tag if tag and re.fullmatch("[0-9a-f]{64}", tag) else None

    def _told(self, error: Exception) -> Exception:
        """What went wrong in one line: Refused, or ConnectionError where it may go better the next time."""
        from huggingface_hub import get_token
        from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, OfflineModeIsEnabled):
            return Refused(
                "is not in the cache of the hub, and $HF_HUB_OFFLINE forbids to fetch it; unset it"
            )
        if isinstance(error, HFValidationError):
            return Refused(f"is no proper address of the hub: {one_line(error)}")
        if status in (401, 403):
            token = "another token than yours" if get_token() else "a token"
            return Refused(
                f"HTTP {status}, it is gone, private, or open to those who accept its terms on "
                f"{_HUB}/{self.repository}; for the last two give {token} in $HF_TOKEN"
            )
        if status == 404:
            return Refused(f"HTTP 404, there is no {self.file} in {self.repository} at {self.revision}")
        if status and status < 500 and status not in (408, 429):
            return Refused(f"HTTP {status}")
        return ConnectionError(f"HTTP {status}" if status else f"{_endpoint()}: {one_line(error)}")


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")
