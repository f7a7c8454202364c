"""The HTTP client of whyfeed: proxies from the environment, the system's certificates, redirects followed."""

from __future__ import annotations

import ssl
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx


def http_client(timeout: float) -> httpx.Client:
    """A new client. `timeout` is the longest wait without a byte, in seconds.

    The variables HTTP_PROXY, NO_PROXY and SSL_CERT_FILE are respected.
    """
    import httpx

    return httpx.Client(timeout=timeout, follow_redirects=True, verify=_certificates())


@cache
def _certificates() -> ssl.SSLContext:
    """The system's certificate store, where companies install theirs; httpx uses that of `certifi` by default."""
    return ssl.create_default_context()
