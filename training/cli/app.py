"""``robust-encoders app``: a page in the browser to draw with encoders side by side, and to attack them."""

from __future__ import annotations

import socket
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from threading import Event
from typing import get_args

from robust_encoders.errors import NotReadyError
from robust_encoders.hub.embedded import EMBEDDED_BASES
from robust_encoders.utils.console import EXIT_OK, UsageError, flush, say

from ..app.opening import AppConfig
from ..diffusion.load import UNetDtype
from ..worlds.choice import embedded_base_of
from .parsing import parser_of

HOST, PORT = "127.0.0.1", 7860
_PORTS = range(65536)


def app(arguments: Sequence[str]) -> int:
    """Serve the page until the program is interrupted.

    Args:
        arguments: Names of encoders, and options.

    Returns:
        The exit code.

    Raises:
        NotReadyError: If something is missing: encoders, a free port.
        UsageError: If the detector does not exist.
        ModuleNotFoundError: If Gradio is not installed.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    options = app_parser().parse_args(arguments)
    from ..app.page import open_page  # before anything is loaded, because Gradio may be missing

    require_free(options.host, options.port)
    try:
        page = open_page(_config(options))
        _silence()
        address = page.launch(host=options.host, port=options.port or None, share=options.share)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise UsageError(str(error)) from error
    say(address)
    if options.share or options.host not in (HOST, "localhost", "::1"):
        sys.stderr.write("Other people can reach this page: it draws whatever they ask for.\n")
    flush()
    with suppress(KeyboardInterrupt):
        Event().wait()
    page.close()
    return EXIT_OK


def _silence() -> None:
    """Silence what the libraries would write into the terminal at every picture: bars, and Gradio's own warnings."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"gradio\.")


def _config(options: Namespace) -> AppConfig:
    return AppConfig(
        encoders=tuple(dict.fromkeys(options.encoders)),
        base=options.base or embedded_base_of(options.encoders),
        detector=options.detector,
        steps=options.steps,
        guidance=options.guidance,
        workers=options.workers,
        device=options.device,
        dtype=options.dtype,
    )


def app_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = parser_of("app", "Serve a page that draws prompts without and with encoders, and attacks what they see.")
    parser.add_argument(
        "encoders", metavar="ENCODER", nargs="*", help="catalog name or folder; by default all of an embedded base"
    )
    parser.add_argument(
        "--base",
        default="",
        help=f"folder or Hub id of a pipeline, or {' or '.join(EMBEDDED_BASES)}, embedded bases; by default the "
        "embedded base that the encoders were made from",
    )
    parser.add_argument(
        "--detector",
        default="",
        metavar="NAME",
        help="detector that says whether an attack won, as in evaluate --detector; by default an embedded base's own "
        "judges, and NudeNet for nudity",
    )
    parser.add_argument("--steps", type=int, help="denoising steps of every picture; by default those of an evaluation")
    parser.add_argument("--guidance", type=float, help="guidance scale; by default that of an evaluation")
    parser.add_argument("--workers", type=int, default=2, help="visitors that are served at the same time")
    parser.add_argument("--device", default="", help="device of the pipeline")
    parser.add_argument("--dtype", choices=get_args(UNetDtype), default="float32", help="precision of all weights")
    parser.add_argument("--host", default=HOST, help="address to listen on; 0.0.0.0 lets the network in")
    parser.add_argument("--port", type=int, default=PORT, help="port to listen on; 0 takes a free one")
    parser.add_argument(
        "--share", action="store_true", help="open a tunnel through Gradio's servers, which makes the page public"
    )
    return parser


def require_free(host: str, port: int) -> None:
    """Check that a server can listen on an address and a port, before anything is loaded.

    Args:
        host: Address.
        port: Port; 0 stands for a free one.

    Raises:
        NotReadyError: If it cannot.
    """
    if port not in _PORTS:
        raise NotReadyError(f"expected a port from 0 to {_PORTS[-1]}, found {port}; pass another one as --port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise NotReadyError(
            f"expected a place to listen on, found {host} port {port} taken or unknown ({error.strerror}); pass "
            "another --port, for example --port 0, or another --host"
        ) from error
