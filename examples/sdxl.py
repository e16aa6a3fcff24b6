"""SDXL, which has two text encoders: the second one stays as it is, and so does the way through it.

    $ python examples/sdxl.py

``attach`` refuses such a pipeline unless you accept that with ``allow_partial=True``. The warning and ``status`` name
the encoders that the concept can still pass through. How to close both: docs/use.md, "Several text encoders".
"""

from typing import Any

from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from robust_encoders import IncompatibleError, RobustEncoder, embedded_pipeline


def small_sdxl() -> Any:
    """Return an SDXL of the embedded base's size. Its weights are random, so its pictures show nothing."""
    parts = embedded_pipeline().components
    width = parts["text_encoder"].config.hidden_size
    config = {name: value for name, value in parts["unet"].config.items() if not name.startswith("_")}
    config |= {"cross_attention_dim": 2 * width, "transformer_layers_per_block": (1, 1)}
    config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    config |= {"projection_class_embeddings_input_dim": 6 * 8 + width}
    second: Any = CLIPTextModelWithProjection(CLIPTextConfig(**parts["text_encoder"].config.to_dict()))
    unet: Any = UNet2DConditionModel(**config)
    return StableDiffusionXLPipeline(
        **{name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")},
        **{"unet": unet.eval(), "text_encoder_2": second.eval(), "tokenizer_2": parts["tokenizer"]},
    )


# SDXL itself, with the encoder "nudity" in place of "shapes/circle":
# pipe = StableDiffusionXLPipeline.from_pretrained("stabilityai/stable-diffusion-xl-base-1.0").to("cuda")
pipe = small_sdxl()
encoder = RobustEncoder.from_pretrained("shapes/circle")

try:
    encoder.attach(pipe)
except IncompatibleError as error:
    print(error)  # nothing was changed

encoder.attach(pipe, allow_partial=True)
for way_around in RobustEncoder.status(pipe).bypasses:
    print("-", way_around)

picture = pipe("a red circle", height=32, width=32, num_inference_steps=5).images[0]
picture.save("sdxl.png")
