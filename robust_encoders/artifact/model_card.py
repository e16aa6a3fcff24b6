"""Model cards: what an artifact is, for people and for the Hub; a card that is there is merged, not replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.errors import CardError

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

CARD_NAME = "README.md"
LIBRARY = "robust-encoders"
# Everything between these two lines is ours and is written anew; everything else in a card is its owner's.
BEGIN = f"<!-- {LIBRARY}: written by save_pretrained and push_to_hub; text outside of begin and end is yours -->"
END = f"<!-- {LIBRARY}: end -->"
_INDEX = f"{LIBRARY}: "
_RELATION = {"weights": "finetune", "delta": "finetune", "adapter": "adapter", "projection": "adapter"}
_TAGS = ("diffusers", "transformers", "clip", "text-encoder", "concept-erasure", "machine-unlearning", "safetensors")
# The Hub refuses a card whose licence is none of its identifiers; any other one is "other" with a name.
_HUB_LICENSES = frozenset(
    ("apache-2.0", "mit", "openrail", "creativeml-openrail-m", "openrail++", "bsd-2-clause", "bsd-3-clause", "cc0-1.0",
     "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
     "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0",
     "unlicense", "other", "unknown")
)  # fmt: skip
_SMALL_WORLD = (
    "The embedded base is a small world of coloured shapes: none of its numbers is a Stable Diffusion number."
)
_ORIGINS = (
    "Rows marked *reported* are other people's numbers, given as they gave them; all others were measured by the code "
    "of this package and can be run again from `robust_encoder.json`."
)


class Paper(NamedTuple):
    """Where a method was published."""

    citation: str
    arxiv: str


PAPERS: Mapping[str, Paper] = {
    "advunlearn": Paper(
        "Zhang et al., *Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion "
        "Models*, NeurIPS 2024",
        "2405.15234",
    ),
    "des": Paper(
        "Ahn and Jung, *Mitigating Sexual Content Generation via Embedding Distortion in Text-conditioned Diffusion "
        "Models*, NeurIPS 2025",
        "2501.18877",
    ),
    "esd": Paper("Gandikota et al., *Erasing Concepts from Diffusion Models*, ICCV 2023", "2303.07345"),
    "uce": Paper("Gandikota et al., *Unified Concept Editing in Diffusion Models*, WACV 2024", "2308.14761"),
    "rece": Paper(
        "Gong et al., *Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models*, ECCV 2024",
        "2407.12383",
    ),
    "spm": Paper(
        "Lyu et al., *One-dimensional Adapter to Rule Them All: Concepts, Diffusion Models and Erasing Applications*, "
        "CVPR 2024",
        "2312.16145",
    ),
    "safe-clip": Paper(
        "Poppi et al., *Safe-CLIP: Removing NSFW Concepts from Vision-and-Language Models*, ECCV 2024", "2311.16254"
    ),
    "safer-clip": Paper("SafeR-CLIP, AAAI 2026", "2511.16743"),
    "sage": Paper("SAGE, ECCV 2026", "2607.00402"),
    "leaf": Paper("LEAF, NeurIPS 2025", "2506.03355"),
}

_WHAT: Mapping[str, str] = {
    "weights": "A text encoder",
    "adapter": "One-dimensional adapters, opened by each prompt as far as it is about the concept,",
    "projection": "A matrix that multiplies the text encoder's output,",
}
STORED: Mapping[str, str] = {
    "weights": "The weights are an ordinary `CLIPTextModel`: transformers loads\nthe folder without this package, too.",
    "adapter": "`adapter.safetensors` has the layout of SPM's own release,\nwhich other tools load as a LoRA; they "
    "then open it for every prompt alike.",
    "projection": "`encoder.fuse(pipe)` writes it into the key and value\nmatrices of the UNet, for tools without this "
    "package.",
}
# What only says more about a number that is shown.
_BESIDE = ("asr_last", "asr_gained")


def card(manifest: Manifest, *, reference: str, existing: str = "") -> str:
    """Return the text of an artifact's model card.

    Args:
        manifest: Manifest of the artifact; all facts and numbers come from it.
        reference: Name that ``RobustEncoder.from_pretrained`` is given to load it.
        existing: Text of the card that is there; its own text and the metadata we do not know stay.

    Raises:
        CardError: If the existing card's metadata cannot be read.
    """
    return merged(existing, rendered(card_data(manifest), words(manifest, reference)))


def card_data(manifest: Manifest) -> ModelCardData:
    """Return what the Hub shows and searches by; results measured by us are apart from those reported by others."""
    from huggingface_hub import ModelCardData

    method = str(manifest.method["name"])
    based = manifest.base.ids[:1]
    results = [found for result in _shown(manifest.results) if (found := _eval_result(result)) is not None]
    return ModelCardData(
        library_name=LIBRARY,
        base_model=based[0] if based else None,
        base_model_relation=_RELATION[manifest.form] if based else None,
        pipeline_tag="text-to-image",
        tags=tags(method),
        eval_results=results or None,
        model_name=f"{_INDEX}{manifest.concept.name} by {method}" if results else None,
        **licence_data(manifest.license),
    )


def tags(method: str, *, erased: bool = True) -> list[str]:
    """Return the tags of a card, the method and its paper among them."""
    general = [tag for tag in _TAGS if erased or tag not in ("concept-erasure", "machine-unlearning")]
    paper = PAPERS.get(method)
    return [*general, method, *([f"arxiv:{paper.arxiv}"] if paper else [])]


def licence_data(license: str) -> dict[str, Any]:
    """Return a licence as the Hub's metadata has it; nothing where none is stated."""
    if license.lower() in _HUB_LICENSES:
        return {"license": license.lower()}
    return {"license": "other", "license_name": license} if license else {}


