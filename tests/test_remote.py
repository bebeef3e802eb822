"""Remote paths against a real S3 API on loopback, one that can be told to fail."""

import contextlib
import http.server
import json
import logging
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner, Result

from seqwright import remote
from seqwright.cli import app
from seqwright.errors import ClientError
from seqwright.remote import Staging, filesystem, transfers
from seqwright.remote import staging as staging_module
from seqwright.remote.cache import cache_folder
from seqwright.remote.filesystem import shown
from tests.s3 import S3, Environ, failing, slow, terminating
from tests.toy import SETTINGS, prepared, write_text


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3]:
    """The API with an empty bucket `bucket`; caches in a folder of the test's own."""
    made = S3()
    made.start()
    for name, value in {
        "AWS_ENDPOINT_URL": made.url,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "whisper",
        "AWS_DEFAULT_REGION": "us-east-1",
        "SEQWRIGHT_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(filesystem, "ATTEMPTS", 3)
    client = made.client()
    client.create_bucket(Bucket="bucket")
    made.asked.clear()
    yield made
    made.fault = lambda environ, start: None
    for entry in client.list_objects_v2(Bucket="bucket").get("Contents", []):
        client.delete_object(Bucket="bucket", Key=entry["Key"])
    client.delete_bucket(Bucket="bucket")
    made.close()


def put(s3: S3, key: str, content: bytes) -> None:
    s3.client().put_object(Bucket="bucket", Key=key, Body=content)


def keys(s3: S3) -> dict[str, bytes]:
    client = s3.client()
    found = client.list_objects_v2(Bucket="bucket").get("Contents", [])
    return {each["Key"]: client.get_object(Bucket="bucket", Key=each["Key"])["Body"].read() for each in found}


CONTENT = bytes(range(256)) * 10


def test_a_file_is_read_in_ranges_and_from_the_cache_until_it_changes(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "RANGE", 1000)
    put(s3, "a/b.bin", CONTENT)
    with Staging() as staging:
        path = staging.read("s3://bucket/a/b.bin")
        assert (path.name, path.read_bytes()) == ("b.bin", CONTENT)
        assert s3.asked["GET /bucket/a/b.bin"] == 3
        assert staging.read("s3://bucket/a/b.bin") == path
        assert s3.asked["GET /bucket/a/b.bin"] == 3
        put(s3, "a/b.bin", CONTENT[::-1])
        assert staging.read("s3://bucket/a/b.bin").read_bytes() == CONTENT[::-1]
    assert not list((cache_folder() / "copies").rglob("*.part"))


def test_a_folder_is_read_whole(s3: S3) -> None:
    put(s3, "data/train/x.rec", b"x")
    put(s3, "data/train/deeper/y.rec", b"y")
    put(s3, "data/train2/z.rec", b"z")
    with Staging() as staging:
        folder = staging.read("s3://bucket/data/train/")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.rec")} == {"x.rec", "deeper/y.rec"}


def test_a_broken_read_goes_on_where_it_stopped(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "RANGE", 100)
    monkeypatch.setattr(transfers, "STREAMS", 1)
    put(s3, "file", CONTENT)

    def fault(environ: Environ, start: Callable[..., Any]) -> Iterable[bytes] | None:
        if environ.get("HTTP_RANGE", "").startswith("bytes=1500-"):
            start("403 Forbidden", [("Content-Length", "0")])
            return [b""]
        return None

    s3.fault = fault
    with (
        pytest.raises(ClientError, match=r"cannot read s3://bucket/file: .*check the credentials"),
        Staging() as staging,
    ):
        staging.read("s3://bucket/file")
    s3.fault = lambda environ, start: None
    s3.asked.clear()
    with Staging() as staging:
        assert staging.read("s3://bucket/file").read_bytes() == CONTENT
    assert s3.asked["GET /bucket/file"] == 11


def truncated(times: int) -> Callable[..., Iterable[bytes] | None]:
    left = [times]

    def fault(environ: Environ, start: Callable[..., Any]) -> Iterable[bytes] | None:
        if environ["REQUEST_METHOD"] != "GET" or environ["PATH_INFO"].count("/") < 2 or not left[0]:
            return None
        left[0] -= 1
        start("206 Partial Content", [("Content-Length", str(len(CONTENT)))])
        return [CONTENT[:100]]

    return fault


@pytest.mark.parametrize("name", ["503", "500", "cut", "slow"])
def test_passing_trouble_costs_time_and_nothing_else(name: str, s3: S3) -> None:
    faults = {"503": failing(2), "500": failing(2, "500 Internal Server Error"), "cut": truncated(2), "slow": slow}
    put(s3, "file", CONTENT)
    s3.fault = faults[name]
    with Staging() as staging:
        assert staging.read("s3://bucket/file").read_bytes() == CONTENT
        target = staging.write_file("s3://bucket/out")
        target.write_bytes(CONTENT)
    assert keys(s3)["out"] == CONTENT


def write(content: bytes, error: type[Exception] | None = None) -> None:
    """Write to `s3://bucket/out`, and fail then."""
    with Staging() as staging:
        staging.write_file("s3://bucket/out").write_bytes(content)
        if error:
            raise error


def test_lasting_trouble_is_an_error_and_what_is_there_stays(s3: S3) -> None:
    put(s3, "out", b"before")
    s3.fault = failing(10_000, "500 Internal Server Error", "PUT")
    with pytest.raises(ClientError, match=r"cannot write s3://bucket/out: .* is kept\)$"):
        write(b"after")
    assert [path.read_bytes() for path in cache_folder().rglob("out")] == [b"after"]
    s3.fault = lambda environ, start: None
    assert keys(s3) == {"out": b"before"}


def test_a_failed_command_sends_nothing(s3: S3) -> None:
    with pytest.raises(ZeroDivisionError):
        write(b"half", ZeroDivisionError)
    assert keys(s3) == {}


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("s3://bucket/nothing", "there is no such thing"),
        ("s3://nobucket/x", "no such bucket"),
        ("s3://bucket/evil", "leads out of it"),
        ("smoke://signal/x", "smoke:// is unknown"),
    ],
)
def test_what_cannot_be_read_is_named(location: str, words: str, s3: S3) -> None:
    put(s3, "evil/../../x", b"x")
    with pytest.raises(ClientError, match=words) as caught, Staging() as staging:
        staging.read(location)
    assert location in str(caught.value)


