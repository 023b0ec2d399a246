"""Serves the page of a searcher until it is interrupted."""

import ipaddress

import uvicorn

from mova_jax.search.page.app import make_app
from mova_jax.search.page.playable import PlayableFiles
from mova_jax.search.service import Library


def serve(library: Library, host: str, port: int, names: tuple[str, ...] = ()) -> None:
    """Serves the page; returns when it is interrupted.

    Args:
        library: to search.
        host: address to listen at; 127.0.0.1 for this machine alone.
        port: to listen at.
        names: of this machine under which others may open the page.

    Raises:
        OSError: the address cannot be listened at, most often because the port is taken.
    """
    with PlayableFiles() as files:
        _run(make_app(library, files, (host, *names)), host, port)


def _run(app, host: str, port: int) -> None:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        limit_concurrency=256,
        timeout_graceful_shutdown=2,
    )
    sockets = [config.bind_socket()]
    shown = f"[{host}]" if ":" in host else host
    print(f"The page is at http://{shown}:{port}/ (stop it with Ctrl-C)", flush=True)
    if not is_loopback(host):
        print("Everyone who reaches this address can search and watch the videos of the index.")
    uvicorn.Server(config).run(sockets=sockets)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
