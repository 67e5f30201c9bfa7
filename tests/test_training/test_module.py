import signal

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from tame.attention import TAME
from tame.attention.loss import AttentionLoss
from tame.attention.model import ExplainedClassifier, TrainingPass
from tame.attention.shared import share_row
from tame.training.module import SMALLEST_KEEP, AttentionModule
from tame.utils.checks import InputError


@pytest.fixture
def model(toy_classifier):
    classifier = toy_classifier()
    return ExplainedClassifier(classifier, TAME(classifier.channels, 5))


@pytest.fixture
def images():
    return torch.rand(8, 3, 32, 32)


def module(model, form="released", **options):
    return AttentionModule(model, AttentionLoss(form), max_lr=1e-2, **options)


class Batches(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": -1, "index": index}


def fit(module, images, epochs=2, callbacks=(), **options):
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0, callbacks=list(callbacks), **options,
    )  # fmt: skip
    loader = DataLoader(Batches(images), batch_size=4)
    trainer.fit(module, loader, DataLoader(Batches(images), batch_size=3))
    return trainer


@pytest.mark.parametrize("form", ["paper", "released", "ranked"])
@pytest.mark.parametrize("other_classes", ["batch", "random"])
def test_training_moves_the_mechanism_and_never_the_classifier(model, images, form, other_classes):
    classifier = {name: value.clone() for name, value in model.classifier.state_dict().items()}
    attention = {name: value.clone() for name, value in model.attention.state_dict().items()}
    trainer = fit(module(model, form, other_classes=other_classes), images)
    assert trainer.global_step == 4
    after = model.classifier.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in classifier.items())  # bit by bit
    assert not any(part.training for part in model.classifier.modules())
    after = model.attention.state_dict()
    assert not any(torch.equal(value, after[name]) for name, value in attention.items() if "bias" not in name)


def test_the_cycle_ends_with_the_last_step(model, images):
    rates = []

    class Rates(lightning.Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(module(model), images, epochs=5, callbacks=[Rates()])
    assert len(rates) == 10
    assert (rates[0], rates[2]) == (pytest.approx(1e-2 / 25), pytest.approx(1e-2))  # 30 % of 10 steps, from 0
    assert rates[-1] == pytest.approx(1e-2 / 25 / 1e4)


@pytest.mark.parametrize("form", ["released", "ranked"])
def test_terms_are_logged_by_name(model, images, form):
    trainer = fit(module(model, form), images, epochs=1)
    terms = {"cross_entropy", "total"} | ({"area", "variation"} if form == "released" else set())
    expected = {f"{part}/{term}" for part in ("train", "val") for term in terms} | {"val/masked_accuracy"}
    assert set(trainer.logged_metrics) - {"loss"} == expected
    assert set(AttentionLoss(form).terms) == terms - {"total"}
    total = sum(trainer.logged_metrics[f"val/{term}"] for term in terms - {"total"})
    torch.testing.assert_close(trainer.logged_metrics["val/total"], total)


def test_validation_accuracy_is_of_the_masked_pass(model, images):
    """Masks of nothing leave one decision for all images, masks of everything leave every decision."""
    with torch.no_grad():
        model.attention.fuser.weight.zero_()
        model.classifier.module.head.bias.sub_(model.classifier(images).logits.mean(0))  # decisions that differ
    trained, decisions = module(model), model.classifier(images).logits.argmax(1)
    assert len(decisions.unique()) > 1
    for bias, expected in (30.0, 1.0), (-30.0, None):
        with torch.no_grad():
            model.attention.fuser.bias.fill_(bias)
        if expected is None:
            black = model.classifier(torch.zeros_like(images)).logits.argmax(1)
            expected = (black == decisions).float().mean().item()
            assert expected < 1
        trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, barebones=False)
        found = trainer.validate(trained, DataLoader(Batches(images), batch_size=3), verbose=False)[0]
        assert found["val/masked_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("form", ["paper", "ranked"])
def test_a_step_draws_by_seed_and_step_alone(model, images, form):
    def terms(seed):
        trained = module(model.eval(), form, other_classes="random", seed=seed)
        trained.log_dict = trained.log = lambda *_, **__: None
        with torch.no_grad():
            return trained.training_step({"image": images[:3]}, 0).item()

    first = terms(0)
    torch.rand(3)  # torch's own generator plays no part
    assert terms(0) == first
    assert terms(1) != first


def test_ranked_masks_keep_between_a_tenth_and_all(model, images, monkeypatch):
    asked = []
    ranked = model.ranked_pass
    monkeypatch.setattr(model, "ranked_pass", lambda images, keep, masking: asked.append(keep) or ranked(images, keep))
    fit(module(model, "ranked"), images, epochs=2)
    training = torch.cat([keep for keep in asked if len(keep) == 4])
    assert (training.min() >= SMALLEST_KEEP, training.max() <= 1, len(set(training.tolist()))) == (True, True, 16)
    golden = (5**0.5 - 1) / 2
    validated = [0.1 + 0.9 * (index * golden % 1) for index in range(8)]  # the same in every epoch
    assert [keep for part in asked if len(part) != 4 for keep in part.tolist()] == pytest.approx(2 * validated)


def validated(model, form, images, batch_size, **options):
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, **options)
    return trainer.validate(module(model, form), DataLoader(Batches(images), batch_size=batch_size), verbose=False)[0]


