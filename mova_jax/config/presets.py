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

_NO_MASKS = {
    "model.tmn.layout": "none",
    "model.cmn.kind": "none",
    **dict.fromkeys(weights(needs="masks"), 0.0),
}
_PARTS = {
    "data.parts": 8,
    "model.sharpness": 20.0,
    "losses.pool": "logmeanexp",
    "eval.pool": "training",
}
_OTHER_TERMS = {name: 0.0 for name in weights() if name != "losses.contrast"}

OBJECTIVES = {
    "full": {},
    # Row (i): CLIP4Clip's loss and nothing else.
    "global_only": _NO_MASKS | _OTHER_TERMS | {"model.modular_scale": 0.0},
    # CLIP4Clip with its seqTransf head.
    "clip4clip": _NO_MASKS
    | _OTHER_TERMS
    | {"model.modular_scale": 0.0, "model.global_head": "seq_transformer"},
    # The control that masks have to beat (docs/method.md, 7): frames weighted by the caption.
    "frame_weighting": _NO_MASKS | {"losses.pool": "softmax", "eval.pool": "training"},
    # Each sentence of the caption finds its own frames (docs/method.md, 3); no masks.
    "parts": _NO_MASKS | _PARTS,
    # The same under a mask of concepts that is made from the sentence alone.
    "part_concepts": _PARTS | {"model.tmn.layout": "none", "losses.frame": 0.0},
    # The same under both masks of each frame and sentence, on hard pairs.
    "part_masks": _PARTS
    | {"losses.hard_pairs": 4, "losses.dfsm_masks": "none", "losses.frame": 0.0},
    # Row (ii): the visual mask alone, from the whole caption, as the parent SmartCLIP does.
    # All frames then share one part of the caption, so the frame contrast has no negatives.
    "cmn_only": {"model.tmn.layout": "none", "losses.frame": 0.0},
    # Row (iii): a frame selects tokens of the caption in place of dimensions.
    "token_mask": {"model.tmn.layout": "tokens"},
    "no_dfsm": {"losses.dfsm": 0.0},
    "no_sfdm": {"losses.sfdm": 0.0},
    "no_tv": {"losses.frame": 0.0},
    "soft_masks": {"model.masks.kind": "soft"},
    # The closest reading of the sources; for towers that start from a trained CLIP.
    "paper": {
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

# Rows whose captions are divided, with the sentences also looked for in the order of time.
OBJECTIVES |= {
    f"{name}_ordered": OBJECTIVES[name] | {"losses.order": 0.2}
    for name in ("parts", "part_concepts", "part_masks")
}
