"""timm's first vit_small_patch16_224 (release v0.1-weights, 768 wide): vit_small_p16_224-15ec54c9.pth, a state dict.

    theirs                                 ours
    cls_token, pos_embed                   the same
    blocks.0.* to blocks.7.*, norm.*       the same
    patch_embed.*                          -
    head.*                                 -

timm scaled q k by 768 ** -0.5 with these weights; the authors of TransFER, and we, by the head's width 96 ** -0.5.
"""

from transfer.models.weights.importer import Importer, Theirs

VIT_SMALL = Importer(
    about="ViT-S/16 of timm v0.1 (768 wide), trained on ImageNet",
    format="torch",
    fills=("cls_token", "pos_embed", "blocks.", "norm."),
    theirs=lambda name: Theirs((name,)),
    not_wanted={
        r"patch_embed\..+": "projects 16x16 pixels of 3 channels; TransFER projects cells of the stem's map",
        r"head\..+": "the 1,000 classes of ImageNet",
    },
)
