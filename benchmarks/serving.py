"""The endpoint under load, against the bare model.

    python benchmarks/serving.py --model MODEL --sentences FILE [-- serve options …]

`FILE` has one source sequence a line; the first `--count` of them are used. The following is measured in this order,
all of it `--rounds` times, because a shared machine is faster in one minute than in the next. The table has medians,
and of the ratios the least and the greatest as well.

- offline: sentences a second of what `seqwright translate` does once the model is loaded, from file to file;
- a crowd: `--clients` clients, each asking for one sentence after another, their rate against offline;
- the bare search of one sentence at a time, its median time;
- a lone client: requests of one sentence, one after another, their median against the bare search's;
- full batches on an idle endpoint: requests of 64 sentences, one after another, their 99th percentile;
- overload: requests of one sentence at ten times the crowd's rate, whether answered or not: the 99th percentile of
  those accepted against that of full batches, the share refused, and the server's memory after the last against
  after the first.

The server is `seqwright serve` in a process of its own; the clients keep their connections and share the machine with
it. The full batches are asked for by Python, everything else by wrk (https://github.com/wg/wrk, a package of most
systems). wrk does not separate the times of translations from those of refusals. The 99th percentile of the accepted is
therefore the time that so many answers of any kind exceed as are a hundredth of the accepted, which is no less.

Prints a table, and one JSON object on the last line.
"""

import argparse
import contextlib
import json
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from seqwright.inference.bulk import translate_file
from seqwright.inference.translator import Translator

OK = 200
LEFT = 499  # what the server counts if a client goes away, as wrk's do at the end of its time
FULL_BATCH = 64
OVERLOAD = 10
OVERLOAD_CLIENTS = 1000


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


def body_of(sentences: Sequence[str]) -> bytes:
    """A request for all of the sentences."""
    return "".join(json.dumps({"source": sentence}) + "\n" for sentence in sentences).encode()


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
    """Let wrk ask: so many clients, each again `mean_pause` milliseconds after its last answer, on average."""
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
    """Clients that each ask again as soon as they are answered."""
    counted = wrk(port, bodies, clients, seconds)
    rate = (counted.answers - counted.refused) / counted.seconds
    return Crowd(rate, counted.refused / counted.answers, counted.p50, counted.p99)


def overload_of(port: int, bodies: Sequence[bytes], rate: float, seconds: float) -> Overload:
    """Requests at a rate, whether answered or not."""
    pause = 1000 * OVERLOAD_CLIENTS / rate
    # An answer takes the rest, and sometimes more.
    counted = wrk(port, bodies, OVERLOAD_CLIENTS, seconds, 0.88 * pause)
    accepted = (counted.answers - counted.refused) / counted.seconds
    return Overload(counted.answers / counted.seconds, accepted, counted.p99, counted.p50)


def batches_of(port: int, bodies: Sequence[bytes], seconds: float) -> list[float]:
    """Seconds that requests take that are sent one after another over one connection."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    times: list[float] = []
    until = time.perf_counter() + seconds
    for body in cycle(bodies):
        started = time.perf_counter()
        connection.request("POST", "/invocations", body, {"Content-Type": "application/jsonlines"})
        answer = connection.getresponse()
        answer.read()
        times.append(time.perf_counter() - started)
        if answer.status != OK:
            sys.exit(f"a full batch got {answer.status}")
        if time.perf_counter() >= until:
            break
    connection.close()
    return times


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
            alone = batches_of(port, full, seconds)
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
                    full_batch_p99=p99(alone),
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
    if shutil.which("wrk") is None:
        sys.exit("install wrk, for example with: apt-get install wrk")
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
