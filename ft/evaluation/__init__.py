"""Evaluation: songs with true stems, what is scored on them, and the tables that come out."""