@pytest.mark.parametrize("form", ["paper", "released", "ranked", "cross-entropy"])
def test_validation_means_do_not_depend_on_the_batch_size(model, images, form):
    """Each is the mean of the values of the images alone."""
    alone = validated(model, form, images, 1)
    for batch_size in (3, 8):
        assert validated(model, form, images, batch_size) == pytest.approx(alone, rel=1e-6), batch_size
    reference = []
    model.eval()
    for index, image in enumerate(images.unsqueeze(1)):
        with torch.no_grad():
            targets = model.classifier(image).logits.argmax(1)
            if form == "ranked":
                result = model.ranked_pass(image, torch.tensor([0.1 + 0.9 * (index * (5**0.5 - 1) / 2 % 1)]))
            else:
                maps = model.maps(image, targets).sigmoid()
                result = TrainingPass(targets, maps.unsqueeze(1), model.masked_logits(image, maps))
            reference.append(AttentionLoss(form)(result)["total"].item())
    assert alone["val/total"] == pytest.approx(sum(reference) / 8, rel=1e-5)


def test_validation_means_do_not_depend_on_the_number_of_processes(model, images):
    """Seven images in two processes: the sampler repeats one, which counts once."""
    alone = validated(model, "ranked", images[:7], 3)
    queue = torch.multiprocessing.get_context("fork").Queue()
    handler = signal.getsignal(signal.SIGCHLD)

    class Tell(lightning.Callback):
        def on_validation_end(self, trainer, pl_module):
            if trainer.is_global_zero:
                queue.put({name: value.item() for name, value in trainer.callback_metrics.items()})

    validated(model, "ranked", images[:7], 2, devices=2, strategy="ddp_fork", callbacks=[Tell()])
    signal.signal(signal.SIGCHLD, handler)
    assert queue.get(timeout=60) == pytest.approx(alone, rel=1e-6)


def test_batch_norm_follows_the_batches_only_where_it_is_trained(model, images):
    fit(module(model), images, epochs=1)
    assert model.attention.training
    with torch.no_grad():
        share_row(model.attention, model.classifier(images).features)
    before = {name: value.clone() for name, value in model.attention.state_dict().items()}
    fit(module(model), images, epochs=1)
    assert not model.attention.training
    after = model.attention.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["shared_row.shared"]


def test_checkpoint_holds_the_mechanism_alone(model, images, tmp_path):
    trained = module(model)
    trainer = fit(trained, images, epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert set(saved["state_dict"]) == {f"model.attention.{name}" for name in model.attention.state_dict()}
    with torch.no_grad():
        model.attention.fuser.bias.add_(1)
    trained.load_state_dict(saved["state_dict"], strict=trained.strict_loading)
    assert torch.equal(model.attention.fuser.bias, saved["state_dict"]["model.attention.fuser.bias"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(model, images, value):
    with torch.no_grad():
        model.attention.fuser.bias.fill_(value)
    with pytest.raises(InputError, match=r"the loss is nan at step 0: use a lower lr, or set clip"):
        fit(module(model, "ranked"), images)


def test_clipping_bounds_the_gradient(model, images):
    norms = []

    class Watch(lightning.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            gradients = [parameter.grad.norm() for parameter in model.attention.parameters()]
            norms.append(torch.stack(gradients).norm().item())

    fit(module(model), images, epochs=1, callbacks=[Watch()])
    fit(module(model), images, epochs=1, callbacks=[Watch()], gradient_clip_val=1e-3)
    assert min(norms[:2]) > 2e-3


def test_module_explains_for_callbacks(model, images):
    trained = module(model)
    model.eval()
    targets = torch.zeros(8, dtype=torch.int64)
    assert trained.classifier is model.classifier
    assert torch.equal(trained.explain_batch(images, targets), model.maps(images, targets))