@pytest.mark.parametrize(
    "location",
    [
        "s3://",
        "s3:///x",
        "s3:/bucket/x",
        "gs:///x",
        "http://[",
        "http://h:port/x",
        "http:///x",
        "http://me:pa55@[::1]:8/x",
    ],
)
@pytest.mark.parametrize("use", [Staging.read, Staging.write_file, Staging.write_folder, Staging.mirror])
def test_a_malformed_url_is_a_users_mistake(
    use: Callable[[Staging, str], Path], location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClientError, match=r"is not a whole URL|cannot be written to") as caught, Staging() as staging:
        use(staging, location)
    assert "pa55" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("s3://bucket", "has no name to write to: add one, as in s3://bucket/name"),
        ("memory://", "has no name to write to"),
        ("s3://bucket/..", "must end with a name"),
        ("tar://x::s3://bucket/y.tar", "cannot be written to"),
    ],
)
def test_what_cannot_be_written_to_is_refused_at_once(location: str, words: str) -> None:
    for use in (Staging.write_file, Staging.write_folder, Staging.mirror):
        with pytest.raises(ClientError, match=words), Staging() as staging:
            use(staging, location)


@pytest.mark.parametrize(
    ("location", "module", "package"),
    [
        ("gs://bucket/x", "gcsfs", "gcsfs"),
        ("abfs://container/x", "adlfs", "adlfs"),
        ("sftp://host/x", "fsspec.implementations.sftp", "paramiko"),
        ("http://host/x", "fsspec.implementations.http", "aiohttp"),
        ("filecache::gs://bucket/x", "gcsfs", "gcsfs"),
        ("s3://bucket/x", "s3fs", "seqwright[s3]"),
    ],
)
def test_what_a_scheme_lacks_is_named(
    location: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for name in ("gs", "abfs", "sftp", "http", "s3"):  # as in a process that has not used it yet
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, name, raising=False)
    with pytest.raises(ClientError, match="needs a package more") as caught, Staging() as staging:
        staging.read(location)
    assert package in str(caught.value)
    assert ("seqwright[s3]" in str(caught.value)) == location.startswith("s3")


def test_wrong_credentials_are_an_error_that_tells_no_secret(s3: S3) -> None:
    put(s3, "file", b"x")
    client = s3.client()

    def require_login(count: bytes) -> None:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{s3.url}/moto-api/reset-auth", count, headers)  # noqa: S310 - loopback
        urllib.request.urlopen(request).close()  # noqa: S310

    require_login(b"0")
    try:
        for use in (Staging.read, Staging.write_folder, Staging.mirror):
            with pytest.raises(ClientError, match="check the credentials") as caught, Staging() as staging:
                use(staging, "s3://bucket/file")
            assert "whisper" not in str(caught.value)
    finally:
        require_login(b"inf")
    assert client.list_objects_v2(Bucket="bucket")["KeyCount"] == 1


