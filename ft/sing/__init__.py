"""Singing made from spoken recordings: a melody, a voice taken apart, a score that joins them, and its sound."""

# Raised whenever the same recording and seed would give another sound.
RECIPE = 3
