"""Losses by hand-computed cases, what they refuse, and a run with each that is killed and resumed."""

import math

import pandas as pd
import pytest
import torch
from tiny_training import contents, tiny_dataset, tiny_params
from torch import nn

from transfer.losses import cross_entropy, dan, dcs, eac, multi_target, probability, rul, scn
from transfer.losses.base import Batch
from transfer.losses.dcs import partners, similarity
from transfer.losses.registry import check_losses, names
from transfer.models.registry import check_models, create_model
from transfer.params import ModelParams, read
from transfer.training import run
from transfer.utils.errors import UserError

LN2, LN3 = math.log(2), math.log(3)


class Trunk(nn.Module):
    """A map of two channels, their mean, a linear classifier of two classes."""

    num_features = 2

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]])

    def forward_features(self, x):
        return x

    def forward_head(self, x, pre_logits=False):
        return x.mean(dim=(2, 3)) if pre_logits else self.head(x.mean(dim=(2, 3)))

    def get_classifier(self):
        return self.head


def test_cross_entropy_with_labels_and_soft_labels():
    logits = torch.tensor([[0.0, LN3], [0.0, 0.0]])
    loss, found = cross_entropy.Loss()(Batch(logits, torch.tensor([1, 0])))
    assert loss.item() == pytest.approx((math.log(4 / 3) + LN2) / 2) and found is logits
    soft = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    expected = (0.25 * math.log(4) + 0.75 * math.log(4 / 3) + LN2) / 2
    assert cross_entropy.Loss()(Batch(logits, soft))[0].item() == pytest.approx(expected)


def test_probability_draws_each_label_as_often_as_its_votes_say():
    torch.manual_seed(0)
    logits, votes = torch.tensor([[0.0, LN3]]).expand(20000, -1), torch.tensor([[0.25, 0.75]]).expand(20000, -1)
    expected = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert probability.Loss()(Batch(logits, votes))[0].item() == pytest.approx(expected, abs=0.01)
    certain = torch.tensor([[0.0, 1.0]]).expand(20000, -1)
    assert probability.Loss()(Batch(logits, certain))[0].item() == pytest.approx(math.log(4 / 3))


def test_multi_target_takes_the_best_of_the_accepted_labels():
    logits = torch.tensor([[0.0, LN3, 0.0]])  # p = 0.2, 0.6, 0.2
    loss = multi_target.Loss(threshold=0.3)
    assert loss(Batch(logits, torch.tensor([[0.6, 0.1, 0.3]])))[0].item() == pytest.approx(-math.log(0.2))
    assert loss(Batch(logits, torch.tensor([[0.6, 0.4, 0.0]])))[0].item() == pytest.approx(-math.log(0.6))
    # no label reaches the threshold: the highest one counts; what is not accepted weighs 0.001
    assert loss(Batch(logits, torch.tensor([[0.25, 0.2, 0.2]])))[0].item() == pytest.approx(-math.log(0.2))


def test_eac_by_hand():
    model = Trunk()
    network = eac.Loss(weight=5.0).network(model)
    images = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])  # (1, 2, 1, 2)
    logits, maps = network(images)
    assert logits.tolist() == [[2.0, 2.0]] and maps.tolist() == [[[[1.0, 3.0]], [[0.0, 4.0]]]]
    other = torch.tensor(
        [[[[3.0, 2.0]], [[4.0, 0.0]]]]
    )  # turned round it is 2, 3 and 0, 4: one cell of four is off by 1
    loss, _ = eac.Loss(weight=5.0)(Batch((logits, maps), torch.tensor([0]), (None, other)))
    assert loss.item() == pytest.approx(LN2 + 5 / 4)
    assert logits.requires_grad and not maps.requires_grad, "the maps give the classifier's weights no gradient"


def test_eac_of_a_symmetric_network_is_cross_entropy():
    network, loss = eac.Loss().network(Trunk()), eac.Loss()
    images = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 0])
    found, _ = loss(Batch(network(images), targets, network(images.flip(3))))
    assert found.item() == pytest.approx(cross_entropy.Loss()(Batch(network(images)[0], targets))[0].item())


def scn_of(weights: list[float], **args) -> scn.Loss:
    """SCN whose weight of a face is that of its only feature: alpha = sigmoid(feature)."""
    loss = scn.Loss(Trunk(), 10, **args)
    loss.alpha = nn.Linear(1, 1)
    loss.alpha.weight.data, loss.alpha.bias.data = torch.ones(1, 1), torch.zeros(1)
    return loss


