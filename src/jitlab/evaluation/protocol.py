"""The protocol of an evaluation: all that two figures must have in common to be compared."""

from dataclasses import dataclass
from typing import Any

from jitlab import build
from jitlab.config.schema import Config
from jitlab.evaluation.search import Search
from jitlab.evaluation.truth import reference_id
from jitlab.metrics.features import Extractor
from jitlab.metrics.reference import Reference
from jitlab.training.signal import ROUNDING

LABELS = "balanced"


@dataclass(frozen=True)
class Amounts:
    """How much is generated.

    Args:
        images: of every cell of a search.
        final: of the winner, at each seed.
        seeds: at which the winner is evaluated.
        search_seed: another one: the winner is not to be judged by the images that it was chosen by.
    """

    images: int
    final: int
    seeds: tuple[int, ...]
    search_seed: int


def protocol(
    config: Config,
    search: Search | None,
    full: bool,
    amounts: Amounts,
    extractor: Extractor,
    reference: Reference,
) -> dict[str, Any]:
    """Return the protocol as JSON values by name."""
    sampler = config.sampler
    found = {
        "solver": sampler.solver,
        "steps": sampler.steps,
        "shift": sampler.shift,
        "times": list(sampler.times),
        "churn": sampler.churn,
        "guidance_interval": list(sampler.guidance_interval),
        "clip_one_minus_t": sampler.clip_one_minus_t,
        "clip_t": sampler.clip_t,
        "precision": build.precision_name(config),
        "image_size": config.data.image_size,
        "num_classes": config.data.num_classes,
        "labels": LABELS,
        "rounding": ROUNDING,
        "features": extractor.name,
        "feature_weights_sha256": extractor.weights_sha256,
        "reference": reference_id(reference),
        "reference_images": reference.moments.n,
        "images": amounts.final,
        "seeds": list(amounts.seeds),
    }
    if search is None:
        return found | {"search": "none"}
    return found | {
        "search": "full" if full else "coarse to fine",
        "search_images": amounts.images,
        "search_seed": amounts.search_seed,
        "search_weights": list(search.weights),
        "search_scales": list(search.scales),
    }
