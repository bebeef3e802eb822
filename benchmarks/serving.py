"""The endpoint under load, against the bare model.

    python benchmarks/serving.py --model MODEL --sentences FILE [-- serve options …]

`FILE` has one source sequence a line; the first `--count` of them are used. What is measured, in this order, all of it
in turn `--rounds` times, for a machine that is shared is faster in one minute than in the next; medians, and of the
ratios the least and the greatest as well:

- offline: sentences a second of what `seqwright translate` does once the model is loaded, from file to file;
- a crowd: `--clients` clients, each asking for one sentence after another, their rate against offline;
- the bare search of one sentence at a time, its median time;
- a lone client: requests of one sentence, one after another, their median against the bare search's;
- full batches on an idle endpoint: requests of 64 sentences, one after another, their 99th percentile;
- overload: requests of one sentence at ten times the crowd's rate, whether answered or not: the 99th percentile of
  those accepted against that of full batches, the share refused, and the server's memory after the last against
  after the first.

The server is `seqwright serve` in a process of its own; the clients keep their connections and share the machine with
it. Crowd, lone client and overload are wrk's (https://github.com/wg/wrk, a package of most systems) where it is
installed, for clients in Python take a tenth of two cores for a crowd and a core for an overload, then in two further
processes; the full batches are asyncio's. wrk does not tell times of answers from those of refusals: what it gives as
the 99th percentile of the accepted is the time that no more answers of any kind exceed than are a hundredth of the
accepted, which is no less.
Prints a table, and one JSON object on the last line.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import cast

import torch
import uvloop
from rich.console import Console
from rich.progress import track
from rich.table import Table

from seqwright.inference.bulk import translate_file
from seqwright.inference.translator import Translator

OK = 200
LEFT = 499
"""What the server counts where a client went away, as wrk's do at the end of its time."""
LOST = 0
"""In place of a status where the connection was closed instead of an answer."""
FULL_BATCH = 64
OVERLOAD = 10
GENERATORS = 2
"""Processes that make the overload: one cannot ask ten times as fast as the server answers."""
CONNECTIONS = 500
"""Connections of each of them; an overload that needs more waits for an answer, as its clients would."""


@dataclass(frozen=True)
class Answer:
    """What a request got, and how long it took in seconds."""

    status: int
    seconds: float


@dataclass(frozen=True)
class Crowd:
    """What many clients got: answers a second, the share of them that were refusals, and times in seconds."""

    rate: float
    refused_share: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Overload:
    """What too many requests got: requests and answers a second, and times in seconds.

    Attributes:
        offered: requests a second.
        accepted: of them, those that were translated.
        accepted_p99: the 99th percentile of the time that those took, or somewhat more than it.
        p50: the median time of all answers, which are mostly refusals.
    """

    offered: float
    accepted: float
    accepted_p99: float
    p50: float


@dataclass(frozen=True)
class Turn:
    """What is measured in turn; rates in sentences a second, times in seconds."""

    offline_rate: float
    crowd_rate: float
    crowd_refused_share: float
    crowd_p50: float
    crowd_p99: float
    bare_p50: float
    lone_p50: float
    full_batch_p99: float
    overload_offered: float
    overload_accepted: float
    overload_p99: float
    overload_p50: float
    memory: float
    """The server's, in MB, at the end of the turn."""

    @property
    def ratios(self) -> dict[str, float]:
        """What goals are set for."""
        return {
            "crowd": self.crowd_rate / self.offline_rate,
            "lone": self.lone_p50 / self.bare_p50,
            "overload": self.overload_p99 / self.full_batch_p99,
        }


