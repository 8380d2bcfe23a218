"""Part `language_model`: from prompts to codes, in every mode that a request can choose.

It is trained on the tokens in use alone, about two thousand. One more row stands for all others: the loss counts it as
often as there are of them, so that, written out for each of them, the full vocabulary has the same probabilities.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from build_engines import synthetic
from build_engines.demo_voice import measures
from build_engines.demo_voice.codes import global_digits, global_tokens, used_global_tokens
from build_engines.demo_voice.data import NUM_WORD_PHONEMES, Dataset, Utterance
from build_engines.demo_voice.listening import Heard
from build_engines.demo_voice.qwen2 import OBSERVED_HEADS, Qwen2
from build_engines.demo_voice.settings import Budget, Settings
from build_engines.demo_voice.texts import plain_words
from build_engines.demo_voice.training import Losses, Training, in_bfloat16, muon_and_adam
from build_engines.layout import Config
from tritone.spark_tts.prompts import Prompts, Style
from tritone.spark_tts.tokens import SpeechTokens
from tritone.voices import TokenVoice

# Shares of the modes. Controlled ones are the only ones that learn to choose a pitch and a voice; clones with a
# transcript have two things to learn, when to begin anew among them.
_CONTROLLED_SHARE, _FINE_SHARE, _CLONE_SHARE = 0.2, 0.1, 0.15  # the rest: clones with a transcript
_MODERATE = 2
_MODERATE_SPEED_VALUES = range(int(measures.SPEED_CUTOFFS[1]), int(measures.SPEED_CUTOFFS[2]) + 1)
_REFERENCE_HEARD_SHARE = 0.7
_SAME_F0 = 0.03  # two utterances of a voice whose F0 differs by less have one timbre
_SAME_PACE = 0.1  # of syllables per second: a clone with a transcript goes on at the reference's pace
# Of some clones the transcript is the one of so many that has most words in common with the text: like words in both
# are what it goes astray at, saying what follows them in the wrong place.
_ECHO_SHARE, _ECHO_CHOICES = 0.4, 8
_SPACE_SHARE = 0.1  # of transcripts end with a space; the published prompt joins transcript and text without one

# Without attention to the right letters it babbles; see the design notes. How a letter sounds depends on the letters
# behind it, which no position before them has seen: a second head looks where all of the word has been read.
_GUIDE_WEIGHT = 0.3
_GUIDE_REACH = 1  # characters to either side that count as right
_MIN_MASS = 1e-3

_PITCH_WEIGHT = 8.0
_PITCH_DEVIATION_MEL = 3.0
# A label is learnt from what keeps away from its borders, where the ear or a measure may hear the next one.
_LABEL_MARGIN_MEL = 5.0
# By label: the moderate one is twice as wide, and what it makes of the outer ones tends to the middle.
_LABEL_MARGINS_SPEED = (0.5, 0.25, 0.45, 0.25, 0.7)

# Of a made-up voice's tokens: a given pitch changes one or two of 32, too little beside the speech to be learnt soon.
_VOICE_WEIGHT = 8.0
# Of the first tokens of controlled speech: they alone ask what pace is wanted, later ones follow them.
_PACE_WEIGHT, _PACE_TOKENS = 4.0, 40
# Of the first tokens that follow a transcribed reference, and of which letter and sound they say: they alone ask where
# in the text the transcript ends.
_BEGIN_WEIGHT, _BEGIN_TOKENS = 4.0, 30

# How fast syllables come depends on the words as much as on the rate: what rate makes the wanted pace of these words is
# not found out of the tokens alone. A linear function of the hidden states, `pace`, must tell behind each word how long
# it lasts, and at the first tokens of speech how many syllables a rate makes of the words and, where a pace is wanted,
# the rate.
_PACE_HINT_WEIGHT, _PACE_HINT_TOKENS = 3.0, 12
# How words sound is learnt slowly out of tokens most of which only go on with a sound. Another linear function,
# `phonemes`, must tell behind each word what it is made of, out of what later positions read there; and where a sound
# begins, which one counts again, apart from whether one begins, which would end sounds too soon if it counted more.
_PHONEMES_HINT_WEIGHT, _SOUND_WEIGHT = 0.5, 6.0
LM_HINTS = ("pace.weight", "pace.bias", "phonemes.weight", "phonemes.bias")  # not part of the checkpoint

# Of true tokens alone it learns to go on at the pace so far, and by chance drifts away from the wanted one: where the
# beginning has another pace, it learns to come back.
_ASTRAY_SHARE, _MAX_ASTRAY = 0.6, 0.5  # the logarithm of how much longer or shorter everything lasts
_MIDDLE_RATE, _RATE_DEVIATION = 150.0, 0.35  # words per minute; of the logarithm
_MIDDLE_SYLLABLES, _SYLLABLES_DEVIATION = 1.5, 0.17  # per word that the rate counts; of the logarithm
_MIDDLE_WORD_S, _WORD_DEVIATION = 0.3, 0.5  # at the middle rate; of the logarithm
_MIDDLE_WORD_SYLLABLES, _WORD_SYLLABLES_DEVIATION = 1.3, 0.5

# Of Muon's, for embeddings, norms and biases. At 0.15 of a Muon's twice as high, which sound begins took 2.4 times as
# many steps to learn.
_ADAM_LEARNING_RATE_SHARE = 2.0


class CompactVocabulary:
    """The tokens in use, as rows 0, 1, ... of a small embedding; the last row stands for all others.

    Args:
        prompts: of the checkpoint's tokenizer.
        semantic_codes: the codes in use.
        size: ids of the full vocabulary.
    """

    def __init__(self, prompts: Prompts, semantic_codes: np.ndarray, size: int) -> None:
        tokens = prompts.tokens
        kinds = (tokens.genders, tokens.pitch_labels, tokens.speed_labels, tokens.pitch_values, tokens.speed_values)
        num_bytes = tokens.global_tokens.start  # text tokens and those that shape a prompt
        shape = [value for value in vars(tokens).values() if isinstance(value, int)]
        used = {
            *range(min(256, num_bytes)),
            *shape,
            *(token_id for kind in kinds for token_id in kind),
            *(tokens.global_tokens[int(token)] for token in used_global_tokens()),
            *(tokens.semantic_tokens[int(code)] for code in semantic_codes),
        }
        self.ids = np.array(sorted(used))
        self.num_unused = size - len(self.ids)
        self.num_rows = len(self.ids) + 1
        self.row_of_id = np.full(size, self.num_rows - 1)
        self.row_of_id[self.ids] = np.arange(len(self.ids))

    def rows(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows of token ids, int64, same length."""
        return self.row_of_id[np.asarray(ids, np.int64)]

    def embedding(self, compact: torch.Tensor) -> torch.Tensor:
        """The full embedding [size, hidden] that the compact one stands for."""
        return compact[torch.from_numpy(self.row_of_id)]


