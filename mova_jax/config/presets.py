"""Named model sizes and objectives: tables of changed config keys.

`configs/base.py:model=b16,objective=no_dfsm` applies them (`mova_jax.config.apply`). Sizes are
CLIP's. Objectives are the rows of the ablation, and the control that masks have to beat; a table
has everything that its row changes.
"""

from mova_jax.config.schema import weights

MODELS = {
    "tiny": {},  # the schema's defaults: trained from nothing on a laptop
    "b32": {
        "model.vision.image_size": 224,
        "model.vision.patch_size": 32,
        "model.vision.width": 768,
        "model.vision.layers": 12,
        "model.vision.heads": 12,
        "model.text.width": 512,
        "model.text.layers": 12,
        "model.text.heads": 8,
        "model.embed_dim": 512,
        "model.activation": "quick_gelu",
    },
}
MODELS["b16"] = MODELS["b32"] | {"model.vision.patch_size": 16}
MODELS["l14"] = {
    "model.vision.image_size": 224,
    "model.vision.patch_size": 14,
    "model.vision.width": 1024,
    "model.vision.layers": 24,
    "model.vision.heads": 16,
    "model.text.width": 768,
    "model.text.layers": 12,
    "model.text.heads": 12,
    "model.embed_dim": 768,
    "model.activation": "quick_gelu",
}
MODELS["l14_336"] = MODELS["l14"] | {"model.vision.image_size": 336}

# MoVA: captions are whole, and each frame masks them. Its rows change what follows.
_WHOLE = {
    "data.parts": 0,
    "model.sharpness": 0.0,
    "losses.order": 0.0,
    "losses.pool": "joint",
    "eval.pool": "aligned",
}
_BOTH_MASKS = {"model.tmn.layout": "select", "model.cmn.kind": "pool"}
_FULL = _WHOLE | _BOTH_MASKS | {"losses.frame": 0.1, "losses.sparsity": 0.02}
_GLOBAL = (
    _WHOLE
    | {name: 0.0 for name in weights() if name != "losses.contrast"}
    | {"model.modular_scale": 0.0}
)

# Each sentence of the caption finds its own frames (docs/method.md, 3), here in the order of time.
_PARTS = {
    "parts_ordered": {},
    # Under a mask of concepts that is made from the sentence alone.
    "part_concepts_ordered": {"model.cmn.kind": "pool", "losses.sparsity": 0.02},
    # Under both masks of each frame and sentence, on hard pairs.
    "part_masks_ordered": _BOTH_MASKS
    | {"losses.sparsity": 0.02, "losses.hard_pairs": 4, "losses.dfsm_masks": "none"},
}
OBJECTIVES = _PARTS | {
    name.removesuffix("_ordered"): table | {"losses.order": 0.0} for name, table in _PARTS.items()
}
OBJECTIVES |= {
    "full": _FULL,
    # Row (i): CLIP4Clip's loss and nothing else; and with its seqTransf head.
    "global_only": _GLOBAL,
    "clip4clip": _GLOBAL | {"model.global_head": "seq_transformer"},
    # A control without masks (docs/method.md, 7): frames weighted by the whole caption. At a weight
    # of 1 its terms ruin the towers (docs/results.md).
    "frame_weighting": _WHOLE
    | {"losses.pool": "softmax", "losses.sfdm": 0.1, "losses.dfsm": 0.1, "eval.pool": "training"},
    # Row (ii): the visual mask alone, from the whole caption, as the parent SmartCLIP does.
    # All frames then share one part of the caption, so the frame contrast has no negatives.
    "cmn_only": _FULL | {"model.tmn.layout": "none", "losses.frame": 0.0},
    # Row (iii): a frame selects tokens of the caption in place of dimensions.
    "token_mask": _FULL | {"model.tmn.layout": "tokens"},
    "no_dfsm": _FULL | {"losses.dfsm": 0.0},
    "no_sfdm": _FULL | {"losses.sfdm": 0.0},
    "no_tv": _FULL | {"losses.frame": 0.0},
    "soft_masks": _FULL | {"model.masks.kind": "soft"},
    # The closest reading of the sources; for towers that start from a trained CLIP.
    "paper": _FULL
    | {
        "model.global_head": "seq_transformer",
        "model.tmn.layout": "cross",
        "model.masks.kind": "hard",
        "model.masks.init_bias": 0.0,
        "losses.frame": 1.0,
        "losses.sparsity": 0.2,
        "losses.dfsm_masks": "own",
        "losses.pool": "mean",
        "eval.pool": "training",
        "losses.hard_pairs": 0,
        "model.modular_scale": 100.0,
        "model.scale": 100.0,
        "optim.groups": (("(vision|text|logit_scale)/?.*", 1e-3), (".*", 1.0)),
        "optim.learning_rate": 1e-4,
    },
}