class Connection(asyncio.Protocol):
    """A kept-alive connection that asks and tells of the answer, as cheaply as Python can."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._tell: Callable[[Answer], None] | None = None
        self._started = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to write."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Collect an answer; the server names its length."""
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        if ended and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            self._received = b""
            self._answer(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that the request that waits, if any, gets no answer."""
        self._answer(LOST)

    @property
    def closed(self) -> bool:
        """Whether the server has ended it, for want of requests."""
        return self._transport is None or self._transport.is_closing()

    def send(self, body: bytes, tell: Callable[[Answer], None]) -> None:
        """Post a body of application/jsonlines; `tell` is called with the answer."""
        assert self._transport is not None
        self._tell = tell
        self._started = time.perf_counter()
        head = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/jsonlines\r\n"
        self._transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))

    async def ask(self, body: bytes) -> Answer:
        """As `send`, and wait for the answer."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.send(body, answered.set_result)
        answer = await answered
        if answer.status == LOST:
            raise ConnectionError("the server closed the connection")
        return answer

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def _answer(self, status: int) -> None:
        if self._tell is not None:
            tell, self._tell = self._tell, None
            tell(Answer(status, time.perf_counter() - self._started))


async def connect(port: int) -> Connection:
    """A new connection."""
    return (await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port))[1]


def body_of(sentences: Sequence[str]) -> bytes:
    """A request for all of the sentences."""
    return "".join(json.dumps({"source": sentence}) + "\n" for sentence in sentences).encode()


async def closed_loop(port: int, bodies: Sequence[bytes], clients: int, seconds: float) -> list[Answer]:
    """Clients that each ask again as soon as they are answered."""
    until = time.perf_counter() + seconds
    answers: list[Answer] = []

    async def client(number: int) -> None:
        connection = await connect(port)
        for body in cycle(bodies[number::clients] or bodies):
            if time.perf_counter() >= until:
                break
            answers.append(await connection.ask(body))
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return answers


async def open_loop(port: int, bodies: Sequence[bytes], rate: float, seconds: float) -> list[Answer]:
    """Requests at a fixed rate, as long as there are connections for them."""
    idle = [await connect(port) for _ in range(CONNECTIONS)]
    answers: list[Answer] = []

    def send(connection: Connection, body: bytes) -> None:
        def tell(answer: Answer) -> None:
            answers.append(answer)
            idle.append(connection)

        connection.send(body, tell)

    started, sent = time.perf_counter(), 0
    every = cycle(bodies)
    while (elapsed := time.perf_counter() - started) < seconds:
        for _ in range(min(int(elapsed * rate) - sent, len(idle))):
            connection = idle.pop()
            send(await connect(port) if connection.closed else connection, next(every))
        sent = int(elapsed * rate)
        await asyncio.sleep(0.002)
    while len(idle) < CONNECTIONS:
        await asyncio.sleep(0.01)
    for connection in idle:
        connection.close()
    return answers


WRK_SCRIPT = """
local mean_pause = %f
local bodies, number = {}, 0
for line in io.lines("%s") do bodies[#bodies + 1] = line .. "\\n" end
request = function()
  number = number %% #bodies + 1
  return wrk.format("POST", "/invocations", {["Content-Type"] = "application/jsonlines"}, bodies[number])
end
if mean_pause > 0 then
  delay = function() return math.floor(2 * mean_pause * math.random()) end
end
done = function(summary, latency)
  local accepted = 1 - summary.errors.status / summary.requests
  print(string.format("answers %%d refused %%d p50 %%d p99 %%d us", summary.requests, summary.errors.status,
    latency:percentile(50), latency:percentile(100 - accepted)))
end
"""
"""For wrk: asks for a sentence at a time, with pauses of a mean in milliseconds; p99 is as the module's text says."""


@dataclass(frozen=True)
class Counted:
    """What wrk prints: answers, refusals among them, times in seconds, and how long it ran."""

    answers: int
    refused: int
    p50: float
    p99: float
    seconds: float


def wrk(port: int, bodies: Sequence[bytes], clients: int, seconds: float, mean_pause: float = 0) -> Counted:
    """Have wrk ask: so many clients, each again `mean_pause` milliseconds after its last answer, on the average."""
    with tempfile.TemporaryDirectory() as folder:
        lines, script = Path(folder, "bodies"), Path(folder, "script.lua")
        lines.write_bytes(b"".join(bodies))
        script.write_text(WRK_SCRIPT % (mean_pause, lines))
        options = ["-t1", f"-c{clients}", f"-d{max(1, round(seconds))}", "--timeout", "60s", "-s", str(script)]
        command = ["wrk", *options, f"http://127.0.0.1:{port}/invocations"]
        started = time.perf_counter()
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        took = time.perf_counter() - started
    found = re.search(r"answers (\d+) refused (\d+) p50 (\d+) p99 (\d+) us", text)
    if found is None or "Socket errors" in text:
        sys.exit(text)
    answers, refused, p50, p99_us = map(int, found.groups())
    return Counted(answers, refused, p50 / 1e6, p99_us / 1e6, took)


