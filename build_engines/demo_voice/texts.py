"""What the demo voice learns to say: its words, and sentences made of them.

Every word is in pocketsphinx's dictionary, so that everything can be recognised. A sentence's words decide by a
checksum whether it is for training or for measuring, so that measured sentences are fresh without a list of them.
"""

import zlib

import numpy as np

from demo.lines import DEMO_SENTENCES

_WORDS: dict[str, str] = {
    "noun": """animal answer apple arm baby bag ball bank bed bird boat body book bottle box boy bread bridge brother
        building bus camera car cat chair child church city class clock cloud coat coffee color company computer corner
        country cow cup day daughter desk dinner doctor dog door dream driver ear egg engine evening eye face family
        farm farmer father field finger fire fish floor flower food foot forest friend fruit game garden gate girl
        glass gold group guest hair hall hand hat head heart hill history home horse hospital hotel hour house island
        job key king kitchen lake lamp language leaf leg lesson letter library light line lion map market meal meat
        message milk minute mirror moment money month moon morning mother mountain mouth movie museum music name
        neighbor news night nose number ocean office orange page paper parent park party path pencil people phone
        picture place plane plant plate player pocket police question radio rain reason restaurant river road room rose
        salt sand school sea season shirt shoe shop sister sky smile snow soldier son song sound soup speech spring
        star station stone store storm story street student sugar summer sun table tail teacher team test ticket
        time tomato tooth town toy train tree truck uncle village visitor voice wall watch water weather week wife
        wind window wine winter woman wood word work world writer year""",
    "adjective": """angry bad beautiful big black blue bright broken brown busy careful cheap clean clever cold cool
        dark deep different difficult dirty dry early easy empty expensive famous fast fine free fresh friendly full
        funny good gray great green happy hard heavy high hot hungry important kind large late lazy little long loud
        lucky modern narrow near new nice old open perfect poor pretty quick quiet ready red rich right round sad
        safe sharp short simple slow small soft special strange strong sweet tall thick thin tired warm weak wet
        white wide wild wise wonderful wrong yellow young""",
    "verb": """ask bring build buy call carry catch change choose clean close collect cook count cut describe draw
        drive drop eat enjoy enter feel fill find follow forget get give hate hear help hide hold join keep know learn
        leave like lose love make meet miss move need open paint pass pick play pull push reach read remember see
        sell send share show start stop take teach touch use visit want wash wear win write""",
    "motion": "come dance fall fly go grow jump laugh listen live rest return ride run sing sit sleep smile speak "
    "stand stay swim talk think travel wait wake walk work",
    "adverb": "again alone already always early everywhere here inside later never now often once outside slowly soon "
    "sometimes there today together tomorrow tonight twice well yesterday",
    "preposition": "about above across after around before behind beside between from in into near on over past "
    "through to toward under with without",
    "pronoun": "i you we they",
    "person": "he she it someone everyone nobody",
    "owner": "my your his her our their the a this that every",
    "question": "where when why how",
    "other": "and but or because if not very so too also please what who is are was am can will must should may be "
    "do does has have had than more much many some any all both no yes hello thank goodbye sorry welcome of at for "
    "the it's sings works hear us me them him say said left first second last next other back off out up down",
}
_SMALL_NUMBERS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
MAX_NUMBER = 999

WORDS: dict[str, tuple[str, ...]] = {kind: tuple(words.split()) for kind, words in _WORDS.items()}
PHRASES = (
    *DEMO_SENTENCES,
    "good morning",
    "good evening",
    "good night",
    "hello my friend",
    "how are you",
    "i am fine thank you",
    "what is your name",
    "my name is tom",
    "nice to meet you",
    "see you tomorrow",
    "see you soon",
    "thank you for your help",
    "you are welcome",
    "i am sorry",
    "please wait a moment",
    "please come in",
    "please sit down",
    "can you help me",
    "what time is it now",
    "where is the station",
    "how much is this",
    "i would like a cup of coffee",
    "have a nice day",
    "happy new year",
    "yes please",
    "no thank you",
    "i do not know",
    "that is right",
    "that is wrong",
    "let us go home",
)

VOCABULARY: tuple[str, ...] = tuple(
    sorted(
        {
            *(word for words in WORDS.values() for word in words),
            *_SMALL_NUMBERS,
            *_TENS,
            "hundred",
            *(word for phrase in PHRASES for word in phrase.split()),
        }
    )
)

