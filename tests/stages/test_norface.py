"""The transformer normalizer and the masked autoencoder, at their smallest."""

import json

import pytest
import torch

from normpipe.pipeline.errors import InputError
from normpipe.stages.networks import NETWORKS
from normpipe.stages.networks.files.checkpoint import save_tensors
from normpipe.stages.networks.files.normalizer_file import open_normalizer
from normpipe.stages.networks.mae import (
    MaskedAutoencoder,
    masked_loss,
    patches_of,
    picture_of,
    reconstructed_picture,
)
from normpipe.stages.networks.norface import NorfaceNormalizer
from normpipe.stages.networks.vit import SIZES, Vit

SIDE = 64


def small(**settings) -> NorfaceNormalizer:
    torch.manual_seed(0)
    values = {"expressions": 7, "size": "T", "image_size": SIDE, "merge_depth": 1} | settings
    made = NorfaceNormalizer(**{"decoder_depth": 1, **values})
    # Away from where it begins, which is the bare template.
    for layer in (made.painter.flow, made.painter.paint):
        torch.nn.init.normal_(layer.weight, std=0.02)
    torch.nn.init.uniform_(made.template)  # bending a flat picture does nothing
    return made.eval()


@pytest.mark.parametrize(
    "settings",
    [{}, {"residual_tokens": 0}, {"merge": "full"}, {"stem": "conv"}, {"picture_size": 80}],
)
@torch.inference_mode()
def test_any_size_in_one_size_out(settings):
    network = small(**settings)
    for size in (48, 64, 112):
        images = torch.rand(2, 3, size, size)
        faces = network(images)
        assert faces.shape == (2, 3, SIDE, SIDE) and faces.min() >= 0 and faces.max() <= 1
        assert network.read(images).shape == (2, 7)
        outputs = network.forward_train(images)
        assert outputs.picture.shape == (2, 3, SIDE, SIDE)
        assert [part.shape[1] for part in outputs.reading] == [7, 136, 3]


@pytest.mark.parametrize("merge", ["narrow", "full"])
@torch.inference_mode()
def test_a_closer_look_sees_the_face_and_nothing_else(merge):
    """Of 80 pixels 64 reach the encoder, more below than above; what is drawn stays whole."""
    near = small(picture_size=80, merge=merge)
    assert near.settings()["picture_size"] == 80 and near.input_size == 80
    assert near.settings() == NorfaceNormalizer(**near.settings()).settings()
    images = torch.rand(1, 3, 80, 80)
    edges, nearer = images.clone(), images.clone()
    edges[..., :13, :] = edges[..., 77:, :] = edges[..., :8] = edges[..., 72:] = 0.0
    nearer[..., 76, 60] += 1.0
    seen = near(images)
    torch.testing.assert_close(near(edges), seen, rtol=0, atol=0)
    assert (near(nearer) - seen).abs().max() > 1e-7
    far = small(merge=merge)
    far.load_state_dict(near.state_dict())
    assert (far(images) - seen).abs().max() > 1e-7
    if merge == "narrow":  # with full, the resting face is seen as close as the pictures
        torch.testing.assert_close(far(images[..., 13:77, 8:72]), seen, rtol=0, atol=0)
    with pytest.raises(InputError, match="picture_size = 48 is smaller than image_size = 64"):
        small(picture_size=48)


@torch.inference_mode()
def test_it_may_read_the_mirror_image_too():
    swap = [1, 0, 2, 3, 4, 6, 5]
    once, twice = (small(residual_tokens=0, mirror=mirror) for mirror in ([], swap))
    assert small(**twice.settings()).mirror == swap and "mirror" not in once.settings()
    images = torch.rand(2, 3, SIDE, SIDE)
    first, second = once.raw_coefficients(images), once.raw_coefficients(images.flip(-1))
    torch.testing.assert_close(twice.raw_coefficients(images), (first + second[:, swap]) / 2)
    seen, other = twice.read_whole(images), twice.read_whole(images.flip(-1))
    torch.testing.assert_close(seen.coefficients[:, swap], other.coefficients)
    torch.testing.assert_close(seen.pose * torch.tensor([-1, 1, -1]), other.pose)
    torch.testing.assert_close(twice(images), twice.draw(twice.read(images)).clamp(0, 1))
    for settings in ({"residual_tokens": 2}, {"merge": "full"}):
        with pytest.raises(ValueError, match="only where coefficients alone pass"):
            small(mirror=swap, **settings)


