"""MoVA in plain PyTorch, in an exported folder beside `config.json` and `model.safetensors`.

    from torch_model import Mova  # needs torch and safetensors, nothing else
    model = Mova.from_pretrained("folder")
    video = model.encode_video(frames, frame_mask)
    text = model.encode_text(tokens, token_mask)  # of a model that scores captions by parts, also
    text = model.encode_text(tokens, token_mask, part_tokens, part_token_mask)
    scores, cosines = model.scores(video, text), model.timeline(video, text)

Frames are RGB bytes of the model's image size; the last valid token of a caption is end-of-text,
and so is that of a part, which is a text of its own: a sentence, or a few (sentences.py).
Everything is float32 and differentiable. Masks of validity are bool, True = valid, and end in
`_mask`; `Masks` select dimensions. Axes, in shapes and einsum strings:

    b videos, c captions, p parts of a caption    f frames, l tokens, t tokens of a part
    d joint embedding, w width of a tower    n heads, e width of a head
    ... leading axes, which broadcast: [b 1 f d] meets [c l w]

The files import each other relatively, because they also run as a part of mova_jax. Keys that
exports of earlier formats have or lack are read by `get`.
"""

from .masks import Masks
from .mova import Mova
from .towers import Text, Video

__all__ = ["Masks", "Mova", "Text", "Video"]