def test_no_message_has_what_a_url_may_hide(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "ATTEMPTS", 2)
    url = "http://name:pa55word@127.0.0.1:9/model.tar.gz?X-Amz-Signature=5ecret"
    assert shown(url) == "http://127.0.0.1:9/model.tar.gz"
    with pytest.raises(ClientError) as caught, caplog.at_level(logging.INFO), Staging() as staging:
        staging.read(url)
    assert str(caught.value).startswith("cannot read http://127.0.0.1:9/model.tar.gz: ")
    for text in (str(caught.value), caplog.text):
        assert "pa55word" not in text
        assert "5ecret" not in text


def test_a_file_is_read_over_http_and_not_written(s3: S3) -> None:
    put(s3, "file", CONTENT)
    url = s3.client().generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "file"})
    with Staging() as staging:
        assert staging.read(url).read_bytes() == CONTENT
        with pytest.raises(ClientError, match="cannot be written to"):
            staging.write_file(f"{s3.url}/bucket/file")


def test_any_file_system_of_fsspec_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQWRIGHT_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    with Staging() as staging:
        staging.write_file("memory://place/file").write_bytes(b"content")
        folder = staging.write_folder("memory://place/folder")
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "x").write_bytes(b"x")
    with Staging() as staging:
        assert staging.read("memory://place/file").read_bytes() == b"content"
        assert (staging.read("memory://place/folder") / "inner" / "x").read_bytes() == b"x"
        with pytest.raises(ClientError, match="already exists and is not empty"):
            staging.write_folder("memory://place/folder")
    assert not memory.exists("place/.file.tmp")


