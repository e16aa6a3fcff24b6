"""The page of ``robust-encoders app`` as a Space on the Hub: the embedded base and its encoders, on a CPU."""

from __future__ import annotations

from threading import Event

from robust_encoders.training.app.opening import AppConfig
from robust_encoders.training.app.page import open_page

page = open_page(AppConfig())
demo = page.blocks  # the name that a Space looks for

if __name__ == "__main__":
    page.launch(host="0.0.0.0", port=7860)
    Event().wait()
