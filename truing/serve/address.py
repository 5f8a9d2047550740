"""Where a server may listen: this machine only, or anywhere with a token."""

from __future__ import annotations

import ipaddress

from truing.errors import ConfigError

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_MIN_TOKEN = 16


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the address; a name other than localhost does not count."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, token: str | None, *, variable: str) -> None:
    """Raise where a server would be open to others without a token.

    Args:
        host: the address to listen on.
        token: what requests must bear, None for none.
        variable: the environment variable that holds it.

    Raises:
        ConfigError: the address is not a loopback one and there is no token, or it is short.
    """
    if token is not None and len(token) < _MIN_TOKEN:
        raise ConfigError(f"the token in {variable} has {len(token)} characters; at least {_MIN_TOKEN}")
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"{host} can be reached from other machines, so a token is required: set {variable} to a secret "
            "that clients send as their API key, or listen on 127.0.0.1"
        )
