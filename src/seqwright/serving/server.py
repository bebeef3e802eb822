"""The endpoint as a process: a model, a port, and an end that loses no answer."""

import asyncio
import contextlib
import functools
import gc
import logging
import pickle
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
from seqwright.model_sources import load_any_model
from seqwright.serving.app import EndpointApp
from seqwright.serving.connections import BoundedConnection
from seqwright.serving.hosts import allowed_hosts as names_of
from seqwright.serving.limits import Limits
from seqwright.serving.search_process import SearchProcess
from seqwright.serving.searcher import ModelDescription

_MAX_WORKERS = 4  # processes by default: each holds the model and 200 MB of PyTorch
_CONNECTIONS = 2048  # new connections that wait until they are accepted; the kernel may allow fewer
_OPEN_FILES = 1 << 16  # connections and other open files, if the system allows so many
_UNREAD_SECONDS = 60.0  # how long a client may receive nothing of an answer; only Linux has such a bound
_DRAIN_SECONDS = 25.0  # how long requests that were accepted may still take after SIGTERM
_ABORT_SECONDS = 1.0  # how long the refusals of those that take longer may take to reach their clients

_LOGGER = logging.getLogger(__name__)


class EndpointServer(uvicorn.Server):
    """uvicorn's server with bounded connections and an end that takes `_DRAIN_SECONDS` at most.

    Args:
        app: what it serves.
        keep_alive: seconds after which an idle connection is closed.
    """

    def __init__(self, app: EndpointApp, keep_alive: int = 5) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            log_config=None,
            log_level=logging.ERROR,
            backlog=_CONNECTIONS,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            timeout_keep_alive=keep_alive,
            timeout_graceful_shutdown=round(_DRAIN_SECONDS + 10),
        )
        config.load()
        bounded = functools.partial(BoundedConnection, config.http_protocol_class)
        config.http_protocol_class = cast(type[asyncio.Protocol], bounded)
        super().__init__(config)
        self._endpoint = app.endpoint
        self._is_hurried = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was accepted, but not for longer than `_DRAIN_SECONDS`, nor after a second signal."""
        drain = asyncio.get_running_loop().create_task(self._drain())
        await super().shutdown(sockets)
        drain.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal: after the first the endpoint ends, after another it ends at once."""
        if self.should_exit:
            self._is_hurried = True
        else:
            super().handle_exit(sig, frame)

    async def _drain(self) -> None:
        self._endpoint.stop()
        end = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < end and not self._is_hurried:
            await asyncio.sleep(0.1)
        self._endpoint.batcher.give_up()
        await asyncio.sleep(_ABORT_SECONDS)
        self.force_exit = True


def serve(
    model: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    limits: Limits | None = None,
    allowed_hosts: str | None = None,
) -> None:
    """Serve a model until SIGTERM, SIGINT or SIGHUP, then finish the requests accepted, within 25 seconds.

    Nothing listens on the port before the model is loaded and has translated once, so the first answer of /ping is that
    it is ready. Call it from the main thread.

    Args:
        model: a model folder or `model.tar.gz`.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `fp32` or `bf16`.
        workers: search processes; if not given, 1 on a GPU, and on a CPU one for each core, at most 4.
        limits: how much to take on at once.
        allowed_hosts: as `hosts.allowed_hosts` takes it.

    Raises:
        ClientError: the model is missing or damaged, the device is not available, or the address cannot be listened on.
    """
    _allow_many_connections()
    with contextlib.ExitStack() as stack:
        end_if_asked = stack.enter_context(exit_on_sigterm())  # while it loads
        count = workers or (1 if choose_device(device).type == "cuda" else min(_MAX_WORKERS, torch.get_num_threads()))
        bound = stack.enter_context(bind(host, port))
        trained = load_any_model(model)
        description, pickled = ModelDescription.of(trained), pickle.dumps(trained)
        del trained
        searchers = [
            stack.enter_context(contextlib.closing(SearchProcess(description, pickled, device, precision, count)))
            for _ in range(count)
        ]
        with describe_os_errors(f"cannot listen on {_place(host, port)}"):
            bound.listen(_CONNECTIONS)
        address, port = bound.getsockname()[:2]
        url, kind = f"http://{_place(host, port)}", "process" if count == 1 else "processes"
        _LOGGER.info("serving %s on %s (%s, %d %s)", model, url, searchers[0].device, count, kind)
        names = names_of(host, address, allowed_hosts)
        server = EndpointServer(EndpointApp(searchers, limits, names))
        gc.freeze()  # objects alive now stay: to scan them for garbage would stop everything for 0.1 s

        def stop(*_: object) -> None:
            # Before uvicorn handles signals, and after it has drained, when it raises the signal again: a clean end.
            server.should_exit = True

        signal.signal(signal.SIGTERM, stop)
        end_if_asked()  # a signal before, whose exception an import or a destructor swallowed
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(signal.SIGHUP, stop)
        server.run(sockets=[bound])


def _allow_many_connections() -> None:
    """Let the process open as many files as it may: the usual 1,024 are fewer than clients in a rush."""
    with contextlib.suppress(ModuleNotFoundError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = min(_OPEN_FILES, hard) if hard >= 0 else _OPEN_FILES  # negative: unlimited
        if 0 <= soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address, on which nothing listens yet.

    Raises:
        ClientError: the address is not available.
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
    """A host and port as in a URL: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
