"""Prompt weighting with a robust encoder: build the tool behind ``attach``, and ask whether an older one is left.

    $ pip install compel
    $ python examples/prompt_weighting.py

Compel keeps the text encoder that it was built with. One that was built before attaching brings the concept back.
"""

from compel import Compel

from robust_encoders import RobustEncoder, embedded_pipeline

# Stable Diffusion 1.5, with the encoder "nudity" in place of "shapes/circle":
# pipe = StableDiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5").to("cuda")
pipe = embedded_pipeline()
RobustEncoder.from_pretrained("shapes/circle").attach(pipe)
weighting = Compel(tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder)

embeds, negative = weighting(["a (red)1.3 circle on a white background", ""])
picture = pipe(prompt_embeds=embeds[None], negative_prompt_embeds=negative[None], num_inference_steps=20).images[0]
picture.save("weighted.png")

# A slow search through the program, for tools that still hold the old encoder. Here is none.
for way_around in RobustEncoder.status(pipe, references=True).bypasses:
    print("-", way_around)
