"""The page's HTML document: Gradio's, with whyfeed's title and the visitor's language."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any

from starlette._utils import get_route_path
from starlette.datastructures import Headers

from whyfeed.agent.phrases import languages, say

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Of Gradio's template: its own title and pictures for other sites, and an address that is not this page's.
_GRADIO_TAGS = re.compile(
    rb"""<meta\s+(?:property="og:|name="twitter:)[^>]*>|<link rel="manifest"[^>]*>|<html\s+lang="en["]"""
)


def accepted_language(headers: Headers) -> str:
    """The language that the browser prefers of those that whyfeed speaks; English without one."""
    wanted: list[tuple[float, str]] = []
    for each in headers.get("accept-language", "").split(","):
        tag, _, quality = each.strip().partition(";q=")
        try:
            wanted.append((-float(quality or 1), tag.split("-")[0].lower()))
        except ValueError:
            continue
    return next((code for _, code in sorted(wanted, key=lambda pair: pair[0]) if code in languages()), "en")


class Document:
    """ASGI middleware that rewrites the document at the root of Gradio's application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other answers than the document stay as they are."""
        if scope["type"] != "http" or scope["method"] != "GET" or get_route_path(scope) not in ("", "/"):
            await self._app(scope, receive, send)
            return
        start: dict[str, Any] = {}
        pieces: list[bytes] = []
        language = accepted_language(Headers(scope=scope))

        async def rewritten(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif message["type"] == "http.response.body":
                pieces.append(message.get("body", b""))
                if message.get("more_body"):
                    return
                body = _in_our_name(b"".join(pieces), language)
                kept = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
                own = [(b"content-length", str(len(body)).encode()), (b"vary", b"Accept-Language")]
                await send({**start, "headers": [*kept, *own]})
                await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, rewritten)


def _in_our_name(document: bytes, language: str) -> bytes:
    """The document with whyfeed's title. Data cannot be mistaken for tags: in them "<" is escaped."""
    line = escape(say("page.brand.line", language))
    own = (
        '<title>whyfeed</title><meta property="og:title" content="whyfeed" />'
        f'<meta name="description" content="{line}" />'
    )
    opening = f'<html lang="{say("language.tag", language)}"'

    def replace(found: re.Match[bytes]) -> bytes:
        return opening.encode() if found[0].startswith(b"<html") else b""

    return _GRADIO_TAGS.sub(replace, document).replace(b"<meta charset", own.encode() + b"<meta charset", 1)
