"""Tagged YAML as data."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqwright.errors import ClientError
from seqwright.importers.config import parse_config

TEXT = b"""!ModelConfig
config_data: !DataConfig
  buckets:
  - !!python/tuple
    - 10
    - 8
  ratio: 0.5
  source_with_eos: true
name: deep
nothing: null
size: 3
huge: 3000000000
no_number: .nan
"""


def test_tags_and_values_are_read() -> None:
    config = parse_config(TEXT, "config")
    data = config.section("config_data")
    assert (config.kind, data.kind) == ("ModelConfig", "DataConfig")
    assert (config.integer("size"), config.text("name"), data.number("ratio")) == (3, "deep", 0.5)
    assert data.flag("source_with_eos")
    assert data.get("buckets") == [[10, 8]]
    assert config.section("nothing").values == {}
    assert (config.integer("nothing", 7), config.text("absent", "x"), config.flag("absent")) == (7, "x", False)


def test_values_of_another_type_are_named_with_their_place() -> None:
    config = parse_config(TEXT, "config")
    for get, message in (
        (lambda: config.integer("name"), "config: name is 'deep', not a whole number"),
        (lambda: config.integer("absent"), "config: absent is missing"),
        (lambda: config.section("config_data").integer("ratio"), r"config: config_data\.ratio is 0\.5, not a whole"),
        (lambda: config.section("config_data").integer("source_with_eos"), "is True, not a whole number"),
        (lambda: config.number("name"), "not a number of usual size"),
        (lambda: config.integer("huge"), "config: huge is 3000000000, not a whole number of usual size"),
        (lambda: config.number("no_number"), "config: no_number is nan, not a number"),
        (lambda: config.text("size"), "config: size is 3, not a text"),
        (lambda: config.flag("size"), "config: size is 3, not true or false"),
        (lambda: config.section("size"), "config: size is 3, not a mapping"),
        (lambda: config.text("config_data"), "config_data is a DataConfig, not a text"),
    ):
        with pytest.raises(ClientError, match=message):
            get()


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ("!!python/object/apply:os.system ['touch {target}']", "!!python/object/apply:os.system"),
        ("!!python/object/new:subprocess.Popen [['touch', '{target}']]", "!!python/object/new:subprocess.Popen"),
        ("!!python/name:os.system", "!!python/name:os.system"),
        ("!!python/module:os", "!!python/module:os"),
        ("!Exec {{run: it}}", "!Exec"),
        ("!RNNConfig [1, 2]", "!RNNConfig"),
        ("!!python/tuple {{a: 1}}", "!!python/tuple"),
        ("!!map [1]", None),
    ],
)
def test_other_tags_are_refused_by_name_and_nothing_runs(value: str, tag: str | None, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    with pytest.raises(ClientError) as caught:
        parse_config(f"!ModelConfig\nsize: {value.format(target=target)}\n".encode(), "config")
    if tag:
        assert f"config, line 2: the tag {tag}: not in a Sockeye 1 configuration; no code was run" in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"12",
        b"- 1",
        b"a: [",
        b"\x80\x04\x95",
        b"\xff\xfe\xff",
        b"a: !!int ''",
        b"a: !!bool maybe",
        b"a: !!timestamp soon",
        b"a: !!float x",
        b"a: 2001-99-99",
        b"&a !ModelConfig {x: *a}",
        b"? [1]\n: 2",
        b"x: " + b"[" * 5000,
    ],
)
def test_other_content_is_refused(content: bytes) -> None:
    with pytest.raises(ClientError, match="config is not a"):
        parse_config(content, "config")


@pytest.mark.parametrize(
    "number", ["1:1" + ":1" * 50, "1:1" + ":1" * 100_000, "1:1" + ":1" * 100_000 + ".5", "1" * 9999]
)
def test_a_number_of_many_characters_is_refused(number: str) -> None:
    with pytest.raises(
        ClientError, match=r"config is not a readable YAML file: line 2: a number of [0-9,]+ characters"
    ):
        parse_config(f"!ModelConfig\nsize: {number}\n".encode(), "config")


def test_a_byte_order_mark_before_a_configuration_is_skipped() -> None:
    assert parse_config(b"\xef\xbb\xbf" + TEXT, "config").integer("size") == 3


def test_nested_anchors_are_read_in_little_memory() -> None:
    lines = ["a0: &a0 [1, 2]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    config = parse_config("\n".join(lines).encode(), "config")
    assert config.active("a59")
    assert len(str(config.wrong("a59", "a number"))) < 200


def test_merge_keys_are_refused() -> None:
    lines = ["a0: &a0 {b: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 8)}]}}" for i in range(1, 12)]
    with pytest.raises(ClientError, match="the tag !!merge: not in a Sockeye 1 configuration"):
        parse_config("\n".join(lines).encode(), "config")


@given(st.lists(st.tuples(st.integers(0, len(TEXT) - 1), st.integers(0, 255)), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_changed_bytes_give_a_configuration_or_an_error(changes: list[tuple[int, int]]) -> None:
    content = bytearray(TEXT)
    for place, value in changes:
        content[place] = value
    with contextlib.suppress(ClientError):
        parse_config(bytes(content), "config")
