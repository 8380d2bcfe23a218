import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import soundfile

from demo.lines import REFERENCE_TRANSCRIPT, REFERENCE_WAV
from tritone import text as text_module
from tritone.errors import Unavailable
from tritone.text import (
    CLAUSE_PAUSE_S,
    FORCED_SPLIT_PAUSE_S,
    PARAGRAPH_PAUSE_S,
    SENTENCE_PAUSE_S,
    Segment,
    estimate_speech_s,
    normalize_text,
    split_text,
)


def _texts(segments: list[Segment]) -> list[str]:
    return [segment.text for segment in segments]


def _visible(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_importing_needs_no_model_library() -> None:
    heavy = "{'torch', 'transformers', 'wetext'}"
    command = f"import sys, tritone.text, tritone.run_on; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# what espeak-ng takes at 160 words per minute, silence around it included
@pytest.mark.parametrize(
    ("text", "spoken_s"),
    [
        ("The quick brown fox jumps over the lazy dog near the river bank.", 3.8),
        ("It cost 3,000 dollars in 1999, or 12.5% of 24,000.", 6.9),
        ("Beyond a certain point there is no return; this point has to be reached. He knew that, and so did we!", 6.1),
        ("The FBI and the CIA met at https://www.example.com yesterday.", 7.3),
        ("今天天气很好，我们一起去公园散步吧。", 5.0),
        ("他在2024年11月20日花了3.14元。", 5.4),
    ],
)
def test_estimate_is_near_what_speaking_takes(text: str, spoken_s: float) -> None:
    assert spoken_s / 1.7 < estimate_speech_s(text) < spoken_s * 1.3


def test_estimate_is_near_the_demo_recording() -> None:
    recording = soundfile.info(REFERENCE_WAV)
    assert estimate_speech_s(REFERENCE_TRANSCRIPT) == pytest.approx(recording.duration, rel=0.15)


def test_estimate_follows_normal_speed_in_both_languages() -> None:
    english = "When the rain had stopped, the two of them walked slowly home along the river, and neither said a word."
    assert 140 < 60 * len(english.split()) / estimate_speech_s(english) < 180  # words/min
    chinese = "雨停了以后，他们两个人沿着河边慢慢地走回家，谁也没有说一句话。"
    assert 4 < len(chinese) / estimate_speech_s(chinese) < 5.3  # characters/s


def test_estimate_counts_punctuation_only_between_words() -> None:
    assert estimate_speech_s("“hello”...\n") == estimate_speech_s("hello") > 0
    assert estimate_speech_s("1+1=2") > estimate_speech_s("1 1 2")
    assert estimate_speech_s("hello. world") > estimate_speech_s("hello, world") > estimate_speech_s("hello world")


@pytest.mark.parametrize("text", ["", " \n", "...", "？！", "😀 ***"])
def test_estimate_of_a_text_without_sound_is_0(text: str) -> None:
    assert estimate_speech_s(text) == 0


@pytest.mark.parametrize(
    "text", ["こんにちは", "안녕하세요", "Здравствуйте", "नमस्ते", "مرحبا", "e\u0301te\u0301", "５０"]
)
def test_estimate_knows_any_script(text: str) -> None:
    assert 0.2 < estimate_speech_s(text) < 2


@pytest.mark.parametrize(
    "text", ["Hello there. How are you? I am fine.", "你好。今天好吗？", "  3.14  ", "Wait... what?!"]
)
def test_text_that_fits_comes_back_unchanged(text: str) -> None:
    assert split_text(text, 15) == [Segment(text.strip(), 0.0)]


def test_sentences_are_segments_and_short_neighbours_are_joined() -> None:
    text = (
        'Dr. Smith paid $3.14 for e.g. 3,000 apples. "Really?" he said. "Go on." See https://a.b/C.D?x=1 or write. '
        "Yes. I went to the U.S. Army Museum, i.e. the old one, in the afternoon. It closed at 5 p.m. that day... No!"
    )
    assert _texts(split_text(text, 15)) == [
        "Dr. Smith paid $3.14 for e.g. 3,000 apples.",
        '"Really?" he said. "Go on." See https://a.b/C.D?x=1 or write.',
        "Yes. I went to the U.S. Army Museum, i.e. the old one, in the afternoon.",
        "It closed at 5 p.m. that day... No!",
    ]


def test_chinese_sentences_keep_their_quotes() -> None:
    text = (
        "他说：“你好吗？我很好。”然后他就一个人慢慢地走了。价格是3.14元，一点也不贵！真的吗？！是的……好吧。"
        "「再见。」她一边说一边把门轻轻地关上了，没有回头。"
    )
    assert _texts(split_text(text, 10)) == [
        "他说：“你好吗？我很好。”",
        "然后他就一个人慢慢地走了。",
        "价格是3.14元，一点也不贵！",
        "真的吗？！是的……好吧。「再见。」",
        "她一边说一边把门轻轻地关上了，没有回头。",
    ]


def test_mixed_text_is_split_by_the_rules_of_both_languages() -> None:
    text = (
        "我昨天用了GPT-4.5，效果非常不错。It is a great model. 我去了Dr. Smith家，他也这么说。"
        "He told me: “你应该试试 Spark-TTS。” 好的，我们明天就一起试试看吧！"
    )
    assert _texts(split_text(text, 12)) == [
        "我昨天用了GPT-4.5，效果非常不错。",
        "It is a great model. 我去了Dr. Smith家，他也这么说。",
        "He told me: “你应该试试 Spark-TTS。”",
        "好的，我们明天就一起试试看吧！",
    ]


@pytest.mark.parametrize("space", ["\xa0", "\u3000", "\u2003"])
def test_any_white_space_may_stand_before_a_full_stop(space: str) -> None:  # sentencex itself panics here
    text = f"The doctor said to take some vitamin C{space}. Then I was told to rest a while. And that is what I did."
    assert _texts(split_text(text, 6))[-1].endswith("And that is what I did.")


def test_long_sentence_is_split_at_clauses_into_balanced_pieces() -> None:
    text = (
        "Well, when the rain had finally stopped and the sun came out again, the two of them walked slowly home along "
        "the river, which was higher than ever, and neither of them said a single word"
    )
    segments = split_text(text, 5)
    assert _texts(segments) == [
        "Well, when the rain had finally stopped and the sun came out again,",
        "the two of them walked slowly home along the river,",
        "which was higher than ever, and neither of them said a single word",
    ]
    assert [segment.pause_s for segment in segments] == [CLAUSE_PAUSE_S, CLAUSE_PAUSE_S, 0.0]
    text = "I really thought that he would be there by now... or that he would at least have written a letter"
    assert _texts(split_text(text, 6))[0].endswith("now...")
    text = "雨停了以后，太阳又从云里出来了，他们两个人就沿着河边慢慢地走回家去，一路上谁也没有说一句话"
    assert _texts(split_text(text, 6)) == [
        "雨停了以后，太阳又从云里出来了，",
        "他们两个人就沿着河边慢慢地走回家去，",
        "一路上谁也没有说一句话",
    ]


def test_long_speech_in_quotes_is_split_at_its_sentences() -> None:
    for num_repeated in range(4, 9):
        inner = " ".join(
            ["I went home to Dr. Smith at night. Then I slept well. Was it late? Yes, it was."] * num_repeated
        )
        segments = split_text(f"She said: “{inner}” And then she left.", 10)
        assert all(segment.text.endswith((".", "?", "”")) for segment in segments)
        assert not any(segment.text.endswith("Dr.") or segment.text.startswith("”") for segment in segments)
        inner = "我昨天晚上回家很晚。然后就睡了！你呢？" * num_repeated
        segments = split_text(f"他说：「{inner}」然后走了。", 6)
        assert all(segment.text.endswith(("。", "！", "？", "」")) for segment in segments)
        assert not any(segment.text.startswith("」") for segment in segments)


def test_quote_ends_a_piece_with_its_closing_mark() -> None:
    text = (
        "“They told me a long story about a horse! It went on for ever and ever!” she said to me and the others, "
        "who had been waiting for her since the early morning"
    )
    assert _texts(split_text(text, 6))[0].endswith("and ever!”")


def test_text_without_punctuation_is_split_between_words_without_a_pause() -> None:
    words = "this text goes on and on without any end and nobody knows where it could be split " * 5
    segments = split_text(words, 6)
    assert " ".join(_texts(segments)) == words.strip()
    assert all(segment.pause_s == FORCED_SPLIT_PAUSE_S for segment in segments)
    durations_s = [estimate_speech_s(segment.text) for segment in segments]
    assert min(durations_s) > 0.7 * max(durations_s)


def test_endless_word_is_split_anyhow_but_keeps_its_accents() -> None:
    for endless in ("啊" * 300, "a" * 300, "e\u0301\u0323" * 300, "1" * 300, "नि" * 300):
        segments = split_text(endless, 5)
        assert "".join(_texts(segments)) == endless
        assert all(estimate_speech_s(segment.text) <= 5 for segment in segments)
        assert not any(segment.text.startswith(("\u0301", "\u0323", "ि")) for segment in segments)


@pytest.mark.parametrize(
    "whole",
    [
        "3,000,000",
        "3，000",
        "3.14159",
        "10:30",
        "20 000",
        "Dr. Smith",
        "e.g. this",
        "https://x.Com/A.B?C=1!D,e;f",
        "……",
        "Node.JS",
    ],
)
@pytest.mark.parametrize("filler", ["more and more words ", "很多很多的字"])
def test_what_belongs_together_is_never_split(whole: str, filler: str) -> None:
    for num_before in range(12):  # so that it comes to stand at every place of a segment
        text = filler * num_before + whole + (" " if filler.isascii() else "") + filler * 10
        assert any(whole in segment.text for segment in split_text(text, 6)), text


def test_closing_quotes_and_ellipses_stay_with_what_they_end() -> None:
    text = (
        "“我不知道……”他说，“真的吗？！”" * 12
        + 'He said "go on, please," and "wait..." and then "all right!" to us, ' * 4
    )
    for max_segment_s in (2, 3, 4, 6):
        for segment in split_text(text, max_segment_s):
            assert segment.text[0] not in "”…。，？！,.!", segment


def test_pause_depends_on_how_a_segment_ends() -> None:
    text = (
        "The first sentence of this text is not a very short one. And here is another that is about as long.\n\n"
        "The second paragraph is a long sentence without any commas at all and so it cannot be split at a clause "
        "at first. The end of it is near now, and it will come as no surprise to any of my very dear old friends."
    )
    segments = split_text(text, 5)
    assert [(segment.text.rsplit(" ", 1)[-1], segment.pause_s) for segment in segments] == [
        ("one.", SENTENCE_PAUSE_S),
        ("long.", PARAGRAPH_PAUSE_S),
        ("any", FORCED_SPLIT_PAUSE_S),
        ("first.", SENTENCE_PAUSE_S),
        ("now,", CLAUSE_PAUSE_S),
        ("friends.", 0.0),
    ]


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\n\n \n", "\u2028"])
def test_paragraphs_are_never_joined(line_break: str) -> None:
    segments = split_text(f"Yes.{line_break}No.{line_break}好。", 15)
    assert segments == [Segment("Yes.", PARAGRAPH_PAUSE_S), Segment("No.", PARAGRAPH_PAUSE_S), Segment("好。", 0.0)]


def test_what_has_no_sound_goes_with_a_neighbour() -> None:
    segments = split_text("***\nThe first.\n\n* * *\n\nThe second. 😀\n---", 15)
    assert segments == [Segment("***\nThe first.\n\n* * *", PARAGRAPH_PAUSE_S), Segment("The second. 😀\n---", 0.0)]


@pytest.mark.parametrize("text", ["", "...", " 😀\n😀\n\n？ "])
def test_text_without_sound_is_one_segment(text: str) -> None:
    assert split_text(text, 15) == [Segment(text.strip(), 0.0)]


def test_limit_that_hardly_holds_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_segment_s must be 1\.0 or more, got 0\.5"):
        split_text("Hello", 0.5)


_PARTS = [
    *"abcXYZ  ..,,;:!?'\"()—…-0123\n你好世界。，！？；：、“”‘’「」（）《》😀*#=%$_あハ한국",
    *["\u0301", "\u200b", "\xa0", "\u3000", "\r\n", "\u2028", "\x00"],
    *["Dr. ", "e.g. ", "J. ", "3,000", "3.14", "https://a.B/c?d=1 ", "word ", "……", "...", "——"],
]


@pytest.mark.parametrize("seed", range(300))
def test_no_character_is_lost_and_no_segment_is_too_long(seed: int) -> None:
    rng = random.Random(seed)
    weights = [rng.random() ** 3 for _ in _PARTS]  # each text has its own favourites
    text = "".join(rng.choices(_PARTS, weights, k=rng.choice([3, 20, 100, 600])))
    max_segment_s = rng.choice([1, 2, 3, 6, 15, 30])
    segments = split_text(text, max_segment_s)
    assert _visible("".join(_texts(segments))) == _visible(text)
    for segment in segments:
        assert segment.text == segment.text.strip()
        assert estimate_speech_s(segment.text) <= max_segment_s
        assert estimate_speech_s(segment.text) > 0 or len(segments) == 1
    assert segments[-1].pause_s == 0


def _ten_minutes() -> str:
    """About 9,000 characters in paragraphs of varied sentences."""
    rng = random.Random(0)
    subjects = ["The old teacher", "Mr. Brown", "A friend of mine", "The train from St. Ives", "Nobody", "Her brother"]
    verbs = ["came home", "was late", "said nothing at all", "waited for 3,000 days", "paid $12.50", "asked for more"]
    ends = [".", ".", "!", "?", "...", ", which is strange.", "; everybody knew it.", " at 5 p.m. on Monday."]
    asides = ["", "", "", ", as usual,", ", when the rain had stopped,", " and his dog"]
    paragraphs, num_chars = [], 0
    while num_chars < 9000:
        sentences = [
            "".join([rng.choice(subjects), rng.choice(asides), " ", rng.choice(verbs), rng.choice(ends)])
            for _ in range(rng.randint(1, 9))
        ]
        paragraphs.append(" ".join(sentences))
        num_chars += len(paragraphs[-1])
    return "\n\n".join(paragraphs)


def test_ten_minutes_of_text() -> None:
    text = _ten_minutes()
    assert 8 * 60 < estimate_speech_s(text) < 14 * 60
    segments = split_text(text, 15)
    assert "".join(_texts(segments)).replace(" ", "") == _visible(text)
    durations_s = [estimate_speech_s(segment.text) for segment in segments]
    assert max(durations_s) <= 15
    assert sum(duration_s < 2 for duration_s in durations_s) < 0.1 * len(segments)  # short paragraphs, nothing else
    assert all(segment.text[-1] in ".!?" for segment in segments)
    assert not any(segment.text.endswith(("Mr.", "St.")) for segment in segments)
    assert sum(segment.pause_s == PARAGRAPH_PAUSE_S for segment in segments) == text.count("\n\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "Dr. Smith paid $3.14 for 3,000 apples on August 8, 2024.",
            "doctor Smith paid three point one four dollars for three thousand apples on the eighth of august, "
            "twenty twenty four.",
        ),
        (
            "It is 20°C at 10:30 a.m. and 5 km away.",
            "It is twenty degrees Celsius at ten thirty AM and five kilometers away.",
        ),
        (
            "他在2024年11月20日花了3.14元买了3,000个苹果，占50%。",
            "他在二零二四年十一月二十日花了三点一四元买了三千个苹果，占百分之五十。",
        ),
        ("温度-5℃，共1,234,567人。", "温度负五摄氏度，共一百二十三万四千五百六十七人。"),
        ("我有3个。It costs 5 dollars.", "我有三个。It costs five dollars."),
        ("GPT-4有2个版本", "GPT 四有两个版本"),
        ("GPT-4 and item #5", "GPT four and item number five"),
        ("你好。\n2024", "你好。\n两千零二十四"),  # numbers alone: in the text's language
        ("2024", "twenty twenty four"),
    ],
)
def test_numbers_become_words(text: str, words: str) -> None:
    assert normalize_text(text) == words


def test_normalization_keeps_what_it_does_not_read() -> None:
    plain = "Nothing to read (here), “is there”?\n\n 没有数字，“什么都没有”。 "
    assert normalize_text(plain) == plain
    # wetext's own syntax, brackets, white space, and a sign that its grammar refuses
    text = ' He  said "Go" to 5  "men" [3] \\ {4}.\n\n😀6. '
    assert normalize_text(text) == ' He said "Go" to five  "men" [three] \\ {four}.\n\n😀6. '


def test_normalization_works_from_several_threads() -> None:
    texts = [f"It was {number} km in 20{number}." for number in range(10, 40)]
    expected = [normalize_text(text) for text in texts]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(normalize_text, texts)) == expected


def test_without_wetext_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wetext", None)
    text_module._normalizer.cache_clear()
    with pytest.raises(Unavailable, match=re.escape("pip install 'tritone[normalize]'")):
        normalize_text("5 km")
