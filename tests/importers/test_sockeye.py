"""Imported Sockeye models against what Sockeye makes of them, and what happens to bad ones."""

import json
import logging
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from seqwright.artifacts import LengthRatio, TrainedModel, load_model
from seqwright.cli import main
from seqwright.data.vocabulary import BOS, EOS
from seqwright.errors import ClientError
from seqwright.importers.ndarray import Arrays
from seqwright.importers.sockeye import import_sockeye
from seqwright.inference.translator import Translator
from tests.importers.models import GOLDEN, SMALL, change_params, edit, pack, refuses, same_weights


def log_probability(trained: TrainedModel, source: list[str], target: list[str]) -> float:
    """What `sockeye.score` gives: the log probability of the target and `</s>` over the target's length."""
    source_ids = trained.source_vocabulary.ids(source) + [EOS] * trained.source_eos
    ids = trained.target_vocabulary.ids(target)
    with torch.inference_mode():
        hidden = trained.model(torch.tensor([source_ids]), torch.tensor([len(source_ids)]), torch.tensor([[BOS, *ids]]))
        log_probabilities = trained.model.log_probabilities(hidden)[0]
    return float(log_probabilities[range(len(ids) + 1), [*ids, EOS]].sum()) / len(ids)


def check_against_sockeye(model: Path, expected: Path, source: Path, target: Path, output: Path, misses: int) -> None:
    """All translations but `misses` are Sockeye's, and every score."""
    import_sockeye(model, output)
    translator = Translator(load_model(output), torch.device("cpu"))
    sources, targets = ([line.split() for line in path.read_text().splitlines()] for path in (source, target))
    for name, beam_size in (("greedy.tsv", 1), ("beam5.tsv", 5)):
        wanted = [line.split("\t") for line in (expected / name).read_text().splitlines()]
        found = translator.translate(sources, beam_size=beam_size)
        scores = [
            (ours.score, float(score))
            for ours, (score, text) in zip(found, wanted, strict=True)
            if ours.text == text.strip()
        ]
        assert len(scores) >= len(sources) - misses, name
        assert [ours for ours, _ in scores] == pytest.approx([theirs for _, theirs in scores], abs=0.002)
    wanted_log = [float(line) for line in (expected / "logprob.txt").read_text().splitlines()]
    found_log = [log_probability(translator.trained, *pair) for pair in zip(sources, targets, strict=True)]
    assert found_log == pytest.approx(wanted_log, abs=0.002)


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()))
def test_an_imported_model_gives_sockeyes_translations_and_scores(name: str, tmp_path: Path) -> None:
    model = GOLDEN / name
    check_against_sockeye(model, model, GOLDEN / "test.src", GOLDEN / "test.trg", tmp_path / "model", misses=0)


@pytest.mark.parametrize("name", ["rnn_lstm_mlp_1l", "rnn_gru_dot_2l", "rnn_lstm_fixed_1l", "cnn_glu_3l", "cnn2rnn"])
def test_translations_of_the_whole_test_set_are_sockeyes(name: str, shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden" / "sockeye"
    source, target = golden / "fre.test.src", golden / "fre.test.trg"
    check_against_sockeye(golden / name, golden / name, source, target, tmp_path / "model", misses=2)


@pytest.mark.parametrize("prefix", ["", "./", "model/deep"])
def test_an_archive_imports_like_its_folder(prefix: str, model: Path, output: Path, tmp_path: Path) -> None:
    trained = import_sockeye(pack(model, tmp_path / "model.tar.gz", prefix), output)
    assert same_weights(trained, import_sockeye(model, tmp_path / "other"))
    assert same_weights(trained, load_model(output))


def test_a_linked_best_checkpoint_is_followed_in_folder_and_archive(model: Path, output: Path, tmp_path: Path) -> None:
    wanted = import_sockeye(model, tmp_path / "wanted")
    (model / "params.best").rename(model / "params.00001")
    (model / "params.best").symlink_to("params.00001")
    shutil.copy(GOLDEN / "gru_to_cnn" / "params.best", model / "params.00002")
    assert same_weights(wanted, import_sockeye(model, output))
    assert same_weights(wanted, import_sockeye(pack(model, tmp_path / "m.tar.gz", "m"), tmp_path / "again"))


def test_the_last_checkpoint_is_imported_if_none_is_best(model: Path, output: Path) -> None:
    (model / "params.00009").write_bytes(b"of an earlier day")
    (model / "params.best").rename(model / "params.00010")
    import_sockeye(model, output)


def test_files_and_names_of_early_versions_are_read(model: Path, output: Path, tmp_path: Path) -> None:
    for side in ("src", "trg"):
        (model / f"vocab.{side}.0.json").rename(model / f"vocab.{side}.json")
    text = (model / "config").read_text()
    start, end = text.index("config_data:"), text.index("config_decoder:")
    (model / "config").write_text(text[:start] + text[end:])

    def rename(arrays: Arrays) -> None:
        for name in list(arrays):
            early = name.replace("decoder_rnn_att_", "att_").replace("target_output_", "decoder_rnn_cls_")
            arrays[early] = arrays.pop(name)

    change_params(model, rename)
    trained = import_sockeye(model, output)
    assert not trained.source_eos
    assert trained.length_ratio == LengthRatio(mean=2.0, std=0.0)
    assert same_weights(trained, import_sockeye(GOLDEN / SMALL, tmp_path / "usual"))


def test_settings_and_scores_are_imported(model: Path, output: Path) -> None:
    trained = import_sockeye(model, output)
    settings = trained.settings
    assert (settings.num_layers_encoder, settings.num_layers_decoder, settings.rnn_num_hidden) == (3, 2, 12)
    assert (settings.rnn_cell_type, settings.rnn_attention_type, settings.rnn_decoder_state_init) == (
        "gru",
        "bilinear",
        "zero",
    )
    assert settings.rnn_residual_connections
    assert (settings.max_seq_len_source, settings.max_seq_len_target) == (30, 30)
    assert trained.source_eos
    assert trained.length_ratio.mean == pytest.approx(0.79857, abs=1e-5)
    assert json.loads((output / "metrics.json").read_text())["perplexity"] > 1


def test_an_existing_output_is_left_alone(model: Path, output: Path) -> None:
    import_sockeye(model, output)
    before = (output / "model.safetensors").read_bytes()
    with pytest.raises(ClientError, match="already exists and is not empty"):
        import_sockeye(GOLDEN / "gru_to_cnn", output)
    assert (output / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config", "sockeye is not a Sockeye model: it has no config"),
        ("params.best", "it has no params.best"),
        ("vocab.src.0.json", r"it has no vocab\.src\.json or vocab\.src\.0\.json"),
        ("vocab.trg.0.json", r"it has no vocab\.trg\.json"),
    ],
)
def test_a_missing_part_is_named(name: str, message: str, model: Path, output: Path) -> None:
    (model / name).unlink()
    refuses(model, output, message)