def _eval_result(result: Mapping[str, Any]) -> EvalResult | None:
    from huggingface_hub import EvalResult

    if "metric" not in result or not isinstance(result.get("value"), (int, float)):
        return None
    origin, prompts = str(result.get("origin", "reported")), str(result.get("prompt_set") or "not stated")
    kept = {key: result[key] for key in ("n", "interval", "detector", "detector_version", "seeds") if result.get(key)}
    return EvalResult(
        task_type="text-to-image",
        dataset_type=prompts,
        dataset_name=f"{prompts} ({origin})",
        dataset_config=origin,  # keeps what is measured and what is reported in entries of their own
        metric_type=str(result["metric"]),
        metric_name=" ".join(filter(None, (str(result["metric"]), _attack(result), f"({origin})"))),
        metric_value=result["value"],
        metric_args=kept or None,
    )


def _shown(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the results that a reader looks for, worst cases first; the manifest holds the others, too."""
    kept = [r for r in results if r.get("metric") not in _BESIDE and not str(r.get("metric")).startswith("judge_")]
    return sorted(kept, key=lambda result: not str(result.get("metric")).startswith("worst_case"))


def _settings(result: Mapping[str, Any]) -> Mapping[str, Any]:
    found = result.get("settings")
    return found if isinstance(found, Mapping) else {}


def _attack(result: Mapping[str, Any], key: str = "label") -> str:
    attack = _settings(result).get("attack")
    return str(attack.get(key, "")) if isinstance(attack, Mapping) else ""


def _doubts(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in words which numbers the evaluation's own checks tell against."""
    found = (_settings(result).get("doubts") for result in results)
    return list(dict.fromkeys(_plain(str(doubt)) for doubts in found for doubt in doubts or ()))


def words(manifest: Manifest, reference: str) -> dict[str, Any]:
    """Return what the template is filled in with."""
    concept, method = _plain(manifest.concept.name), str(manifest.method["name"])
    base = f"the base {manifest.base.ids[0]}" if manifest.base.ids else f"bases of the family {manifest.base.family}"
    return {
        "title": f"{concept[:1].upper()}{concept[1:]}, erased by {method}",
        "summary": f"{_WHAT[manifest.form]} for {base}, from which the {manifest.concept.kind} **{concept}** was "
        f"erased with {method}. Everything else about the pipeline stays as it was.",
        "reference": reference,
        "stored": STORED[manifest.form],
        "results": _results(manifest.results),
        "limits": [_SMALL_WORLD] if manifest.base.family == "shapes" else [],
        "recipe": _recipe(manifest),
        "licence": f"Weights: {manifest.license}." if manifest.license else "Not stated: ask the publisher.",
        "citation": citation(method),
    }


def citation(method: str) -> str:
    """Return where a method was published, or that no paper is known."""
    paper = PAPERS.get(method)
    return f"{paper.citation}, arXiv {paper.arxiv}." if paper else f"No paper is recorded for the method {method}."


def _plain(text: str) -> str:
    """Return text in one line that neither closes our part of a card nor breaks a table."""
    return " ".join(text.replace("<", "&lt;").replace("|", "\\|").split())


def _recipe(manifest: Manifest) -> str:
    recipe = manifest.recipe
    named = f", recipe `{_plain(str(recipe['name']))}`" if recipe.get("name") else ""
    seeded = f", seed {recipe['seed']}" if "seed" in recipe else ""
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items()) or "versions not recorded"
    return f"Method `{manifest.method['name']}`{named}{seeded}; {versions}. `robust_encoder.json` holds every setting."


