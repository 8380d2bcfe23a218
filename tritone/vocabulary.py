"""The order of the built LM's vocabulary: the tokens that it can emit come first."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np


class Vocabulary:
    """Maps the checkpoint's token ids to the engine's rows and back.

    The engine's head has a row for each token that can be emitted and none for the others, which is most of
    its speed. A sampled row is fed back as an input row, so the embedding must be in the same order:
    emittable tokens first, in the order of their ids, then all others.

    Args:
        size: number of token ids.
        emittable: ranges of ids that the engine can emit, ascending and without overlap.
    """

    def __init__(self, size: int, emittable: Iterable[range]):
        self.size = size
        self.emittable = sorted(emittable, key=lambda ids: ids.start)
        is_emittable = np.zeros(size, bool)
        for ids in self.emittable:
            is_emittable[ids.start : ids.stop] = True
        self.num_emittable = int(is_emittable.sum())
        self.id_of_row = np.argsort(~is_emittable, kind="stable")  # [size]
        self.row_of_id = np.argsort(self.id_of_row)  # [size]

    def save(self, path: Path) -> None:
        """Write what `load` reads."""
        ranges = [[ids.start, ids.stop] for ids in self.emittable]
        path.write_text(json.dumps({"size": self.size, "emittable_id_ranges": ranges}, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what `save` wrote."""
        stored = json.loads(path.read_text())
        return cls(stored["size"], [range(start, stop) for start, stop in stored["emittable_id_ranges"]])
