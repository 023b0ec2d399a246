"""Which requests the page answers, and what a browser may do with the answers.

A page on this machine can be reached by every site that its people visit: by requests across sites,
and by names that an attacker lets point at 127.0.0.1 (DNS rebinding). So the Host must be an
address, localhost or a name that was given; and an Origin, where there is one, this page itself.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

HEADERS = {
    # Only what this server sends, no inline code or style, in no frame of another page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Guard:
    """ASGI middleware: refuses foreign requests, and adds `HEADERS` to every answer."""

    def __init__(self, app, hosts: tuple[str, ...] = ()):
        """Takes the names of this machine that are good besides localhost."""
        self._app, self._hosts = app, {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope, receive, send) -> None:
        """Answers a request, or refuses it with 403."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def guarded(message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        if reason := self._refused(scope["scheme"], headers):
            return await JSONResponse({"error": reason}, 403)(scope, receive, guarded)
        return await self._app(scope, receive, guarded)

    def _refused(self, scheme: str, headers: Headers) -> str:
        """Why a request is refused; empty when it is not."""
        host = headers.get("host", "")
        if not self._is_mine(host):
            return f"this page is not served as {host[:100]!r}; give --name to allow it"
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"{scheme}://{host}".lower():
            return "requests from other pages are not answered"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return "requests from other pages are not answered"
        return ""

    def _is_mine(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