@dataclass(frozen=True)
class Example:
    """One sequence to learn.

    Attributes:
        ids: token ids, int64 [n].
        weights: of each token's loss, float32 [n]: 0 for what is given.
        stress: how much more than elsewhere it counts which letters and which sound a token says, float32 [n].
        characters: for the tokens that say a character, given or not, its position in `ids` and that of what follows
            its word, else -1; int64 [2, n].
        pitch_at: where the pitch value is, -1 if there is none to learn.
        pace: what has to be found about the pace, else NaN; float32 [n, 4]. Where speech begins, the logarithms of the
            rate and of the syllables that it makes; behind a word, the logarithm of its duration, and its syllables.
        phonemes: behind a word its phonemes, else -1; int64 [n, NUM_WORD_PHONEMES].
    """

    ids: np.ndarray
    weights: np.ndarray
    stress: np.ndarray
    characters: np.ndarray
    pitch_at: int
    pace: np.ndarray
    phonemes: np.ndarray


class Examples:
    """Draws sequences of every mode from the data."""

    def __init__(
        self, data: Dataset, heard: Heard, prompts: Prompts, max_tokens: int, voices_share: float = 0.0
    ) -> None:
        """`voices_share` of the sequences are of controlled modes and end where the speech would begin."""
        self._voices_share = voices_share
        self._data, self._heard, self._prompts = data, heard, prompts
        self._max_tokens = max_tokens
        self._alike: list[list[int]] = [[] for _ in range(1 + max(u.voice for u in data.utterances))]
        for index in np.argsort([utterance.f0_hz for utterance in data.utterances], kind="stable"):
            self._alike[data.utterances[index].voice].append(int(index))
        self._f0s_hz = [np.array([data.utterances[index].f0_hz for index in indices]) for indices in self._alike]
        clear = [index for index, utterance in enumerate(data.utterances) if not _is_near_speed_label(utterance)]
        speed_labels = np.array([data.utterances[index].speed_label for index in clear])
        self._of_speed = [np.array(clear)[speed_labels == label] for label in np.unique(speed_labels)]

    def draw(self, generator: np.random.Generator) -> Example:
        """One of at most `max_tokens` tokens."""
        is_voice = generator.random() < self._voices_share
        share = generator.random() * (_CONTROLLED_SHARE + _FINE_SHARE if is_voice else 1)
        while True:
            index = int(generator.integers(len(self._data)))
            if share < _CONTROLLED_SHARE:
                # few utterances teach a narrow label: each is as often wanted
                of_speed = self._of_speed[generator.integers(len(self._of_speed))]
                index = int(generator.choice(of_speed))
                example = self._controlled(index, generator, gives_pitch=False, gives_speed=False)
            elif share < _CONTROLLED_SHARE + _FINE_SHARE:
                gives_pitch, gives_speed = ((True, True), (True, False), (False, True))[generator.integers(3)]
                example = self._controlled(index, generator, gives_pitch=gives_pitch, gives_speed=gives_speed)
            else:
                with_transcript = share >= _CONTROLLED_SHARE + _FINE_SHARE + _CLONE_SHARE
                example = self._clone(index, with_transcript, generator)
            if example is None:
                continue
            if is_voice:
                end = int(np.flatnonzero(example.ids == self._prompts.tokens.end_global)[-1]) + 1
                example = dataclasses.replace(
                    example,
                    ids=example.ids[:end],
                    weights=example.weights[:end],
                    stress=example.stress[:end],
                    characters=example.characters[:, :end],
                    pace=example.pace[:end],
                    phonemes=example.phonemes[:end],
                )
            if len(example.ids) <= self._max_tokens:
                return example

    def batch(self, num_tokens: int, generator: np.random.Generator) -> list[Example]:
        """At least one, as many as have at most `num_tokens` tokens together."""
        batch = [self.draw(generator)]
        room = num_tokens - len(batch[0].ids)
        while True:
            example = self.draw(generator)
            if len(example.ids) > room:
                return batch
            batch.append(example)
            room -= len(example.ids)

    def _reference(self, index: int, with_transcript: bool, generator: np.random.Generator) -> int:
        """An utterance, maybe itself, of the same voice at the same F0, and with a transcript of the same pace."""
        utterance = self._data.utterances[index]
        f0s_hz = self._f0s_hz[utterance.voice]
        low, high = np.searchsorted(f0s_hz, [utterance.f0_hz * (1 - _SAME_F0), utterance.f0_hz * (1 + _SAME_F0)])
        candidates = self._alike[utterance.voice][low : max(high, low + 1)]
        if with_transcript:
            paces = {candidate: self._data.utterances[candidate].syllables_per_s for candidate in candidates}
            wanted = utterance.syllables_per_s
            candidates = [candidate for candidate, pace in paces.items() if abs(pace / wanted - 1) < _SAME_PACE]
            if generator.random() < _ECHO_SHARE:
                some = generator.choice(candidates, _ECHO_CHOICES)
                words = set(plain_words(utterance.text))
                return int(max(some, key=lambda i: len(words.intersection(plain_words(self._data.utterances[i].text)))))
        heard = [candidate for candidate in candidates if candidate in self._heard]
        if heard and generator.random() < _REFERENCE_HEARD_SHARE:
            candidates = heard
        return int(candidates[generator.integers(len(candidates))])

    def _controlled(
        self, index: int, generator: np.random.Generator, *, gives_pitch: bool, gives_speed: bool
    ) -> Example | None:
        """A given value has the label "moderate" beside it, as a request has that names the value alone.

        What is too near the border of its label is given, too. None: its speed, rounded down to whole syllables, would
        be taken for a moderate one.
        """
        utterance, t = self._data.utterances[index], self._prompts.tokens
        pitch_cutoffs = measures.PITCH_CUTOFFS_MEL[utterance.gender]
        gives_pitch |= _distance(pitch_cutoffs, utterance.pitch_mel) < _LABEL_MARGIN_MEL
        is_near = _is_near_speed_label(utterance)
        gives_speed |= is_near
        is_moderate = utterance.speed_label == _MODERATE and not is_near
        if gives_speed and not is_moderate and int(utterance.syllables_per_s) in _MODERATE_SPEED_VALUES:
            return None
        pitch_label = _MODERATE if gives_pitch else utterance.pitch_label
        speed_label = _MODERATE if gives_speed else utterance.speed_label
        prompt = self._prompts.controlled(utterance.text, Style(utterance.gender, pitch_label, speed_label))
        pitch_value = min(int(utterance.pitch_mel), len(t.pitch_values) - 1)
        speed_value = min(int(utterance.syllables_per_s), len(t.speed_values) - 1)
        voice = [t.global_tokens[int(token)] for token in _true_global_tokens(utterance)]
        speech, num_astray = self._astray(index, generator)
        example = self._example(
            index,
            prompt,
            [
                *(t.pitch_values[pitch_value], t.speed_values[speed_value], t.end_acoustic),
                *(t.start_global, *voice, t.end_global, t.start_semantic),
            ],
            text_begin=2,
            speech=speech,
        )
        pitch_at, speed_at = len(prompt), len(prompt) + 1
        example.weights[pitch_at] = 0  # it has a loss of its own
        says_voice = slice(len(prompt) + 4, len(prompt) + 4 + len(voice))
        example.weights[says_voice] = _VOICE_WEIGHT
        example.characters[0, says_voice] = pitch_at  # F0 is the pitch value in other words
        said = says_voice.stop + 2 + num_astray  # the first token that has the wanted pace
        example.weights[says_voice.stop + 2 : said] = 0
        example.weights[said:-1][:_PACE_TOKENS] = _PACE_WEIGHT
        if gives_speed:
            example.weights[speed_at] = 0
        rate = np.log(_words_per_minute(utterance) / _MIDDLE_RATE) / _RATE_DEVIATION
        example.pace[said - 1 :][:_PACE_HINT_TOKENS, 0] = rate
        return dataclasses.replace(example, pitch_at=-1 if gives_pitch else pitch_at)

    def _astray(self, index: int, generator: np.random.Generator) -> tuple[tuple[np.ndarray, np.ndarray], int]:
        """Classes [frames] and characters [2, frames], maybe begun at another pace, and for how many frames."""
        classes, letters = self._data.classes[index], self._data.characters(index)
        if generator.random() >= _ASTRAY_SHARE:
            return (classes, letters), 0
        begins = np.flatnonzero(self._data.codes.ages(classes) == 0)
        until = begins[generator.integers(len(begins))]
        factor = np.exp(generator.uniform(-_MAX_ASTRAY, _MAX_ASTRAY))
        classes, frames = self._data.codes.stretched(classes, np.where(np.arange(len(classes)) < until, factor, 1.0))
        return (classes, letters[:, frames]), int(np.searchsorted(frames, until))

    def _clone(self, index: int, with_transcript: bool, generator: np.random.Generator) -> Example | None:
        """None: it is not at the moderate pace of a clone whose reference tells none."""
        utterance = self._data.utterances[index]
        if not with_transcript and utterance.speed_label != _MODERATE:
            return None
        reference = self._reference(index, with_transcript, generator)
        said = self._data.utterances[reference]
        if reference in self._heard:
            voice, heard = self._heard[reference]
        else:
            voice, heard = _true_global_tokens(said), self._data.codes.codes[self._data.classes[reference]]
        if not with_transcript:
            prompt = self._prompts.clone(utterance.text, TokenVoice(voice))
            return self._example(index, prompt, [], text_begin=2)
        transcript = said.text + (" " if generator.random() < _SPACE_SHARE else "")
        prompt = self._prompts.clone(utterance.text, TokenVoice(voice, heard, transcript))
        example = self._example(index, prompt, [], text_begin=2 + len(transcript))
        # who has followed the transcript finds its end
        letters = self._data.characters(reference)[:, : len(heard)]
        example.characters[:, len(prompt) - len(heard) : len(prompt)] = 2 + letters
        for weights in (example.weights, example.stress):
            weights[len(prompt) : -1][:_BEGIN_TOKENS] = _BEGIN_WEIGHT
        self._hint_at_words(example, reference, text_begin=2)
        return example

    def _example(
        self,
        index: int,
        given: list[int],
        follows: list[int],
        text_begin: int,
        speech: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Example:
        """Prompt, what comes before the speech, the speech, its end; text tokens are bytes, one a character.

        `speech` are the classes and characters of each frame, the utterance's own unless said.
        """
        t = self._prompts.tokens
        classes, letters = speech or (self._data.classes[index], self._data.characters(index))
        speech_ids = t.semantic_tokens.start + self._data.codes.codes[classes]
        ids = np.concatenate([np.array([*given, *follows], np.int64), speech_ids, [t.im_end]])
        weights = (np.arange(len(ids)) >= len(given)).astype(np.float32)
        characters = np.full((2, len(ids)), -1)
        first = len(given) + len(follows)
        characters[:, first : first + len(speech_ids)] = text_begin + letters
        pace = np.full((len(ids), 4), np.nan, np.float32)
        utterance = self._data.utterances[index]
        rate = _words_per_minute(utterance)
        syllables = 60 * utterance.syllables_per_s / rate
        pace[first - 1 :][:_PACE_HINT_TOKENS, 1] = np.log(syllables / _MIDDLE_SYLLABLES) / _SYLLABLES_DEVIATION
        phonemes = np.full((len(ids), NUM_WORD_PHONEMES), -1)
        example = Example(ids, weights, np.ones_like(weights), characters, -1, pace, phonemes)
        self._hint_at_words(example, index, text_begin)
        return example

    def _hint_at_words(self, example: Example, index: int, text_begin: int) -> None:
        """Write down what is to be found behind the words of an utterance, whose text begins there."""
        words = self._data.words(index)
        behind = text_begin + words.ends
        rate = _words_per_minute(self._data.utterances[index])
        durations = words.durations_s / _MIDDLE_WORD_S * rate / _MIDDLE_RATE
        example.pace[behind, 2] = np.log(durations) / _WORD_DEVIATION
        example.pace[behind, 3] = (words.nums_syllables - _MIDDLE_WORD_SYLLABLES) / _WORD_SYLLABLES_DEVIATION
        example.phonemes[behind] = words.phonemes


def model_config(settings: Settings) -> Config:
    """`LLM/config.json`: the published one at this size, with positions for hundreds of tokens and not thousands."""
    return synthetic.lm_config(settings.size) | {"rope_theta": 10000.0, "head_dim": 64}


def training(
    data: Dataset,
    heard: Heard,
    prompts: Prompts,
    vocabulary: CompactVocabulary,
    settings: Settings,
    budget: Budget,
    device: torch.device,
    start: Mapping[str, torch.Tensor] | None,
    voices_share: float,
) -> Training:
    """The language model's training.

    Args:
        heard: what the trained encoders hear in references; references not among them are heard without mistakes.
        budget: its `batch_size * num_frames` tokens are a step's, of which one sequence has at most `num_frames`.
        start: the state of an earlier training; none: from nothing.
        voices_share: of sequences without speech, which teach in a third of the tokens what a pitch asks of a voice.
    """
    torch.manual_seed(settings.seed)
    model = Qwen2(model_config(settings), vocabulary.num_rows)
    first_classes = data.codes.first_classes
    model.pace = pace = nn.Linear(settings.size.lm_hidden_size, 4)
    model.phonemes = phonemes = nn.Linear(settings.size.lm_hidden_size, NUM_WORD_PHONEMES * len(first_classes))
    if start is None:
        _initialise(model, vocabulary, prompts.tokens)
    else:
        model.load_state_dict(start)
    model.to(device)
    examples = Examples(data, heard, prompts, budget.num_frames, voices_share)
    pitch_rows = torch.from_numpy(vocabulary.rows(prompts.tokens.pitch_values)).to(device)
    first_ids = prompts.tokens.semantic_tokens.start + data.codes.codes[first_classes]
    first_rows = torch.from_numpy(vocabulary.rows(first_ids)).to(device)
    extra = torch.zeros(vocabulary.num_rows, device=device)
    extra[-1] = math.log(max(1, vocabulary.num_unused))

    def joined(arrays: Iterable[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(list(arrays))).to(device)

    def losses(generator: np.random.Generator) -> Losses:
        batch = examples.batch(budget.batch_size * budget.num_frames, generator)
        lengths = [len(example.ids) for example in batch]
        ids = joined(vocabulary.rows(example.ids) for example in batch)
        weights = joined(example.weights for example in batch)
        stress = joined(example.stress for example in batch)
        with in_bfloat16(device):
            hidden, attention, read = model(ids, lengths, settings.guided_lm_layers)
        paces = joined(example.pace for example in batch)
        is_paced = ~paces.isnan()
        pace_errors = functional.smooth_l1_loss(pace(hidden)[is_paced], paces[is_paced], beta=0.2, reduction="sum")
        pace_loss = pace_errors / is_paced.sum().clamp_min(1)
        of_words = joined(example.phonemes for example in batch)
        is_behind = of_words[:, 0] >= 0
        told = phonemes(read[is_behind]).unflatten(1, (NUM_WORD_PHONEMES, -1))
        phonemes_loss = functional.cross_entropy(told.flatten(0, 1), of_words[is_behind].flatten())
        before, wanted, weights = hidden[:-1], ids[1:], weights[1:]  # a sequence's first token is always given

        is_learnt = weights > 0
        logits = before[is_learnt] @ model.embed_tokens.weight.T + extra
        wanted = wanted[is_learnt]
        each_loss, weights = functional.cross_entropy(logits, wanted, reduction="none"), weights[is_learnt]
        token_loss = (each_loss * weights).mean()
        sound = (wanted[:, None] == first_rows).nonzero()
        sound_losses = functional.cross_entropy(logits[sound[:, 0]][:, first_rows], sound[:, 1], reduction="none")
        sound_loss = (sound_losses * stress[1:][is_learnt][sound[:, 0]]).sum() / max(1, len(wanted))
        right = (logits.argmax(dim=1) == wanted).float().mean()

        masses = [
            torch.cat([_mass(maps[head], example.characters[head]) for maps, example in zip(layer, batch, strict=True)])
            for layer in attention
            for head in range(OBSERVED_HEADS)
        ]
        stresses = len(attention) * [
            joined(example.stress[example.characters[head] >= 0] for example in batch) for head in range(OBSERVED_HEADS)
        ]
        guide_losses = [
            -(mass.clamp_min(_MIN_MASS).log() * counts).mean() for mass, counts in zip(masses, stresses, strict=True)
        ]
        guide_loss = torch.stack(guide_losses).mean()

        begins = np.cumsum([0, *lengths[:-1]])
        chooses = [int(b) + example.pitch_at for b, example in zip(begins, batch, strict=True) if example.pitch_at >= 0]
        pitch_loss = _pitch_loss(hidden[[at - 1 for at in chooses]], ids[chooses], model, pitch_rows)
        pitch_share = len(chooses) / max(1, len(wanted))
        total = token_loss + _SOUND_WEIGHT * sound_loss + _PITCH_WEIGHT * pitch_share * pitch_loss
        total += _GUIDE_WEIGHT * guide_loss + _PACE_HINT_WEIGHT * pace_loss + _PHONEMES_HINT_WEIGHT * phonemes_loss
        return {
            "total": total,
            "token": token_loss,
            "voice": each_loss[weights == _VOICE_WEIGHT].mean(),
            "right": right,
            "guide": guide_loss,
            "mass": torch.stack([mass.mean() for mass in masses]).mean(),
            "pitch": pitch_loss,
            "pace": pace_loss,
            "sound": sound_losses.mean(),
            "phonemes": phonemes_loss,
        }

    matrices = [parameter for parameter in model.layers.parameters() if parameter.ndim == 2]
    optimizers = muon_and_adam(model, matrices, budget.learning_rate, _ADAM_LEARNING_RATE_SHARE, beta2=0.98)
    return Training(model, optimizers, losses)


def _mass(attention: torch.Tensor, characters: np.ndarray) -> torch.Tensor:
    """How much of the attention [positions, positions] lies about the character to be said: [tokens that say one].

    A token is said by the position before it.
    """
    says = np.flatnonzero(characters >= 0)
    rows = attention[torch.from_numpy(says - 1)]
    until = functional.pad(rows.cumsum(dim=1), (1, 0))
    centre = torch.from_numpy(characters[says, None]).to(attention.device)
    return (until.gather(1, centre + _GUIDE_REACH + 1) - until.gather(1, centre - _GUIDE_REACH))[:, 0]


def _pitch_loss(hidden: torch.Tensor, wanted: torch.Tensor, model: Qwen2, pitch_rows: torch.Tensor) -> torch.Tensor:
    """Against a bell around the wanted value: a neighbouring pitch is nearly right."""
    logits = hidden @ model.embed_tokens.weight[pitch_rows].T
    distance = (pitch_rows[None, :] - wanted[:, None]).float() / _PITCH_DEVIATION_MEL
    bell = (-0.5 * distance.square()).softmax(dim=1)
    return functional.cross_entropy(logits, bell, reduction="sum") / max(1, len(wanted))


def _initialise(model: Qwen2, vocabulary: CompactVocabulary, tokens: SpeechTokens) -> None:
    """Small embeddings; neighbouring pitch values have similar ones."""
    nn.init.normal_(model.embed_tokens.weight, std=0.05)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(parameter)
    rows = torch.from_numpy(vocabulary.rows(tokens.pitch_values))
    size = model.embed_tokens.weight.shape[1]
    periods = torch.logspace(math.log10(2000), math.log10(20), size // 2)
    angles = 2 * math.pi * torch.arange(len(rows))[:, None] / periods
    with torch.no_grad():
        model.embed_tokens.weight[rows] = 0.07 * torch.cat([angles.sin(), angles.cos()], dim=1)


def _true_global_tokens(utterance: Utterance) -> np.ndarray:
    return global_tokens(global_digits(utterance.voice, utterance.f0_hz))


def _words_per_minute(utterance: Utterance) -> float:
    """As it is heard, after it was played faster."""
    return utterance.words_per_minute * utterance.shift


def _is_near_speed_label(utterance: Utterance) -> bool:
    """Whether its speed is too near a border of its label to teach the label."""
    margin = _LABEL_MARGINS_SPEED[utterance.speed_label]
    return _distance(measures.SPEED_CUTOFFS, utterance.syllables_per_s) < margin


def _distance(cutoffs: Sequence[float], value: float) -> float:
    """To the nearest cut-off."""
    return min(abs(cutoff - value) for cutoff in cutoffs)