def _results(results: Sequence[Mapping[str, Any]]) -> str:
    measured = [result for result in results if result.get("origin") == "measured"]
    reported = [result for result in results if result.get("origin") != "measured"]
    parts = [_table(measured) if measured else "Nothing was measured by this package yet."]
    if reported:
        parts.append(f"Reported by others, not measured by us:\n\n{_table(reported)}")
    failed_checks = _doubts(results)
    if failed_checks:
        parts.append(
            "\n".join(["Checks on the attacks tell against these numbers:", "", *(f"- {d}" for d in failed_checks)])
        )
    return "\n\n".join([*parts, _ORIGINS] if results else parts)


def _table(results: Sequence[Mapping[str, Any]]) -> str:
    head = ("metric", "attack", "tier", "prompts", "value", "95 % interval", "n", "judged by", "origin")
    rows = [head, ("---",) * len(head), *map(_row, _shown(results))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    interval = result.get("interval")
    bounds = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
    value = result.get("value")
    number = f"{value:.3f}" if isinstance(value, (int, float)) else str(value)
    said = [str(result.get(key) or "") for key in ("metric", "prompt_set", "n", "detector", "origin")]
    metric, prompts, n, detector, origin = map(_plain, said)
    attack, tier = (_plain(text) for text in (_attack(result), str(result.get("tier") or _attack(result, "tier"))))
    return metric, attack, tier, prompts, number, bounds, n, detector, origin or "reported"


def rendered(data: ModelCardData, filled: Mapping[str, Any]) -> str:
    """Return a whole card from the template, our part of it between its marks.

    Args:
        data: Its metadata.
        filled: Words that fill the template, see :func:`words`.
    """
    from huggingface_hub import ModelCard

    template = Path(__file__).parents[1] / "assets" / "card_template.md"
    fresh = ModelCard.from_template(data, template_path=str(template), **filled)
    fresh.text = f"\n{BEGIN}\n\n{fresh.text.strip()}\n\n{END}\n"
    return str(fresh)


def merged(existing: str, fresh: str) -> str:
    """Return a card with its owner's text and metadata, and with our part and our facts as in a fresh one.

    Args:
        existing: The card that is there; empty if there is none.
        fresh: A card as :func:`rendered` makes it.

    Raises:
        CardError: If the existing card's metadata cannot be read.
    """
    from huggingface_hub.repocard_data import CardData

    if not existing.strip():
        return fresh
    old, new = _parsed(existing), _parsed(fresh)
    old.text = _with_our_part(old.text, new.text)
    old.data = CardData(**_merged_data(old.data.to_dict(), new.data.to_dict()))
    return str(old)


def _parsed(text: str) -> Any:
    from huggingface_hub.repocard import RepoCard
    from yaml import YAMLError

    # Without an empty block of metadata the Hub's client warns that there is none.
    text = text if text.lstrip().startswith("---") else f"---\n\n---\n{text}"
    try:
        # The base class: it keeps every entry of a model-index, where ModelCard would make one of them.
        return RepoCard(text)
    except (YAMLError, ValueError, TypeError) as error:
        found = " ".join(str(error).split())
        raise CardError(
            f"expected a model card with readable YAML between its first two --- lines, found {found}; "
            f"correct or remove that {CARD_NAME}, then save or push again"
        ) from error


def _with_our_part(text: str, fresh: str) -> str:
    end = text.find(END)
    begin = text.rfind(BEGIN, 0, max(end, 0))
    if begin < 0:
        return f"{text.rstrip()}\n{fresh}"
    return text[:begin] + fresh.strip() + text[end + len(END) :]


def _merged_data(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    index = [entry for entry in _listed(old.get("model-index")) if not _is_ours(entry)] + new.get("model-index", [])
    both = {**old, **new, "tags": list(dict.fromkeys([*_listed(old.get("tags")), *new.get("tags", [])]))}
    if "license" in new and "license_name" not in new:
        both = {key: value for key, value in both.items() if key not in ("license_name", "license_link")}
    return {**{key: value for key, value in both.items() if key != "model-index"}, "model-index": index or None}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _is_ours(entry: Any) -> bool:
    return isinstance(entry, dict) and str(entry.get("name", "")).startswith(_INDEX)