def test_it_begins_as_the_resting_target():
    torch.manual_seed(0)
    network = NorfaceNormalizer(7, "T", SIDE).eval()
    target = torch.rand(3, 128, 128)
    network.init_target(target)
    with torch.inference_mode():
        faces = network(torch.rand(2, 3, SIDE, SIDE))
        seen = network.encoder(network.template)[:, 1:]
    torch.testing.assert_close(faces, network.template.expand(2, -1, -1, -1).detach())
    torch.testing.assert_close(network.target_tokens.detach(), seen)
    assert network.template.std() > 0.05


@torch.inference_mode()
def test_it_paints_the_change_from_rest():
    """A code of zeros is the resting face, whatever the weights."""
    network = small(residual_tokens=0)
    still = network.draw(torch.zeros(2, 7))
    assert (still - network.template).abs().max() < 1e-4
    assert (network.draw(torch.ones(1, 7)) - network.template).abs().max() > 1e-3
    whole = small(residual_tokens=0, paint="whole")
    assert (whole.draw(torch.zeros(1, 7)) - whole.template).abs().max() > 1e-3


def test_its_drawing_half_learns():
    """Painting whole tokens, the first steps overshoot and all codes get the same picture."""
    torch.manual_seed(0)
    network = NorfaceNormalizer(7, "T", SIDE, merge_depth=2, decoder_depth=1, residual_tokens=0)
    network.init_target(torch.rand(3, SIDE, SIDE))
    codes, network = torch.eye(7)[:4], network.train()
    shift = torch.stack([network.template[0].detach().roll(move, 2) for move in range(4)])
    wanted = 0.7 * network.template.detach() + 0.3 * shift
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    errors = []
    for _ in range(60):
        error = (network.draw(codes) - wanted).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.85 * errors[0]


@torch.inference_mode()
def test_only_the_code_passes():
    """With no residual tokens, two faces that read alike give the same picture, to the bit."""
    network = small(residual_tokens=0)
    network.offset.fill_(10.0)  # every reading is 0 now
    one, other = network(torch.rand(2, 3, SIDE, SIDE))
    assert torch.equal(one, other)
    leaky = small(merge="full")
    leaky.offset.fill_(10.0)
    one, other = leaky(torch.rand(2, 3, SIDE, SIDE))
    assert (one - other).abs().max() > 1e-4


@torch.inference_mode()
def test_the_residual_is_as_narrow_as_it_says():
    network = small(residual_tokens=3, residual_width=2)
    residual = network.narrow.residual(network.encoder(torch.rand(2, 3, SIDE, SIDE)))
    assert residual.shape == (2, 3, 2) and residual.abs().max() <= 1


def test_drawn_is_the_picture_of_the_coefficients_alone():
    network = small(residual_tokens=0)
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        painted = network.draw(network.read(images)).clamp(0, 1)
        torch.testing.assert_close(painted, network(images))
    with pytest.raises(InputError, match="merge = narrow"):
        small(merge="full").draw(torch.zeros(1, 7))


@pytest.mark.parametrize("settings", [{}, {"merge": "full"}, {"stem": "conv"}])
def test_every_parameter_learns(settings):
    network = small(**settings).train()
    with torch.no_grad():  # in the middle of their range, where clamping hides nothing
        network.head.coefficients.bias.fill_(0.5)
    picture, reading = network.forward_train(torch.rand(4, 3, SIDE, SIDE))
    target = torch.rand_like(picture)
    loss = (picture - target).square().mean() + sum(part.square().mean() for part in reading)
    loss.backward()
    still = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert not still


@pytest.mark.parametrize("merge", ["narrow", "full"])
@torch.inference_mode()
def test_only_the_rows_asked_for_are_drawn(merge):
    network, images, rows = small(merge=merge), torch.rand(4, 3, SIDE, SIDE), torch.tensor([3, 1])
    whole, some = network.forward_train(images), network.forward_train(images, rows)
    torch.testing.assert_close(some.picture, whole.picture[rows], atol=1e-5, rtol=0)
    assert torch.equal(some.reading.coefficients, whole.reading.coefficients)


def test_bf16_is_near_fp32_and_learns():
    network = small()
    torch.nn.init.constant_(network.template, 0.5)  # bent noise differs much
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        exact = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(images)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.03
    with torch.autocast("cpu", torch.bfloat16):
        picture, reading = network.train().forward_train(images)
        loss = picture.mean() + sum(part.float().mean() for part in reading)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_saving_memory_changes_no_gradient():
    gradients = []
    for on in (False, True):
        network = small().train()
        network.save_memory(on)
        torch.manual_seed(1)
        network.forward_train(torch.rand(2, 3, SIDE, SIDE)).picture.square().sum().backward()
        gradients.append(network.encoder.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)


