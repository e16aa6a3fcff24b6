"""Model cards of artifacts, for people and for the Hub. A present card is merged, not replaced."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robust_encoders.artifact.card_certificate import card_certificate
from robust_encoders.artifact.card_index import card_index
from robust_encoders.artifact.card_results import card_results, plain
from robust_encoders.artifact.card_slots import PARTIAL, one_of_two, stored, what
from robust_encoders.artifact.embedded_bases import EMBEDDED, EmbeddedFacts
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.papers import PAPERS, citation, method_name
from robust_encoders.artifact.stated import is_blank
from robust_encoders.errors import CardError

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CARD_NAME = "README.md"
LIBRARY = "robust-encoders"
# Everything between these two lines is ours and is written anew; everything else in a card is its owner's.
BEGIN = f"<!-- {LIBRARY}: written by save_pretrained and push_to_hub; text outside of begin and end is yours -->"
END = f"<!-- {LIBRARY}: end -->"
_INDEX = f"{LIBRARY}: "
_RELATION = {
    "weights": "finetune",
    "delta": "finetune",
    "adapter": "adapter",
    "projection": "adapter",
    "eraser": "adapter",
}
_TAGS = ("diffusers", "transformers", "clip", "text-encoder", "concept-erasure", "machine-unlearning", "safetensors")
# The Hub refuses a card whose licence is none of its identifiers; any other one is "other" with a name.
_HUB_LICENSES = frozenset(
    ("apache-2.0", "mit", "openrail", "creativeml-openrail-m", "openrail++", "bsd-2-clause", "bsd-3-clause", "cc0-1.0",
     "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
     "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0",
     "unlicense", "other", "unknown")
)  # fmt: skip
_WHAT: Mapping[str, str] = {
    "weights": "A text encoder",
    "adapter": "One-dimensional adapters with a gate for every prompt,",
    "projection": "A matrix that multiplies the text encoder's output,",
    "delta": "Trained weights of the UNet",
    "eraser": "Small modules after the cross-attentions of the UNet,",
}
_UNSTATED = "Not stated: whoever made these weights states it by `robust-encoders annotate FOLDER --license NAME`."
STORED: Mapping[str, str] = {
    "weights": "The weights are an ordinary `CLIPTextModel`. transformers loads\nthe folder without this package, too.",
    "adapter": "Other tools load `adapter.safetensors` as a LoRA\nwithout gates, which then acts on every prompt.",
    "projection": "`encoder.fuse(pipe)` writes it into the key and value\nmatrices of the UNet, for tools without this "
    "package.",
    "delta": "`delta.safetensors` holds parameters of the UNet under\nthe names of diffusers. `pipe.save_pretrained` "
    "writes a plain UNet with them.",
    "eraser": "The modules act by hooks and cannot be fused into\nweights: attach them again after loading a pipeline.",
}


def card(manifest: Manifest, *, reference: str, existing: str = "", picture: str = "") -> str:
    """Return the text of an artifact's model card.

    Args:
        manifest: Manifest of the artifact, the source of all facts and numbers.
        reference: Name or path for ``RobustEncoder.from_pretrained`` in the example.
        existing: Text of the present card; its owner's text and unknown metadata stay.
        picture: Path of a picture before and after attaching, relative to the card; empty for no picture.

    Raises:
        CardError: If the existing card has metadata that cannot be read.
    """
    return merged(existing, rendered(card_data(manifest), {**words(manifest, reference), "picture": picture}))


def card_data(manifest: Manifest) -> ModelCardData:
    """Return the metadata that the Hub shows and searches by, at most ten headline numbers among them."""
    from huggingface_hub import ModelCardData

    method = str(manifest.method["name"])
    based = manifest.base.ids[:1]
    results = card_index(manifest.results)
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
    """Return the tags of a card, among them the method and its paper.

    Args:
        method: Name of the method.
        erased: False for a control, from which nothing was erased.
    """
    general = [tag for tag in _TAGS if erased or tag not in ("concept-erasure", "machine-unlearning")]
    paper = PAPERS.get(method)
    named = [] if is_blank(method) else [method]
    return [*general, *named, *([f"arxiv:{paper.arxiv}"] if paper else [])]


def licence_data(license: str) -> dict[str, Any]:
    """Return a licence as metadata of the Hub; empty if no licence is stated."""
    if is_blank(license):
        return {}
    if license.lower() in _HUB_LICENSES:
        return {"license": license.lower()}
    return {"license": "other", "license_name": license}


def words(manifest: Manifest, reference: str) -> dict[str, Any]:
    """Return the words that fill the template.

    Args:
        manifest: Manifest of the artifact.
        reference: Name or path for ``RobustEncoder.from_pretrained`` in the example.
    """
    concept, method = plain(manifest.concept.name), method_name(str(manifest.method["name"]))
    family = (
        "a base that is not stated" if is_blank(manifest.base.family) else f"bases of the family {manifest.base.family}"
    )
    base = f"the base {manifest.base.ids[0]}" if manifest.base.ids else family
    embedded = EMBEDDED.get(manifest.base.family)
    base = f"the small base of {embedded.draws} in robust_encoders" if embedded else base
    title, made = _made(manifest, concept, method)
    return {
        "title": title,
        "summary": f"{what(manifest, _WHAT)} for {base}, {made}. All other parts of the pipeline stay as they are.",
        **usage(
            reference,
            manifest.base.ids[0] if manifest.base.ids else "path/to/the/base",
            embedded=embedded,
            partial=one_of_two(manifest),
        ),
        "stored": stored(manifest, STORED),
        "results": card_results(manifest.results),
        "certificate": card_certificate(manifest),
        "inside_unet": manifest.form in ("delta", "eraser"),
        "limits": [embedded.limit] if embedded else [PARTIAL] if one_of_two(manifest) else [],
        "recipe": _recipe(manifest),
        "licence": _UNSTATED if is_blank(manifest.license) else f"Weights: {manifest.license}.",
        "citation": citation(str(manifest.method["name"])),
    }


def _made(manifest: Manifest, concept: str, method: str) -> tuple[str, str]:
    """Return the title of a card, and the words that say how the artifact was made, as far as they are stated."""
    by = "" if is_blank(method) else f" by {method}"
    made = "made with a method that is not stated" if is_blank(method) else f"made with {method}"
    if is_blank(concept):
        return f"A concept that is not stated, erased{by}", f"{made} to forget a concept that is not stated"
    title = f"{concept[:1].upper()}{concept[1:]}, erased{by}"
    return title, f"{made} to forget the {manifest.concept.kind} **{concept}**"


def usage(reference: str, base: str, *, embedded: EmbeddedFacts | None = None, partial: bool = False) -> dict[str, Any]:
    """Return the words of a card's example: the name of the encoder, and the pipeline that it is attached to.

    Args:
        reference: Name or path for ``RobustEncoder.from_pretrained``.
        base: Hub id or path of the pipeline.
        embedded: Facts about the pipeline if it comes with this package.
        partial: True if the encoder is one of the two text encoders of SDXL.
    """
    return {"reference": reference, "base": base, "embedded": embedded, "partial": partial}


def _recipe(manifest: Manifest) -> str:
    recipe = manifest.recipe
    named = f", recipe `{plain(str(recipe['name']))}`" if recipe.get("name") else ""
    seeded = f", seed {recipe['seed']}" if "seed" in recipe else ""
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items()) or "versions not recorded"
    return f"Method `{manifest.method['name']}`{named}{seeded}; {versions}. `robust_encoder.json` holds every setting."


def rendered(data: ModelCardData, filled: Mapping[str, Any]) -> str:
    """Return a whole card from the template, with our part between two marks.

    Args:
        data: Metadata of the card.
        filled: Words that fill the template, see :func:`words`.
    """
    from huggingface_hub import ModelCard

    template = Path(__file__).parents[1] / "assets" / "card_template.md"
    fresh = ModelCard.from_template(data, template_path=str(template), **filled)
    fresh.text = f"\n{BEGIN}\n\n{fresh.text.strip()}\n\n{END}\n"
    return str(fresh)


def merged(existing: str, fresh: str) -> str:
    """Return a card with the owner's text and metadata of an existing card, and our part and facts of a fresh one.

    Args:
        existing: Text of the present card; empty if there is none.
        fresh: Text of a card from :func:`rendered`.

    Raises:
        CardError: If the existing card has metadata that cannot be read.
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
    # Earlier versions wrote this tag for an artifact that did not name its method.
    kept = [tag for tag in _listed(old.get("tags")) if tag != "not stated"]
    both = {**old, **new, "tags": list(dict.fromkeys([*kept, *new.get("tags", [])]))}
    if "license" in new and "license_name" not in new:
        both = {key: value for key, value in both.items() if key not in ("license_name", "license_link")}
    return {**{key: value for key, value in both.items() if key != "model-index"}, "model-index": index or None}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _is_ours(entry: Any) -> bool:
    return isinstance(entry, dict) and str(entry.get("name", "")).startswith(_INDEX)
