"""Mixtures of experts, and the classifier that is built of them."""

import pytest
import torch
from torch import nn

from normpipe.pipeline.errors import InputError
from normpipe.stages.networks.classifier import MixtureClassifier, probabilities
from normpipe.stages.networks.experts import Experts, Mixture, balance, keep_top
from normpipe.stages.networks.files.checkpoint import save_tensors
from normpipe.stages.networks.files.mae_checkpoints import load_encoder
from normpipe.stages.networks.vit import Vit


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_experts_are_two_layer_networks():
    experts = Experts(6, 5, 3)
    for bias in (experts.first_bias, experts.second_bias):
        nn.init.normal_(bias)
    x = torch.randn(2, 4, 6)
    found = experts(x)
    assert found.shape == (2, 4, 3, 6)
    for e in range(3):
        hidden = nn.functional.gelu(x @ experts.first[e] + experts.first_bias[e])
        expected = hidden @ experts.second[e] + experts.second_bias[e]
        torch.testing.assert_close(found[:, :, e], expected)


@pytest.mark.parametrize("labels", [0, 7])
@pytest.mark.parametrize("top", [0, 1, 2, 9])
def test_a_token_is_a_weighted_mean_of_answers(top, labels):
    mixture = Mixture(6, 5, 4, top, labels)
    x = torch.randn(3, 7, 6)
    found = mixture(x)
    torch.testing.assert_close(found.gates.sum(-1), torch.ones(3, 7))
    kept = (found.gates > 0).sum(-1)
    assert (kept == (min(top, 4) or 4)).all()
    expected = (mixture.experts(x) * found.gates.unsqueeze(-1)).sum(2)
    torch.testing.assert_close(found.tokens, expected)
    assert 1 - 1e-5 <= float(found.balance.detach()) <= 4 or top


def test_top_keeps_the_largest():
    likely = torch.tensor([[0.1, 0.4, 0.3, 0.2]])
    torch.testing.assert_close(keep_top(likely, 2), torch.tensor([[0, 4 / 7, 3 / 7, 0]]))
    torch.testing.assert_close(keep_top(likely, 4), likely)


def test_labels_have_gates_of_their_own():
    mixture = Mixture(6, 5, 4, labels=2)
    x = torch.randn(1, 1, 6).expand(3, 2, 6)
    gates = mixture(x).gates
    assert not torch.allclose(gates[:, 0], gates[:, 1])
    shared = Mixture(6, 5, 4)(x).gates
    torch.testing.assert_close(shared[:, 0], shared[:, 1])


def test_one_expert_is_a_dense_network():
    dense = Mixture(6, 5, 1)
    assert not hasattr(dense, "gate")
    found = dense(torch.randn(2, 3, 6))
    assert found.gates.shape == (2, 3, 1) and (found.gates == 1).all() and found.balance == 1


def gates_of(*experts, count=4):
    """One token a number: all of its weight on that expert."""
    return torch.eye(count)[list(experts)].unsqueeze(0)


def test_balance():
    even, collapsed = gates_of(0, 1, 2, 3), gates_of(2, 2, 2, 2)
    assert float(balance(even, even)) == pytest.approx(1)
    assert float(balance(collapsed, collapsed)) == pytest.approx(4)
    uniform = torch.full((1, 8, 4), 0.25)
    assert float(balance(uniform, uniform)) == pytest.approx(1)
    # Equation 4 of the Switch Transformer: shares (3/4, 1/4, 0, 0), probabilities as drawn.
    likely = torch.tensor([[[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1],
                            [0.6, 0.2, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]]])  # fmt: skip
    expected = 4 * (0.75 * 0.45 + 0.25 * 0.325)
    assert float(balance(likely, keep_top(likely, 1))) == pytest.approx(expected)
    two = keep_top(likely, 2)  # each of the two answers half a token
    share = torch.tensor([(two[0, :, e] > 0).float().sum() / 8 for e in range(4)])
    expected = 4 * float((share * likely[0].mean(0)).sum())
    assert float(balance(likely, two)) == pytest.approx(expected)


