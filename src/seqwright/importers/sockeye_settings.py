"""Translate a Sockeye configuration into hyperparameters; settings without a counterpart are refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from seqwright.artifacts import LengthRatio
from seqwright.errors import ClientError
from seqwright.hyperparameters import Hyperparameters
from seqwright.importers.config import Section

_T = TypeVar("_T")


@dataclass(frozen=True)
class SockeyeModel:
    """A Sockeye model's architecture.

    Attributes:
        hyperparameters: of the same architecture in this project.
        ties_embeddings: whether source and target share one embedding table.
        ties_softmax: whether the output layer's weights are the target embeddings.
        source_eos: whether `</s>` ends every source sequence; before version 1.18 of Sockeye it did not.
        length_ratio: bounds the length of translations.
    """

    hyperparameters: Hyperparameters
    ties_embeddings: bool
    ties_softmax: bool
    source_eos: bool
    length_ratio: LengthRatio


UNSUPPORTED: Mapping[str, Mapping[str, str]] = {
    "ModelConfig": {
        "config_length_task": "length prediction",
        "lexical_bias": "lexical bias",
        "lhuc": "LHUC adaptation",
        "num_pointers": "pointers into the source",
        "weight_normalization": "weight normalization",
    },
    "EmbeddingConfig": {"factor_configs": "source factors"},
    "RecurrentEncoderConfig": {"conv_config": "convolutional embeddings", "reverse_input": "reversed input"},
    "RNNConfig": {"lhuc": "LHUC adaptation"},
    "RecurrentDecoderConfig": {
        "context_gating": "context gating",
        "enc_last_hidden_concat_to_embedding": "the encoder's last state beside the embeddings",
        "layer_normalization": "layer normalization",
        "state_init_lhuc": "LHUC adaptation",
    },
    "AttentionConfig": {},
    "ConvolutionalEncoderConfig": {},
    "ConvolutionalDecoderConfig": {"project_qkv": "projected attention in a convolutional decoder"},
    "ConvolutionConfig": {"weight_normalization": "weight normalization"},
}
"""Settings by section that, when they are active, change the network in a way that has no counterpart here."""

_COMMON = {"dtype", "vocab_size", "_frozen"}
KNOWN: Mapping[str, set[str]] = {
    "ModelConfig": {
        *("config_data", "config_embed_source", "config_embed_target", "config_encoder", "config_decoder"),
        *("config_loss", "config_length_task_loss", "vocab_source_size", "vocab_target_size"),
        *("weight_tying", "weight_tying_type", "max_seq_len", "max_seq_len_source", "max_seq_len_target"),
    },
    "EmbeddingConfig": {"num_embed", "dropout", "num_factors", "source_factors_combine"},
    "RecurrentEncoderConfig": {"rnn_config", "num_embed", "embed_dropout"},
    "RNNConfig": {
        *("cell_type", "num_hidden", "num_layers", "residual", "first_residual_layer", "forget_bias"),
        *("dropout", "dropout_inputs", "dropout_states", "dropout_recurrent"),
    },
    "RecurrentDecoderConfig": {
        *("rnn_config", "attention_config", "hidden_dropout", "state_init", "attention_in_upper_layers"),
        *("max_seq_len_source", "num_embed", "embed_dropout"),
    },
    "AttentionConfig": {
        *("type", "num_hidden", "query_num_hidden", "source_num_hidden", "rnn_num_hidden", "num_heads"),
        *("input_previous_word", "is_scaled", "layer_normalization", "config_coverage"),
    },
    "ConvolutionalEncoderConfig": {
        *("cnn_config", "num_layers", "positional_embedding_type", "max_seq_len_source", "num_embed", "embed_dropout"),
    },
    "ConvolutionalDecoderConfig": {
        *("cnn_config", "num_layers", "positional_embedding_type", "max_seq_len_target", "num_embed", "embed_dropout"),
        *("encoder_num_hidden", "hidden_dropout"),
    },
    "ConvolutionConfig": {"act_type", "kernel_width", "num_hidden"},
}
"""Settings by section that are read, or that do not change what a trained network computes."""

ATTENTION_VARIANTS = {
    "input_previous_word": ("attention that sees the previous word", ("mlp", "dot")),
    "is_scaled": ("scaled dot attention", ("dot",)),
    "layer_normalization": ("layer normalization", ("mlp",)),
}
"""Variants of attention, and the types of attention that use them."""

MAX_LAYERS = 1000
"""More layers than a recurrent or convolutional model has."""

NO_LENGTH_RATIO = LengthRatio(mean=2.0, std=0.0)
"""For versions that recorded no length ratio: they allow translations of twice the source's length."""


