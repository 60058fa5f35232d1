import numpy as np

from metaseg.metrics.overlap import joint_histogram


def test_histogram_stays_on_its_device_and_equals_numpy():
    import torch

    from metaseg.inference.logits import batch_histogram

    generator = np.random.default_rng(0)
    label, prediction = generator.integers(0, 4, (2, 5, 12, 10))
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        found = batch_histogram(torch.tensor(label, device=device), torch.tensor(prediction, device=device), 4)
        assert found.device.type == device
        np.testing.assert_array_equal(found.cpu().numpy(), joint_histogram(label, prediction, 4, per_slice=True))


def test_small_whole_number_types_do_not_overflow():
    import torch

    from metaseg.inference.logits import batch_histogram

    # 40 slices of 16 cells: codes exceed the range of uint8.
    full = torch.full((40, 3, 3), 3, dtype=torch.uint8)
    assert batch_histogram(full, full, 4)[:, 3, 3].tolist() == [9] * 40


def test_the_largest_class_is_torchs_argmax_the_first_of_equal_ones():
    import torch

    from metaseg.inference.logits import largest_class

    generator = torch.Generator().manual_seed(0)
    for classes in (1, 2, 4, 7):
        # Few values, so that many are equal.
        scores = torch.randint(-2, 3, (3, classes, 20, 30), generator=generator).float()
        expected = torch.from_numpy(scores.numpy().argmax(axis=1))
        found = largest_class(scores[..., 2:18, 1:])
        assert found.dtype == torch.uint8
        assert torch.equal(found.long(), expected[..., 2:18, 1:])
        assert torch.equal(largest_class(-torch.inf * torch.ones(1, classes, 2, 2)), torch.zeros(1, 2, 2).byte())
