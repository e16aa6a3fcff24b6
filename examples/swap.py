"""A robust encoder in an existing program, in five lines.

    $ python examples/swap.py

The prompt asks for a circle. It is drawn before the five lines, and not after them.
"""

import torch

from robust_encoders import RobustEncoder, embedded_pipeline

# What the program has already. Stable Diffusion 1.5, with the encoder "nudity" in place of "shapes/circle":
# pipe = StableDiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5").to("cuda")
pipe = embedded_pipeline()
prompt = "a red circle on a white background"
pipe(prompt, num_inference_steps=20, generator=torch.manual_seed(1)).images[0].save("before.png")

# The five lines. The second changes nothing: it says whether the encoder fits, and if not, every reason.
encoder = RobustEncoder.from_pretrained("shapes/circle")
print(encoder.check(pipe))
encoder.attach(pipe)
for way_around in RobustEncoder.status(pipe).bypasses:
    print("-", way_around)

pipe(prompt, num_inference_steps=20, generator=torch.manual_seed(1)).images[0].save("after.png")
