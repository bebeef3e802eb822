"""What schemathesis sends for the media types that it does not know; its command line loads this module."""

import json

import schemathesis
from hypothesis import strategies as st

from tests.serving.records import record

_WORDS = st.text(min_size=1).filter(lambda text: bool(text.split()))
_LINES = st.lists(st.fixed_dictionaries({"source": _WORDS}).map(json.dumps), min_size=1, max_size=4)
_RECORDS = st.lists(st.lists(st.integers(1, 23), min_size=1).map(record), min_size=1, max_size=4)

schemathesis.openapi.media_type("application/jsonlines", _LINES.map(lambda lines: "\n".join(lines).encode()))
schemathesis.openapi.media_type("application/x-recordio-protobuf", _RECORDS.map(b"".join))
