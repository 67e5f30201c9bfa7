"""A preset with the user's choices in place."""

import pytest

from tame.presets import PRESETS
from tame.training.recipe import Recipe
from toys import TOY_SPECS


@pytest.mark.parametrize(
    ("kind", "preset", "asked", "attention"),
    [
        ("cnn", "tame", None, "ttame"),
        ("vit", "tame", None, "ttame-smooth"),
        ("vit", "paper", None, "ttame"),
        ("vit", "tame", "lcam-img", "lcam-img"),
    ],
)
def test_the_mechanism_is_the_one_asked_for_or_the_presets(kind, preset, asked, attention):
    tokens = TOY_SPECS[kind].tokens is not None
    assert Recipe(preset=preset, attention=asked).attention_for(tokens) == attention


def test_choices_are_the_preset_and_what_was_asked():
    assert Recipe().choices() == PRESETS.get("tame")
    assert Recipe().choices(tokens=True).max_lr == 0.05
    assert Recipe(trainable="all").choices(tokens=True).max_lr == PRESETS.get("tame").max_lr
    assert Recipe(lr=0.1).choices(tokens=True).max_lr == 0.1
    choices = Recipe(preset="released", epochs=3, lr=0.5, batch_size=7, loss="paper").choices()
    assert (choices.epochs, choices.max_lr, choices.batch_size, choices.loss) == (3, 0.5, 7, "paper")
    assert (choices.other_classes, choices.output_size) == ("batch", "first")
    assert Recipe(init="random").choices().trainable == "all"
    assert Recipe(epochs=0).choices().epochs == 0
    assert Recipe(preset="released").choices().masking is None  # that of the preset is for evaluation


def test_choices_of_an_lcam_can_be_overridden():
    choices = Recipe(attention="lcam-img", loss="ranked", init="random", lr=0.3, epochs=5).choices()
    assert (choices.loss, choices.init, choices.trainable) == ("ranked", "random", "all")
    assert (choices.max_lr, choices.epochs) == (0.3, 5)
    assert Recipe(attention="lcam-fm-a", loss="cross-entropy").choices().loss == "cross-entropy"
    assert Recipe(attention="ttame", loss="cross-entropy", trainable="all").choices().trainable == "all"