def test_scn_by_hand():
    loss = scn_of([], top=0.5, margin=0.5)
    features = torch.tensor([0.75, 0.5, 0.25, 0.5]).logit()[:, None]
    logits = torch.zeros(4, 2)
    logits[0, 1] = 4 / 3 * LN3  # weighed by 0.75: ln 3
    found, weighed = loss(Batch((logits, features, None), torch.tensor([1, 0, 0, 0]), rows=torch.tensor([7, 2, 3, 4])))
    # high 0.75 and 0.5, low 0.5 and 0.25: the means differ by 0.25, the margin lacks 0.25
    assert found.item() == pytest.approx((math.log(4 / 3) + 3 * LN2) / 4 + 0.25)
    assert weighed[0].tolist() == pytest.approx([0, LN3])
    assert (
        loss.weights[[7, 2, 3, 4]].tolist() == pytest.approx([0.75, 0.5, 0.25, 0.5]) and loss.weights.isnan().sum() == 6
    )
    assert (loss.relabelled == -1).all(), "before relabel_epoch"


def test_scn_relabels_from_its_epoch_on():
    loss = scn_of([], top=0.5, margin=0.0, relabel_epoch=3, relabel_margin=0.2)
    features = torch.full((2, 1), 20.0)  # weight 1
    logits, rows = torch.tensor([[0.0, LN3], [0.0, 0.3]]), torch.tensor([5, 6])  # p = 0.25, 0.75 and 0.43, 0.57
    labels = torch.tensor([0, 0])
    before, _ = loss(Batch((logits, features, None), labels, rows=rows, epoch=1))
    same, _ = loss(Batch((logits, features, None), labels, rows=rows, epoch=2))
    assert same.item() == before.item(), "the new label counts from the next time on"
    assert loss.relabelled[rows].tolist() == [1, -1], "0.75 - 0.25 > 0.2, 0.57 - 0.43 is not"
    after, _ = loss(Batch((logits, features, None), labels, rows=rows, epoch=3))
    assert before.item() - after.item() == pytest.approx((math.log(4) - math.log(4 / 3)) / 2, abs=1e-6)
    soft, _ = loss(Batch((logits, features, None), torch.eye(2)[labels], rows=rows, epoch=3))
    assert soft.item() == pytest.approx(after.item()), "with one-hot soft labels it is the same"


class Heads(Trunk):
    def forward_heads(self, x):
        return x


def test_dan_by_hand():
    loss = dan.Loss(2, Heads(), affinity=1.0, partition=1.0)
    loss.centres.data = torch.tensor([[0.0, 0.0], [2.0, 0.0]])  # variance over the classes: 2 + 0
    last = torch.tensor([[3.0, 4.0], [2.0, 1.0]])[:, :, None, None].expand(-1, -1, 2, 2)
    heads = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])  # variances 2, 0 and 0, 2: mean 1
    found, _ = loss(Batch((torch.zeros(2, 2), heads, last), torch.tensor([0, 1])))
    assert found.item() == pytest.approx(LN2 + (25 + 1) / 2 / 2 + math.log(1 + 2 / 1), rel=1e-6)
    only, _ = dan.Loss(2, Heads(), affinity=0.0, partition=0.0)(
        Batch((torch.zeros(2, 2), heads, last), torch.tensor([0, 1]))
    )
    assert only.item() == pytest.approx(LN2)


class Uncertain(Trunk):
    def log_variance(self, x):
        return x.mean(dim=(2, 3)) * 0 + torch.tensor([1.0, 3.0]).log()[:, None]


def test_dcs_compares_faces_of_a_class_and_weighs_the_nearest_tokens():
    labels = torch.tensor([2, 0, 2, 1, 2, 0])
    for seed in range(5):
        torch.manual_seed(seed)
        other = partners(labels)
        assert (labels[other] == labels).all() and sorted(other.tolist()) == list(range(6)), "each face once"
        assert [row for row in range(6) if other[row] == row] == [3], "itself where it is alone"
    key, other_key = torch.tensor([[[0.0], [3.0]]]), torch.tensor([[[0.0], [1.0]]])
    # distances of the other's tokens (rows) to the face's: 0 3 / 1 2; near: 3 0 / 2 1
    rows = (3 / 3 + 2 / 5**0.5, 0 + 1 / 5**0.5)
    columns = (3 / 13**0.5 + 0, 2 / 13**0.5 + 1)
    expected = [torch.tensor(values).softmax(dim=0) for values in (rows, columns)]
    found = similarity(key, other_key)
    assert all(torch.allclose(a.flatten(), b) for a, b in zip(found, expected, strict=True))


def test_dcs_is_the_mean_of_four_cross_entropies():
    torch.manual_seed(0)
    model = create_model(ModelParams(name="dcs", img_size=32), 3).eval()
    loss = dcs.Loss(3, model).eval()
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([1, 1])
    with torch.no_grad():
        outputs = loss.network(model)(images)
        value, logits = loss(Batch(outputs, labels))
        assert torch.equal(logits, model(images)), "the network predicts alone"
        own = outputs[2][:, 1:]
        pairs = [c(x, x.flip(0)) for c, x in zip(loss.compare, own.chunk(3, dim=1), strict=True)]
        first, second = (torch.cat(parts, dim=1) for parts in zip(*pairs, strict=True))
        seen = [logits, logits, loss.encoder(own + first), loss.encoder(own.flip(0) + second)]
    assert value.item() == pytest.approx(
        sum(nn.functional.cross_entropy(one, labels).item() for one in seen) / 4, rel=1e-5
    )


