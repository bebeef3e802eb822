"""URLs that are refused, and secrets of URLs that no message has."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from seqwright.errors import ClientError
from seqwright.remote import LocalCopies, filesystem
from seqwright.remote.filesystem import redacted


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
@pytest.mark.parametrize(
    "use", [LocalCopies.read, LocalCopies.write_file, LocalCopies.write_folder, LocalCopies.mirror]
)
def test_a_malformed_url_is_a_users_mistake(
    use: Callable[[LocalCopies, str], Path], location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(ClientError, match=r"is not a complete URL|cannot be written to") as caught,
        LocalCopies() as copies,
    ):
        use(copies, location)
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
def test_a_url_that_cannot_be_written_to_is_refused_at_once(location: str, words: str) -> None:
    for use in (LocalCopies.write_file, LocalCopies.write_folder, LocalCopies.mirror):
        with pytest.raises(ClientError, match=words), LocalCopies() as copies:
            use(copies, location)


def test_messages_have_no_secrets_of_a_url(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "ATTEMPTS", 2)
    url = "http://name:pa55word@127.0.0.1:9/model.tar.gz?X-Amz-Signature=5ecret"
    assert redacted(url) == "http://127.0.0.1:9/model.tar.gz"
    with pytest.raises(ClientError) as caught, caplog.at_level(logging.INFO), LocalCopies() as copies:
        copies.read(url)
    assert str(caught.value).startswith("cannot read http://127.0.0.1:9/model.tar.gz: ")
    for text in (str(caught.value), caplog.text):
        assert "pa55word" not in text
        assert "5ecret" not in text


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
def test_urls_in_texts_lose_user_password_and_query(text: str, wanted: str) -> None:
    assert filesystem.without_secrets(text) == wanted


def test_credentials_in_an_s3_url_are_refused() -> None:
    with pytest.raises(ClientError, match="leave the credentials out of it") as caught, LocalCopies() as copies:
        copies.read("s3://AKIA:sec/ret@bucket/key")
    assert not [secret for secret in ("AKIA", "sec", "ret@") if secret in str(caught.value)]


@pytest.mark.parametrize(
    "said", ["AKIA/2025 is unknown", "signature feedbeef", "?X-Amz-Credential=AKIA/2025&X-Amz-Signature=feedbeef"]
)
def test_secrets_of_a_url_are_removed_from_errors_of_libraries(said: str) -> None:
    remote = filesystem.Remote(PRESIGNED.replace("https", "http"))
    reason = remote.reason(OSError(said))
    assert not [secret for secret in ("AKIA", "feedbeef", "pw0rd") if secret in reason]