def test_a_source_without_a_model_is_refused(output: Path, tmp_path: Path) -> None:
    refuses(tmp_path / "nowhere", output, "no model at .*nowhere")
    (tmp_path / "noise.tar.gz").write_bytes(b"noise")
    refuses(tmp_path / "noise.tar.gz", output, r"noise\.tar\.gz is not a readable .*: it is not a tar archive$")


def test_truncated_parameters_are_named(model: Path, output: Path, tmp_path: Path) -> None:
    content = (model / "params.best").read_bytes()
    (model / "params.best").write_bytes(content[: len(content) // 2])
    refuses(model, output, r"sockeye/params\.best is damaged \(array \d+ at byte")
    refuses(pack(model, tmp_path / "m.tar.gz", "m"), output, r"m\.tar\.gz: params\.best is damaged \(array")


def test_parameters_that_do_not_fit_are_named(model: Path, output: Path) -> None:
    name = "arg:encoder_rnn_l1_h2h_weight"
    kept = (model / "params.best").read_bytes()
    for change, message in (
        (lambda arrays: arrays.pop(name), "no encoder_rnn_l1_h2h_weight$"),
        (
            lambda arrays: arrays.update({name: arrays[name][:-1]}),
            r"l1_h2h_weight of shape \[35, 12\] instead of \[36,",
        ),
        (lambda arrays: arrays.update({"arg:extra": np.ones(3)}), "extra, which the model has no place for"),
        (lambda arrays: arrays.update({"aux:mean": np.ones(3)}), "aux:mean, which the model has no place for"),
        (lambda arrays: arrays.update({name[4:]: np.ones(3)}), f"{name}, which the model has no place for"),
        (lambda arrays: arrays.clear(), "it has no .*; and [0-9]+ more"),
    ):
        (model / "params.best").write_bytes(kept)
        change_params(model, change)
        refuses(model, output, message)


def test_parameters_of_an_integer_type_are_refused(model: Path, output: Path) -> None:
    content = (model / "params.best").read_bytes()
    # The first record is the target embeddings, [44, 8]; 24 bytes of header, 28 of format, shape and device.
    (model / "params.best").write_bytes(content[:60] + struct.pack("<i", 4) + content[64:])
    refuses(model, output, r"_weight of type int32 instead of a floating-point one")


@pytest.mark.parametrize("name", ["vocab.src.0.json", "vocab.src.0.pkl", "vocab.src.pkl"])
def test_a_pickled_vocabulary_is_refused(name: str, model: Path, output: Path) -> None:
    (model / "vocab.src.0.json").unlink()
    (model / name).write_bytes(b"\x80\x03}q\x00.")
    refuses(model, output, f"{name} is a pickle, which can run any program")


def test_a_vocabulary_of_another_model_is_named(model: Path, output: Path) -> None:
    edit(model / "vocab.trg.0.json", '"<unk>": 1', '"<unk>": 2')
    refuses(model, output, r"vocab\.trg\.0\.json is not a vocabulary")
    shutil.copy(model / "vocab.src.0.json", model / "vocab.trg.0.json")
    refuses(model, output, "config says vocab_target_size 44, but the vocabulary has 41 tokens")


def test_an_executable_tag_is_refused(model: Path, output: Path, tmp_path: Path) -> None:
    edit(model / "config", "lhuc: false", f"lhuc: !!python/object/apply:os.system ['touch {tmp_path}/ran']")
    refuses(model, output, "the tag !!python/object/apply:os.system: not in a")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weight_normalization: false", "weight_normalization: true", "weight_normalization: .*weight normalization"),
        ("num_pointers: 0", "num_pointers: 9", "num_pointers: the model has pointers into the source"),
        ("reverse_input: false", "reverse_input: true", r"config: config_encoder\.reverse_input: .*reversed input"),
        ("context_gating: false", "context_gating: true", r"config_decoder\.context_gating"),
        ("state_init_lhuc: false", "state_init_lhuc: true", "LHUC"),
        ("    lhuc: false", "    lhuc: true", "LHUC"),
        ("layer_normalization: false\n  max", "layer_normalization: true\n  max", "layer normalization"),
        ("cell_type: gru", "cell_type: lngru", r"rnn_config\.cell_type: the model has lngru cells"),
        ("type: bilinear", "type: mhdot", r"attention_config\.type: the model has mhdot attention"),
        ("input_previous_word: false", "input_previous_word: true", None),
        ("is_scaled: false", "is_scaled: true", None),
        ("num_source_factors: 1", "num_source_factors: 2", "num_source_factors: the model has source factors"),
        ("factor_configs: null", "factor_configs: [1]", "source factors"),
        ("config_length_task: null", "config_length_task: !LengthRatioConfig {weight: 1}", "length prediction"),
        ("conv_config: null", "conv_config: !ConvolutionalEmbeddingConfig {a: 1}", "convolutional embeddings"),
        ("!RecurrentEncoderConfig", "!TransformerConfig", "config_encoder is TransformerConfig: only recurrent and"),
        ("lhuc: false\nnum", "new_thing: 3\nnum", "new_thing: the model has a setting that is unknown here"),
        ("lhuc: false\nnum", "new_thing: null\nnum", None),
        ("num_layers: 2", "num_layers: 2000", r"rnn_config\.num_layers is 2000, more than 1000"),
        ("num_layers: 2", "num_layers: two", r"rnn_config\.num_layers is 'two', not a whole number"),
        ("num_embed: 8", "num_embed: 0", "config: hyperparameter num_embed_source: 0 is not valid"),
        ("length_ratio_mean: 0", "length_ratio_mean: -1", "length_ratio_mean is -1"),
        ("num_layers: 3\n    residual: true", "num_layers: 3\n    residual: false", "residual connections on other"),
        ("!ModelConfig", "!DataConfig", "config is DataConfig: only"),
    ],
)
def test_features_without_counterpart_are_refused_by_name(
    old: str, new: str, message: str | None, model: Path, output: Path
) -> None:
    edit(model / "config", old, new)
    if message is None:
        import_sockeye(model, output)
    else:
        refuses(model, output, message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("embedding_type: learned", "embedding_type: fixed", "the model has fixed positional embeddings"),
        ("act_type: relu", "act_type: gelu", "hyperparameter cnn_activation_type: 'gelu' is not valid"),
        ("project_qkv: false", "project_qkv: true", "projected attention in a convolutional decoder"),
        ("    weight_normalization: false", "    weight_normalization: true", "weight normalization"),
        ("cnn_config: !ConvolutionConfig", "other: !ConvolutionConfig", "other: the model has a setting"),
    ],
)
def test_convolutional_features_without_counterpart_are_refused(
    old: str, new: str, message: str, output: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(GOLDEN / "gru_to_cnn", tmp_path / "sockeye"))
    edit(model / "config", old, new)
    refuses(model, output, message)


