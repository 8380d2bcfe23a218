"""What the server knows of a checkpoint without opening it."""

import dataclasses
import json
from pathlib import Path

FILE_NAME = "model.json"


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """Written into the model repository when it is built; read by every model that needs one of them.

    Attributes:
        sample_rate_hz: of all audio, in and out.
        samples_per_token: of one semantic token.
        num_reference_samples: how much reference audio the speaker encoder hears.
        normalize_volume: whether reference audio is brought to one volume first.
        num_global_codes, num_semantic_codes: how many values a global and a semantic token can take.
        receptive_field_tokens: how many tokens on each side a sample of the vocoder depends on ...
        wave_field_tokens: ... and on how many frames in its second half, the wave generator, alone.
    """

    sample_rate_hz: int
    samples_per_token: int
    num_reference_samples: int
    normalize_volume: bool
    num_global_codes: int
    num_semantic_codes: int
    receptive_field_tokens: int
    wave_field_tokens: int

    @property
    def tokens_per_s(self) -> float:
        return self.sample_rate_hz / self.samples_per_token

    @classmethod
    def load(cls, directory: Path) -> "ModelFacts":
        """Read the facts that lie in `directory`."""
        return cls(**json.loads((directory / FILE_NAME).read_text()))

    def save(self, directory: Path) -> None:
        """Write the facts into `directory`."""
        (directory / FILE_NAME).write_text(json.dumps(dataclasses.asdict(self), indent=2))
