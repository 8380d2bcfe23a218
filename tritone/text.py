"""Text before it is spoken: how long it lasts, where it can be split, how its numbers are read.

True of any speech model. Chinese, English and mixtures of both are what it is made for; other scripts are treated like
the nearer of the two.
"""

import re
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

import sentencex

from tritone.errors import Unavailable

# Pauses after a segment, as a reader makes them.
PARAGRAPH_PAUSE_S = 0.5
SENTENCE_PAUSE_S = 0.25
CLAUSE_PAUSE_S = 0.12
FORCED_SPLIT_PAUSE_S = 0.0  # in the middle of a phrase: no pause belongs there

# A model speaks very short texts badly, and each segment costs a prefill: neighbours are joined while they last no
# longer than the one, and whatever lasts less than the other is joined wherever it fits.
JOINED_SEGMENT_S = 4.0
SHORT_SEGMENT_S = 2.0

MIN_SEGMENT_LIMIT_S = 1.0  # any character fits in such a segment with room to spare

# Durations are whole milliseconds, so that sums over parts of a text are exact.
#
# Spark-TTS's training speech has about 4.3 syllables/s in Chinese and 4.0 in English (between its labels' cut-offs at
# 20% and 80%: 3.54 and 5.17, 3.31 and 4.72). A Chinese character is a syllable, an English syllable about 3.1 letters.
# Part of that time goes to punctuation; with what these constants leave it, a text with usual punctuation comes to 4.3
# Chinese characters/s, or to 155 English words/min.
SYLLABLE_MS = 210
LETTER_MS = 80
DIGIT_MS = 350  # "2024" or "3.14" is a word per digit or nearly so: 1.5 syllables in both languages
SENTENCE_GAP_MS = 300
CLAUSE_GAP_MS = 150
SYMBOL_GAP_MS = 350  # between two words such a character is read as a word: and, at, slash, percent

_GAP_MS = (
    dict.fromkeys(".!?。！？．…\n", SENTENCE_GAP_MS)
    | dict.fromkeys(",;:，；：、—–", CLAUSE_GAP_MS)
    | dict.fromkeys("%‰&@#+=×÷±/\\$€£¥￥°℃", SYMBOL_GAP_MS)
)

_IDEOGRAPHS = "\u3005-\u312f\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"  # and kana
_SYLLABLE = re.compile(f"[{_IDEOGRAPHS}\uac00-\ud7a3]")  # and Hangul


def estimate_speech_s(text: str) -> float:
    """About how many seconds a text lasts at a normal speed; 0 where there is nothing to speak.

    Silence before the first word and after the last does not count, nor does punctuation there.
    """
    return _Timeline(text).end_ms[-1] / 1000


@dataclass(frozen=True)
class Segment:
    """A part of a text that is spoken in one go.

    Attributes:
        pause_s: silence to put after it, in seconds; 0 after the last.
    """

    text: str
    pause_s: float


@dataclass(frozen=True)
class _Piece:
    """Characters [begin, end) of a text and the pause that their end calls for."""

    begin: int
    end: int
    pause_s: float


def split_text(text: str, max_segment_s: float) -> list[Segment]:
    """Split a text into segments that last at most `max_segment_s` by `estimate_speech_s`.

    A text of one line that fits is one segment. Of others every sentence is a segment, but short neighbours of a
    paragraph are joined, and a long sentence is split: at clauses, else between words, else (an endless word) anywhere.
    A line break ends a paragraph. Characters without sound (a row of stars, an emoji) go with a neighbour.

    Returns:
        At least one segment. Joined, they are the text but for white space at their borders.

    Raises:
        ValueError: `max_segment_s` is below `MIN_SEGMENT_LIMIT_S`.
    """
    if max_segment_s < MIN_SEGMENT_LIMIT_S:
        raise ValueError(f"max_segment_s must be {MIN_SEGMENT_LIMIT_S} or more, got {max_segment_s}")
    text = text.strip()
    max_ms = int(1000 * max_segment_s)
    timeline = _Timeline(text)
    paragraphs = _paragraphs(text, timeline)
    if len(paragraphs) == 1 and timeline.duration_ms(0, len(text)) <= max_ms:
        return [Segment(text, 0.0)]
    pieces: list[_Piece] = []
    for begin, end in paragraphs:
        sentences = [piece for span in _sentences(text, begin, end) for piece in _fit(text, timeline, *span, max_ms)]
        *others, last = _join_short(sentences, timeline, max_ms)
        pieces += [*others, _Piece(last.begin, last.end, PARAGRAPH_PAUSE_S)]
    segments = [Segment(text[piece.begin : piece.end].strip(), piece.pause_s) for piece in pieces]
    return [*segments[:-1], Segment(segments[-1].text, 0.0)]


