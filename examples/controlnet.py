"""ControlNet with a robust encoder: attach to the pipeline that draws, and mind the control picture.

    $ python examples/controlnet.py

A control picture does not pass through the text encoder. One that shows the concept can bring it back.
"""

from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image, ImageDraw

from robust_encoders import RobustEncoder, embedded_pipeline

pipe = embedded_pipeline()
# An untrained ControlNet of the embedded base's size: it guides nothing yet. Stable Diffusion 1.5, with "nudity" below:
# pipe = StableDiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
# controlnet = ControlNetModel.from_pretrained("lllyasviel/sd-controlnet-canny")
controlnet = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32))

guided = StableDiffusionControlNetPipeline(**pipe.components, controlnet=controlnet, requires_safety_checker=False)
RobustEncoder.from_pretrained("shapes/circle").attach(guided)
for way_around in RobustEncoder.status(guided).bypasses:
    print("-", way_around)

edges = Image.new("RGB", (32, 32))  # as large as the pictures of the pipeline
ImageDraw.Draw(edges).rectangle((8, 8, 24, 24), outline="white")
guided("a red circle on a white background", image=edges, num_inference_steps=20).images[0].save("guided.png")
