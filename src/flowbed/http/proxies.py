"""Which proxy a request goes through. No I/O."""

from __future__ import annotations

from urllib.parse import urlsplit

from flowbed.errors import Misconfigured

# Hosts that are never reached through a proxy.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# Schemes of proxies that the HTTP client can use.
PROXIES = ("http", "https")


def proxy_for(host: str, proxy: str, no_proxy: str, *, vendor: str, table: str = "") -> str | None:
    """Return the URL of the proxy through which `host` is reached; None if it is reached directly.

    Messages name `vendor` and its settings, `[providers.TABLE]`.

    Raises:
        Misconfigured: requests cannot be sent through that proxy.
    """
    proxy = proxy.strip()
    return (
        _checked_proxy(proxy, vendor, table or vendor)
        if proxy and not _bypasses_proxy(host, no_proxy)
        else None
    )


def password_in(url: str) -> str:
    """Return the password in a URL; empty if there is none."""
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""


def _bypasses_proxy(host: str, no_proxy: str) -> bool:
    """Return whether a host is reached directly: it is this machine, listed, or below a listed domain."""
    listed = [entry.strip().lower().lstrip(".") for entry in no_proxy.split(",") if entry.strip()]
    return host in LOOPBACK or any(entry == "*" or f".{host}".endswith(f".{entry}") for entry in listed)


def _checked_proxy(proxy: str, vendor: str, table: str) -> str:
    """Return the URL of a proxy, which is not repeated if it is wrong: it may contain a password.

    Raises:
        Misconfigured: requests cannot be sent through it.
    """
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in PROXIES and bool(parts.hostname) and parts.port != 0
        usable = usable and not any(each.isspace() for each in proxy)
        kind = parts.scheme if "://" in proxy else ""
    except ValueError:
        usable, kind = False, ""
    if usable:
        return proxy
    problem = (
        f"is of the kind {kind}, which is not supported" if kind and kind not in PROXIES else "is not a URL"
    )
    raise Misconfigured(
        f"the proxy for {vendor} {problem}; write it as http://host:port, as proxy in [providers.{table}] or in "
        "HTTPS_PROXY or ALL_PROXY, or name the host in no_proxy to reach it directly"
    )
