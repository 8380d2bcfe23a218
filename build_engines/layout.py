"""Every tensor of a Spark-TTS checkpoint: its name and shape as functions of the configs.

Each weights file has two groups: the tensors that speech is made with, which every checkpoint must hold, and
those that only training used. Together they are the published file, tensor for tensor.
"""

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]

# Semantic tokens are made from the mean of these hidden states of wav2vec2 (0 is the input of the first layer).
WAV2VEC2_HIDDEN_STATES = (11, 14, 16)
NUM_WAV2VEC2_LAYERS = max(WAV2VEC2_HIDDEN_STATES)

# What the published code fixes in the classes themselves; no config says it.
CONVNEXT_KERNEL_SIZE = 7
NUM_SAMPLING_LAYERS = 2  # ConvNeXt blocks behind each (un)changed sampling rate
ECAPA_CHANNELS = 512
ECAPA_KERNEL_SIZES = (5, 3)
ECAPA_RES2_SCALE = 8
ECAPA_BOTTLENECK_CHANNELS = 128
ECAPA_FEATURE_CHANNELS = 3 * ECAPA_CHANNELS
PERCEIVER_NUM_LAYERS = 2
PERCEIVER_NUM_HEADS = 8
PERCEIVER_HEAD_DIM = 64
PERCEIVER_FEED_FORWARD_RATIO = 4 * 2 / 3  # the usual factor of 4, less what the gate costs
WAVE_KERNEL_SIZE = 7
WAVE_DILATIONS = (1, 3, 9)


