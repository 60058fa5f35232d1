"""nnU-Net v2 as the peer of ``prediction.py``: runs in an environment of its own and needs nothing of metaseg.

Builds the model folder that a training would have left (plans, data set, random weights) for a 2-D U-Net as nnU-Net
plans it: plain convolutions, two a stage, instance normalisation, leaky ReLU, one convolution to go down and a
transposed one to go up. Then predicts from files to NIfTI whenever a line comes in on standard input, and answers with
a line of JSON. Started by ``prediction.py``; see there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

STAGES = 5


def own_peak_mb() -> float:
    """Largest resident memory of this process."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def architecture(features: list[int]) -> dict:
    """The part of the plans that describes the network."""
    stages = len(features)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": features,
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3]] * stages,
            "strides": [[1, 1]] + [[2, 2]] * (stages - 1),
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans(features: list[int], patch: list[int], channels: int) -> dict:
    """Plans of one 2-D configuration for images of 1 mm, which are not resampled."""
    order = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    resample = "resample_data_or_seg_to_shape"
    configuration = {
        "data_identifier": "nnUNetPlans_2d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 8,
        "patch_size": patch,
        "median_image_size_in_voxels": patch,
        "spacing": [1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [True] * channels,
        "resampling_fn_data": resample,
        "resampling_fn_seg": resample,
        "resampling_fn_probabilities": resample,
        "resampling_fn_data_kwargs": order,
        "resampling_fn_seg_kwargs": order | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": order | {"order": 1},
        "architecture": architecture(features),
        "batch_dice": True,
    }
    return {
        "dataset_name": "Dataset001_Bench",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [155, *patch],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(channel): {} for channel in range(channels)},
        "configurations": {"2d": configuration},
    }


def build(features: list[int], channels: int, classes: int):
    """The network of these features, with random weights."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from torch import nn

    described = architecture(features)["arch_kwargs"]
    described |= {"conv_op": nn.Conv2d, "norm_op": nn.InstanceNorm2d, "nonlin": nn.LeakyReLU}
    return PlainConvUNet(channels, num_classes=classes, **described)


def fitting_features(parameters: int, channels: int, classes: int) -> list[int]:
    """Features whose network has about so many parameters: doubling from stage to stage, as nnU-Net plans them."""

    def size(base: int) -> int:
        return sum(weight.numel() for weight in build(doubled(base), channels, classes).parameters())

    return doubled(min(range(4, 65, 2), key=lambda base: abs(size(base) - parameters)))


def doubled(base: int) -> list[int]:
    """Features of every stage."""
    return [base * 2**stage for stage in range(STAGES)]


def model_folder(folder: Path, features: list[int], patch: list[int], channels: int, classes: int) -> dict:
    """Write a model folder; gives parameters and GFLOP of one patch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    net = build(features, channels, classes)
    fold = folder / "fold_0"
    fold.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans(features, patch, channels)))
    labels = {"background": 0} | {f"class{value}": value for value in range(1, classes)}
    names = {str(channel): f"modality{channel}" for channel in range(channels)}
    content = {"channel_names": names, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    checkpoint = {
        "network_weights": net.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "2d"},
        "inference_allowed_mirroring_axes": (0, 1),
    }
    torch.save(checkpoint, fold / "checkpoint_final.pth")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net.eval()(torch.zeros(1, channels, *patch))
    parameters = sum(weight.numel() for weight in net.parameters())
    return {"features": features, "parameters": parameters, "gflop": counter.get_total_flops() / 1e9}


def main() -> None:
    """Set up, then one prediction for every line on standard input."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", type=Path, required=True, help="folder to work in")
    options.add_argument("--images", nargs="+", required=True, help="the files of one case")
    options.add_argument("--parameters", type=int, required=True)
    options.add_argument("--patch", type=int, nargs=2, required=True)
    options.add_argument("--classes", type=int, default=4)
    options.add_argument("--mirror", action="store_true")
    options.add_argument("--device", default="cpu")
    settings = options.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nnU-Net prints much
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, str(settings.folder))
    wall, cpu = time.perf_counter(), time.process_time()
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    imported = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    channels = len(settings.images)
    features = fitting_features(settings.parameters, channels, settings.classes)
    size = model_folder(settings.folder / "model", features, settings.patch, channels, settings.classes)
    predictor = nnUNetPredictor(use_mirroring=settings.mirror, device=torch.device(settings.device), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(settings.folder / "model"), (0,))
    print(json.dumps({"import": imported, "size": size}), file=answers, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        predictor.predict_from_files_sequential([settings.images], [str(settings.folder / "peer_pred")])
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        peak = own_peak_mb()
        print(json.dumps(seconds | {"peak_mb": peak}), file=answers, flush=True)


if __name__ == "__main__":
    main()
