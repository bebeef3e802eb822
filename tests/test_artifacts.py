"""Saving and loading models, whole and damaged."""

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqwright.archives import MAX_MEMBERS, names_in, unpack
from seqwright.artifacts import (
    FILES,
    MAX_CONFIG_BYTES,
    TrainedModel,
    copy_model,
    load_model,
    save_model,
)
from seqwright.data.vocabulary import MAX_VOCABULARY_BYTES
from seqwright.errors import ClientError

Maker = Callable[..., TrainedModel]


def pack(folder: Path, archive: Path, prefix: str = "") -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, prefix + path.name)
    return archive


@pytest.fixture
def saved(tmp_path: Path, small_model: Maker) -> Path:
    save_model(tmp_path / "model", small_model(), {"perplexity": 3.5})
    return tmp_path / "model"


def test_a_saved_model_loads_with_the_same_parameters_and_settings(saved: Path, small_model: Maker) -> None:
    original, loaded = small_model(), load_model(saved)
    for name, tensor in original.model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name])
    assert loaded.settings == original.settings
    assert loaded.source_vocabulary == original.source_vocabulary
    assert loaded.target_vocabulary == original.target_vocabulary
    assert loaded.length_ratio == original.length_ratio
    assert loaded.source_eos
    assert not loaded.model.training
    assert sorted(path.name for path in saved.iterdir()) == sorted(FILES)
    assert json.loads((saved / "metrics.json").read_text()) == {"perplexity": 3.5}


@pytest.mark.parametrize("prefix", ["", "./", "model/", "./model/"])
def test_an_archive_loads_like_its_folder(prefix: str, saved: Path, tmp_path: Path) -> None:
    loaded = load_model(pack(saved, tmp_path / "model.tar.gz", prefix))
    assert loaded.settings == load_model(saved).settings


def test_a_folder_that_holds_one_model_folder_loads_as_that_folder(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    loaded = load_model(tmp_path)
    assert loaded.settings == load_model(saved).settings
    shutil.copytree(saved, tmp_path / "another")
    with pytest.raises(ClientError, match="not a complete model"):
        load_model(tmp_path)


def test_of_an_archive_the_model_at_the_top_is_loaded_rather_than_those_in_folders(
    saved: Path, tmp_path: Path, small_model: Maker
) -> None:
    save_model(tmp_path / "other", small_model(source_words=7), {})
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        for name in ("a", "b"):
            tar.add(tmp_path / "other", name)
        for path in saved.iterdir():
            tar.add(path, path.name)
    assert load_model(tmp_path / "model.tar.gz").source_vocabulary == load_model(saved).source_vocabulary


def test_an_archive_of_several_model_folders_is_refused(saved: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(saved, "a")
        tar.add(saved, "b")
    with pytest.raises(ClientError, match="holds models in 2 folders, a and others"):
        load_model(tmp_path / "model.tar.gz")


def test_links_between_the_files_of_an_archived_model_folder_are_kept(tmp_path: Path, small_model: Maker) -> None:
    save_model(tmp_path / "model", small_model(source_words=7, target_words=7), {})
    (tmp_path / "model" / "vocab.trg.json").unlink()
    (tmp_path / "model" / "vocab.trg.json").symlink_to("vocab.src.json")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "model", "model")
    loaded = load_model(tmp_path / "model.tar.gz")
    assert loaded.target_vocabulary == loaded.source_vocabulary


def test_paths_may_be_strings(saved: Path, tmp_path: Path) -> None:
    save_model(str(tmp_path / "saved"), load_model(str(saved)), {})
    copy_model(str(tmp_path / "saved"), str(tmp_path / "copied"))
    for _ in range(2):
        copy_model(str(saved), str(tmp_path / "copied"))
    assert load_model(str(tmp_path / "copied")).digest() == load_model(saved).digest()


@pytest.mark.parametrize("name", ["n" * 300, "/".join(["folder"] * 1000)])
def test_a_path_that_is_too_long_is_a_users_mistake(name: str, saved: Path, tmp_path: Path) -> None:
    for use in (
        lambda: load_model(tmp_path / name),
        lambda: save_model(tmp_path / name, load_model(saved), {}),
        lambda: copy_model(saved, tmp_path / name),
    ):
        with pytest.raises(ClientError, match="file name too long"):
            use()


def test_saving_again_replaces_weights_and_metrics(saved: Path, small_model: Maker) -> None:
    save_model(saved, small_model(seed=2), {"perplexity": 2.5})
    weights = load_model(saved).model.state_dict()["output_layer.weight"]
    assert torch.equal(weights, small_model(seed=2).model.state_dict()["output_layer.weight"])
    assert json.loads((saved / "metrics.json").read_text()) == {"perplexity": 2.5}
    assert sorted(path.name for path in saved.iterdir()) == sorted(FILES)


def test_a_folder_with_other_files_is_not_written_to(tmp_path: Path, small_model: Maker) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("years of work")
    with pytest.raises(ClientError, match="already exists and is not empty"):
        save_model(tmp_path / "model", small_model(), {})
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["thesis.tex"]


def test_saving_below_a_file_is_refused_and_leaves_nothing(tmp_path: Path, small_model: Maker) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ClientError, match="cannot write"):
        save_model(tmp_path / "file" / "model", small_model(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", [name for name in FILES if name != "metrics.json"])
def test_a_missing_file_is_named(name: str, saved: Path) -> None:
    (saved / name).unlink()
    with pytest.raises(ClientError, match=f"not a complete model: it has no {name}"):
        load_model(saved)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"no model at .*nowhere"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 5, 200, -10])
