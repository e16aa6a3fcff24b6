"""The loader's commands of ``robust-encoders``."""
