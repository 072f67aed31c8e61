"""Checkpoints of one file as their makers name the tensors, from pipeline folders: the inverse of what is tested."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from raymia.replica.single_file import KINDS, Kind

Tensors = dict[str, Tensor]


def original_unet(state: Tensors, layers: int, blocks: int) -> Tensors:
    """CompVis' names of a UNet's tensors: blocks are numbered through, and a block's parts within it."""
    ends = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    within = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    attends = {name.split(".attentions")[0] for name in state if ".attentions." in name}
    named: Tensors = {}
    for name, tensor in state.items():
        place, leaf = name.rsplit(".", 1)
        if place in ends:
            named[f"{ends[place]}.{leaf}"] = tensor
            continue
        side, _, rest = name.partition(".")
        if side == "mid_block":
            kind, number, rest = rest.split(".", 2)
            block = f"middle_block.{2 * int(number) if kind == 'resnets' else 1}"
        else:
            index, kind, number, rest = rest.split(".", 3)
            first = int(index) * (layers + 1)
            if side == "down_blocks":
                block = f"input_blocks.{1 + first + (layers if kind == 'downsamplers' else int(number))}."
                block += "1" if kind == "attentions" else "0"
            else:
                block = f"output_blocks.{first + (layers if kind == 'upsamplers' else int(number))}."
                block += {"resnets": "0", "attentions": "1"}.get(kind, "2" if f"{side}.{index}" in attends else "1")
        if kind == "resnets":
            part, _, tail = rest.partition(".")
            rest = f"{within[part]}.{tail}"
        elif kind == "downsamplers":
            rest = rest.replace("conv.", "op.")
        named[f"{block}.{rest}"] = tensor
    return {f"model.diffusion_model.{name}": tensor for name, tensor in named.items()}


def original_vae(state: Tensors, blocks: int = 4) -> Tensors:
    """CompVis' names of an autoencoder's tensors: decoding blocks are counted from the image, attention is of 1 x 1 kernels."""
    named: Tensors = {}
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for name, tensor in state.items():
        name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{blocks - 1 - int(m[1])}.block.", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            for ours, theirs in attention.items():
                name = name.replace(f".{ours}.", f".{theirs}.")
            tensor = tensor[:, :, None, None].clone() if tensor.ndim == 2 else tensor
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        named[f"first_stage_model.{name}"] = tensor
    return named


def original_open_clip(state: Tensors, prefix: str) -> Tensors:
    """OpenCLIP's names of a text encoder's tensors: queries, keys and values are one, and the projection is turned."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    named: Tensors = {}
    for name, tensor in state.items():
        found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
        if name == "text_projection.weight":
            named["text_projection"] = tensor.T.contiguous()
        elif found is None:
            ours = {"final_layer_norm": "ln_final", "embeddings.token_embedding": "token_embedding"}
            place, leaf = name.rsplit(".", 1)
            named["positional_embedding" if "position" in name else f"{ours[place]}.{leaf}"] = tensor
        else:
            layer, rest = f"transformer.resblocks.{found[1]}", found[2]
            if ".k_proj" in rest or ".v_proj" in rest:
                continue
            if ".q_proj" in rest:
                three = [state[name.replace("q_proj", one)] for one in ("q_proj", "k_proj", "v_proj")]
                named[f"{layer}.attn.in_proj_{rest.rsplit('.', 1)[1]}"] = torch.cat(three)
            else:
                for ours_, theirs in (("self_attn", "attn"), ("layer_norm", "ln_"), ("fc1", "c_fc"), ("fc2", "c_proj")):
                    rest = rest.replace(ours_, theirs)
                named[f"{layer}.{rest}"] = tensor
    return {f"{prefix}{name}": tensor for name, tensor in named.items()}


def original_clip(state: Tensors, prefix: str) -> Tensors:
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}


def weights(folder: Path, part: str) -> Tensors:
    [file] = (folder / part).glob("*.safetensors")
    return load_file(file)


def of_sd1(folder: Path) -> Tensors:
    text = original_clip(weights(folder, "text_encoder"), "cond_stage_model.transformer.")
    return {**original_unet(weights(folder, "unet"), 1, 3), **original_vae(weights(folder, "vae")), **text}


def of_sdxl(folder: Path) -> Tensors:
    first = original_clip(weights(folder, "text_encoder"), "conditioner.embedders.0.transformer.")
    second = original_open_clip(weights(folder, "text_encoder_2"), "conditioner.embedders.1.model.")
    return {**original_unet(weights(folder, "unet"), 1, 2), **original_vae(weights(folder, "vae")), **first, **second}


def tiny_kinds(name: str, folder: Path) -> tuple[Kind, ...]:
    """All kinds of files, of which one is told by a miniature's widths and has its configs."""
    config = json.loads((folder / "unet" / "config.json").read_text())
    return tuple(
        replace(
            kind,
            context=config["cross_attention_dim"],
            added=config["projection_class_embeddings_input_dim"],
            configs=folder,
        )
        if kind.name == name
        else kind
        for kind in KINDS
    )