def normalize_text(text: str) -> str:
    """Write numbers, dates, times, units, money and web addresses out as words, each sentence in its own language.

    Line breaks stay. It takes about 0.1 ms per character of a sentence that is not plain words, and holds Python's
    interpreter lock meanwhile. The rules (wetext 0.1.8) have no context, so some readings are wrong: "1990s" becomes
    seconds, "No. 5" "Number. five", "24/7" a fraction, "555-1234" and "10-20" a range or, in Chinese, a date.

    Raises:
        Unavailable: wetext is not installed.
    """
    text_language = _language(text) or "en"
    timeline = _Timeline(text)
    normalized = []
    for begin, end in _lines(text):
        for span in _sentences(text, begin, end):
            for piece in _fit(text, timeline, *span, _MAX_NORMALIZED_MS):
                words = text[piece.begin : piece.end]
                normalized.append(_normalize_words(words, _language(words) or text_language))
    return "".join(normalized)


class _Timeline:
    """When each character of a text is spoken.

    Attributes:
        end_ms: [k] is how long the first k characters last.
        onset_ms: [k] is when the first sound at or after character k begins.
    """

    def __init__(self, text: str) -> None:
        self.end_ms = [0]
        self.onset_ms: list[int] = []
        now_ms = gap_ms = 0
        for index, char in enumerate(text):
            if char_ms := _spoken_ms(char):
                onset_ms = now_ms + gap_ms if now_ms else 0
                self.onset_ms += [onset_ms] * (index + 1 - len(self.onset_ms))
                now_ms, gap_ms = onset_ms + char_ms, 0
            else:
                gap_ms = max(gap_ms, _GAP_MS.get(char, 0))
            self.end_ms.append(now_ms)
        self.onset_ms += [now_ms] * (len(text) + 1 - len(self.onset_ms))

    def duration_ms(self, begin: int, end: int) -> int:
        """How long characters [begin, end) last by themselves."""
        return max(0, self.end_ms[end] - self.onset_ms[begin])

    def last_end(self, begin: int, duration_ms: int) -> int:
        """The last end for which characters from `begin` on last at most `duration_ms`."""
        return bisect_right(self.end_ms, self.onset_ms[begin] + duration_ms) - 1


@lru_cache(maxsize=1 << 14)
def _spoken_ms(char: str) -> int:
    if not char.isalnum():
        return 0
    if _SYLLABLE.match(char):
        return SYLLABLE_MS
    return DIGIT_MS if char.isnumeric() else LETTER_MS


_WORD = re.compile(f"[^\\W\\d_{_IDEOGRAPHS}]+")
_IDEOGRAPH = re.compile(f"[{_IDEOGRAPHS}]")


def _language(text: str) -> str | None:
    """zh where Chinese characters are at least as many as words of other scripts, else en; None without either."""
    num_ideographs = len(_IDEOGRAPH.findall(text))
    num_words = len(_WORD.findall(text))
    if num_ideographs == num_words == 0:
        return None
    return "zh" if num_ideographs >= num_words else "en"


def _lines(text: str) -> Iterator[tuple[int, int]]:
    end = 0
    for line in text.splitlines(keepends=True):
        begin, end = end, end + len(line)
        yield begin, end


def _paragraphs(text: str, timeline: _Timeline) -> list[tuple[int, int]]:
    """The spans of a text's lines; one without sound belongs to the line before it, or else to the next."""
    paragraphs = [(0, 0)]
    for begin, end in _lines(text):
        previous_begin, previous_end = paragraphs[-1]
        if timeline.duration_ms(begin, end) and timeline.duration_ms(previous_begin, previous_end):
            paragraphs.append((begin, end))
        else:
            paragraphs[-1] = (previous_begin, end)
    return paragraphs


