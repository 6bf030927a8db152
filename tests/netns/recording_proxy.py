"""An API server's front door that writes down who asks what: TLS in, plain HTTP on, one JSON line a request.

    python -m tests.netns.recording_proxy CERT KEY ADDRESS PORT UPSTREAM LOG

Each line has the bearer token and the request as an authoriser sees it: verb, group, resource. It refuses a watch
with initial events, as servers without WatchList do, so that a program shows that it may list, too.
"""

import asyncio
import json
import ssl
import sys
from pathlib import Path

import aiohttp
from aiohttp import web

NO_WATCH_LIST = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "reason": "Invalid",
    "message": "sendInitialEvents: Forbidden: forbidden without the WatchList feature gate",
    "code": 422,
}

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def attributes(method: str, path: str, watching: bool) -> tuple[str, str, str]:
    """Return (verb, group, resource or resource/subresource), or the path itself for what is no resource."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, rest = "", parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, rest = parts[1], parts[3:]
    else:
        return _VERBS[method], "", path
    if rest[0] == "namespaces" and len(rest) > 2:
        rest = rest[2:]
    resource = "/".join((rest[0], *rest[2:]))
    if method == "GET" and len(rest) == 1:
        return ("watch" if watching else "list"), group, resource
    return _VERBS[method], group, resource


async def main(cert: str, key: str, address: str, port: str, upstream: str, log: str) -> None:
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False)

    async def forward(request: web.Request) -> web.StreamResponse:
        asked = attributes(request.method, request.path, "watch" in request.query)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        with Path(log).open("a") as lines:
            lines.write(json.dumps([token, *asked]) + "\n")
        if "sendInitialEvents" in request.query:
            return web.json_response(NO_WATCH_LIST, status=NO_WATCH_LIST["code"])
        headers = {name: request.headers[name] for name in ("Accept", "Content-Type") if name in request.headers}
        url = upstream + str(request.rel_url)
        async with session.request(request.method, url, data=await request.read(), headers=headers) as answer:
            response = web.StreamResponse(status=answer.status)
            response.content_type = answer.content_type
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    await web.TCPSite(runner, address, int(port), ssl_context=tls).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
