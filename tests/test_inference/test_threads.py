"""Many threads at once: the maps of one thread, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tame
from explainer_trace import random_states, trace
from tame.attention import TAME
from tame.attention.model import ExplainedClassifier
from tame.classifier import FrozenClassifier, Preprocessing
from tame.explainers import EXPLAINERS
from tame.explainers.learned import LearnedExplainer
from tame.inference.kept import LastBuilt
from tame.utils.checks import InputError
from toys import ToyCNN

Make = Callable[..., FrozenClassifier]
THREADS = 8
CALL, GETATTR = nn.Module.__call__, nn.Module.__getattr__
ARGUMENTS: dict[str, dict[str, Any]] = {
    "rise": {"masks": 20},
    "iia": {"steps": 2},
    "integrated_gradients": {"steps": 4},
    "captum:KernelShap": {"n_samples": 20},
}
EXTERNAL = ("grad-cam:GradCAM", "grad-cam:ShapleyCAM")
if find_spec("captum"):
    EXTERNAL += ("captum:DeepLift", "captum:KernelShap")
OWN = [name for name in EXPLAINERS if not EXPLAINERS.get(name).learned]
IMAGE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _modules_are_as_ever():
    yield
    assert (nn.Module.__call__, nn.Module.__getattr__) == (CALL, GETATTR)


def in_threads(call: Callable[[int], object], count: int = THREADS) -> list[Any]:
    """Return what each thread returns, all started together; an error of one is raised."""
    together = threading.Barrier(count)

    def run(number: int) -> object:
        together.wait()
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def in_another_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(timeout=60)


def test_all_methods_in_eight_threads_give_the_maps_of_one(toy_classifier: Make) -> None:
    cnn, vit = toy_classifier(), toy_classifier("vit")
    only = [name for name in OWN if EXPLAINERS.get(name).transformers_only]
    learned = LearnedExplainer(ExplainedClassifier(cnn, TAME(cnn.channels, 5)))
    calls = [(cnn, name) for name in (*OWN, *EXTERNAL) if name not in only]
    calls += [(vit, name) for name in ("gradcam", *only)]
    calls += [(cnn, learned), (cnn, lambda images, targets: cnn(images).features[0].mean(1))]

    def explain(number: int) -> Tensor:
        classifier, method = calls[number % len(calls)]
        map_ = tame.explain(IMAGE, classifier, 1, method=method, **ARGUMENTS.get(str(method), {})).map
        return torch.from_numpy(map_)

    one_thread = [explain(number) for number in range(len(calls))]
    before = trace(cnn), trace(vit), random_states()

    def all_methods(thread: int) -> None:
        for step in range(len(calls)):
            number = (step + 3 * thread) % len(calls)
            torch.testing.assert_close(explain(number), one_thread[number], rtol=0, atol=1e-6)

    in_threads(all_methods)
    assert (trace(cnn), trace(vit), random_states()) == before


def test_one_network_of_the_user_in_eight_threads() -> None:
    network = ToyCNN()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    methods = ("gradcam", "eigencam", "ablationcam", "layercam")
    inputs = np.random.default_rng(0).random((224, 224, 3))
    expected = [tame.explain(inputs, network, 1, method=method).map for method in methods]
    found = in_threads(lambda thread: tame.explain(inputs, network, 1, method=methods[thread % 4]).map)
    for thread, map_ in enumerate(found):
        np.testing.assert_allclose(map_, expected[thread % 4], rtol=0, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Busy(ToyCNN):
    """A network whose passes in the main thread, also those of a tracer, wait for something that another thread does.

    Its last layer starts at zero, as that of many networks that are about to be trained.
    """

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.head.weight)
        self.meanwhile: Callable[[], None] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.meanwhile and threading.current_thread() is threading.main_thread():
            in_another_thread(self.meanwhile)
        return super().forward(inputs)


@pytest.mark.parametrize(
    "use",
    [
        lambda network: FrozenClassifier.from_module(network, preprocess=Preprocessing(32, 32)),
        lambda network: tame.inspect_classifier(network, input_size=32),
    ],
)
def test_the_users_network_runs_meanwhile_with_its_own_weights(use: Callable[[nn.Module], object]) -> None:
    network, images, seen = Busy().eval(), torch.rand(2, 3, 32, 32), []
    expected = network(images).detach()

    def run() -> None:
        seen.append(network(images))

    network.meanwhile = run
    use(network)
    assert len(seen) > 3
    assert all(torch.equal(logits, expected) and logits.requires_grad for logits in seen)


def test_the_users_network_is_trained_meanwhile() -> None:
    """Statistics of batch norms that a step of another thread changes are neither undone nor separated."""
    network = Busy().eval()
    counted = network.stage1[1].running_mean
    before, steps = counted.clone(), []

    def train() -> None:
        counted.add_(1)
        steps.append(1)

    network.meanwhile = train
    classifier = FrozenClassifier.from_module(network, preprocess=Preprocessing(32, 32))
    torch.testing.assert_close(counted, before + len(steps))
    assert classifier.module.stage1[1].running_mean.data_ptr() == counted.data_ptr()


def test_passes_of_other_threads_are_not_recorded(toy_classifier: Make) -> None:
    classifier, images = toy_classifier(), torch.rand(2, 3, 32, 32)
    explainer = tame.build_explainer(classifier, "gradcam")
    expected = explainer(images, [0, 1])
    seen = []

    def another_pass(*_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            handle.remove()
            in_another_thread(lambda: seen.append(classifier.module(classifier.normalise(1 - images))))

    handle = classifier.module.head.register_forward_hook(another_pass)  # after the layer's own hook
    assert torch.equal(explainer(images, [0, 1]), expected) and seen


@pytest.mark.parametrize("method", ["gradcam", "grad-cam:GradCAM", lambda images, targets: images.sum()])
def test_an_exception_in_a_thread_releases_the_network(toy_classifier: Make, method: Any) -> None:
    classifier = toy_classifier()
    explainer = tame.build_explainer(classifier, method)

    def fails() -> None:
        handle = classifier.module.head.register_forward_hook(lambda *_: 1 / 0)
        try:
            explainer(IMAGE[None], [1])
        finally:
            handle.remove()

    with pytest.raises((ZeroDivisionError, InputError)):
        in_another_thread(fails)
    in_another_thread(lambda: tame.explain(IMAGE, classifier, 1, method="grad-cam:GradCAM"))
    in_another_thread(lambda: tame.explain(IMAGE, classifier, 1, method=lambda images, targets: images[:, 0]))


class Untraceable(ToyCNN):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs if inputs.sum() > 0 else -inputs)


def test_networks_that_cannot_be_traced_in_threads() -> None:
    def build(_: int) -> bool:
        return FrozenClassifier.from_module(Untraceable(), ["stage2", "stage3"], Preprocessing(32, 32)).traced

    assert in_threads(build) == [False] * THREADS


def test_random_weights_of_a_seed_in_threads(toy_classifier: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from tame.backbones import BACKBONES
    from toys import TOY_SPECS

    monkeypatch.setitem(BACKBONES._entries, "toy_cnn", TOY_SPECS["cnn"])
    expected = [tame.load_classifier("toy_cnn", seed=seed).weights_hash for seed in range(THREADS)]
    before = random_states()
    assert in_threads(lambda seed: tame.load_classifier("toy_cnn", seed=seed).weights_hash) == expected
    assert random_states() == before


def test_what_is_kept_is_that_of_ones_own_sources() -> None:
    """Another thread may build while the kept sources are compared."""
    last = LastBuilt[str]()

    class Slow(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            in_another_thread(lambda: last.get(["other"], lambda: "of the other"))
            return str.__eq__(self, other)

    last.get([Slow("own")], lambda: "own")
    assert last.get([Slow("own")], lambda: "own") == "own"