LEAVES_A_MODEL = """
import os, signal
from seqwright.remote import Staging

with Staging() as staging:
    folder = staging.write_folder("memory://place/model")
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"large")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_runs_have_left_to_send_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQWRIGHT_CACHE", str(tmp_path))
    with Staging() as living:
        mine = living.write_folder("memory://place/mine")
        mine.mkdir()
        assert subprocess.run([sys.executable, "-c", LEAVES_A_MODEL], check=False).returncode == -signal.SIGKILL
        assert list(tmp_path.rglob("model.safetensors"))
        with Staging() as staging:
            staging.write_folder("memory://place/another")
            assert not list(tmp_path.rglob("model.safetensors"))
            assert mine.exists()
    assert not list((tmp_path / "outgoing").rglob("seqwright-*"))


def test_a_folder_that_could_not_be_sent_is_kept(s3: S3) -> None:
    s3.fault = failing(10_000, "403 Forbidden", "PUT")

    def write() -> None:
        with Staging() as staging:
            folder = staging.write_folder("s3://bucket/folder")
            folder.mkdir()
            (folder / "x").write_bytes(b"x")

    for _ in range(2):
        with pytest.raises(ClientError, match=r"is kept\)$"):
            write()
    assert [path.read_bytes() for path in cache_folder().rglob("x")] == [b"x", b"x"]


def test_a_mirror_is_like_the_remote_folder_and_then_the_other_way_round(s3: S3) -> None:
    url = "s3://bucket/run"
    with Staging() as staging:
        folder = staging.mirror(url)
        (folder / "checkpoint-1").mkdir()
        (folder / "checkpoint-1" / "state.json").write_bytes(b"1")
        (folder / "corpus").mkdir()
        (folder / "corpus" / "ids").write_bytes(b"large")
        remote.push(url)
        assert keys(s3) == {"run/checkpoint-1/state.json": b"1"}
        (folder / "checkpoint-1" / "state.json").unlink()
        (folder / "checkpoint-2").mkdir()
        (folder / "checkpoint-2" / "state.json").write_bytes(b"2")
    assert keys(s3) == {"run/checkpoint-2/state.json": b"2"}
    put(s3, "run/checkpoint-3/state.json", b"3")
    put(s3, "run/checkpoint-2/state.json", b"4")
    with Staging() as staging:
        assert staging.mirror(url) == folder
        assert (folder / "checkpoint-3" / "state.json").read_bytes() == b"3"
        assert (folder / "checkpoint-2" / "state.json").read_bytes() == b"4"
        assert not (folder / "checkpoint-1").exists()
        assert (folder / "corpus" / "ids").exists()


def test_mirroring_that_fails_for_a_while_is_made_up_for(s3: S3, caplog: pytest.LogCaptureFixture) -> None:
    with Staging() as staging:
        folder = staging.mirror("s3://bucket/run")
        (folder / "x").write_bytes(b"x")
        s3.fault = failing(10_000, "500 Internal Server Error", "PUT")
        remote.try_to_push("s3://bucket/run")
        assert "stays as it was until the next checkpoint" in caplog.text
        s3.fault = lambda environ, start: None
    assert keys(s3) == {"run/x": b"x"}


def test_what_could_not_be_sent_before_a_stop_is_sent_by_the_next_run(
    s3: S3, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging_module, "GRACE", 0.5)
    put(s3, "run/old", b"old")
    released, stop = threading.Event(), threading.Event()

    def fault(environ: Environ, start: Callable[..., Any]) -> Iterable[bytes] | None:
        if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].endswith("/state.json"):
            stop.set()
            released.wait(60)
            start("403 Forbidden", [("Content-Length", "0")])
            return [b""]
        return None

    s3.fault = fault
    with Staging(stop_requested=stop.is_set) as first:
        folder = first.mirror("s3://bucket/run")
        (folder / "checkpoint-1").mkdir()
        for name in ("state.json", "state.safetensors"):
            (folder / "checkpoint-1" / name).write_bytes(b"1")
    assert "ending without all that belongs to s3://bucket/run" in caplog.text
    assert "run/checkpoint-1/state.json" not in keys(s3)
    released.set()
    with staging_module._PUSHING:  # the thread that was left has failed
        s3.fault = lambda environ, start: None
    with Staging() as second:
        assert second.mirror("s3://bucket/run") == folder
        assert (folder / "checkpoint-1" / "state.json").read_bytes() == b"1"
    assert keys(s3) == {
        "run/old": b"old",
        **{f"run/checkpoint-1/{n}": b"1" for n in ("state.json", "state.safetensors")},
    }


def test_what_was_not_sent_is_given_up_for_what_another_machine_has_sent(
    s3: S3, caplog: pytest.LogCaptureFixture
) -> None:
    with Staging() as first:
        folder = first.mirror("s3://bucket/run")
        (folder / "state").write_bytes(b"1")
    (folder / "unsent").write_bytes(b"2")
    put(s3, "run/state", b"3")
    with Staging() as second:
        second.mirror("s3://bucket/run")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"state": b"3"}
    assert "s3://bucket/run was changed elsewhere" in caplog.text


def finished(*arguments: str) -> Result:
    """What a command that ends well has printed."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result


def run(*arguments: str) -> str:
    return finished(*arguments).stdout


def test_training_that_is_ended_while_its_data_is_fetched_ends_well(s3: S3, tmp_path: Path) -> None:
    put(s3, "data/train/train.rec", CONTENT)
    released = threading.Event()
    s3.fault = terminating("GET", "train.rec", released)
    result = finished("train", "--data=s3://bucket/data", f"--output={tmp_path / 'model'}")
    released.set()
    assert result.stdout == ""
    assert "stopped before all was here" in result.stderr
    assert not (tmp_path / "model").exists()


def test_an_endpoint_that_is_ended_while_its_model_is_fetched_ends_well(s3: S3) -> None:
    put(s3, "model/config.json", CONTENT)
    released = threading.Event()
    s3.fault = terminating("GET", "config.json", released)
    result = finished("serve", "--model=s3://bucket/model", "--port=0")
    released.set()
    assert "fetching s3://bucket/model" in result.stderr
    assert "serving" not in result.stderr


def test_training_that_is_ended_does_not_wait_for_a_store_that_hangs(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging_module, "GRACE", 0.5)
    command = ["train", f"--data={prepared(tmp_path, 100)}", "--output=s3://bucket/model"]
    command += [f"-H{name}={value}" for name, value in SETTINGS.items()]
    released = threading.Event()
    s3.fault = terminating("PUT", "checkpoint-000000004/state.json", released)
    before = time.monotonic()
    result = finished(*command)
    assert time.monotonic() - before < 30
    updates = json.loads(result.stdout)["updates"]
    assert "without all that belongs to s3://bucket/model.checkpoints and s3://bucket/model: it" in result.stderr
    assert not [key for key in keys(s3) if key.startswith("model/")]
    released.set()
    with staging_module._PUSHING:
        pass
    assert json.loads(run(*command, f"-Hmax_num_batches={updates}"))["updates"] == updates
    assert {"model/config.json", f"model.checkpoints/checkpoint-{updates:09}/state.json"} < set(keys(s3))


