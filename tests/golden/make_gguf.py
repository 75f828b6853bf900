"""Convert golden checkpoints to GGUF, so that the GGUF path is judged by the same reference outputs.

    make_gguf.py FOLDER OUT.gguf

Follows llama.cpp's converter: names and metadata keys are its, experts are stacked, fused projections stay or are taken apart as
it does. For the llama architecture (also Mixtral and Granite) query and key rows are permuted so that rotary pairs are
neighbours; Llama 3.1's rope scaling becomes the tensor rope_freqs.weight; Gemma's norms hold 1 + weight; DeepSeek's latent
expansion becomes one stack of transposed key matrices and one of value matrices. Matrices keep their type (float32, bfloat16,
MXFP4), vectors are float32.

GGUF has no place for Gemma 2's query_pre_attn_scalar: readers use the head dimension. The query rows carry the ratio of the two.

Needs: gguf, numpy.
"""
import json
import math
import pathlib
import re
import struct
import sys

import gguf
import numpy as np

ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe",
    "granitemoe": "granitemoe", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2", "gpt_oss": "gpt-oss",
    "gemma3_text": "gemma3",
}
PERMUTED = ("llama", "granitemoe")
NORMS_PLUS_ONE = ("gemma2", "gemma3")

LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "self_attn.sinks": "attn_sinks",
    "self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.attn_sub_norm": "attn_sub_norm", "mlp.ffn_sub_norm": "ffn_sub_norm",
    "post_attention_layernorm": "ffn_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp", "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.router.layer": "ffn_gate_inp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.gate.e_score_correction": "exp_probs_b",
}
EXPERT = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "w1": "gate", "w3": "up", "w2": "down"}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def load(folder):
    """All tensors; bfloat16 as its 16 bits (uint16)."""
    kinds = {"F32": np.float32, "BF16": np.uint16, "U8": np.uint8}
    out = {}
    for path in sorted(folder.glob("model*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                start, end = (8 + length + x for x in entry["data_offsets"])
                out[name] = np.frombuffer(data[start:end], kinds[entry["dtype"]]).reshape(entry["shape"])
    return out


def widened(tensor):
    if tensor.dtype != np.uint16:
        return tensor.astype(np.float32)
    return (tensor.astype(np.uint32) << 16).view(np.float32)


def permute(rows, heads):
    shape = rows.shape
    return rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def llama3_divisors(config, head_dim):
    scaling = config["rope_scaling"]
    old, low, high = scaling["original_max_position_embeddings"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    out = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (i / head_dim)
        if wavelength < old / high:
            out.append(1.0)
        elif wavelength > old / low:
            out.append(scaling["factor"])
        else:
            smooth = (old / wavelength - low) / (high - low)
            out.append(1.0 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(out, dtype=np.float32)


def mxfp4_blocks(blocks, scales):
    """[E, out, in/32, 16] with neighbours in a byte, to blocks of a scale and 16 bytes that hold column i and 16 + i."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
    halves = codes[..., :16] | (codes[..., 16:] << 4)
    rows = np.concatenate([scales[..., None], halves], axis=-1)
    return rows.reshape(*rows.shape[:2], -1)


class Converter:
    def __init__(self, folder, out):
        self.config = json.loads((folder / "config.json").read_text())
        self.kind = self.config["model_type"]
        self.arch = ARCHITECTURES.get(self.kind, self.kind)
        self.tensors = load(folder)
        self.heads = self.config["num_attention_heads"]
        self.kv_heads = self.config["num_key_value_heads"]
        self.head_dim = self.config.get("head_dim") or self.config["hidden_size"] // self.heads
        self.writer = gguf.GGUFWriter(str(out), self.arch)
        self.writer.add_name(folder.name)

    def key(self, name, value):
        add = {bool: self.writer.add_bool, int: self.writer.add_uint32, float: self.writer.add_float32}
        add[type(value)](f"{self.arch}.{name}", value)

    def metadata(self):
        c, w = self.config, self.writer
        w.add_context_length(c["max_position_embeddings"])
        w.add_embedding_length(c["hidden_size"])
        w.add_block_count(c["num_hidden_layers"])
        w.add_feed_forward_length(c["intermediate_size"])
        w.add_head_count(self.heads)
        if self.arch == "deepseek2":
            self.latent_attention()
        else:
            w.add_head_count_kv(self.kv_heads)
            w.add_key_length(self.head_dim)
            w.add_value_length(self.head_dim)
        w.add_layer_norm_rms_eps(c["rms_norm_eps"])
        w.add_rope_freq_base(c["rope_theta"])
        w.add_rope_dimension_count(c.get("qk_rope_head_dim") or self.head_dim)
        w.add_vocab_size(c["vocab_size"])
        if c.get("sliding_window"):
            w.add_sliding_window(c["sliding_window"])
        self.mixture()
        self.rope_scaling()
        multipliers = {
            "embedding_multiplier": "embedding_scale", "residual_multiplier": "residual_scale",
            "logits_scaling": "logit_scale", "attention_multiplier": "attention.scale",
            "attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping",
            "routed_scaling_factor": "expert_weights_scale",
        }
        for field, key in multipliers.items():
            if c.get(field):
                self.key(key, float(c[field]))
        if self.arch == "gemma3":
            self.key("attention.sliding_window_pattern", c["sliding_window_pattern"])

    def latent_attention(self):
        c, w = self.config, self.writer
        w.add_head_count_kv(1)
        w.add_key_length(c["kv_lora_rank"] + c["qk_rope_head_dim"])
        w.add_value_length(c["kv_lora_rank"])
        self.key("attention.key_length_mla", c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
        self.key("attention.value_length_mla", c["v_head_dim"])
        self.key("attention.kv_lora_rank", c["kv_lora_rank"])
        if c["q_lora_rank"]:
            self.key("attention.q_lora_rank", c["q_lora_rank"])
        self.key("leading_dense_block_count", c["first_k_dense_replace"])
        self.key("expert_shared_count", c["n_shared_experts"])
        self.key("expert_weights_norm", self.kind == "deepseek_v3")
        self.key("expert_gating_func", 2 if self.kind == "deepseek_v3" else 1)
        if c.get("topk_method") != "greedy":
            self.key("expert_group_count", c["n_group"])
            self.key("expert_group_used_count", c["topk_group"])

    def mixture(self):
        c = self.config
        experts = c.get("num_local_experts") or c.get("num_experts") or c.get("n_routed_experts")
        if not experts:
            return
        self.writer.add_expert_count(experts)
        self.writer.add_expert_used_count(c["num_experts_per_tok"])
        if self.arch != "llama":
            self.key("expert_feed_forward_length", c.get("moe_intermediate_size") or c["intermediate_size"])
        if "shared_expert_intermediate_size" in c:
            self.key("expert_shared_feed_forward_length", c["shared_expert_intermediate_size"])

    def rope_scaling(self):
        c, w = self.config, self.writer
        scaling = c.get("rope_scaling") or {}
        kind = scaling.get("rope_type") or scaling.get("type")
        if kind == "llama3":
            w.add_tensor("rope_freqs.weight", llama3_divisors(c, self.head_dim))
        elif kind == "linear":
            w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            w.add_rope_scaling_factor(scaling["factor"])
        elif kind == "yarn":
            w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            w.add_rope_scaling_factor(scaling["factor"])
            w.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
            if "mscale_all_dim" in scaling:
                self.key("rope.scaling.yarn_log_multiplier", 0.1 * scaling["mscale_all_dim"])
        elif kind == "longrope":
            original = c["original_max_position_embeddings"]
            w.add_rope_scaling_orig_ctx_len(original)
            factor = c["max_position_embeddings"] / original
            w.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(factor) / math.log(original)))
            for which in ("long", "short"):
                w.add_tensor(f"rope_factors_{which}.weight", np.array(scaling[f"{which}_factor"], dtype=np.float32))

    def add(self, name, tensor):
        """Vectors as float32, matrices in their own type; a matrix of one row becomes a vector."""
        tensor = tensor.squeeze() if tensor.ndim == 2 else tensor
        if tensor.dtype == np.uint16 and tensor.ndim > 1 and not name.endswith(".bias"):
            raw = np.ascontiguousarray(tensor).view(np.uint8)
            self.writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            self.writer.add_tensor(name, np.ascontiguousarray(widened(tensor)))

    def convert(self):
        self.metadata()
        experts = {}
        for name, tensor in sorted(self.tensors.items()):
            name = name.replace("e_score_correction_bias", "e_score_correction.bias")
            if name.endswith(("self_attn.sinks", "gate_up_proj_bias", "down_proj_bias", "experts.gate_up_proj", "experts.down_proj")):
                name += ".weight"
            module, kind = name.rsplit(".", 1)
            match = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", module)
            if module in TOP:
                self.add(f"{TOP[module]}.{kind}", self.adjusted(module, tensor))
                continue
            layer, rest = match[1], match[2]
            if part := re.fullmatch(r".*experts\.(\d+)\.(\w+)", rest):
                experts.setdefault(f"blk.{layer}.ffn_{EXPERT[part[2]]}_exps.{kind}", []).append((int(part[1]), tensor))
            elif part := re.fullmatch(r"mlp\.shared_experts?\.(\w+)", rest):
                self.add(f"blk.{layer}.ffn_{EXPERT[part[1]]}_shexp.{kind}", tensor)
            else:
                self.layer_tensor(f"blk.{layer}", rest, kind, tensor)
        for name, members in experts.items():
            self.add(name, np.stack([tensor for _, tensor in sorted(members, key=lambda m: m[0])]))
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()

    def adjusted(self, module, tensor):
        """A norm, query or key as the architecture stores it."""
        if self.arch in NORMS_PLUS_ONE and "norm" in module:
            return widened(tensor) + np.float32(1)
        if self.arch in PERMUTED and module.endswith(("q_proj", "k_proj")):
            return permute(tensor, self.heads if module.endswith("q_proj") else self.kv_heads)
        if self.arch == "gemma2" and module.endswith("q_proj"):
            return tensor * np.float32(math.sqrt(self.head_dim / self.config["query_pre_attn_scalar"]))
        return tensor

    def layer_tensor(self, block, rest, kind, tensor):
        if rest == "self_attn.kv_b_proj":
            return self.latent_expansion(block, tensor)
        if rest == "block_sparse_moe.input_linear":
            gate, up = np.split(tensor, 2, axis=1)
            self.add(f"{block}.ffn_gate_exps.weight", gate)
            return self.add(f"{block}.ffn_up_exps.weight", up)
        if rest == "block_sparse_moe.output_linear":
            return self.add(f"{block}.ffn_down_exps.weight", tensor)
        if rest.startswith("mlp.experts"):
            return self.gpt_oss_experts(block, f"{rest}.{kind}", tensor)
        name = LAYER[rest]
        if rest == "post_attention_layernorm" and self.arch in (*NORMS_PLUS_ONE, "gpt-oss"):
            name = "post_attention_norm"
        self.add(f"{block}.{name}.{kind}", self.adjusted(rest, tensor))

    def latent_expansion(self, block, tensor):
        key, value = self.config["qk_nope_head_dim"], self.config["v_head_dim"]
        heads = tensor.reshape(self.heads, key + value, tensor.shape[1])
        self.add(f"{block}.attn_k_b.weight", heads[:, :key].swapaxes(1, 2))
        self.add(f"{block}.attn_v_b.weight", heads[:, key:])

    def gpt_oss_experts(self, block, name, tensor):
        """Rows that alternate gate, up are taken apart; float experts are stored transposed."""
        _, _, stored = name.split(".", 2)
        if stored.endswith("_scales"):
            return None
        projection = "gate_up" if stored.startswith("gate_up") else "down"
        parts = {"gate": slice(0, None, 2), "up": slice(1, None, 2)} if projection == "gate_up" else {"down": slice(None)}
        for part, rows in parts.items():
            if "_bias" in stored:
                self.add(f"{block}.ffn_{part}_exps.bias", tensor[:, rows])
            elif stored.endswith("_blocks"):
                layer = block.removeprefix("blk.")
                scales = self.tensors[f"model.layers.{layer}.mlp.experts.{projection}_proj_scales"]
                raw = np.ascontiguousarray(mxfp4_blocks(tensor[:, rows], scales[:, rows]))
                self.writer.add_tensor(f"{block}.ffn_{part}_exps.weight", raw, raw_dtype=gguf.GGMLQuantizationType.MXFP4)
            else:
                self.add(f"{block}.ffn_{part}_exps.weight", tensor.swapaxes(1, 2)[:, rows])


if __name__ == "__main__":
    Converter(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])).convert()