_QUOTES_AND_BRACKETS = str.maketrans(dict.fromkeys("\"“”‘’'「」『』()（）《》", "*"))
_CLOSERS = re.compile(r"(?<!\s)[\"'”’」』）)\]】》]+\s*")
# Where sentencex sees an end and there is none, with the character after it: within an address or a name (https://x.Com),
# and after a title that directly follows a Chinese character.
_NO_SENTENCE_END = re.compile(r"[!-~][0-9A-Za-z]$|[^\x00-\x7f](?:Dr|Mr|Mrs|Ms|Prof|St|No|vs)\.\s+\S?$")


def _sentences(text: str, begin: int, end: int, within_quotes: bool = False) -> Iterator[tuple[int, int]]:
    """The spans of the sentences of characters [begin, end).

    What stands in quotes or brackets is one sentence unless `within_quotes`.
    """
    line = text[begin:end]
    seen = re.sub(r"\s", " ", line)  # sentencex 1.0.32 panics at "C\u00a0."
    if within_quotes:
        seen = seen.translate(_QUOTES_AND_BRACKETS)
    done = 0
    for boundary in sentencex.get_sentence_boundaries(_language(line) or "en", seen):
        index = boundary["end_index"]
        if closers := _CLOSERS.match(line, index):
            index = closers.end()
        if index > done and not _NO_SENTENCE_END.search(line[max(0, index - 12) : index + 1]):
            yield begin + done, begin + index
            done = index
    if done < len(line):
        yield begin + done, end


# Where a long sentence may be split besides the ends of sentences within its quotes: after each match of a pattern. The
# cost is how much longer or shorter than wanted, as a share of the longest segment, a piece may get for not having to
# end there.
_CLOSING = r"[\"'”’」』）)\]】》]*"
_CLAUSE_END = re.compile(
    rf"[,;:]+{_CLOSING}(?=\s|[{_IDEOGRAPHS}])"  # not in 3,000 or 10:30
    rf"|(?:(?<!\d)[，；：、]+|[，；：、]+(?!\d)){_CLOSING}"
    rf"|(?:—+|…+|\.{{3,}}|\s[-–]+(?=\s)){_CLOSING}"
    rf"|(?<=[{_IDEOGRAPHS}])\s+(?=[{_IDEOGRAPHS}])"
)
_WORD_END = re.compile(r"(?<![.\d])\s+|(?<=\d)\s+(?![\d\s])")  # not after an abbreviation, nor in 20 000
_SYLLABLE_END = re.compile(rf"(?<=[{_IDEOGRAPHS}])(?=[^\W\d_])|(?<=[^\W\d_])(?=[{_IDEOGRAPHS}])")  # maybe within a word
_SPACE = re.compile(r"\s+")
_BREAKS = (
    (_CLAUSE_END, 0.1, CLAUSE_PAUSE_S),
    (_WORD_END, 0.4, FORCED_SPLIT_PAUSE_S),
    (_SYLLABLE_END, 0.6, FORCED_SPLIT_PAUSE_S),
    (_SPACE, 0.8, FORCED_SPLIT_PAUSE_S),
)
_BEYOND_CHARS = 16  # so far beyond the last place for a split the patterns look, so as not to see half a match