def test_different_cells_in_encoder_and_decoder_are_refused(model: Path, output: Path) -> None:
    text = (model / "config").read_text()
    at = text.index("config_encoder:")
    (model / "config").write_text(text[:at] + text[at:].replace("cell_type: gru", "cell_type: lstm"))
    refuses(model, output, r"rnn_config\.cell_type: the model has lstm in the encoder and gru in the decoder")


def test_an_archive_with_two_models_is_refused(model: Path, output: Path, tmp_path: Path) -> None:
    shutil.copytree(model, model / "inner")
    refuses(pack(model, tmp_path / "m.tar.gz", "m"), output, r"m\.tar\.gz holds two files for ")


def test_a_link_out_of_an_archive_is_not_followed(model: Path, output: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes((model / "params.best").read_bytes())
    (model / "params.best").unlink()
    (model / "params.best").symlink_to(tmp_path / "secret")
    refuses(pack(model, tmp_path / "m.tar.gz", "m"), output, r"it has no params\.best")


def test_the_command_imports_and_explains(
    model: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["seqwright", "import-sockeye", "--input", str(model), "--output", str(output)])
    with pytest.raises(SystemExit, match="0"):
        main()
    out, err = capsys.readouterr()
    assert out == ""
    assert "parameters into" in err
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "ClientError: " in capsys.readouterr().err
    logging.getLogger().handlers.clear()