def test_from_text_to_translations_without_a_local_file(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path, 100)
    for name in ("train.src", "train.trg", "val.src", "val.trg"):
        put(s3, f"text/{name}", (tmp_path / name).read_bytes())
    base = "s3://bucket"
    texts = [f"--{split}-{side}={base}/text/{split}.{end}" for split in ("train", "val")
             for side, end in (("source", "src"), ("target", "trg"))]  # fmt: skip
    run("prepare", *texts, f"--output={base}/data")
    put(s3, "settings.json", json.dumps({**SETTINGS, "max_num_batches": 6}).encode())
    train = ["train", f"--data={base}/data", f"--output={base}/model", f"--hyperparameters={base}/settings.json"]
    run(*train)
    first = keys(s3)
    assert {"model/config.json", "model.checkpoints/best/config.json"} < set(first)
    assert "model.checkpoints/checkpoint-000000006/state.json" in first

    monkeypatch.setenv("SEQWRIGHT_CACHE", str(tmp_path / "another machine"))
    more = json.loads(run(*train, "-H", "max_num_batches=12"))
    assert (more["model"], more["updates"]) == (f"{base}/model", 12)
    assert keys(s3)["model/model.safetensors"] != first["model/model.safetensors"]

    run("translate", f"--model={base}/model", f"--input={base}/text/val.src", f"--output={base}/out.txt")
    lines = keys(s3)["out.txt"].decode().splitlines()
    assert len(lines) == len((tmp_path / "val.src").read_text().splitlines())
    reference = [f"--source={base}/text/val.src", f"--target={base}/text/val.trg"]
    assert "bleu" in json.loads(run("evaluate", f"--model={base}/model", *reference))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("translate --model URL/bad", "s3://bucket/bad/config.json is damaged"),
        ("serve --model URL/bad", "s3://bucket/bad/config.json is damaged"),
        ("translate --model URL/bad.tar.gz", "s3://bucket/bad.tar.gz is not a readable model.tar.gz"),
        ("evaluate --model URL/bad --source URL/x --target URL/x", "s3://bucket/bad/config.json is damaged"),
        ("import-sockeye --input URL/bad --output URL/new", "s3://bucket/bad is not a Sockeye model"),
        ("prepare --train-source URL/x --train-target URL/y --output URL/new", "s3://bucket/x only 1"),
        ("train --data URL/data --output URL/new", "s3://bucket/data/vocab has no vocab.src.json"),
        ("train --data URL/data --output URL/new --hyperparameters URL/x", "s3://bucket/x is not valid JSON"),
    ],
)
def test_errors_about_what_was_fetched_name_its_url(arguments: str, words: str, s3: S3) -> None:
    files = ("bad/config.json", "bad/model.safetensors", "bad/vocab.src.json", "bad/vocab.trg.json", "bad.tar.gz")
    for key in (*files, "x", *(f"data/{channel}/z" for channel in ("train", "validation", "vocab"))):
        put(s3, key, b"x\n")
    put(s3, "y", b"y\ny\n")
    result = CliRunner().invoke(app, arguments.replace("URL", "s3://bucket").split())
    assert isinstance(result.exception, ClientError)
    assert words in str(result.exception)
    assert str(cache_folder()) not in str(result.exception)


def test_errors_about_what_is_written_name_its_url_and_where_it_is(s3: S3) -> None:
    def fail() -> None:
        with Staging() as staging:
            raise ClientError(f"{staging.mirror('s3://bucket/run')}/run.json: it is another")

    with pytest.raises(
        ClientError, match=r"^s3://bucket/run/run.json: it is another \(s3://bucket/run is /.*/run until"
    ):
        fail()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("demo --output URL/demo", "only a local folder"),
        ("sagemaker train --root URL/job", "only a local folder"),
        ("sagemaker serve --root URL/job", "only a local folder"),
        ("prepare --train-source URL/big --train-target URL/big --output s3://nobucket/x", "no such bucket"),
        ("import-sockeye --input URL/big --output s3://nobucket/x", "no such bucket"),
        ("train --data URL/big --output s3://nobucket/x", "no such bucket"),
        ("train --data URL/big --output s3://bucket", "s3://bucket has no name to write to"),
        ("translate --model URL/big --input URL/big --output s3://nobucket/x", "no such bucket"),
        ("translate --model URL/big --input URL/big --output s3://bucket/data", "it is a folder; name a file"),
    ],
)
def test_where_a_command_cannot_write_it_says_so_before_any_work(
    arguments: str, words: str, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, "big", b"x")
    put(s3, "data/train/x", b"x")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments.replace("URL", "s3://bucket").split())
    assert isinstance(result.exception, ClientError)
    assert words in str(result.exception)
    assert not s3.asked["GET /bucket/big"]
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


