"""Sentences that the demo voice says well.

They are among those that it was trained on (`build_engines/demo_voice/texts.py` has all its words; others become
similar ones that it knows), and the offline recogniser in `tests/recognizer.py` tells them apart.
"""

from pathlib import Path

# A recording to clone: espeak-ng's voice en-us+m3 at 150 words per minute, 16 kHz.
REFERENCE_WAV = Path(__file__).with_name("reference.wav")
REFERENCE_TRANSCRIPT = "the river is near the mountain"

DEMO_SENTENCES = (
    "where is the train",
    "where is the market",
    "where is the river",
    "please open the door",
    "please speak slowly",
    "please help my friend",
    "please play the music again",
    "please look behind the door",
    "please send the letter tomorrow",
    "good morning my friend",
    "welcome to the world",
    "how are you today",
    "thank you very much",
    "turn right here",
    "hello world",
    "today is a good day",
    "tomorrow is a new day",
    "we start again tomorrow",
    "six seven eight nine ten",
    "zero one two three",
    "the number is eleven",
    "the number is fifty",
    "this computer can speak",
    "my computer is new",
    "the new engine is very fast",
    "the train is very slow",
    "the music is good",
    "the story is good",
    "the speech is over",
    "the sun is bright today",
    "the night is quiet",
    "the winter is cold",
    "the evening is warm",
    "the water is very cold",
    "the mountain is white",
    "the garden is green",
    "the green door is open",
    "the table is round",
    "the window is open",
    "the store is open today",
    "the store is near the street",
    "the horse is in the garden",
    "the black dog is behind the house",
    "the dog is inside the house",
    "the cat is behind the door",
    "the river is near the mountain",
    "the bird sings in the morning",
    "the student can hear the teacher",
    "they can hear the ocean",
    "my friend works in the city",
)
