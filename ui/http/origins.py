"""Which host names a server answers to, and which web pages may use it from a visitor's browser.

Against DNS rebinding (a foreign name that leads to this machine) the names by which a request was made are checked;
against foreign pages its `Origin` and `Sec-Fetch-Site` headers are (https://www.w3.org/TR/fetch-metadata/).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from whyfeed.ui.http.access import Refused

if TYPE_CHECKING:
    from starlette.datastructures import Headers

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")  # as they are in a URL
_PORTS = {"http": 80, "https": 443}
# Headers that a reverse proxy adds; a browser cannot send them to another site without asking first.
_FORWARDED = (
    "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-server",
    "x-real-ip", "x-client-ip", "x-original-host", "cf-connecting-ip", "true-client-ip", "via",
)  # fmt: skip
_HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")  # a name or an address, and a port
_SHOWN = 100  # characters of a refused name that are repeated


def is_loopback(host: str) -> bool:
    """Is it an address that only this machine can reach?"""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Site:
    """A public address of a server, as in https://desk.example.com/whyfeed. Without a `scheme` any is meant."""

    scheme: str
    host: str
    port: int | None  # None: that of the scheme
    path: str = ""

    @classmethod
    def read(cls, text: str) -> Site:
        """A site from text. Raises ValueError with one line."""
        wrong = f"{text[:_SHOWN]!r} is no address of a site; write it as in https://desk.example.com"
        try:
            parts = urlsplit(text.strip() if "://" in text else f"//{text.strip()}")
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            raise ValueError(wrong) from None
        good = parts.scheme in ("", *_PORTS) and not (parts.query or parts.fragment or "@" in parts.netloc)
        if not (host and good) or any(letter.isspace() or letter in "*,;'\"\\" for letter in text.strip()):
            raise ValueError(wrong)
        return cls(parts.scheme, host, None if port == _PORTS.get(parts.scheme) else port, parts.path.rstrip("/"))

    def at(self, name: tuple[str, int | None]) -> bool:
        """Whether this address has that host and port."""
        host, port = name
        return self.host == host and self.port == (None if port == _PORTS.get(self.scheme) else port)

    def includes(self, origin: Site) -> bool:
        """Whether a web page from that origin is one of this site."""
        return origin.at((self.host, self.port)) and self.scheme in ("", origin.scheme)


class Origins:
    """The names and origins of one server. `sites` are its public addresses, where a proxy serves it under others."""

    def __init__(self, sites: Sequence[str] = ()) -> None:
        """Raises ValueError, in one line, for a site that is no address."""
        self._sites = tuple(Site.read(each) for each in sites)

    def check_name(self, headers: Headers) -> None:
        """Refuse (421) a request for which no login is asked unless it came by a name of this machine or a site.

        A proxy on this machine makes everybody a visitor from this machine: what it forwards must name a site.
        """
        sites = {site.host for site in self._sites}
        hosts = [host for host, _ in _names(headers)]
        for host in hosts:
            if host not in sites and not is_loopback(host):
                raise Refused(
                    421,
                    f"the page has no login, so it answers to names of this machine alone, not to {host[:_SHOWN]!r}; "
                    "give it a login (--login-file FILE), or name the address with --site https://NAME",
                )
        if not sites.intersection(hosts) and any(name in headers for name in _FORWARDED):
            raise Refused(
                421,
                "the page has no login, and this request came through a proxy; give the page a login "
                "(--login-file FILE), or name its public address with --site https://NAME and pass its Host on",
            )

    def check_origin(self, headers: Headers, *, opens: bool) -> None:
        """Refuse (403) what a web page of another origin asks for.

        `opens`: what is asked for may be opened by a link from anywhere, but not be a part of another page.
        """
        said = headers.get("origin")
        if said is not None and not self._is_own(said, headers):
            raise Refused(
                403,
                f"a web page from {said[:_SHOWN]!r} may not use this one; if that is the address of this page behind a "
                "proxy, name it with --site, or let the proxy pass the Host",
            )
        came = headers.get("sec-fetch-site", "same-origin")
        linked = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if came not in ("same-origin", "none") and said is None and not (opens and linked):
            raise Refused(403, "another web page may not use this one; open it in a tab of its own")

    def host_of(self, headers: Headers) -> str:
        """Host and port by which the visitor's browser knows this server."""
        told = headers.get("x-forwarded-host", "").split(",")[0].strip()
        return told or headers.get("host", "")

    def root_of(self, headers: Headers) -> str:
        """The path below which a proxy serves this server, as the site says; "" for the root."""
        return next((site.path for site in self._named(headers)), "")

    def is_secure(self, scheme: str, headers: Headers) -> bool:
        """Whether the visitor's browser speaks HTTPS, with this server or with the proxy before it."""
        said = headers.get("origin") or headers.get("x-forwarded-proto", "").split(",")[0].strip() + ":"
        if scheme == "https" or said.startswith("https:"):
            return True
        return any(site.scheme == "https" for site in self._named(headers))

    def _named(self, headers: Headers) -> list[Site]:
        hosts = {host for host, _ in _names(headers)}  # a proxy may leave the port out
        return [site for site in self._sites if site.host in hosts]

    def _is_own(self, said: str, headers: Headers) -> bool:
        try:
            origin = Site.read(said)
        except ValueError:
            return False
        if origin.scheme not in _PORTS or origin.path:
            return False  # "null", which a page in a sandbox has, among others
        return any(origin.at(name) for name in _names(headers)) or any(site.includes(origin) for site in self._sites)


def _names(headers: Headers) -> Iterator[tuple[str, int | None]]:
    """Host and port of each name by which a request was made. Raises Refused (400) for what is none."""
    said = headers.getlist("host")
    if len(said) != 1:
        raise Refused(400, "a request has one Host header")
    for each in headers.getlist("x-forwarded-host"):
        said += each.split(",")
    for each in headers.getlist("forwarded"):
        for pair in each.replace(",", ";").split(";"):
            name, _, value = pair.strip().partition("=")
            if name.casefold() == "host":
                said.append(value.strip('"'))
    for each in said:
        try:
            site = Site.read(each)
        except ValueError:
            site = None
        if site is None or site.scheme or site.path or not _HOST.fullmatch(each.strip()):
            raise Refused(400, "the Host header names no host")
        yield site.host, site.port