def test_rul_by_hand(monkeypatch):
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: torch.tensor([1, 0]))
    images = torch.tensor([[4.0, 0.0], [0.0, 4.0]])[:, :, None, None]
    logits, other = rul.Loss().network(Uncertain())(images)
    # uncertainties 1 and 3: shares of a quarter and three quarters; the classifier doubles the second feature
    assert logits.tolist() == [[1.0, 6.0], [1.0, 6.0]] and other.tolist() == [1, 0]
    found, _ = rul.Loss()(Batch((torch.tensor([[0.0, LN3]] * 2), other), torch.tensor([0, 1])))
    assert found.item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)


@pytest.mark.parametrize(
    ("loss", "model"),
    [("eac", "resnet18"), ("scn", "timm/resnet18"), ("dan", "dan"), ("rul", "rul"), ("probability", "vgg13"),
     ("multi_target", "apvit_small")],
)  # fmt: skip
def test_a_run_that_is_stopped_and_resumed_has_the_same_bits(tmp_path, monkeypatch, loss, model):
    """Own parameters, state of each face and random numbers of a loss are part of the resume state."""
    args = {"relabel_epoch": 1, "relabel_margin": 0.0} if loss == "scn" else {}
    params = tiny_params(
        train={"epochs": 2, "targets": "soft_labels", "loss": {"name": loss, "args": args}, "hflip_tta": True},
        model={"name": model, "img_size": 32},
        recipes=["baseline"],
        recipe_definitions={"baseline": {}},
    )
    check_models(params)
    check_losses(params)
    layout, again = (tiny_dataset(tmp_path / name, votes=True) for name in ("whole", "stopped"))
    run.train(params, "faces", "baseline", 0, layout)

    class Killed(Exception):
        pass

    save = run.Run.save

    def killed(self):
        save(self)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "save", killed)
        with pytest.raises(Killed):
            run.train(params, "faces", "baseline", 0, again)
    run.train(params, "faces", "baseline", 0, again)
    assert contents(layout, "baseline") == contents(again, "baseline")
    if loss == "scn":
        frames = [pd.read_parquet(at.run("faces", "baseline", 0) / "loss.parquet") for at in (layout, again)]
        assert frames[0].equals(frames[1]) and len(frames[0]) == 22 and frames[0]["weights"].notna().any()
        assert (frames[0]["relabelled"] >= 0).any(), "and some faces have another label"


RECIPE = "recipe_definitions.other"


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (
            "{train: {loss: {name: eca}}}",
            f"{RECIPE}.train.loss.name: unknown loss 'eca'; allowed: cross_entropy, dan, ",
        ),
        (
            "{train: {loss: {name: eac, args: {lam: 5}}}}",
            "train.loss.args.lam: eac has no such argument; allowed: weight",
        ),
        (
            "{train: {loss: {name: eac, args: {weight: -1}}}}",
            "train.loss.args.weight: should be greater than 0, found -1",
        ),
        (
            "{train: {loss: {name: eac}}}",
            "train.loss.name: eac needs class activation maps, and the last features are (2, 10",
        ),
        (
            "{model: {name: vgg13}, train: {loss: {name: dan}}}",
            "train.loss.name: dan needs attention heads, and VGG13 has",
        ),
        (
            "{model: {name: resnet18}, train: {loss: {name: rul}}}",
            "rul needs an uncertainty, and FaceResNet gives none",
        ),
        (
            "{train: {loss: {name: probability}}}",
            "train.loss.name: probability needs votes; write train.targets: soft_lab",
        ),
        ("{train: {label_smoothing: 0.1}}", "renamed; write train.loss.args.label_smoothing"),
        (
            "{model: {name: timm/resnet18, args: {drop: 1}}}",
            "model.args.drop: timm/resnet18 has no such argument; allowed: ",
        ),
        ("{model: {name: timm/resnt18}}", "model.name: unknown model 'timm/resnt18'; allowed: timm/resnet18"),
        ("{mad: true, model: {name: resnet18}}", f"{RECIPE}.mad: only TransFER has it, and the model is resnet18"),
        (
            "{model: {name: timm/vit_tiny_patch16_224, args: {embed_dim: 100}}}",
            "model.args: timm does not make it: dim should",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_job(recipe, expected):
    values = [f"recipe_definitions={{other: {recipe}}}", "recipes=[baseline, other]", "datasets=[demo_rafdb]"]
    with pytest.raises(UserError) as error:
        read.load((), values, checks=[check_models, check_losses])
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_every_loss_is_found():
    assert names() == ("cross_entropy", "dan", "dcs", "eac", "multi_target", "probability", "rul", "scn")
