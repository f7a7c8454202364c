"""HTTP as whyfeed asks it: proxies of the environment, the machine's certificates, redirects followed."""

from __future__ import annotations

import ssl
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx


def http_client(timeout: float) -> httpx.Client:
    """A new client; `timeout` is in seconds without a byte. HTTP_PROXY, NO_PROXY and SSL_CERT_FILE hold."""
    import httpx

    return httpx.Client(timeout=timeout, follow_redirects=True, verify=_certificates())


@cache
def _certificates() -> ssl.SSLContext:
    """The machine's own store, where a company puts its certificate; httpx would take the one of `certifi`."""
    return ssl.create_default_context()