def test_weights_open_by_what_they_say(tmp_path):
    network = small(residual_tokens=2, expressions=3)
    notes = {
        "network": "norface",
        "settings": json.dumps(network.settings()),
        "expression_names": "a,b,c",
    }
    save_tensors(network.state_dict(), tmp_path / "n.safetensors", notes)
    loaded = open_normalizer(tmp_path / "n.safetensors")
    assert loaded.module.settings() == network.settings()
    images = torch.rand(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        assert torch.equal(loaded.module(images), network(images))


def test_weights_of_0_1_0_are_painted_as_they_were(tmp_path):
    network = small(expressions=3, paint="whole")
    settings = {name: value for name, value in network.settings().items() if name != "paint"}
    notes = {"network": "norface", "settings": json.dumps(settings)}
    save_tensors(network.state_dict(), tmp_path / "n.safetensors", notes)
    assert open_normalizer(tmp_path / "n.safetensors").module.settings()["paint"] == "whole"


@pytest.mark.parametrize("settings", ['{"depth": 9}', "{broken", "[1]"])
def test_settings_of_another_release_are_one_line(tmp_path, settings):
    path = tmp_path / "n.safetensors"
    save_tensors({"x": torch.zeros(1)}, path, {"network": "norface", "settings": settings})
    with pytest.raises(InputError, match=r"does not know .*upgrade normpipe"):
        open_normalizer(path)


@pytest.mark.parametrize(("size", "millions"), [("S", 22), ("B", 86)])
def test_encoders_have_their_published_size(size, millions):
    with torch.device("meta"):
        encoder = Vit(size)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert abs(count / 1e6 - millions) < 1
    with torch.device("meta"):
        assert NETWORKS["norface"](size=size).output_size == 224


def test_wrong_settings_are_one_line():
    with pytest.raises(InputError, match="unknown network size 'XL'"):
        NorfaceNormalizer(size="XL")
    with pytest.raises(InputError, match="no multiple of the patch size"):
        NorfaceNormalizer(size="T", image_size=100)
    with pytest.raises(InputError, match="use narrow or full"):
        NorfaceNormalizer(size="T", merge="wide")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown stem 'root'"):
        NorfaceNormalizer(size="T", image_size=SIDE, stem="root")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown paint 'over'"):
        NorfaceNormalizer(size="T", paint="over")  # type: ignore[arg-type]
    assert "B" in SIZES


def test_patches_there_and_back():
    images = torch.rand(2, 3, 48, 48)
    patches = patches_of(images)
    assert patches.shape == (2, 9, 768)
    assert torch.equal(picture_of(patches), images)
    assert torch.equal(patches[0, 5].reshape(16, 16, 3), images[0, :, 16:32, 32:48].movedim(0, 2))


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_hidden_patches_are_hidden(stem):
    """The painting does not change with what is behind the masks, and the loss looks only there."""
    torch.manual_seed(0)
    mae = MaskedAutoencoder("T", SIDE, stem=stem).eval()
    images, noise = torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 16)
    painting = mae(images, noise)
    assert painting.hidden.sum(1).tolist() == [12, 12]
    patches = patches_of(images)
    other = picture_of(torch.where(painting.hidden[..., None], torch.rand_like(patches), patches))
    torch.testing.assert_close(mae(other, noise).patches, painting.patches)
    kept = ~painting.hidden[..., None] * patches
    assert torch.equal(
        ~painting.hidden[..., None] * patches_of(reconstructed_picture(painting, images)), kept
    )
    perfect = painting._replace(
        patches=(patches - patches.mean(-1, keepdim=True))
        / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    )
    assert masked_loss(perfect, images) < 1e-9
    spoiled = perfect.patches + 3.0 * ~painting.hidden[..., None]
    assert masked_loss(perfect._replace(patches=spoiled), images) < 1e-9
    blank = painting._replace(patches=torch.zeros_like(patches))
    assert abs(masked_loss(blank, images) - 1) < 0.01


def test_an_autoencoder_learns_from_what_it_sees():
    """Two pictures: who ignores the seen patches paints their mean, at a loss of a half."""
    torch.manual_seed(0)
    mae = MaskedAutoencoder("T", SIDE)
    optimizer = torch.optim.AdamW(mae.parameters(), 3e-3)
    pictures = torch.nn.functional.interpolate(torch.rand(2, 3, 16, 16), size=SIDE)
    losses = []
    for _step in range(150):
        images = pictures[torch.randint(0, 2, (16,))]
        loss = masked_loss(mae(images, torch.rand(16, 16)), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.9 and losses[-1] < 0.3, (losses[0], losses[-1])