def read_settings(config: Section, source_positions: int | None, target_positions: int | None) -> SockeyeModel:
    """Translate a configuration.

    Args:
        config: the configuration's top.
        source_positions: rows of the source's position table, None without one.
        target_positions: rows of the target's.

    Raises:
        ClientError: a setting is missing, of the wrong type, unknown, or has no counterpart; the message names it.
    """
    _check(config, "ModelConfig")
    encoder, decoder = config.section("config_encoder"), config.section("config_decoder")
    data = config.section("config_data")
    if data.integer("num_source_factors", 1) > 1:
        raise _refused(data, "num_source_factors", "source factors")
    source_eos = data.flag("source_with_eos")
    values: dict[str, object] = {
        **_embedding(config.section("config_embed_source"), encoder, "source"),
        **_embedding(config.section("config_embed_target"), decoder, "target"),
        **_encoder(encoder),
        **_decoder(decoder),
        **_recurrent([part.section("rnn_config") for part in (encoder, decoder) if part.active("rnn_config")]),
        **_convolutional([part.section("cnn_config") for part in (encoder, decoder) if part.active("cnn_config")]),
        "label_smoothing": config.section("config_loss").number("label_smoothing", 0.0),
    }
    values["max_seq_len_source"] = _max_length(config, "max_seq_len_source", source_positions, source_eos)
    values["max_seq_len_target"] = _max_length(config, "max_seq_len_target", target_positions, source_eos)
    tying = config.text("weight_tying_type", "trg_softmax") if config.flag("weight_tying") else ""
    try:
        hyperparameters = Hyperparameters.parse(values)
    except ClientError as error:
        raise ClientError(f"{config.path}{error}") from error
    return SockeyeModel(
        hyperparameters=hyperparameters,
        ties_embeddings="src" in tying and "trg" in tying,
        ties_softmax="softmax" in tying,
        source_eos=source_eos,
        length_ratio=_length_ratio(data),
    )


def _embedding(section: Section, owner: Section, side: str) -> dict[str, object]:
    """Width and dropout of a side's embeddings; in early versions `owner`, the encoder or decoder, has them."""
    if not section.values:
        section = Section("", {"num_embed": owner.get("num_embed"), "dropout": owner.get("embed_dropout")}, owner.path)
    else:
        _check(section, "EmbeddingConfig")
    if section.integer("num_factors", 1) > 1:
        raise _refused(section, "num_factors", "source factors")
    return {
        f"num_embed_{side}": section.integer("num_embed"),
        f"embed_dropout_{side}": section.number("dropout", 0.0),
    }


def _encoder(encoder: Section) -> dict[str, object]:
    if encoder.kind == "RecurrentEncoderConfig":
        _check(encoder, encoder.kind)
        return {"encoder_type": "rnn", "num_layers_encoder": _layers(_required(encoder, "rnn_config"))}
    _check(encoder, "ConvolutionalEncoderConfig")
    _learned_positions(encoder)
    return {
        "encoder_type": "cnn",
        "num_layers_encoder": _layers(encoder),
        "cnn_kernel_width_encoder": _required(encoder, "cnn_config").integer("kernel_width"),
    }


def _decoder(decoder: Section) -> dict[str, object]:
    if decoder.kind == "RecurrentDecoderConfig":
        _check(decoder, decoder.kind)
        rnn = _required(decoder, "rnn_config")
        return {
            "decoder_type": "rnn",
            "num_layers_decoder": _layers(rnn),
            "rnn_decoder_state_init": decoder.text("state_init", "last"),
            "rnn_decoder_hidden_dropout": decoder.number("hidden_dropout", 0.0),
            "rnn_attention_in_upper_layers": decoder.flag("attention_in_upper_layers"),
            **_attention(_required(decoder, "attention_config"), rnn.integer("num_hidden")),
        }
    _check(decoder, "ConvolutionalDecoderConfig")
    _learned_positions(decoder)
    return {
        "decoder_type": "cnn",
        "num_layers_decoder": _layers(decoder),
        "cnn_hidden_dropout": decoder.number("hidden_dropout", 0.0),
        "cnn_kernel_width_decoder": _required(decoder, "cnn_config").integer("kernel_width"),
    }


def _layers(section: Section) -> int:
    if (layers := section.integer("num_layers")) > MAX_LAYERS:
        raise ClientError(f"{section.path}num_layers is {layers}, more than {MAX_LAYERS}: the file is damaged")
    return layers


def _attention(attention: Section, rnn_num_hidden: int) -> dict[str, object]:
    _check(attention, "AttentionConfig")
    kind = attention.text("type")
    if kind not in ("mlp", "dot", "bilinear", "fixed"):
        raise _refused(attention, "type", f"{kind} attention")
    for name, (feature, kinds) in ATTENTION_VARIANTS.items():
        if attention.active(name) and kind in kinds:
            raise _refused(attention, name, feature)
    return {
        "rnn_attention_type": kind,
        "rnn_attention_num_hidden": attention.integer("num_hidden", rnn_num_hidden),
    }


