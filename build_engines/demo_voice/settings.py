"""The recipe: sizes and budgets, with what each one costs and why it is what it is.

Seconds a step are of one slow core (2.4 GHz, no matrix instructions), float32, one thread. Two parts run side by side.
"""

from dataclasses import dataclass, field

from build_engines.synthetic import Size


@dataclass(frozen=True)
class Budget:
    """How long one part is trained.

    Attributes:
        num_steps, batch_size: of `batch_size` clips each.
        num_frames: of a clip, 20 ms each; for the language model tokens of a row.
        learning_rate: the highest.
        save_every: steps between two saved states: what a kill can cost, a minute or two.
    """

    num_steps: int
    batch_size: int
    num_frames: int
    learning_rate: float
    save_every: int = 100


@dataclass(frozen=True)
class Settings:
    """Everything that the trained checkpoint depends on."""

    seed: int = 0
    size: Size = Size(
        lm_hidden_size=192,
        lm_feed_forward=576,
        lm_num_layers=5,
        lm_num_heads=3,
        lm_num_key_value_heads=1,
        lm_max_window_layers=5,
        vocab_size=13771,
        num_byte_pair_tokens=256,
        wav2vec2_hidden_size=128,
        wav2vec2_feed_forward=256,
        wav2vec2_num_heads=2,
        wav2vec2_conv_channels=96,
        codec_channels=128,
        backbone_dim=160,
        backbone_feed_forward=480,
        backbone_num_layers=6,
        postnet_num_layers=1,
        wave_channels=256,
    )
    num_trained_wav2vec2_layers: int = 2
    guided_lm_layers: tuple[int, ...] = (2, 3)
    num_utterances: int = 20_000
    max_duration_s: float = 9.0
    # Utterances that the trained encoders listen to, for the language model to hear references as it will in use.
    num_heard: int = 3_000
    wave: Budget = field(default_factory=lambda: Budget(4_500, 8, 32, 8e-4))
    prenet: Budget = field(default_factory=lambda: Budget(3_000, 16, 64, 2e-3))
    vocoder: Budget = field(default_factory=lambda: Budget(1_200, 8, 32, 2e-4))
    speaker: Budget = field(default_factory=lambda: Budget(1_200, 24, 60, 1e-3))
    semantic: Budget = field(default_factory=lambda: Budget(3_000, 8, 100, 1.5e-3))
    language_model: Budget = field(default_factory=lambda: Budget(7_000, 5, 640, 2e-2))
