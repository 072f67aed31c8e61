"""Checkpoints of one file as their makers name the tensors, from pipeline folders: the inverse of what is tested."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import gguf
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


def original_sd3(state: Tensors) -> Tensors:
    """Stability's names of a transformer's tensors: queries, keys, values are one; the last scale stands behind its shift."""
    ends = {
        "pos_embed.pos_embed": "pos_embed",
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "context_embedder": "context_embedder",
        "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
    }
    within = {
        "attn.norm_q": "x_block.attn.ln_q",
        "attn.norm_k": "x_block.attn.ln_k",
        "attn.norm_added_q": "context_block.attn.ln_q",
        "attn.norm_added_k": "context_block.attn.ln_k",
        "attn2.norm_q": "x_block.attn2.ln_q",
        "attn2.norm_k": "x_block.attn2.ln_k",
        "attn.to_out.0": "x_block.attn.proj",
        "attn.to_add_out": "context_block.attn.proj",
        "attn2.to_out.0": "x_block.attn2.proj",
        "norm1.linear": "x_block.adaLN_modulation.1",
        "norm1_context.linear": "context_block.adaLN_modulation.1",
        "ff.net.0.proj": "x_block.mlp.fc1",
        "ff.net.2": "x_block.mlp.fc2",
        "ff_context.net.0.proj": "context_block.mlp.fc1",
        "ff_context.net.2": "context_block.mlp.fc2",
    }
    joined = {
        "attn.to_q": ("x_block.attn.qkv", "attn.to_k", "attn.to_v"),
        "attn.add_q_proj": ("context_block.attn.qkv", "attn.add_k_proj", "attn.add_v_proj"),
        "attn2.to_q": ("x_block.attn2.qkv", "attn2.to_k", "attn2.to_v"),
    }
    last = max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks."))
    named: Tensors = {}
    for name, tensor in state.items():
        place, leaf = (name, "") if name == "pos_embed.pos_embed" else name.rsplit(".", 1)
        if place in ends:
            if place == "norm_out.linear":
                scale, shift = tensor.chunk(2)
                tensor = torch.cat([shift, scale])
            named[f"{ends[place]}.{leaf}".rstrip(".")] = tensor
            continue
        _, number, place = place.split(".", 2)
        block = f"transformer_blocks.{number}."
        if place in within:
            if place == "norm1_context.linear" and int(number) == last:
                scale, shift = tensor.chunk(2)
                tensor = torch.cat([shift, scale])
            named[f"joint_blocks.{number}.{within[place]}.{leaf}"] = tensor
        elif place in joined:
            ours, *others = joined[place]
            named[f"joint_blocks.{number}.{ours}.{leaf}"] = torch.cat(
                [tensor, *(state[f"{block}{one}.{leaf}"] for one in others)]
            )
    return {f"model.diffusion_model.{name}": tensor for name, tensor in named.items()}


def original_flux(state: Tensors) -> Tensors:
    """Black Forest Labs' names of a transformer's tensors."""
    ends = {
        "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
        "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
        "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
        "context_embedder": "txt_in",
        "x_embedder": "img_in",
        "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
    }
    double = {
        "norm1.linear": "img_mod.lin",
        "norm1_context.linear": "txt_mod.lin",
        "attn.norm_q": "img_attn.norm.query_norm",
        "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm",
        "attn.norm_added_k": "txt_attn.norm.key_norm",
        "ff.net.0.proj": "img_mlp.0",
        "ff.net.2": "img_mlp.2",
        "ff_context.net.0.proj": "txt_mlp.0",
        "ff_context.net.2": "txt_mlp.2",
        "attn.to_out.0": "img_attn.proj",
        "attn.to_add_out": "txt_attn.proj",
    }
    single = {
        "norm.linear": "modulation.lin",
        "attn.norm_q": "norm.query_norm",
        "attn.norm_k": "norm.key_norm",
        "proj_out": "linear2",
    }
    joined = {
        ("transformer_blocks", "attn.to_q"): ("img_attn.qkv", "attn.to_k", "attn.to_v"),
        ("transformer_blocks", "attn.add_q_proj"): ("txt_attn.qkv", "attn.add_k_proj", "attn.add_v_proj"),
        ("single_transformer_blocks", "attn.to_q"): ("linear1", "attn.to_k", "attn.to_v", "proj_mlp"),
    }
    named: Tensors = {}
    for name, tensor in state.items():
        place, leaf = name.rsplit(".", 1)
        if place in ends:
            if place == "norm_out.linear":
                scale, shift = tensor.chunk(2)
                tensor = torch.cat([shift, scale])
            named[f"{ends[place]}.{leaf}"] = tensor
            continue
        kind, number, place = place.split(".", 2)
        known = double if kind == "transformer_blocks" else single
        block = f"{'double' if known is double else 'single'}_blocks.{number}"
        if place in known:
            named[f"{block}.{known[place]}.{'scale' if 'attn.norm' in place else leaf}"] = tensor
        elif (kind, place) in joined:
            ours, *others = joined[kind, place]
            parts = [tensor, *(state[f"{kind}.{number}.{one}.{leaf}"] for one in others)]
            named[f"{block}.{ours}.{leaf}"] = torch.cat(parts)
    return named


def write_gguf(writer: gguf.GGUFWriter) -> None:
    """Write a GGUF file with all that its writer was given."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
