import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metaseg.pictures.grad_cam import grad_cam, grad_cam_picture, last_convolution
from metaseg.pictures.overlay import AMBER


class Net(nn.Module):
    """Convolution, global average pooling, linear: its Grad-CAM is the class activation map, divided by the area."""

    def __init__(self, stride=1, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 5, 3, padding=1, stride=stride)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(5, 3)

    def features(self, images):
        return self.last(torch.relu(self.first(images)))

    def forward(self, images):
        return self.head(self.drop(self.features(images).mean((2, 3))))


def class_activation_map(net, images, classes):
    """Zhou et al. 2016: the features weighted by the head's weights; positive part, scaled by its maximum."""
    with torch.no_grad():
        maps = torch.einsum("bchw,bc->bhw", net.features(images), net.head.weight[classes])
        maps = F.interpolate(F.relu(maps)[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return (maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)).numpy()


@pytest.fixture
def images():
    return torch.randn(6, 2, 12, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("classes", [2, [0, 1, 2, 0, 1, 2]])
def test_closed_form(images, stride, classes):
    net = Net(stride)
    chosen = torch.as_tensor(classes).expand(6)
    heats = grad_cam(net, images, classes=classes)
    assert heats.shape == (6, 12, 16)
    assert heats.dtype == np.float32
    assert heats == pytest.approx(class_activation_map(net, images, chosen), abs=1e-5)


def test_each_image_by_its_own_highest_logit(images):
    net = Net()
    # So that classes differ within the batch.
    net.head.bias.data -= net.eval()(images).mean(0).detach()
    predicted = net(images).argmax(1)
    assert len(set(predicted.tolist())) > 1
    together = grad_cam(net, images)
    assert together == pytest.approx(class_activation_map(net, images, predicted), abs=1e-5)
    for one in range(6):
        assert grad_cam(net, images[one : one + 1])[0] == pytest.approx(together[one], abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_network_stays_as_it_is(images, training, frozen):
    net = Net().train(training)
    net.drop.eval()
    net.requires_grad_(not frozen)
    net.last.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    heats = grad_cam(net, images, classes=1)
    assert heats == pytest.approx(class_activation_map(net, images, torch.ones(6, dtype=torch.long)), abs=1e-5)
    assert (net.training, net.head.training, net.drop.training) == (training, training, False)
    flags = {name: one.requires_grad for name, one in net.named_parameters()}
    assert flags == {name: not frozen and not name.startswith("last") for name in flags}
    assert (net.head.weight.grad == 1).all()
    assert net.first.weight.grad is None
    assert not any(one._forward_hooks or one._backward_hooks for one in net.modules())
    assert not images.requires_grad


def test_it_works_without_gradients_around_it(images):
    net = Net()
    expected = grad_cam(net, images, classes=0)
    with torch.no_grad():
        assert (grad_cam(net, images, classes=0) == expected).all()
    with torch.inference_mode():
        assert (grad_cam(net, images.clone(), classes=0) == expected).all()
    half = grad_cam(Net().half(), images.half(), classes=0)
    assert half == pytest.approx(expected, abs=0.05)


def test_no_gradient_gives_zeros(images):
    net = Net()
    nn.init.zeros_(net.head.weight)
    assert (grad_cam(net, images, classes=0) == 0).all()


def test_nothing_positive_gives_zeros(images):
    net = Net()
    # Features above 0, weights below.
    net.last.bias.data += 100.0
    net.head.weight.data = -net.head.weight.data.abs()
    assert (grad_cam(net, images, classes=0) == 0).all()


def test_an_empty_image_gives_zeros_beside_others(images):
    net = Net()
    for conv in (net.first, net.last):
        nn.init.zeros_(conv.bias)
    images[2] = 0.0
    heats = grad_cam(net, images, classes=0)
    assert np.isfinite(heats).all()
    assert (heats[2] == 0).all()
    assert heats[[0, 1, 3, 4, 5]].max(axis=(1, 2)) == pytest.approx(1.0)


def test_no_images_no_maps():
    assert grad_cam(Net(), torch.zeros(0, 2, 8, 9)).shape == (0, 8, 9)


class Squeezed(nn.Module):
    """The last convolutions work on a single pixel, as in networks with squeeze-and-excitation."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 3, 3), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(3, 4, 1)
        self.idle = nn.Conv2d(1, 1, 1)

    def forward(self, images):
        return self.squeeze(self.pool(self.body(images))).flatten(1)


def test_the_last_convolution_with_a_map_is_chosen():
    net, images = Squeezed(), torch.randn(2, 1, 9, 9)
    assert last_convolution(net, images) == "body.2"
    assert last_convolution(Net(), torch.randn(1, 2, 8, 8)) == "last"
    assert (grad_cam(net, images, classes=1) == grad_cam(net, images, "body.2", 1)).all()
    # The activation behind it works in place: only the copy is changed.
    assert net.body[1].inplace
    assert not any(one._forward_hooks for one in net.modules())
    with pytest.raises(ValueError, match="no convolution"):
        last_convolution(nn.Sequential(nn.Flatten(), nn.Linear(81, 2)), images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_layer": "absent"}, "no layer absent"),
        ({"target_layer": "idle"}, "do not depend on layer idle"),
        ({"classes": 4}, "outside 0 .. 3"),
        ({"classes": [0]}, "one for each of 2"),
    ],
)
def test_wrong_layers_and_classes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        grad_cam(Squeezed(), torch.randn(2, 1, 9, 9), **options)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="expected"):
        grad_cam(Squeezed(), torch.randn(1, 9, 9))
    with pytest.raises(ValueError, match="logits"):
        grad_cam(nn.Conv2d(1, 2, 1), torch.randn(2, 1, 9, 9), "")
    with pytest.raises(ValueError, match="same shape"):
        grad_cam_picture(np.zeros((3, 3)), np.zeros((3, 4)))


def test_picture_is_warm_where_the_map_is():
    image = np.full((40, 40), 10.0)
    image[0] = 0.0
    heat = np.zeros((40, 40))
    heat[:, 30:] = 1.0
    for planar in (True, False):
        drawn = grad_cam_picture(image, heat, "", planar=planar, panel=120)
        assert drawn.dtype == np.uint8
        picture = drawn.astype(int)
        warmth = (picture[..., 0] - picture[..., 2])[20:100]
        plain, warm = warmth[:, 20:115], warmth[:, 136:256]
        # Letters are not quite grey.
        assert np.abs(plain).max() <= 8
        # Columns ascend to the patient's right, which is shown on the left.
        left, right = warm[:, :20].mean(), warm[:, 100:].mean()
        warmer, colder = (right, left) if planar else (left, right)
        assert warmer > 60 > colder


def test_pictures_say_what_they_are_and_no_title_is_cut_off():
    image = np.random.default_rng(0).random((20, 30))
    drawn = [grad_cam_picture(image, image, title, synthetic=True) for title in ("A " * 80, "b")]
    for picture in drawn:
        assert (picture == AMBER).all(-1).any()
        assert (picture[:, -4:] == picture[0, 0]).all()
    assert drawn[0].shape[1] > drawn[1].shape[1]
