"""The demonstration: `python -m demo` speaks some lines and says how fast."""
