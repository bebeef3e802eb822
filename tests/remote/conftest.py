"""A real S3 API on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from seqwright.remote import filesystem
from tests.s3 import S3


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3]:
    """The API with an empty bucket `bucket`; the cache is in a folder of the test's own."""
    api = S3()
    api.start()
    for name, value in {
        "AWS_ENDPOINT_URL": api.url,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "whisper",
        "AWS_DEFAULT_REGION": "us-east-1",
        "SEQWRIGHT_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(filesystem, "ATTEMPTS", 3)
    client = api.client()
    client.create_bucket(Bucket="bucket")
    api.asked.clear()
    yield api
    api.fault = lambda environ, start: None
    for entry in client.list_objects_v2(Bucket="bucket").get("Contents", []):
        client.delete_object(Bucket="bucket", Key=entry["Key"])
    client.delete_bucket(Bucket="bucket")
    api.close()
