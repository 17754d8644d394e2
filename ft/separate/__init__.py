"""A mixture in, its stems out, in memory that does not grow with its length."""

from ft.separate.separator import Separator

__all__ = ["Separator"]
