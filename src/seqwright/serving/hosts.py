"""Which names the endpoint answers to.

A page that a user's browser has loaded from elsewhere may send requests to the endpoint on the user's machine, under
the page's own name if that is made to resolve to 127.0.0.1 (DNS rebinding), and read the answers. A request of such a
page names the page's host.
"""

import ipaddress
from collections.abc import Collection

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def allowed_hosts(host: str, address: str, given: str | None) -> Collection[str] | None:
    """The names in a `Host` header that are answered; None for all.

    Args:
        host: the host that the operator gave to listen on.
        address: its address.
        given: names that the operator allows, separated by commas; `*` for all. If not given, on a loopback address the
            names of the loopback interface are allowed, on others all.
    """
    if given is not None:
        names = {name.strip().lower() for name in given.split(",") if name.strip()}
        return None if "*" in names else names
    if not ipaddress.ip_address(address).is_loopback:
        return None
    return {*_LOOPBACK_NAMES, f"[{address}]" if ":" in address else address, host.lower()}


def is_allowed(host: str, allowed: Collection[str] | None) -> bool:
    """Whether a `Host` header, with or without a port, has an allowed name; a request without the header has none.

    Browsers always send the header, so a request without it is no danger.
    """
    if allowed is None or not host:
        return True
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.lower().rstrip(".") in allowed