PRESIGNED = "https://me:pw0rd@store.example/in.txt?X-Amz-Credential=AKIA%2F2025&X-Amz-Signature=feedbeef"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (PRESIGNED, "https://store.example/in.txt"),
        (f"filecache::{PRESIGNED}", "filecache::https://store.example/in.txt"),
        (f"403, url='{PRESIGNED}' (forbidden)", "403, url='https://store.example/in.txt' (forbidden)"),
        ("s3://bucket/key#part", "s3://bucket/key"),
        ("s3://AKIA:sec/ret@bucket/key", "s3://bucket/key"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("s3://arn:aws:s3:r:1:accesspoint/p/a@b", "s3://arn:aws:s3:r:1:accesspoint/p/a@b"),
        ("is this a question?", "is this a question?"),
        ("mail me@here", "mail me@here"),
    ],
)
def test_urls_in_texts_lose_what_may_be_secret(text: str, wanted: str) -> None:
    assert filesystem.without_secrets(text) == wanted


def test_credentials_are_refused_where_they_have_no_place() -> None:
    with pytest.raises(ClientError, match="leave the credentials out of it") as caught, Staging() as staging:
        staging.read("s3://AKIA:sec/ret@bucket/key")
    assert not [secret for secret in ("AKIA", "sec", "ret@") if secret in str(caught.value)]


@pytest.mark.parametrize(
    "said", ["AKIA/2025 is unknown", "signature feedbeef", "?X-Amz-Credential=AKIA/2025&X-Amz-Signature=feedbeef"]
)
def test_secrets_of_a_url_are_left_out_of_what_libraries_say_of_it(said: str) -> None:
    remote = filesystem.Remote(PRESIGNED.replace("https", "http"))
    reason = remote.reason(OSError(said))
    assert not [secret for secret in ("AKIA", "feedbeef", "pw0rd") if secret in reason]


@contextlib.contextmanager
def served(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL of a file of an HTTP server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/in.txt"
        server.shutdown()


@pytest.fixture
def answers() -> Iterator[tuple[str, list[int]]]:
    """An HTTP server, and the statuses of its next answers; when there are none left it has a file."""
    left: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(left.pop(0) if left else 200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"w5 w6")

        do_HEAD = do_GET  # noqa: N815 - as http.server calls it

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - as http.server calls it
            """Say nothing."""

    with served(Handler) as url:
        yield url, left


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_copy_is_used_until_an_http_server_tells_of_another_version(
    header: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQWRIGHT_CACHE", str(tmp_path))
    told, content, gets = {header: "one"}, [b"w5 w6"], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in {**told, "Content-Length": str(len(content[0]))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                gets.append(self.path)
                self.wfile.write(content[0])

        do_HEAD = do_GET  # noqa: N815 - as http.server calls it

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - as http.server calls it
            """Say nothing."""

    with served(Handler) as url, Staging() as staging:
        assert staging.read(url).read_bytes() == b"w5 w6"
        gets.clear()
        assert staging.read(url).read_bytes() == b"w5 w6"
        assert not gets
        told[header], content[0] = "two", b"w6 w7"
        assert staging.read(url).read_bytes() == b"w6 w7"
        told.clear()
        content[0] = b"w7 w8"
        for _ in range(2):  # the length alone tells of no version
            gets.clear()
            assert staging.read(url).read_bytes() == b"w7 w8"
            assert gets


def test_an_http_server_that_is_busy_is_asked_again(answers: tuple[str, list[int]]) -> None:
    url, left = answers
    left.extend([503] * 3)
    with Staging() as staging:
        assert staging.read(url).read_bytes() == b"w5 w6"
    assert not left


def test_a_refusal_of_an_http_server_is_told_at_once(answers: tuple[str, list[int]]) -> None:
    url, left = answers
    left.extend([403] * 4)
    with Staging() as staging, pytest.raises(ClientError, match="403"):
        staging.read(url)
    assert len(left) == 2
    left[:] = [404] * 2
    with Staging() as staging, pytest.raises(ClientError, match="there is no such thing"):
        staging.read(url)