def _fit(text: str, timeline: _Timeline, begin: int, end: int, max_ms: int) -> Iterator[_Piece]:
    """The sentence that is characters [begin, end) in pieces of at most `max_ms` and much the same length."""
    sentence_ends: list[int] | None = None
    while (duration_ms := timeline.duration_ms(begin, end)) > max_ms:
        if sentence_ends is None:
            sentence_ends = [index for _, index in _sentences(text, begin, end, within_quotes=True)]
        num_pieces = -(-duration_ms // max_ms)
        wanted_ms = duration_ms // num_pieces
        cheapest = float("inf")
        # an endless word is split anywhere, but never between a letter and its accents, which have no duration
        piece = _Piece(begin, timeline.last_end(begin, wanted_ms), FORCED_SPLIT_PAUSE_S)
        for index, cost, pause_s in _breaks(text, begin, timeline.last_end(begin, max_ms), sentence_ends):
            piece_ms = timeline.duration_ms(begin, index)
            cost += abs(piece_ms - wanted_ms) / max_ms
            if cost < cheapest and piece_ms > 0:
                piece, cheapest = _Piece(begin, index, pause_s), cost
        yield piece
        begin = piece.end
    yield _Piece(begin, end, SENTENCE_PAUSE_S)


def _breaks(text: str, begin: int, last: int, sentence_ends: list[int]) -> Iterator[tuple[int, float, float]]:
    """The places for a split after `begin` up to `last`, each with its cost and the pause that belongs there."""
    for index in sentence_ends[bisect_right(sentence_ends, begin) : bisect_right(sentence_ends, last)]:
        yield index, 0.0, SENTENCE_PAUSE_S
    for pattern, cost, pause_s in _BREAKS:
        for match in pattern.finditer(text, begin, last + _BEYOND_CHARS):
            if match.end() <= last:
                yield match.end(), cost, pause_s


def _join_short(pieces: list[_Piece], timeline: _Timeline, max_ms: int) -> list[_Piece]:
    """Join neighbours that are short together; a piece too short for itself goes with the next, else the one before."""

    def join(pieces: list[_Piece], belong_together: Callable[[int, int, int], bool]) -> list[_Piece]:
        joined = pieces[:1]
        for right in pieces[1:]:
            left = joined[-1]
            left_ms, right_ms = (timeline.duration_ms(piece.begin, piece.end) for piece in (left, right))
            both_ms = timeline.duration_ms(left.begin, right.end)
            if both_ms <= max_ms and belong_together(left_ms, right_ms, both_ms):
                joined[-1] = _Piece(left.begin, right.end, right.pause_s)
            else:
                joined.append(right)
        return joined

    short_ms, joined_ms = 1000 * SHORT_SEGMENT_S, 1000 * JOINED_SEGMENT_S
    pieces = join(pieces, lambda left_ms, _, both_ms: left_ms < short_ms or both_ms <= joined_ms)
    return join(pieces, lambda _, right_ms, __: right_ms < short_ms)


_MAX_NORMALIZED_MS = 15_000  # wetext's time grows with the square of a text's length
# Letters and punctuation with at most a full stop at the end: nothing that is read otherwise than it is written.
_PLAIN = re.compile(r"(?:[^\W\d_]|[\s,;:!?'‘’“”—…，。；：！？、《》（）()-])*+\.?[’”)\s]*")
# What wetext gets: its own syntax (quotes, backslashes) and brackets, which it does not know, stay outside, and so does
# white space at the borders, which it removes. Only a row of signs without sound reaches the greatest length.
_OUTSIDE = r"\"\\\[\]{}<>|"
_READABLE = re.compile(rf"[^\s{_OUTSIDE}](?:[^{_OUTSIDE}]{{0,300}}[^\s{_OUTSIDE}])?")
_REWRITTEN = (
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),  # 1,234,567 is read in parts in Chinese
    (re.compile(r"(?<=[A-Za-z])-(?=\d)"), " "),  # GPT-4 is no negative number
    (re.compile(r"#(?=\d)"), "# "),  # number sign
    (re.compile(r"\s+"), " "),  # two spaces are an error
)
_wetext_lock = threading.Lock()  # nothing says that its transducers may be shared


@cache
def _normalizer(language: str) -> Callable[[str], str]:
    try:
        from wetext import Normalizer  # here since it takes 0.4 s and 42 MB
    except ImportError as error:
        raise Unavailable(
            "normalizing text needs wetext on the server; install it with: pip install 'tritone[normalize]'"
        ) from error
    return Normalizer(lang=language, operator="tn").normalize


def _normalize_words(text: str, language: str) -> str:
    normalize = _normalizer(language)

    def read(match: re.Match[str]) -> str:
        written = match[0]
        for pattern, replacement in _REWRITTEN:
            written = pattern.sub(replacement, written)
        try:
            return normalize(written) or match[0]
        except AssertionError:  # its way of saying that it has no reading: leave it to the speech model
            return match[0]

    if _PLAIN.fullmatch(text):
        return text
    with _wetext_lock:
        return _READABLE.sub(read, text)