def _recurrent(stacks: list[Section]) -> dict[str, object]:
    """The settings that the recurrent encoder and decoder must share; `stacks` has one or both of them."""
    if not stacks:
        return {}
    for stack in stacks:
        _check(stack, "RNNConfig")
        if (cell := stack.text("cell_type")) not in ("lstm", "gru"):
            feature = f"{cell} cells" + (", LSTM or GRU with layer normalization" if cell.startswith("ln") else "")
            raise _refused(stack, "cell_type", feature)
    kind = _same(stacks, "cell_type", [stack.text("cell_type") for stack in stacks])
    width = _same(stacks, "num_hidden", [stack.integer("num_hidden") for stack in stacks])
    return {"rnn_cell_type": kind, "rnn_num_hidden": width, **_residual(stacks)}


def _residual(stacks: list[Section]) -> dict[str, object]:
    """The hyperparameters that give every stack the residual connections that it has in Sockeye.

    There is one first residual layer for encoder and decoder, so candidates are None and that of each stack.
    """
    firsts = [stack.integer("first_residual_layer", 2) for stack in stacks if stack.flag("residual")]
    for first in (None, *firsts):
        if all(
            _residual_layers(stack, stack.integer("first_residual_layer", 2) if stack.flag("residual") else None)
            == _residual_layers(stack, first)
            for stack in stacks
        ):
            return {
                "rnn_residual_connections": first is not None,
                **({} if first is None else {"rnn_first_residual_layer": first}),
            }
    raise _refused(stacks[0], "residual", "residual connections on other layers of the encoder than of the decoder")


def _residual_layers(stack: Section, first: int | None) -> range:
    """The layers with a residual connection, counted from 1, where `first` is the lowest."""
    last = stack.integer("num_layers")
    return range(0) if first is None or first > last else range(first, last + 1)


def _convolutional(stacks: list[Section]) -> dict[str, object]:
    """The settings that the convolutional encoder and decoder must share; `stacks` has one or both of them."""
    if not stacks:
        return {}
    for stack in stacks:
        _check(stack, "ConvolutionConfig")
    return {
        "cnn_activation_type": _same(stacks, "act_type", [stack.text("act_type", "glu") for stack in stacks]),
        "cnn_num_hidden": _same(stacks, "num_hidden", [stack.integer("num_hidden") for stack in stacks]),
    }


def _same(stacks: list[Section], name: str, values: list[_T]) -> _T:
    if values[0] != values[-1]:
        feature = f"{values[0]} in the encoder and {values[-1]} in the decoder"
        raise _refused(stacks[-1], name, feature)
    return values[0]


def _learned_positions(section: Section) -> None:
    if (kind := section.text("positional_embedding_type", "learned")) != "learned":
        raise _refused(section, "positional_embedding_type", f"{kind} positional embeddings")


def _max_length(config: Section, name: str, positions: int | None, source_eos: bool) -> int:
    """Tokens of the longest sequence; the position table and the configuration count one more, for `</s>`."""
    if positions is not None:
        return positions - 1
    recorded = config.section("config_data").get(name) or config.get(name) or config.get("max_seq_len")
    if recorded is None:
        return int(Hyperparameters.model_fields[name].default)
    return Section("", {name: recorded}, config.path).integer(name) - source_eos


def _length_ratio(data: Section) -> LengthRatio:
    """The length ratio of the training data; its section depends on the version."""
    for section in (data.section("data_statistics"), data):
        if section.active("length_ratio_mean"):
            mean, std = section.number("length_ratio_mean"), section.number("length_ratio_std", 0.0)
            if mean <= 0 or std < 0:
                raise ClientError(f"{section.path}length_ratio_mean is {mean} ± {std}, where neither can be negative")
            return LengthRatio(mean=mean, std=std)
    return NO_LENGTH_RATIO


def _required(section: Section, name: str) -> Section:
    if section.get(name) is None:
        raise section.wrong(name, "a mapping")
    return section.section(name)


def _check(section: Section, kind: str) -> None:
    """Check the kind of a section, and that all its active settings are known and have a counterpart here."""
    if section.kind != kind:
        found = section.kind or "missing"
        place = section.path.removesuffix(".").removesuffix(": ")
        raise ClientError(f"{place} is {found}: only recurrent and convolutional models can be imported")
    for name, feature in UNSUPPORTED[kind].items():
        if section.active(name):
            raise _refused(section, name, feature)
    if unknown := section.unknown(KNOWN[kind] | UNSUPPORTED[kind].keys() | _COMMON):
        raise _refused(section, unknown[0], "a setting that is unknown here")


def _refused(section: Section, name: str, feature: str) -> ClientError:
    return ClientError(f"{section.path}{name}: the model has {feature}, which seqwright has no counterpart for")
