# dgkit train segmenter training/segmenter/deeplabv2_resnet101.py --out runs/dlv2 --set pretrained=resnet101_v1c.pth
# Hardware: one GPU (DGInStyle: RTX 2080 Ti). Time and accuracy: not yet measured with dgkit.
# resnet101_v1c.pth: mmsegmentation's ImageNet weights of ResNet-101 v1c; without them it starts from random ones.
_base_ = ["base.py"]
head = "deeplabv2"
backbone = "resnet101"
