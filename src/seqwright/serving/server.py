"""The endpoint as a process: a model, a port, and an end that loses no answer."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import cast

import torch
import uvicorn

from seqwright.devices import choose_device
from seqwright.errors import ClientError
from seqwright.files import describe_os_errors
from seqwright.interrupts import exit_on_sigterm
from seqwright.serving.app import Application, create_app
from seqwright.serving.direct import DirectProtocol
from seqwright.serving.limits import Limits
from seqwright.serving.search_process import SearchProcess

_MOST_WORKERS = 4
"""Processes that are started unasked: each holds the model and 200 MB of PyTorch."""

_CONNECTIONS = 2048
"""New connections that wait until they are taken; the kernel may allow fewer."""

_OPEN_FILES = 1 << 16
"""Connections and other open files, where the system allows so many."""

_UNREAD_SECONDS = 60.0
"""How long an answer may wait for a client that does not read; Linux alone knows such a bound."""

_DRAIN_SECONDS = 25.0
"""How long requests that were accepted may still take after SIGTERM."""

_FAREWELL_SECONDS = 1.0
"""How long the answers to those that take longer have to reach their clients."""

_LOGGER = logging.getLogger(__name__)


class EndpointServer(uvicorn.Server):
    """uvicorn's server, whose end has a bound.

    Args:
        config: uvicorn's, with an application that `create_app` made.
    """

    _is_hurried = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was accepted, but not for longer than `_DRAIN_SECONDS`, nor after a second signal."""
        drain = asyncio.get_running_loop().create_task(self._drain(cast(Application, self.config.app)))
        await super().shutdown(sockets)
        drain.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal: the first begins the end, another ends the patience."""
        if self.should_exit:
            self._is_hurried = True
        else:
            super().handle_exit(sig, frame)

    async def _drain(self, app: Application) -> None:
        app.stop()
        end = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < end and not self._is_hurried:
            await asyncio.sleep(0.1)
        app.give_up()
        await asyncio.sleep(_FAREWELL_SECONDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def serve(
    model: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve a model until SIGTERM, SIGINT or SIGHUP, then finish the requests accepted, as far as 25 seconds go.

    The port is taken first, but nothing listens on it before the model is loaded and has translated once: the first
    answer of /ping is that it is ready. Call it from the main thread.

    Args:
        model: a model folder or `model.tar.gz`.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `fp32` or `bf16`.
        workers: batches searched at a time, each in a process with the model; if not given, 1 on a GPU, and on a CPU
            one a core, at most 4.
        limits: how much to take on at once.

    Raises:
        ClientError: the model is missing or damaged, the device is not to be had, or the address cannot be listened on.
    """
    limits = limits or Limits()
    _allow_many_connections()
    with contextlib.ExitStack() as stack:
        stack.enter_context(exit_on_sigterm())  # while it loads
        count = workers or (1 if choose_device(device).type == "cuda" else min(_MOST_WORKERS, torch.get_num_threads()))
        bound = stack.enter_context(bind(host, port))
        searchers = [
            stack.enter_context(contextlib.closing(SearchProcess(model, device, precision, count)))
            for _ in range(count)
        ]
        with describe_os_errors(f"cannot listen on {_place(host, port)}"):
            bound.listen(_CONNECTIONS)
        _LOGGER.info(
            "serving %s on http://%s (%s, %d %s)",
            *(model, _place(host, bound.getsockname()[1]), searchers[0].device, count),
            "process" if count == 1 else "processes",
        )
        config = uvicorn.Config(
            create_app(searchers, limits),
            http=DirectProtocol,
            log_config=None,
            log_level=logging.WARNING,
            backlog=_CONNECTIONS,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=round(_DRAIN_SECONDS + 10),
        )
        gc.freeze()  # what is there now stays: to look through it again would stop everything for a tenth of a second
        server = EndpointServer(config)

        def stop(*_: object) -> None:
            # Before uvicorn listens for it, and after it has drained, when it raises the signal again: a clean end.
            server.should_exit = True

        signal.signal(signal.SIGTERM, stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(signal.SIGHUP, stop)
        server.run(sockets=[bound])


def _allow_many_connections() -> None:
    """Let the process have as many files open as it may ask for: the usual 1,024 are fewer than clients in a rush."""
    with contextlib.suppress(ModuleNotFoundError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind(host: str, port: int) -> socket.socket:
    """A socket with an address, on which nothing listens yet.

    Raises:
        ClientError: the address is not to be had.
    """
    with describe_os_errors(f"cannot listen on {_place(host, port)}"):
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise ClientError(f"cannot listen on {host!r}: it is no host's name or address") from error
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sys.platform == "linux":
                bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(_UNREAD_SECONDS * 1000))
            bound.bind(address)
        except OSError:
            bound.close()
            raise
        return bound


def _place(host: str, port: int) -> str:
    """A host and port as URLs have them: an address of IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