def test_balance_counts_only_tokens_that_are_there():
    gates = gates_of(0, 1, 2, 3, 0, 0, 0, 0)
    seen = torch.tensor([[True] * 4 + [False] * 4])
    assert float(balance(gates, gates, seen)) == pytest.approx(1)
    assert float(balance(gates, gates)) > 1
    assert float(balance(gates, gates, ~seen)) == pytest.approx(4)


def test_balance_pulls_towards_the_idle():
    logits = torch.zeros(1, 6, 3) + torch.tensor([1.0, 0, 0])
    logits.requires_grad_()
    likely = logits.softmax(-1)
    balance(likely, keep_top(likely, 1)).backward()
    assert (logits.grad[..., 0] > 0).all() and (logits.grad[..., 1:] < 0).all()


def test_soft_gates_teach_all_experts():
    mixture = Mixture(6, 5, 4)
    mixture(torch.randn(2, 3, 6)).tokens.square().sum().backward()
    for parameter in mixture.parameters():
        assert parameter.grad.flatten(1).any(1).all()


# The classifier.


def network(**settings):
    return MixtureClassifier(**{"labels": 5, **settings}).eval()


def views(net, count=3):
    shape = (count, 3 if net.colour else 1, net.image_size, net.image_size)
    return torch.rand(shape), torch.rand(shape)


def present(*rows):
    return torch.tensor(rows)


NORFACE = {"preset": "norface", "size": "T", "image_size": 32}
COMPACT = {"preset": "compact", "image_size": 144}
PRESETS = [{}, NORFACE, COMPACT, {"experts": 1}, {"top": 2}, {"layers": 2}]