def test_damaged_weights_are_named(keep: int, saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ClientError, match=r"model\.safetensors is damaged"):
        load_model(saved)


def test_weights_that_do_not_fit_their_digest_are_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ClientError, match=r"model\.safetensors is damaged: its tensors do not have the sha256"):
        load_model(saved)


def test_weights_without_a_digest_are_loaded(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    save_file({name: 2 * weight for name, weight in weights.items()}, saved / "model.safetensors")
    assert torch.equal(load_model(saved).model.output_layer.weight, 2 * weights["output_layer.weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "config.json is damaged"), ("{}", "config.json is damaged or of another format"), ("\xff", "config.json")],
)
def test_a_damaged_config_is_named(content: str, message: str, saved: Path) -> None:
    (saved / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ClientError, match=message):
        load_model(saved)


def test_a_config_of_a_later_format_is_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(ClientError, match="format_version"):
        load_model(saved)


def test_weights_of_another_shape_are_named(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["hyperparameters"]["num_embed_source"] = 10
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ClientError, match=r"encoder\.embedding\.table\.weight of shape \[24, 8\] instead of \[24, 10\]"
    ):
        load_model(saved)


VAST = 10**9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers_encoder": 1000}, r"tensors, too few for 1,001 layers"),
        ({"num_layers_encoder": VAST}, r"num_layers_encoder: 1000000000 is too large"),
        ({"num_layers_decoder": 10**23}, r"num_layers_decoder: 1\d+ is too large"),
        ({"rnn_num_hidden": VAST}, r"does not fit config\.json|too large"),
        ({"rnn_num_hidden": 10**18}, r"does not fit config\.json|too large"),
        ({"rnn_attention_num_hidden": 10**23}, r"does not fit config\.json|too large"),
        ({"num_embed_source": VAST, "num_embed_target": 10**20}, r"does not fit config\.json|too large"),
        ({"encoder_type": "cnn", "cnn_num_hidden": VAST, "cnn_kernel_width_encoder": 10**9 + 1}, r"does not fit|too"),
        ({"encoder_type": "cnn", "max_seq_len_source": 10**19}, r"does not fit config\.json|too large"),
    ],
)
def test_vast_sizes_in_a_config_are_refused_before_the_model_is_built(
    changes: dict[str, object], message: str, saved: Path
) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["hyperparameters"].update(changes)
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ClientError, match=message):
        load_model(saved)


