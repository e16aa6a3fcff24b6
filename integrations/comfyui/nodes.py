"""The node, in the protocol of ComfyUI's first generation of nodes.

All that needs no module of ComfyUI is in ``robust_encoders.integrations.comfyui``.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

import folder_paths
from comfy_execution.graph_utils import ExecutionBlocker

from robust_encoders import RobustEncoder
from robust_encoders.integrations.comfyui.attach import attach
from robust_encoders.integrations.comfyui.choices import choices, chosen, problem, state

FOLDER = "robust_encoders"  # below ComfyUI's folder of models, and a key of extra_model_paths.yaml
folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def _folders() -> list[str]:
    found: list[str] = folder_paths.get_folder_paths(FOLDER)
    return found


class RobustEncoderNode:
    """Attaches a robust encoder, by name or folder, to a copy of the connected CLIP."""

    CATEGORY = "loaders"
    DESCRIPTION = (
        "Replaces a text encoder of Stable Diffusion by one that has unlearned a concept. The connected CLIP stays as "
        "it is. Overlays that change the UNet need MODEL, too."
    )
    SEARCH_ALIASES: ClassVar[list[str]] = ["concept erasure", "unlearning", "safe text encoder"]
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL", "CLIP", "STRING")
    RETURN_NAMES = ("MODEL", "CLIP", "status")
    OUTPUT_TOOLTIPS = (
        "The model, with the overlay if there is one.",
        "The CLIP with the robust encoder, for both nodes CLIP Text Encode.",
        "What is attached, what it covers and what it does not cover.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the inputs of the node, with the encoders that are there now."""
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "The CLIP of the loader, before any LoRA."}),
                "encoder": (
                    choices(_folders()),
                    {"tooltip": f"A name of the catalog, or a folder in models/{FOLDER}."},
                ),
                "other": (
                    "STRING",
                    {"default": "", "tooltip": "If the list says so: another name, a folder, or org/name on the Hub."},
                ),
                "allow_partial": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Accept that other text encoders of the CLIP stay as they are."},
                ),
            },
            "optional": {"model": ("MODEL", {"tooltip": "Needed by overlays, which change the UNet."})},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, encoder: str | None, other: str | None) -> bool | str:
        """Return true, or why the encoder cannot be loaded.

        Args:
            encoder: Entry of the list; None if another node computes it, which has not run yet.
            other: Text below the list; None if another node computes it.
        """
        return encoder is None or other is None or problem(encoder, other, _folders()) or True

    @classmethod
    def IS_CHANGED(cls, encoder: str | None, other: str | None, **_: Any) -> str:
        """Return a text that changes when the node has to run again.

        Args:
            encoder: Entry of the list; None if another node computes it, which has not run yet.
            other: Text below the list; None if another node computes it.
        """
        return "" if encoder is None or other is None else state(encoder, other, _folders())

    def apply(
        self,
        clip: Any,
        encoder: str,
        other: str,
        allow_partial: bool,
        model: Any = None,
        unique_id: str | None = None,
    ) -> dict[str, Any]:
        """Load and verify the encoder, check it against the connected models, and attach it to copies of them.

        Args:
            clip: ComfyUI's CLIP.
            encoder: Entry of the list.
            other: Text below the list.
            allow_partial: True to accept that other text encoders of the CLIP stay as they are.
            model: ComfyUI's MODEL; None if it is not connected.
            unique_id: Number of the node in the graph.

        Returns:
            The outputs, and the status for the node.
        """
        loaded = RobustEncoder.from_pretrained(chosen(encoder, other, _folders()))
        attached = attach(loaded, clip, model, allow_partial=allow_partial)
        text = str(attached.status)
        _show(text, unique_id)
        missing = ExecutionBlocker("connect MODEL with the robust encoder's node, or the sampler with the loader")
        drawn = missing if attached.model is None else attached.model
        return {"ui": {"text": (text,)}, "result": (drawn, attached.clip, text)}


def _show(text: str, unique_id: str | None) -> None:
    """Write a text on a node, as ComfyUI's own nodes do; without a server there is nothing to write on."""
    from server import PromptServer

    instance = getattr(PromptServer, "instance", None)
    if instance is not None and unique_id is not None and hasattr(instance, "send_progress_text"):
        instance.send_progress_text(text, unique_id)


NODE_CLASS_MAPPINGS = {"RobustEncoder": RobustEncoderNode}
NODE_DISPLAY_NAME_MAPPINGS = {"RobustEncoder": "Robust Encoder"}
