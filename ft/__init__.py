"""frame-transformer: vocal separation from training to a proven-equal, fast engine."""

__version__ = "0.1.0"
