# dgkit train segmenter training/segmenter/rein_dinov2_large.py --out runs/rein_large
# Hardware: one GPU of 24 GB (Rein: RTX 3090). Time and accuracy: not yet measured with dgkit. Published, trained on
# GTA5 alone: Cityscapes 66.7, BDD100K 60.0 mIoU (protocol half).
# Rein (Wei et al., CVPR 2024): DINOv2-L, frozen, patches resized to 16, tokens as queries of Mask2Former. Its source is
# all of GTA5 without rare class sampling. DINOv2: Apache-2.0. Needs no generated images: --set data.generated=[]
# --set data.share=0
_base_ = ["base.py"]
head = "mask2former"
backbone = "transformers:facebook/dinov2-large"
freeze = True
rein = {"tokens": 100, "rank": 16}
patch = 16
blocks = (7, 11, 15, 23)
data = {"short_sides": (256, 1024), "rare_classes": None}
train = {"batch": 4, "lr": 1e-4, "head_lr": 1.0, "weight_decay": 0.05, "warmup": 0, "power": 0.9}