@pytest.mark.parametrize("settings", PRESETS)
def test_shapes_and_gates(settings):
    net = network(**settings)
    first, second = views(net)
    found = net(first, second, present([True, True]).expand(3, 2))
    tokens = 2 * (5 if settings.get("preset") == "norface" else 16)
    experts = settings.get("experts", 4)
    assert found.logits.shape == (3, 5) and found.logits.dtype == torch.float32
    assert found.input_gates.shape == (3, tokens, experts)
    assert found.output_gates.shape == (3, 5, experts)
    assert found.seen.shape == (3, tokens) and found.seen.all()
    for gates in (found.input_gates, found.output_gates):
        torch.testing.assert_close(gates.sum(-1), torch.ones(gates.shape[:-1]))
    again = MixtureClassifier(**net.settings()).eval()
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again(first, second, present([True, True]).expand(3, 2)), found)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("settings", [{}, NORFACE, {"top": 2, "layers": 2}])
def test_what_is_not_there_changes_nothing(settings, inference):
    """Both views, the original alone and the normalized alone, through one network."""
    net = network(**settings)
    first, second = views(net)
    rows = present([True, True], [True, False], [False, True])
    with torch.inference_mode(inference):  # attention has a path of its own there
        mixed = net(first, second, rows)
        other_first, other_second = first.clone(), second.clone()
        other_first[2], other_second[1] = torch.rand_like(first[2]), 0
        torch.testing.assert_close(net(other_first, other_second, rows).logits, mixed.logits)
        alone = net(first[1:2], None, present([True, False])).logits
        torch.testing.assert_close(alone, mixed.logits[1:2], atol=1e-5, rtol=1e-4)
        alone = net(None, second[2:], present([False, True])).logits
        torch.testing.assert_close(alone, mixed.logits[2:], atol=1e-5, rtol=1e-4)
        swapped = net(second, first, rows).logits
    assert not torch.allclose(swapped[0], mixed.logits[0])  # views are told apart
    assert not torch.allclose(mixed.logits[0], alone[0])
    assert mixed.seen.sum(1).tolist() == [mixed.seen.shape[1], *[mixed.seen.shape[1] // 2] * 2]


@pytest.mark.parametrize(
    ("kind", "size", "shape"), [("code", 53, (53,)), ("features", 12, (12, 4, 4))]
)
def test_second_views_that_are_no_pictures(kind, size, shape):
    net = network(second=kind, second_size=size)
    first, _ = views(net)
    second = torch.rand(3, *shape)
    rows = present([True, True], [True, False], [False, True])
    found = net(first, second, rows)
    assert found.logits.shape == (3, 5)
    changed = second.clone()
    changed[1] = 7
    torch.testing.assert_close(net(first, changed, rows).logits, found.logits)
    changed[0] = 7
    assert not torch.allclose(net(first, changed, rows).logits[0], found.logits[0])


@pytest.mark.parametrize("labels", [2, 7, 12])
@pytest.mark.parametrize("top", [0, 2])
def test_a_dense_head_is_as_large(labels, top):
    def count(net):
        return sum(parameter.numel() for parameter in net.parameters())

    mixture, dense = MixtureClassifier(labels, top=top), MixtureClassifier(labels, experts=1)
    assert count(mixture) == pytest.approx(count(dense), rel=0.03)
    assert count(mixture.head) == pytest.approx(count(dense.head), rel=0.03)


def test_all_of_it_learns():
    net = MixtureClassifier(5, layers=2).train()
    first, second = views(net, 4)
    net(first, second, torch.ones(4, 2, dtype=torch.bool)).logits.square().sum().backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
    for name in ("head.layers.0.mixture", "head.output"):
        for weight in ("first", "second"):
            grad = net.get_parameter(f"{name}.experts.{weight}").grad
            assert grad.flatten(1).any(1).all()


@pytest.mark.parametrize("second", ["picture", "code"])
def test_two_looks_are_the_same_from_either_side(second):
    net = network(mirror=True, second=second, second_size=7)
    first, other = views(net)
    given = other if second == "picture" else torch.rand(3, 7)
    turned = given.flip(-1) if second == "picture" else given
    rows = present([True, True]).expand(3, 2)
    found = net(first, given, rows).logits
    torch.testing.assert_close(net(first.flip(-1), turned, rows).logits, found)
    net.mirror = False
    one, two = net(first, given, rows).logits, net(first.flip(-1), turned, rows).logits
    torch.testing.assert_close(found, (one + two) / 2)
    assert not torch.allclose(one, two)
    net.mirror = True
    assert not torch.allclose(net.train()(first, given, rows).logits, found)


def test_gates_look_at_the_face():
    net = network()
    first, second = views(net)
    found = net(first, second, present([True, True]).expand(3, 2))
    for gates in (found.input_gates, found.output_gates):
        assert not torch.allclose(gates[0], gates[1], atol=1e-5)


def test_a_masked_autoencoder_begins_norface(tmp_path):
    encoder = Vit("T", 32)
    save_tensors(encoder.state_dict(), tmp_path / "mae.safetensors", {})
    net = network(**NORFACE)
    first, _ = views(net)
    before = net(first, None, present([True, False]).expand(3, 2)).logits
    load_encoder(net.encoder.vit, tmp_path / "mae.safetensors")
    torch.testing.assert_close(net.encoder(first), encoder.eval()(first))
    after = net(first, None, present([True, False]).expand(3, 2)).logits
    assert not torch.allclose(before, after)
    with pytest.raises(InputError, match="image_size = 32"):
        load_encoder(network(**{**NORFACE, "image_size": 48}).encoder.vit,
                     tmp_path / "mae.safetensors")  # fmt: skip


def test_parts_of_a_batch_make_its_gradient():
    """Where nothing is drawn and nothing is normalized over the batch: norface, in evaluation."""
    net = network(**NORFACE)
    first, second = views(net, 4)
    rows = present([True, True], [True, False], [False, True], [True, True])

    def gradient(*parts):
        net.zero_grad()
        for part in parts:
            found = net(first[part], second[part], rows[part]).logits.square().mean()
            (found / len(parts)).backward()
        return [p.grad.clone() for p in net.parameters()]

    whole, cut = gradient(slice(0, 4)), gradient(slice(0, 2), slice(2, 4))
    for one, two in zip(whole, cut, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_probabilities():
    logits = torch.tensor([[0.0, 2.0, -2.0]])
    assert float(probabilities("emotion", logits).sum()) == pytest.approx(1)
    units = probabilities("action_units", logits)
    torch.testing.assert_close(units, logits.sigmoid())
    torch.testing.assert_close(probabilities("intensity", logits), 5 * units)
