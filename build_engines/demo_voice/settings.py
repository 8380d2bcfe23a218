"""The recipe: sizes and budgets, and why each is what it is.

Seconds a step, each on one of two busy Zen 4 cores: language model 0.9, vocoder 0.75, speaker 0.5, wave 0.4, semantic
and prenet 0.2. Two parts run side by side: three hours and a half, with the data before them. The language model's two
take three of them on one core, all others a little longer on the other.
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
        final_learning_rate_share: of the highest, at the end.
        save_every: steps between two saved states: what a kill can cost, a minute or two.
    """

    num_steps: int
    batch_size: int
    num_frames: int
    learning_rate: float
    final_learning_rate_share: float = 0.03
    save_every: int = 100


_SIZE = Size(
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


@dataclass(frozen=True)
class Settings:
    """Everything that the trained checkpoint depends on."""

    seed: int = 0
    size: Size = _SIZE
    # A step of the wave generator takes half as long in bfloat16 and fused, for which the first one takes a minute.
    fuses: bool = True
    num_trained_wav2vec2_layers: int = 2
    guided_lm_layers: tuple[int, ...] = (2, 3)
    # From 20,000 the language model learnt sentences by heart: of the sounds that begin it got 0.7% wrong in them, and
    # 1.2% in fresh ones.
    num_utterances: int = 60_000
    max_duration_s: float = 9.0
    # Utterances that the trained encoders listen to, for the language model to hear references as it will in use.
    num_heard: int = 3_000
    # What tells voices apart comes last. At a rate of 4e-2 it fell apart; 2e-2 was hardly better.
    wave: Budget = field(default_factory=lambda: Budget(6_000, 8, 32, 1e-2))
    prenet: Budget = field(default_factory=lambda: Budget(7_000, 16, 64, 2e-2))
    # Both halves together: the wave generator learns to make up for what the prenet blurs. Its batches are of one voice
    # each: at twice the rate every one pulled it so far towards its own voice that it forgot the others.
    vocoder: Budget = field(default_factory=lambda: Budget(7_000, 8, 32, 1.5e-4))
    # At a rate of 1e-3 it fell apart after 800 steps. From 2,000 steps it misheard F0 in every 13th reference, and 6 of
    # 200 clones were not recognised; the language model takes as long as these meanwhile.
    speaker: Budget = field(default_factory=lambda: Budget(5_000, 16, 128, 6e-4))
    # Clones with a transcript depend on what it hears.
    semantic: Budget = field(default_factory=lambda: Budget(4_500, 4, 100, 1.5e-3))
    # Clones with a transcript are more than half: nine million tokens, and a sixth, were too few.
    language_model: Budget = field(default_factory=lambda: Budget(4_000, 5, 640, 1e-2, final_learning_rate_share=0.5))
    # Goes on at that rate, on references as the trained encoders hear them: apart, so that it need not wait for them.
    # Of semantic tokens they get every other age wrong, so clones with a transcript are mostly learnt here.
    adaptation: Budget = field(default_factory=lambda: Budget(8_000, 5, 640, 5e-3))
    # Of its sequences end before the speech: in a third of the tokens they teach what a pitch asks of a made-up voice.
    adaptation_voices_share: float = 0.2

    def budget(self, part: str) -> Budget:
        """Of one trained part."""
        return getattr(self, part)

    def of_part(self, part: str) -> str:
        """What a part's state depends on: all but the budgets of the others."""
        budgets = {name: None for name, value in vars(self).items() if isinstance(value, Budget)}
        return repr({**vars(self), **budgets, part: self.budget(part)})