@pytest.mark.parametrize("size", [VAST, 10**20])
def test_a_vast_vocabulary_size_is_refused_before_the_vocabulary_is_read(size: int, saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "source_vocab_size": size}))
    (saved / "vocab.src.json").write_text("{")
    with pytest.raises(ClientError, match=r"model\.safetensors does not fit config\.json|too large"):
        load_model(saved)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("config.json", MAX_CONFIG_BYTES), ("vocab.src.json", MAX_VOCABULARY_BYTES), ("vocab.trg.json", 1 << 40)],
)
def test_a_file_that_is_too_large_for_its_kind_is_not_read(name: str, limit: int, saved: Path) -> None:
    with (saved / name).open("ab") as stream:
        stream.truncate(limit + 1)  # a hole, which takes no room on the disk
    with pytest.raises(ClientError, match=rf"{re.escape(name)} has {limit + 1:,} bytes, where at most"):
        load_model(saved)


def test_a_vocabulary_of_another_model_is_named(saved: Path, small_model: Maker) -> None:
    small_model(source_words=9).source_vocabulary.save(saved / "vocab.src.json")
    with pytest.raises(ClientError, match=r"vocab\.src\.json has 13 tokens, but config\.json says 24"):
        load_model(saved)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"\x1f\x8b\x08broken"])
def test_a_damaged_archive_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_bytes(content)
    with pytest.raises(ClientError, match=r"model\.tar\.gz is not a readable model\.tar\.gz|not a complete model"):
        load_model(path)


def test_a_full_disk_while_unpacking_is_named_as_such(saved: Path, tmp_path: Path) -> None:
    archive = pack(saved, tmp_path / "model.tar.gz")
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "unpacked" / "x").symlink_to("/dev/full")
    with pytest.raises(ClientError, match=r"cannot unpack .*: no space left on device; make room there"):
        unpack(archive, tmp_path / "unpacked", lambda name: "x" if name.endswith("model.safetensors") else None)


def test_a_truncated_archive_is_refused(saved: Path, tmp_path: Path) -> None:
    path = pack(saved, tmp_path / "model.tar.gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ClientError, match=r"model\.tar\.gz"):
        load_model(path)


def test_paths_of_an_archive_are_not_followed(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in ("../config.json", "/tmp/config.json"):  # noqa: S108 - a name that must not be followed
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
    with pytest.raises(ClientError, match="not a complete model"):
        load_model(path)
    assert not (tmp_path / "config.json").exists()


def test_a_changed_byte_in_an_archive_is_noticed(saved: Path, tmp_path: Path) -> None:
    path = pack(saved, tmp_path / "model.tar.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for read in (load_model, names_in):
        with pytest.raises(ClientError, match=r"model\.tar\.gz is not a readable model\.tar\.gz"):
            read(path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_an_extended_header_of_any_size_is_not_read(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("name")
        member.type, member.size = kind, 2 << 20
        tar.addfile(member, io.BytesIO(bytes(2 << 20)))
    with pytest.raises(ClientError, match="an extended header of 2,097,152 bytes"):
        load_model(tmp_path / "model.tar.gz")


def test_a_long_name_in_an_archive_is_read(saved: Path, tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "model.tar.gz", "w:gz", format=form) as tar:
            member = tarfile.TarInfo("n" * 300)
            tar.addfile(member)
            for name in FILES:
                tar.add(saved / name, name)
        load_model(tmp_path / "model.tar.gz")


def test_weights_that_are_not_finite_or_not_floats_are_refused(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    name = sorted(weights)[0]
    save_file({**weights, name: torch.full_like(weights[name], torch.nan)}, saved / "model.safetensors")
    with pytest.raises(ClientError, match=f"numbers that are not finite, in {name}"):
        load_model(saved)
    save_file({**weights, name: weights[name].long()}, saved / "model.safetensors")
    with pytest.raises(ClientError, match=r"holds torch\.int64: the parameters of a model are fp32"):
        load_model(saved)


def test_weights_in_half_precision_are_widened(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    save_file({name: weight.half() for name, weight in weights.items()}, saved / "model.safetensors")
    assert {each.dtype for each in load_model(saved).model.parameters()} == {torch.float32}


def test_an_archive_of_too_many_members_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz", compresslevel=1) as archive:
        for number in range(MAX_MEMBERS + 1):
            archive.addfile(tarfile.TarInfo(f"{number}"))
    with pytest.raises(ClientError, match="more than 10,000 members"):
        load_model(tmp_path / "model.tar.gz")
    with pytest.raises(ClientError, match="more than 10,000 members"):
        names_in(tmp_path / "model.tar.gz")
