"""The open share of the masks of true pairs (docs/method.md, 5)."""

from mova_jax.evaluation.context import EvalContext, Evaluation


def mask_densities(context: EvalContext) -> dict[str, float]:
    """Mean over valid frames of the share of each mask that is open, 0 to 1."""
    masks, valid = context.matching_masks, context.embeddings.video.frame_mask
    return {
        "text_mask_density": float(masks.text_mask_density[valid].mean()),
        "video_mask_density": float(masks.video.mean(-1)[valid].mean()),
    }


EVALUATION = Evaluation(
    mask_densities,
    "Concept masks",
    labels={"text_mask_density": "mᵀ open, %", "video_mask_density": "mⱽ open, %"},
    applies=lambda config: config.model.has_masks,
)