def crowd_of(port: int, bodies: Sequence[bytes], clients: int, seconds: float) -> Crowd:
    """Clients that each ask again as soon as they are answered: wrk's, or without it those of `closed_loop`."""
    if shutil.which("wrk") is None:
        answers = uvloop.run(closed_loop(port, bodies, clients, seconds))
        times = [answer.seconds for answer in answers]
        refused = sum(answer.status != OK for answer in answers)
        rate = (len(answers) - refused) / seconds
        return Crowd(rate, refused / len(answers), statistics.median(times), p99(times))
    counted = wrk(port, bodies, clients, seconds)
    rate = (counted.answers - counted.refused) / counted.seconds
    return Crowd(rate, counted.refused / counted.answers, counted.p50, counted.p99)


def overload_of(port: int, bodies: Sequence[bytes], rate: float, seconds: float) -> Overload:
    """Requests at a rate, whether answered or not: wrk's, or without it those of `open_loop`."""
    clients = GENERATORS * CONNECTIONS
    if shutil.which("wrk"):
        pause = 1000 * clients / rate
        counted = wrk(port, bodies, clients, seconds, 0.88 * pause)  # an answer takes the rest, and sometimes more
        accepted = (counted.answers - counted.refused) / counted.seconds
        return Overload(counted.answers / counted.seconds, accepted, counted.p99, counted.p50)
    with ProcessPoolExecutor(GENERATORS, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = [pool.submit(overload, port, bodies, rate / GENERATORS, seconds) for _ in range(GENERATORS)]
        answers = [answer for part in parts for answer in part.result()]
    times = [answer.seconds for answer in answers if answer.status == OK]
    assert all(answer.status in (OK, 503) for answer in answers), {answer.status for answer in answers}
    p50 = statistics.median(answer.seconds for answer in answers)
    return Overload(len(answers) / seconds, len(times) / seconds, p99(times), p50)


def overload(port: int, bodies: Sequence[bytes], rate: float, seconds: float) -> list[Answer]:
    """`open_loop` in a process of its own."""
    gc.freeze()
    return uvloop.run(open_loop(port, bodies, rate, seconds))


@contextlib.contextmanager
def serving(model: Path, options: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The port and the process id of a server that is ready."""
    command = [sys.executable, "-c", "from seqwright.cli import main; main()", "serve", "--model", str(model)]
    with subprocess.Popen([*command, "--port", "0", *options], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found is None:
            sys.exit(line + process.stderr.read())
        try:
            yield int(found[1]), process.pid
        finally:
            process.terminate()


def statuses(port: int) -> set[int]:
    """The statuses of all answers since the start, as the server counts them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return {
            int(status) for status in re.findall(r'seqwright_requests_total{status="(\d+)"}', answer.read().decode())
        }


def memory(pid: int) -> float:
    """Resident memory of a process and of those it started, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = int(status.split("VmRSS:")[1].split()[0]) / 1024
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return own + sum(memory(int(child)) for path in children for child in path.read_text().split())


def p99(values: Sequence[float]) -> float:
    """The 99th percentile."""
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def offline(translator: Translator, sentences: Sequence[str]) -> float:
    """Sentences a second in bulk, from file to file."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        source.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
        started = time.perf_counter()
        translate_file(translator, source=source, target=target)
        return len(sentences) / (time.perf_counter() - started)


def bare(translator: Translator, sentences: Sequence[str], seconds: float) -> float:
    """Seconds that one sentence at a time takes, the median."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    for sentence in cycle(sentences):
        started = time.perf_counter()
        translator.translate([sentence])
        times.append(time.perf_counter() - started)
        if time.perf_counter() >= until:
            break
    return statistics.median(times)


def measure(
    model: Path, sentences: Sequence[str], clients: int, seconds: float, rounds: int, options: Sequence[str]
) -> list[Turn]:
    """Everything, in the order that the module's text gives."""
    translator = Translator.load(model)
    translator.translate(sentences[:FULL_BATCH])
    singles = [body_of([sentence]) for sentence in sentences]
    batches = [body_of(sentences[i : i + FULL_BATCH]) for i in range(0, len(sentences), FULL_BATCH)]
    full = [body for body in batches if body.count(b"\n") == FULL_BATCH] or batches
    turns: list[Turn] = []
    with serving(model, options) as (port, pid):
        crowd_of(port, singles, clients, min(2.0, seconds))
        for _ in track(range(rounds), "rounds", console=Console(stderr=True), transient=True):
            offline_rate = offline(translator, sentences)
            crowd = crowd_of(port, singles, clients, seconds)
            bare_p50 = bare(translator, sentences, seconds)
            lone = crowd_of(port, singles, 1, seconds)
            alone = uvloop.run(closed_loop(port, full, 1, seconds))
            hard = overload_of(port, singles, OVERLOAD * crowd.rate, seconds)
            turns.append(
                Turn(
                    offline_rate=offline_rate,
                    crowd_rate=crowd.rate,
                    crowd_refused_share=crowd.refused_share,
                    crowd_p50=crowd.p50,
                    crowd_p99=crowd.p99,
                    bare_p50=bare_p50,
                    lone_p50=lone.p50,
                    full_batch_p99=p99([answer.seconds for answer in alone]),
                    overload_offered=hard.offered,
                    overload_accepted=hard.accepted,
                    overload_p99=hard.accepted_p99,
                    overload_p50=hard.p50,
                    memory=memory(pid),
                )
            )
        assert statuses(port) <= {OK, 503, LEFT}, statuses(port)
    return turns


def table(turns: Sequence[Turn], clients: int) -> Table:
    """Medians of the turns beside what they are held to."""
    made = Table("", "measured", "against", "ratio", "from", "to", "target", box=None)
    for column in made.columns[1:]:
        column.justify = "right"

    def median(name: str) -> float:
        return float(statistics.median(getattr(turn, name) for turn in turns))

    def rate(name: str) -> str:
        return f"{median(name):,.0f}/s"

    def milliseconds(name: str) -> str:
        return f"{1000 * median(name):,.1f} ms"

    def ratio(name: str, form: str) -> list[str]:
        ratios = [turn.ratios[name] for turn in turns]
        return [format(each, form) for each in (statistics.median(ratios), min(ratios), max(ratios))]

    crowd, lone, hard = ratio("crowd", ".0%"), ratio("lone", ".2f"), ratio("overload", ".2f")
    refused = max(turn.crowd_refused_share for turn in turns)
    share = 1 - median("overload_accepted") / median("overload_offered")
    made.add_row(f"{clients} clients", rate("crowd_rate"), rate("offline_rate"), *crowd, "≥ 70%")
    made.add_row("… refused, at most", f"{refused:.1%}", "", "", "", "", "none")
    made.add_row("lone client, p50", milliseconds("lone_p50"), milliseconds("bare_p50"), *lone, "< 1.30")
    made.add_row("overload, p99", milliseconds("overload_p99"), milliseconds("full_batch_p99"), *hard, "< 3.00")
    made.add_row("overload, answered", rate("overload_accepted"), rate("overload_offered"), "", "", "", "")
    made.add_row("overload, refused", f"{share:.0%}", "", "", "", "", "the rest")
    made.add_row("… median of all answers", milliseconds("overload_p50"), "", "", "", "", "")
    first, last = turns[0].memory, turns[-1].memory
    made.add_row("memory, last turn", f"{last:,.0f} MB", f"{first:,.0f} MB", f"{last / first:.2f}", "", "", "flat")
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sentences", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each part takes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("options", nargs="*", help="options of `seqwright serve`, after --")
    arguments = parser.parse_args()
    lines = arguments.sentences.read_text(encoding="utf-8").splitlines()
    sentences = [line for line in lines if line.split()][: arguments.count]
    known = arguments.clients, arguments.seconds, arguments.rounds, arguments.options
    turns = measure(arguments.model, sentences, *known)
    Console(stderr=True).print(table(turns, arguments.clients))
    facts = {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    every = [{**asdict(turn), "ratios": turn.ratios} for turn in turns]
    print(json.dumps({"model": str(arguments.model), "sentences": len(sentences), **facts, "turns": every}))


if __name__ == "__main__":
    main()