def lm_tensors(config: Config) -> Shapes:
    """The language model's tensors (`LLM/model.safetensors`, Qwen2)."""
    hidden, feed_forward = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    query, key_value = head_dim * config["num_attention_heads"], head_dim * config["num_key_value_heads"]
    shapes: Shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        shapes |= _linear(f"{layer}.self_attn.q_proj", query, hidden)
        shapes |= _linear(f"{layer}.self_attn.k_proj", key_value, hidden)
        shapes |= _linear(f"{layer}.self_attn.v_proj", key_value, hidden)
        shapes |= _linear(f"{layer}.self_attn.o_proj", hidden, query, bias=False)
        shapes |= _linear(f"{layer}.mlp.gate_proj", feed_forward, hidden, bias=False)
        shapes |= _linear(f"{layer}.mlp.up_proj", feed_forward, hidden, bias=False)
        shapes |= _linear(f"{layer}.mlp.down_proj", hidden, feed_forward, bias=False)
        shapes |= {f"{layer}.{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def wav2vec2_tensors(config: Config) -> Shapes:
    """The part of wav2vec2 that semantic tokens need: everything up to the last hidden state used."""
    hidden = config["hidden_size"]
    features, projection = "wav2vec2.feature_extractor.conv_layers", "wav2vec2.feature_projection"
    shapes: Shapes = {}
    in_channels = 1
    for index, (channels, kernel_size) in enumerate(zip(config["conv_dim"], config["conv_kernel"], strict=True)):
        shapes |= _conv(f"{features}.{index}.conv", channels, in_channels, kernel_size)
        shapes |= _norm(f"{features}.{index}.layer_norm", channels)
        in_channels = channels
    shapes |= _norm(f"{projection}.layer_norm", in_channels)
    shapes |= _linear(f"{projection}.projection", hidden, in_channels)

    positions, kernel_size = "wav2vec2.encoder.pos_conv_embed.conv", config["num_conv_pos_embeddings"]
    shapes[f"{positions}.bias"] = (hidden,)
    shapes[f"{positions}.weight_g"] = (1, 1, kernel_size)  # normalised per tap, not per filter
    shapes[f"{positions}.weight_v"] = (hidden, hidden // config["num_conv_pos_embedding_groups"], kernel_size)
    for index in range(NUM_WAV2VEC2_LAYERS):
        shapes |= _wav2vec2_layer(index, config)
    return shapes


def wav2vec2_training_tensors(config: Config) -> Shapes:
    """The rest of `pytorch_model.bin`: the mask, the final norm and the layers above the last one used."""
    shapes: Shapes = {"wav2vec2.masked_spec_embed": (config["hidden_size"],)}
    shapes |= _norm("wav2vec2.encoder.layer_norm", config["hidden_size"])
    for index in range(NUM_WAV2VEC2_LAYERS, config["num_hidden_layers"]):
        shapes |= _wav2vec2_layer(index, config)
    return shapes


def bicodec_tensors(config: Config) -> Shapes:
    """What BiCodec's encoders and vocoder need of `BiCodec/model.safetensors`."""
    encoder, prenet, quantizer = config["encoder"], config["prenet"], config["quantizer"]
    dim, feed_forward = encoder["vocos_dim"], encoder["vocos_intermediate_dim"]
    shapes = _backbone(
        "encoder.encoder", encoder["input_channels"], dim, feed_forward, num_layers=encoder["vocos_num_layers"]
    )
    shapes |= _sampling_stages("encoder.downsample", encoder)
    shapes |= _linear("encoder.project", encoder["out_channels"], dim)

    shapes |= _wave_generator("decoder.model", config["decoder"])

    shapes |= _weight_norm_conv("quantizer.in_project", quantizer["codebook_dim"], quantizer["input_dim"], 1)
    shapes |= _weight_norm_conv("quantizer.out_project", quantizer["input_dim"], quantizer["codebook_dim"], 1)
    shapes["quantizer.codebook.weight"] = (quantizer["codebook_size"], quantizer["codebook_dim"])

    shapes |= _speaker_encoder("speaker_encoder", config["speaker_encoder"])
    shapes |= _feature_decoder("prenet", prenet, condition_dim=prenet["condition_dim"])
    return shapes


def bicodec_training_tensors(config: Config) -> Shapes:
    """The rest of `BiCodec/model.safetensors`: the postnet, the x-vector head and training's counters."""
    ecapa = "speaker_encoder.speaker_encoder"
    shapes = _feature_decoder("postnet", config["postnet"], condition_dim=None)
    shapes["quantizer.cluster_size"] = (config["quantizer"]["codebook_size"],)
    # Attentive statistics pooling sees each frame beside the clip's mean and deviation, and gives both again.
    shapes |= _conv(f"{ecapa}.pool.linear1", ECAPA_BOTTLENECK_CHANNELS, 3 * ECAPA_FEATURE_CHANNELS, 1)
    shapes |= _conv(f"{ecapa}.pool.linear2", ECAPA_FEATURE_CHANNELS, ECAPA_BOTTLENECK_CHANNELS, 1)
    shapes |= _batch_norm(f"{ecapa}.bn", 2 * ECAPA_FEATURE_CHANNELS)
    shapes |= _linear(f"{ecapa}.linear", config["speaker_encoder"]["out_dim"], 2 * ECAPA_FEATURE_CHANNELS)
    batch_norms = [name.removesuffix(".running_mean") for name in _ecapa(ecapa, 1) if name.endswith(".running_mean")]
    shapes |= {f"{norm}.num_batches_tracked": () for norm in [*batch_norms, f"{ecapa}.bn"]}
    return shapes


def _speaker_encoder(prefix: str, config: Config) -> Shapes:
    latent_dim, num_tokens = config["latent_dim"], config["token_num"]
    num_levels = len(config["fsq_levels"])
    shapes = _ecapa(f"{prefix}.speaker_encoder", config["input_dim"])
    shapes |= _perceiver(f"{prefix}.perceiver_sampler", latent_dim, num_tokens)
    shapes |= _linear(f"{prefix}.quantizer.project_in", num_levels, latent_dim)
    shapes |= _linear(f"{prefix}.quantizer.project_out", latent_dim, num_levels)
    shapes |= _linear(f"{prefix}.project", config["out_dim"], latent_dim * num_tokens)
    return shapes


def _ecapa(prefix: str, num_mels: int) -> Shapes:
    first_kernel_size, kernel_size = ECAPA_KERNEL_SIZES
    group_channels = ECAPA_CHANNELS // ECAPA_RES2_SCALE
    shapes = _conv(f"{prefix}.layer1.conv", ECAPA_CHANNELS, num_mels, first_kernel_size)
    shapes |= _batch_norm(f"{prefix}.layer1.bn", ECAPA_CHANNELS)
    for block in (f"{prefix}.layer{index}.se_res2block" for index in (2, 3, 4)):
        for pointwise in (f"{block}.0", f"{block}.2"):
            shapes |= _conv(f"{pointwise}.conv", ECAPA_CHANNELS, ECAPA_CHANNELS, 1)
            shapes |= _batch_norm(f"{pointwise}.bn", ECAPA_CHANNELS)
        for index in range(ECAPA_RES2_SCALE - 1):
            shapes |= _conv(f"{block}.1.convs.{index}", group_channels, group_channels, kernel_size)
            shapes |= _batch_norm(f"{block}.1.bns.{index}", group_channels)
        shapes |= _linear(f"{block}.3.linear1", ECAPA_BOTTLENECK_CHANNELS, ECAPA_CHANNELS)
        shapes |= _linear(f"{block}.3.linear2", ECAPA_CHANNELS, ECAPA_BOTTLENECK_CHANNELS)
    return shapes | _conv(f"{prefix}.conv", ECAPA_FEATURE_CHANNELS, 3 * ECAPA_CHANNELS, 1)


def _perceiver(prefix: str, dim: int, num_latents: int) -> Shapes:
    attention_dim = PERCEIVER_NUM_HEADS * PERCEIVER_HEAD_DIM
    feed_forward = int(dim * PERCEIVER_FEED_FORWARD_RATIO)
    shapes: Shapes = {f"{prefix}.latents": (num_latents, dim), f"{prefix}.norm.gamma": (dim,)}
    shapes |= _linear(f"{prefix}.proj_context", dim, ECAPA_FEATURE_CHANNELS)
    for layer in (f"{prefix}.layers.{index}" for index in range(PERCEIVER_NUM_LAYERS)):
        shapes |= _linear(f"{layer}.0.to_q", attention_dim, dim, bias=False)
        shapes |= _linear(f"{layer}.0.to_kv", 2 * attention_dim, dim, bias=False)
        shapes |= _linear(f"{layer}.0.to_out", dim, attention_dim, bias=False)
        shapes |= _linear(f"{layer}.1.0", 2 * feed_forward, dim)
        shapes |= _linear(f"{layer}.1.2", dim, feed_forward)
    return shapes


def _wave_generator(prefix: str, config: Config) -> Shapes:
    channels = config["channels"]
    shapes = _weight_norm_conv(f"{prefix}.0", channels, config["input_channel"], WAVE_KERNEL_SIZE)
    stages = list(zip(config["rates"], config["kernel_sizes"], strict=True))
    for index, (_rate, kernel_size) in enumerate(stages, start=1):
        block, in_channels, channels = f"{prefix}.{index}.block", channels, channels // 2
        shapes[f"{block}.0.alpha"] = (1, in_channels, 1)
        shapes[f"{block}.1.bias"] = (channels,)
        shapes[f"{block}.1.weight_g"] = (in_channels, 1, 1)  # a transposed convolution is normalised per input
        shapes[f"{block}.1.weight_v"] = (in_channels, channels, kernel_size)
        for unit in (f"{block}.{index}.block" for index in range(2, 2 + len(WAVE_DILATIONS))):
            shapes |= {f"{unit}.0.alpha": (1, channels, 1), f"{unit}.2.alpha": (1, channels, 1)}
            shapes |= _weight_norm_conv(f"{unit}.1", channels, channels, WAVE_KERNEL_SIZE)
            shapes |= _weight_norm_conv(f"{unit}.3", channels, channels, 1)
    shapes[f"{prefix}.{len(stages) + 1}.alpha"] = (1, channels, 1)
    return shapes | _weight_norm_conv(f"{prefix}.{len(stages) + 2}", 1, channels, WAVE_KERNEL_SIZE)


def _feature_decoder(prefix: str, config: Config, condition_dim: int | None) -> Shapes:
    dim, feed_forward = config["vocos_dim"], config["vocos_intermediate_dim"]
    shapes = _linear(f"{prefix}.linear_pre", dim, config["input_channels"])
    shapes |= _sampling_stages(f"{prefix}.downsample", config)
    shapes |= _backbone(
        f"{prefix}.vocos_backbone", dim, dim, feed_forward, config["vocos_num_layers"], condition_dim=condition_dim
    )
    return shapes | _linear(f"{prefix}.linear", config["out_channels"], dim)


def _sampling_stages(prefix: str, config: Config) -> Shapes:
    dim, feed_forward = config["vocos_dim"], config["vocos_intermediate_dim"]
    shapes: Shapes = {}
    for index in range(len(config.get("sample_ratios", (1, 1)))):
        shapes |= _backbone(f"{prefix}.{index}.1", dim, dim, feed_forward, NUM_SAMPLING_LAYERS)
    return shapes


def _backbone(
    prefix: str, in_channels: int, dim: int, feed_forward: int, num_layers: int, condition_dim: int | None = None
) -> Shapes:
    def norm(name: str) -> Shapes:
        if condition_dim is None:
            return _norm(name, dim)
        return _linear(f"{name}.scale", dim, condition_dim) | _linear(f"{name}.shift", dim, condition_dim)

    shapes = _conv(f"{prefix}.embed", dim, in_channels, CONVNEXT_KERNEL_SIZE) | norm(f"{prefix}.norm")
    for block in (f"{prefix}.convnext.{index}" for index in range(num_layers)):
        shapes |= _conv(f"{block}.dwconv", dim, 1, CONVNEXT_KERNEL_SIZE) | norm(f"{block}.norm")
        shapes |= _linear(f"{block}.pwconv1", feed_forward, dim) | _linear(f"{block}.pwconv2", dim, feed_forward)
        shapes[f"{block}.gamma"] = (dim,)
    return shapes | _norm(f"{prefix}.final_layer_norm", dim)


def _wav2vec2_layer(index: int, config: Config) -> Shapes:
    layer, hidden, feed_forward = f"wav2vec2.encoder.layers.{index}", config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {}
    for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
        shapes |= _linear(f"{layer}.attention.{projection}", hidden, hidden)
    shapes |= _norm(f"{layer}.layer_norm", hidden) | _norm(f"{layer}.final_layer_norm", hidden)
    shapes |= _linear(f"{layer}.feed_forward.intermediate_dense", feed_forward, hidden)
    return shapes | _linear(f"{layer}.feed_forward.output_dense", hidden, feed_forward)


def _linear(name: str, out_features: int, in_features: int, *, bias: bool = True) -> Shapes:
    weight: Shapes = {f"{name}.weight": (out_features, in_features)}
    return weight | {f"{name}.bias": (out_features,)} if bias else weight


def _conv(name: str, out_channels: int, in_channels: int, kernel_size: int) -> Shapes:
    return {f"{name}.weight": (out_channels, in_channels, kernel_size), f"{name}.bias": (out_channels,)}


def _weight_norm_conv(name: str, out_channels: int, in_channels: int, kernel_size: int) -> Shapes:
    return {
        f"{name}.bias": (out_channels,),
        f"{name}.weight_g": (out_channels, 1, 1),
        f"{name}.weight_v": (out_channels, in_channels, kernel_size),
    }


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _batch_norm(name: str, channels: int) -> Shapes:
    return {f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}
