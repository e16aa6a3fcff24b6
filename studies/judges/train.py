"""Train the judge of the packaged base again: ``python studies/judges/train.py WORK``; the base itself stays as it is.

The finished judge lies in ``WORK/judge/final.safetensors``. With ``--package`` it replaces the packaged one, and
``RECORD.json`` receives what is measured.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from safetensors.torch import load_file
from torch import nn

from robust_encoders.hub.embedded import embedded_folder, embedded_pipeline
from robust_encoders.training.worlds.pretrain.assemble import RENDERS, measured, save_tensors
from robust_encoders.training.worlds.pretrain.build import build
from robust_encoders.training.worlds.pretrain.networks import ImageTower
from robust_encoders.training.worlds.pretrain.workshop import Workshop
from robust_encoders.training.worlds.shapes.corpus import ShapesCorpus
from robust_encoders.utils.home import expanded


def restore_base(shop: Workshop) -> None:
    """Write the parts of the packaged base into a build's folder, as stages that have finished."""
    record = json.loads((embedded_folder("shapes") / "RECORD.json").read_text())["stages"]
    pipe, tower = embedded_pipeline(), ImageTower()
    tower.load_state_dict(
        {k: v.float() for k, v in load_file(embedded_folder("shapes") / "image_tower.safetensors").items()}
    )
    text = nn.ModuleDict({"encoder": pipe.text_encoder, "tower": tower})
    for stage, module in (("autoencoder", pipe.vae), ("text", text), ("unet", pipe.unet)):
        shop.keep(stage, module, record[stage])


def package(shop: Workshop) -> None:
    """Replace the packaged judge, and record its accuracy and the base's as it sees them."""
    folder = embedded_folder("shapes")
    save_tensors(shop.judge().state_dict(), folder / "judge.safetensors")
    record = json.loads((folder / "RECORD.json").read_text())
    record["sizes"] |= {name: asdict(shop.sizes)[name] for name in ("judge", "judge_batch", "rejects", "unfinished")}
    record["stages"]["judge"] = shop.record("judge")
    record |= measured(shop.corpus, shop.judge(), embedded_pipeline(), renders=RENDERS, drawn=shop.sizes.drawn)
    aside = folder / "RECORD.json.tmp"
    aside.write_text(json.dumps(record, indent=2) + "\n")
    aside.replace(folder / "RECORD.json")


def main() -> None:
    """Train, and package if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=expanded)
    parser.add_argument("--package", action="store_true")
    chosen = parser.parse_args()
    corpus = ShapesCorpus()
    shop = Workshop(corpus, chosen.work, corpus.sizes, 0)
    if not (shop.folder / "unet" / "record.json").exists():
        restore_base(shop)
    build(shop.corpus, chosen.work, stages=("judge",), sizes=shop.sizes, work=chosen.work)
    if chosen.package:
        package(shop)


if __name__ == "__main__":
    main()
