"""The page itself: Gradio's fields and buttons around the studio. Nothing on it comes from outside this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from robust_encoders.redaction import get_logger

from . import panels
from .attacks import Attacks
from .opening import AppConfig, open_studio
from .request import LONGEST, PictureRequest, RequestError
from .serving import Sealed, without_proxy
from .studio import Studio

logger = get_logger(__name__)
TITLE = "Robust text encoders"
_FONTS = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")
_WAITING = 32  # visitors that may wait


class Page:
    """The page of one studio.

    Args:
        studio: Pipelines and encoders of the page.
        prompt: Prompt that the page opens with.
        chosen: Names of the encoders that it opens with.
    """

    def __init__(self, studio: Studio, *, prompt: str = "", chosen: tuple[str, ...] = ()) -> None:
        self.studio, self.attacks = studio, Attacks(studio)
        self.titles = panels.titles(studio)
        self.prompt, self.chosen = prompt, list(chosen)
        self.blocks = self._blocks()

    def draw(self, prompt: str, negative: str, seed: float | None, names: list[str]) -> tuple[str, str]:
        """Return the pictures and the report of a request as HTML, or what is wrong with it."""
        try:
            drawn = self.studio.draw(self._request(prompt, negative, seed, names))
        except RequestError as error:
            return panels.problems(error.problems), ""
        except Exception as error:
            logger.exception("a drawing of the page failed")
            return panels.problems([f"The drawing failed: {type(error).__name__}: {error}"]), ""
        return panels.pictures(drawn), panels.report(drawn, self.titles)

    def attack(self, visitor: gr.Request, *fields: Any) -> Iterator[tuple[str, Any, Any]]:
        """Yield the states of an attack as HTML, with the two buttons of that time.

        Args:
            visitor: Session of the visitor, which Gradio passes.
            fields: Values of the fields of a request, and the name of the concept to bring back.
        """
        *asked, concept = fields
        try:
            request = self._request(*asked)
        except RequestError as error:
            yield panels.problems(error.problems), *_buttons(running=False)
            return
        for state in self.attacks.run(str(visitor.session_hash), request, concept or ""):
            yield panels.attack(state, request.prompt), *_buttons(running=not state.ending)

    def stop(self, visitor: gr.Request) -> None:
        """Stop the visitor's attack."""
        self.attacks.stop(str(visitor.session_hash))

    def choose(self, names: list[str]) -> tuple[Any, str]:
        """Return the field of the concept to attack, and what the attack does, after other encoders were chosen."""
        known = [one.name for one in self.studio.concepts(names)]
        field = gr.Dropdown(value=next(iter(known), None), visible=len(known) > 1)
        return field, panels.attack_note(self.studio, names)

    def _request(self, prompt: str, negative: str, seed: float | None, names: list[str]) -> PictureRequest:
        return PictureRequest.read(prompt, negative, seed, names, known=self.studio.encoders)

    def _blocks(self) -> gr.Blocks:
        with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
            _html(panels.header(self.studio))
            with gr.Row():
                with gr.Column(scale=4, min_width=300):
                    fields = self._fields()
                    draw = gr.Button("Draw", variant="primary", elem_id="draw")
                with gr.Column(scale=5, min_width=300):
                    pictures, report = _html(panels.waiting(), elem_id="pictures"), _html(elem_id="report")
            self._attack_part(fields)
            gr.on(
                [draw.click, fields[0].submit, fields[1].submit],
                self.draw,
                fields,
                [pictures, report],
                concurrency_limit=self.studio.workers,
                api_visibility="private",
            )
            blocks.unload(self.stop)
        blocks.queue(max_size=_WAITING, api_open=False)
        return blocks

    def _fields(self) -> list[Any]:
        choices = [(title, name) for name, title in self.titles.items()]
        return [
            gr.Textbox(self.prompt, label="Prompt", lines=2, max_lines=4, max_length=LONGEST, elem_id="prompt"),
            gr.Textbox("", label="Negative prompt", max_lines=2, max_length=LONGEST, elem_id="negative"),
            # Without Gradio's own limits, which end in the word "Error" alone.
            gr.Number(0, label="Seed", elem_id="seed"),
            gr.CheckboxGroup(choices, value=self.chosen, label="Encoders to attach", elem_id="encoders"),
        ]

    def _attack_part(self, fields: list[Any]) -> None:
        known = [one.name for one in self.studio.concepts(self.chosen)]
        with gr.Column():
            note = _html(panels.attack_note(self.studio, self.chosen), elem_id="attack-note")
            # All concepts of the page: Gradio refuses a value that is no choice, while encoders are being chosen, too.
            concept = gr.Dropdown(
                list(self.studio.trials),
                value=next(iter(known), None),
                label="Concept to bring back",
                visible=len(known) > 1,
            )
            with gr.Row():
                start = gr.Button("Attack it", elem_id="attack")
                stop = gr.Button("Stop", interactive=False, elem_id="stop")
            state = _html(elem_id="attack-state")
        # One pipeline stays free for those who draw.
        start.click(
            self.attack,
            [*fields, concept],
            [state, start, stop],
            concurrency_limit=max(1, self.studio.workers - 1),
            api_visibility="private",
            show_progress="hidden",
        )
        stop.click(self.stop, queue=False, api_visibility="private")
        fields[-1].change(self.choose, fields[-1], [concept, note], queue=False, api_visibility="private")

    def launch(self, *, host: str = "127.0.0.1", port: int | None = None, share: bool = False) -> str:
        """Serve the page from a thread of its own, and return its address.

        Args:
            host: Address to listen on.
            port: Port to listen on; None for the first free one from 7860 on.
            share: True to open a tunnel through Gradio's servers, which gives the page a public address.

        Raises:
            OSError: If the port is taken.
        """
        with without_proxy():
            local, public = self._launched(host, port, share)
        return str(public or local)

    def _launched(self, host: str, port: int | None, share: bool) -> tuple[str, str | None]:
        _, local, public = self.blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            inline=False,
            quiet=True,
            theme=_theme(),
            css=panels.style(),
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            max_file_size="1kb",  # nothing on the page takes files
            app_kwargs={"middleware": [(Sealed, (), {})]},
        )
        return local, public

    def close(self) -> None:
        """Stop all attacks and the server."""
        self.attacks.stop_all()
        self.blocks.close(verbose=False)


