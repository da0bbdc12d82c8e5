"""Who may come in: everybody on this machine, others by user and password or by a clear word."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ldm.util import UserError

ATTEMPTS, WINDOW = 8, 60.0  # logins of an address, and in how many seconds
ADDRESSES = 10_000  # remembered


def login(host: str, auth: str | None, no_auth: bool) -> tuple[str, str] | None:
    """User and password to ask for; None: let everybody in.

    Raises UserError where others can reach the host and it was not said how to deal with them.
    """
    if auth is not None:
        user, colon, password = auth.partition(":")
        if not (user and colon and password):
            raise UserError("--auth must be USER:PASSWORD, neither of them empty")
        return user, password
    if not no_auth and not is_loopback(host):
        raise UserError(
            f"--host {host} lets others in: give --auth USER:PASSWORD, or --no-auth to let everybody in"
        )
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def client(request: Any) -> str:
    """Whose a gradio request is: the login's, else the address's."""
    return request.username or (request.client.host if request.client else "")


class Attempts:
    """Slows down those who guess passwords: ATTEMPTS logins of an address in WINDOW seconds, until one is right.

    clock: seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._times: OrderedDict[str, list[float]] = OrderedDict()

    def begin(self, address: str) -> int:
        """Counts an attempt. 0: go on; else the seconds to wait."""
        now = self._clock()
        times = [time for time in self._times.pop(address, []) if now - time < WINDOW]
        self._times[address] = times
        if len(self._times) > ADDRESSES:
            self._times.popitem(last=False)
        if len(times) >= ATTEMPTS:
            return math.ceil(WINDOW - (now - times[0]))
        times.append(now)
        return 0

    def succeeded(self, address: str) -> None:
        """It knows the password."""
        self._times.pop(address, None)


class Proxies:
    """The reverse proxies whose word about a client is believed: addresses or networks, as ``10.0.0.0/8``.

    Raises UserError for what is neither.
    """

    def __init__(self, addresses: Sequence[str] = ()):
        try:
            self._networks = [ipaddress.ip_network(address, strict=False) for address in addresses]
        except ValueError as error:
            raise UserError(f"--proxy: {error}; give the proxy's address, such as 127.0.0.1") from None

    def __contains__(self, address: str) -> bool:
        try:
            return any(ipaddress.ip_address(address) in network for network in self._networks)
        except ValueError:
            return False

    def resolve(self, scope: dict[str, Any]) -> dict[str, Any]:
        """The ASGI scope as the client caused it. From anybody but a proxy, what is forwarded is left out."""
        if not (scope.get("client") and scope["client"][0] in self):
            kept = [(name, value) for name, value in scope["headers"] if not _forwarded(name)]
            return {**scope, "headers": kept}
        forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
        addresses = [part.strip() for part in forwarded.decode("latin-1").split(",")]
        # The last that no proxy of ours has written of itself: what stands before, anybody may have made up.
        client = next((address for address in reversed(addresses) if address and address not in self), None)
        return {**scope, "client": (client, 0)} if client else scope


def _forwarded(header: bytes) -> bool:
    return header.startswith(b"x-forwarded-") or header in (b"forwarded", b"x-real-ip", b"x-gradio-server")
