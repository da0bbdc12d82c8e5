# RTMDet of mmdet, narrower than its tiny version, for the 20 categories of toy COCO at 256 pixels.
_base_ = "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"

metainfo = {
    "classes": (
        "car", "airplane", "bus", "boat", "traffic light", "stop sign", "umbrella", "sports ball", "kite",
        "bottle", "cup", "banana", "apple", "orange", "pizza", "donut", "cake", "clock", "vase", "teddy bear",
    )
}  # fmt: skip
norm = {"type": "BN"}
model = {
    "backbone": {"widen_factor": 0.25, "deepen_factor": 0.167, "norm_cfg": norm, "init_cfg": None},
    "neck": {"in_channels": [64, 128, 256], "out_channels": 64, "norm_cfg": norm},
    "bbox_head": {"in_channels": 64, "feat_channels": 64, "num_classes": 20, "norm_cfg": norm},
}