def open_page(config: AppConfig) -> Page:
    """Return the page that a configuration describes, with everything loaded; see ``open_studio`` for its errors.

    Args:
        config: Settings of the page.
    """
    studio = open_studio(config)
    facts = config.embedded
    chosen = facts.encoder if facts and facts.encoder in studio.encoders else next(iter(studio.encoders))
    return Page(studio, prompt=facts.prompt if facts else "", chosen=(chosen,))


def _theme() -> Any:
    """Return Gradio's plain theme in the colours of the reports, with fonts of the visitor's machine."""
    plain = gr.themes.Base(primary_hue="zinc", neutral_hue="zinc", font=_FONTS, font_mono=_MONO)
    return plain.set(
        body_background_fill="#f6f6f8",
        body_background_fill_dark="#131317",
        block_background_fill="#fff",
        block_background_fill_dark="#1d1d22",
        button_primary_background_fill="#1b1b20",
        button_primary_background_fill_hover="#43434d",
        button_primary_background_fill_dark="#ececf1",
        button_primary_background_fill_hover_dark="#a9a9b4",
        button_primary_text_color_dark="#1b1b20",
    )


def _html(value: str = "", *, elem_id: str | None = None) -> Any:
    return gr.HTML(value, elem_id=elem_id, elem_classes="re-html", js_on_load=None)


def _buttons(*, running: bool) -> tuple[Any, Any]:
    return gr.Button(interactive=not running), gr.Button(interactive=running)
