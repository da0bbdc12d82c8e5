"""Who may come in: everybody on this machine, others by user and password or by a clear word."""

import ipaddress

from ldm.util import UserError


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
