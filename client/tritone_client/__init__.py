"""Speech from a Tritone server, whole or streamed, from synchronous or asyncio code.

from tritone_client import ControlledVoice, Tritone

with Tritone("localhost:8001") as tritone:
    tritone.synthesize("hello world", voice=ControlledVoice("female")).save("hello.wav")
"""

from tritone_client.aio import AsyncTritone
from tritone_client.client import Tritone
from tritone_client.connection import Tls
from tritone_client.errors import TritoneError, Unavailable
from tritone_client.messages import Sampling
from tritone_client.speech import Speech
from tritone_client.voices import ControlledVoice, ReferenceVoice, StoredVoice, TokenVoice, Voice

__all__ = [
    "AsyncTritone",
    "ControlledVoice",
    "ReferenceVoice",
    "Sampling",
    "Speech",
    "StoredVoice",
    "Tls",
    "TokenVoice",
    "Tritone",
    "TritoneError",
    "Unavailable",
    "Voice",
]