# A word class in brackets stands for one of its words.
_TEMPLATES = tuple(
    template.split()
    for template in (
        "<owner> <noun> is <adjective>",
        "<owner> <noun> is very <adjective> today",
        "<owner> <adjective> <noun> is <preposition> <owner> <noun>",
        "<owner> <noun> is <adjective> and <adjective>",
        "<owner> <noun> was not <adjective>",
        "<pronoun> <verb> <owner> <noun>",
        "<pronoun> <verb> <owner> <adjective> <noun> <adverb>",
        "<pronoun> can <verb> <owner> <noun> <preposition> <owner> <noun>",
        "<pronoun> will <motion> <preposition> <owner> <noun> <adverb>",
        "<pronoun> must <verb> <owner> <noun>",
        "<person> has <owner> <adjective> <noun>",
        "<person> will <verb> <owner> <noun> <adverb>",
        "<person> should <motion> <adverb>",
        "<adverb> <pronoun> <verb> <owner> <noun> and <verb> <owner> <noun>",
        "please <verb> <owner> <adjective> <noun>",
        "please <motion> <preposition> <owner> <noun>",
        "<question> is <owner> <adjective> <noun>",
        "<question> can <pronoun> <verb> <owner> <noun>",
        "do <pronoun> <verb> <owner> <noun>",
        "<number> <adjective> <noun> and <number> <noun>",
        "the number is <number>",
        "<owner> <noun> has <number> <noun>",
        "<number> <number> <number>",
        "<any> <any> <any> <any>",
        "<any> <any> <any> <any> <any> <any>",
        "<other> <other> <noun> <other> <other>",
    )
)
_PHRASE_SHARE = 0.12  # of all sentences; the demo's own must be known well
_HELD_OUT_SHARE = 16  # one sentence of so many is for measuring
_DIGITS_SHARE = 0.2  # of the numbers are written in digits
_MORE_SENTENCES_SHARE = 0.2
PUNCTUATED_SHARE = 0.5
_COMMA_SHARE = 0.3  # of the punctuated


def number_words(number: int) -> str:
    """0 to 999 as espeak-ng says it in American English: 512 is "five hundred twelve"."""
    if not 0 <= number <= MAX_NUMBER:
        raise ValueError(f"number must be 0 to {MAX_NUMBER}, got {number}")
    hundreds, rest = divmod(number, 100)
    words = [_SMALL_NUMBERS[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words.append(_TENS[rest // 10 - 2])
        rest %= 10
    if rest or not words:
        words.append(_SMALL_NUMBERS[rest])
    return " ".join(words)


def training_text(generator: np.random.Generator) -> str:
    """One to three sentences to learn from, as people write them: with and without capitals and punctuation."""
    num_sentences = 1
    while num_sentences < 3 and generator.random() < _MORE_SENTENCES_SHARE:
        num_sentences += 1
    sentences = [_sentence(generator, held_out=False) for _ in range(num_sentences)]
    punctuated = num_sentences > 1 or generator.random() < PUNCTUATED_SHARE
    return " ".join(punctuate(sentence, generator) if punctuated else sentence for sentence in sentences)


def fresh_sentence(generator: np.random.Generator) -> str:
    """A sentence that is never trained on, in lower case without punctuation."""
    return _sentence(generator, held_out=True)


def punctuate(sentence: str, generator: np.random.Generator) -> str:
    """The sentence with a capital, an end, and sometimes a comma inside."""
    words = sentence.split()
    if len(words) > 3 and generator.random() < _COMMA_SHARE:
        position = int(generator.integers(1, len(words) - 2))
        words[position] += ","
    asks = words[0] in (*WORDS["question"], "what", "who", "do", "can", "is", "are")
    return " ".join(words).capitalize().replace(" i ", " I ") + (
        "?" if asks else "!" if generator.random() < 0.1 else "."
    )


def plain_words(text: str) -> list[str]:
    """The words of a text as the recogniser writes them: lower case, without punctuation, numbers in words."""
    words = []
    for word in text.lower().split():
        word = word.strip(".,!?")
        words += number_words(int(word)).split() if word.isdigit() else [word]
    return words


def _sentence(generator: np.random.Generator, *, held_out: bool) -> str:
    if not held_out and generator.random() < _PHRASE_SHARE:
        return PHRASES[generator.integers(len(PHRASES))]
    while True:
        template = _TEMPLATES[generator.integers(len(_TEMPLATES))]
        # fresh sentences are compared word by word, so their numbers are in words
        digits_share = 0.0 if held_out else _DIGITS_SHARE
        words = [_fill(slot, generator, digits_share) for slot in template]
        sentence = " ".join(words)
        if is_held_out(sentence) == held_out and len(set(words)) > 1:
            return sentence


def is_held_out(sentence: str) -> bool:
    """Whether a sentence is kept from training; phrases never are."""
    words = " ".join(plain_words(sentence))
    return words not in PHRASES and zlib.crc32(words.encode()) % _HELD_OUT_SHARE == 0


def _fill(slot: str, generator: np.random.Generator, digits_share: float) -> str:
    if not slot.startswith("<"):
        return slot
    kind = slot.strip("<>")
    if kind == "number":
        # small numbers are as frequent as large ones, or they would hardly ever be heard
        number = int(generator.integers((10, 100, MAX_NUMBER + 1)[generator.integers(3)]))
        return str(number) if generator.random() < digits_share else number_words(number)
    words = VOCABULARY if kind == "any" else WORDS[kind]
    return words[generator.integers(len(words))]
