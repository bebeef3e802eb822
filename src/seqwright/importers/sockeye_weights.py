"""Give Sockeye's parameters this project's names.

No values are rearranged: both programs stack the gates of an LSTM as input, forget, cell, output and those of a GRU as
reset, update, candidate; concatenate `[embedding; attentional hidden]` and `[output; context]` in this order; and store
matrices as `[out, in]` and convolutions as `[out, in, width]`.
"""

from collections.abc import Collection, Iterator

import numpy as np
import torch
from torch import Tensor

from seqwright.errors import ClientError
from seqwright.importers.ndarray import Arrays
from seqwright.importers.sockeye_settings import SockeyeModel
from seqwright.models.seq2seq import Seq2Seq

SOURCE_POSITIONS, TARGET_POSITIONS = "source_pos_embed_weight", "target_pos_embed_weight"
MAX_NAMED_PROBLEMS = 5
"""Problems that a message names."""


def strip_kinds(arrays: Arrays) -> Arrays:
    """The arrays without the `arg:` that MXNet's modules put before the names of parameters."""
    plain = {name: name.removeprefix("arg:") for name in arrays}
    return {name if plain[name] != name and plain[name] in arrays else plain[name]: arrays[name] for name in arrays}


def convert(arrays: Arrays, sockeye: SockeyeModel, model: Seq2Seq, origin: str) -> dict[str, Tensor]:
    """The state of `model`, fp32, from the parameters of a Sockeye model of the same architecture.

    Args:
        arrays: parameters by their names in Sockeye; all must be used.
        sockeye: the architecture of their model.
        model: the same model in this project, for names and shapes; its values are not read.
        origin: what to call the parameter file in messages.

    Raises:
        ClientError: a parameter is missing, left over, or has the wrong shape or type; the message names it.
    """
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    names = dict(_names(sockeye, arrays.keys()))
    problems = [f"no {theirs}" for theirs in sorted(set(names.values()) - arrays.keys())]
    problems += [f"{name}, which the model has no place for" for name in sorted(arrays.keys() - names.values())]
    problems += [f"nothing for {ours}" for ours in sorted(wanted.keys() - names.keys())]
    for ours, theirs in names.items():
        if theirs in arrays and list(arrays[theirs].shape) != wanted[ours]:
            problems.append(f"{theirs} of shape {list(arrays[theirs].shape)} instead of {wanted[ours]}")
        elif theirs in arrays and arrays[theirs].dtype.kind != "f":
            problems.append(f"{theirs} of type {arrays[theirs].dtype} instead of a floating-point one")
    if problems:
        more = f"; and {len(problems) - MAX_NAMED_PROBLEMS} more" if len(problems) > MAX_NAMED_PROBLEMS else ""
        raise ClientError(f"{origin} does not fit its config: it has {'; '.join(problems[:MAX_NAMED_PROBLEMS])}{more}")
    return {ours: torch.from_numpy(np.array(arrays[theirs], np.float32)) for ours, theirs in names.items()}


def _names(sockeye: SockeyeModel, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Every parameter of our model with the Sockeye parameter that it is read from; tied ones have the same."""
    settings = sockeye.hyperparameters
    shared = "source_target_embed_weight"
    target = shared if sockeye.ties_embeddings else "target_embed_weight"
    yield "encoder.embedding.table.weight", shared if sockeye.ties_embeddings else "source_embed_weight"
    yield "decoder.embedding.table.weight", target
    if settings.encoder_type == "rnn":
        yield from _recurrent_encoder(settings.num_layers_encoder)
    else:
        yield from _convolutions("encoder", "encoder_cnn_", SOURCE_POSITIONS, settings.num_layers_encoder)
    if settings.decoder_type == "rnn":
        prefix = _first("decoder_rnn_", "decoder_", "hidden_bias", known)
        yield from _recurrent_decoder(sockeye, prefix, known)
    else:
        prefix = _first("decoder_cnn_", "decoder_", "i2h_weight", known)
        yield from _convolutions("decoder", prefix, TARGET_POSITIONS, settings.num_layers_decoder)
    output = _first("target_output_", f"{prefix}cls_", "bias", known)
    yield "output_layer.weight", target if sockeye.ties_softmax else f"{output}weight"
    yield "output_layer.bias", f"{output}bias"


def _first(usual: str, early: str, marker: str, known: Collection[str]) -> str:
    """The prefix of a group of parameters, `usual` or that of early versions, by a name that it has in `known`."""
    return early if f"{usual}{marker}" not in known and f"{early}{marker}" in known else usual


def _recurrent_encoder(layers: int) -> Iterator[tuple[str, str]]:
    yield from _gates("encoder.forward_layer.{}_l0", "encoder_birnn_forward_l0_")
    yield from _gates("encoder.backward_layer.{}_l0", "encoder_birnn_reverse_l0_")
    for layer in range(layers - 1):
        yield from _gates(f"encoder.layers.{layer}.{{}}_l0", f"encoder_rnn_l{layer}_")


def _recurrent_decoder(sockeye: SockeyeModel, prefix: str, known: Collection[str]) -> Iterator[tuple[str, str]]:
    settings = sockeye.hyperparameters
    for layer in range(settings.num_layers_decoder):
        yield from _gates(f"decoder.cells.{layer}.{{}}", f"{prefix}l{layer}_")
    yield from _layer("decoder.hidden", f"{prefix}hidden_")
    if settings.rnn_decoder_state_init != "zero":
        for state in range(settings.num_layers_decoder * (2 if settings.rnn_cell_type == "lstm" else 1)):
            yield from _layer(f"decoder.initial_states.{state}", f"{prefix}enc2decinit_{state}_")
    yield from _attention(sockeye, prefix, known)


def _attention(sockeye: SockeyeModel, prefix: str, known: Collection[str]) -> Iterator[tuple[str, str]]:
    settings = sockeye.hyperparameters
    width = settings.attention_num_hidden
    states = settings.rnn_num_hidden if settings.encoder_type == "rnn" else settings.cnn_num_hidden
    scorers = {
        "mlp": {"query": "q2h", "key": "e2h", "score": "h2s"},
        "dot": {
            **({"query": "t2h"} if settings.rnn_num_hidden != width else {}),
            **({"key": "s2h"} if states != width else {}),
        },
        "bilinear": {"key": "s2t"},
        "fixed": {},
    }
    for ours, theirs in scorers[settings.rnn_attention_type].items():
        attention = _first(f"{prefix}att_", "att_", f"{theirs}_weight", known)
        yield f"decoder.attention.{ours}.weight", f"{attention}{theirs}_weight"


def _convolutions(part: str, prefix: str, positions: str, layers: int) -> Iterator[tuple[str, str]]:
    yield f"{part}.positions.table.weight", positions
    yield f"{part}.input.weight", f"{prefix}i2h_weight"
    for layer in range(layers):
        yield from _layer(f"{part}.blocks.{layer}.convolution", f"{prefix}{layer}_conv_")


def _gates(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    """The weights of a recurrent layer's gates, for the input and for the previous output."""
    for side, name in (("ih", "i2h"), ("hh", "h2h")):
        yield ours.format(f"weight_{side}"), f"{theirs}{name}_weight"
        yield ours.format(f"bias_{side}"), f"{theirs}{name}_bias"


def _layer(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.weight", f"{theirs}weight"
    yield f"{ours}.bias", f"{theirs}bias"
