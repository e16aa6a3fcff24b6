"""Papers of the methods: what model cards cite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Paper(NamedTuple):
    """The publication of a method.

    Args:
        citation: Authors, title, venue and year, in Markdown.
        arxiv: Number on arXiv.
        name: Name of the method as its authors write it.
    """

    citation: str
    arxiv: str
    name: str


PAPERS: Mapping[str, Paper] = {
    "ablation": Paper(
        "Kumari et al., *Ablating Concepts in Text-to-Image Diffusion Models*, ICCV 2023",
        "2303.13516",
        "Ablating Concepts",
    ),
    "advunlearn": Paper(
        "Zhang et al., *Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion "
        "Models*, NeurIPS 2024",
        "2405.15234",
        "AdvUnlearn",
    ),
    "des": Paper(
        "Ahn and Jung, *Mitigating Sexual Content Generation via Embedding Distortion in Text-conditioned Diffusion "
        "Models*, NeurIPS 2025",
        "2501.18877",
        "DES",
    ),
    "doco": Paper(
        "Wu et al., *Unlearning Concepts in Diffusion Model via Concept Domain Correction and Concept Preserving "
        "Gradient*, AAAI 2025",
        "2405.15304",
        "DoCo",
    ),
    "dp": Paper(
        "Zhang et al., *Closed-Form Concept Erasure via Double Projections*, CVPR 2026",
        "2604.10032",
        "DP",
    ),
    "esd": Paper(
        "Gandikota et al., *Erasing Concepts from Diffusion Models*, ICCV 2023",
        "2303.07345",
        "ESD",
    ),
    "hirm": Paper(
        "Lee et al., *Localized Concept Erasure in Text-to-Image Diffusion Models via High-Level Representation "
        "Misdirection*, ICLR 2026",
        "2602.19631",
        "HiRM",
    ),
    "s_grace": Paper(
        "Yin et al., *Rethinking Robust Adversarial Concept Erasure in Diffusion Models*, 2025",
        "2510.27285",
        "S-GRACE",
    ),
    "uce": Paper(
        "Gandikota et al., *Unified Concept Editing in Diffusion Models*, WACV 2024",
        "2308.14761",
        "UCE",
    ),
    "mace": Paper(
        "Lu et al., *MACE: Mass Concept Erasure in Diffusion Models*, CVPR 2024 (its first stage)",
        "2403.06135",
        "MACE",
    ),
    "race": Paper(
        "Kim et al., *R.A.C.E.: Robust Adversarial Concept Erasure for Secure Text-to-Image Diffusion Model*, "
        "ECCV 2024",
        "2405.16341",
        "RACE",
    ),
    "rece": Paper(
        "Gong et al., *Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models*, ECCV 2024",
        "2407.12383",
        "RECE",
    ),
    "speed": Paper(
        "Li et al., *SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models*, ICLR 2026",
        "2503.07392",
        "SPEED",
    ),
    "spm": Paper(
        "Lyu et al., *One-dimensional Adapter to Rule Them All: Concepts, Diffusion Models and Erasing Applications*, "
        "CVPR 2024",
        "2312.16145",
        "SPM",
    ),
    "trce": Paper(
        "Chen et al., *TRCE: Towards Reliable Malicious Concept Erasure in Text-to-Image Diffusion Models*, ICCV 2025 "
        "(its first stage)",
        "2503.07389",
        "TRCE",
    ),
    "receler": Paper(
        "Huang et al., *Receler: Reliable Concept Erasing of Text-to-Image Diffusion Models via Lightweight Erasers*, "
        "ECCV 2024",
        "2311.17717",
        "Receler",
    ),
    "safe-clip": Paper(
        "Poppi et al., *Safe-CLIP: Removing NSFW Concepts from Vision-and-Language Models*, ECCV 2024",
        "2311.16254",
        "Safe-CLIP",
    ),
    "safer-clip": Paper(
        "SafeR-CLIP, AAAI 2026",
        "2511.16743",
        "SafeR-CLIP",
    ),
    "sage": Paper(
        "SAGE, ECCV 2026",
        "2607.00402",
        "SAGE",
    ),
    "leaf": Paper(
        "LEAF, NeurIPS 2025",
        "2506.03355",
        "LEAF",
    ),
}


def citation(method: str) -> str:
    """Return the citation of a method, or a sentence that no paper is known."""
    paper = PAPERS.get(method)
    return f"{paper.citation}, arXiv {paper.arxiv}." if paper else f"No paper is recorded for the method {method}."


def method_name(method: str) -> str:
    """Return the name of a method as its authors write it; an unknown method keeps its own."""
    paper = PAPERS.get(method)
    return paper.name if paper else method
