"""Image to image with a robust encoder, and why a picture that comes in has to be checked as well.

    $ python examples/img2img.py

The starting picture does not pass through the text encoder. With an empty prompt it stays, whatever the encoder has
forgotten. A service that takes pictures from its users needs a detector for pictures, too.
"""

import torch
from diffusers import AutoPipelineForImage2Image

from robust_encoders import RobustEncoder, embedded_pipeline

# Stable Diffusion 1.5, with the encoder "nudity" in place of "shapes/circle":
# pipe = AutoPipelineForText2Image.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5").to("cuda")
pipe = embedded_pipeline()
request = "a red circle on a white background"
start = pipe(request, num_inference_steps=20, generator=torch.manual_seed(1)).images[0]  # a picture that a user sends

# from_pipe first, then attach: a pipeline made from an attached one carries the encoder, but cannot detach it.
changing = AutoPipelineForImage2Image.from_pipe(pipe)
RobustEncoder.from_pretrained("shapes/circle").attach(changing)
for way_around in RobustEncoder.status(changing).bypasses:
    print("-", way_around)

# The strength says how much of the starting picture is drawn anew.
for name, prompt, strength in (("by-text.png", request, 1.0), ("by-picture.png", "", 0.3)):
    drawn = changing(prompt, image=start, strength=strength, num_inference_steps=20, generator=torch.manual_seed(1))
    drawn.images[0].save(name)
