"""The page of ``robust-encoders app``: pictures with and without encoders, and a quick attack on them.

``request``, ``screen``, ``trials``, ``studio`` and ``attack`` hold the logic and need no Gradio. ``panels`` turns their
answers into HTML. ``page`` alone imports Gradio.
"""
