"""Damaged audio and damaged models through the real command line: what must never come out of it.

    python -m tests.fuzz audio --count 10000
    python -m tests.fuzz pipes --count 1000
    python -m tests.fuzz models --count 1000
    python -m tests.fuzz audio --only 4711        one case again, with all that it said

`material.py` makes the whole files, `audio_cases.py`, `pipe_cases.py` and `model_cases.py` damage them by seed
(`damage.py`), `worker.py` runs cases in a process of its own that has limits, `judge.py` and `judge_streams.py` say
what is wrong with what came out, and `campaign.py` keeps workers busy and counts.
"""
