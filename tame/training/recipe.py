"""How a mechanism is trained: a preset, and the choices made in place of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from tame.attention import ATTENTIONS, LCAM_FORMS
from tame.presets import PRESETS, Preset
from tame.types import LossForm, MaskingKind
from tame.utils.checks import InputError
from tame.utils.limits import check_numbers

InitKind = Literal["random", "classifier"]
TrainableKind = Literal["all", "shared"]

_LCAM_MAX_LR = 1e-3


@dataclass(frozen=True)
class Recipe:
    """The choices of a training; None is the preset's. See `tame.train` for the fields.

    Raises:
        InputError: For an unknown name or word, or a number out of range.
    """

    preset: str = "tame"
    attention: str | None = None
    init: InitKind | None = None
    init_images: int = 16
    trainable: TrainableKind | None = None
    loss: LossForm | None = None
    masking: MaskingKind | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        PRESETS.get(self.preset)
        if self.attention is not None:
            ATTENTIONS.get(self.attention)
        words: dict[str, Any] = {
            "init": InitKind,
            "trainable": TrainableKind,
            "loss": LossForm,
            "masking": MaskingKind,
        }
        for name, known in words.items():
            if (word := getattr(self, name)) is not None and word not in get_args(known):
                raise InputError(f"expected {name} {' or '.join(get_args(known))}, got {word!r}")
        check_numbers(**asdict(self))

    def attention_for(self, tokens: bool) -> str:
        """Return the attention mechanism, by default the preset's for the kind of classifier.

        Args:
            tokens: Whether the classifier's features are tokens.
        """
        return self.attention or (PRESETS.get(self.preset).token_attention if tokens else "ttame")

    def choices(self, tokens: bool = False) -> Preset:
        """Return the preset with the choices of this recipe in place of its own.

        Args:
            tokens: Whether the features are tokens: a row that all classes share is then trained with a larger
                learning rate.

        Raises:
            InputError: For choices that contradict each other.
        """
        preset = self._preset()
        choices = replace(
            preset,
            init=self.init or preset.init,
            trainable=self.trainable or preset.trainable,
            loss=self.loss or preset.loss,
            masking=self.masking,
            epochs=preset.epochs if self.epochs is None else self.epochs,
            batch_size=self.batch_size or preset.batch_size,
            max_lr=self.lr or preset.max_lr,
        )
        if self.init == "random" and not self.trainable:
            choices = replace(choices, trainable="all")
        if choices.init == "random" and choices.trainable == "shared":
            raise InputError(
                "a shared row is added to rows that start from the classifier: expected init classifier, got random"
            )
        if choices.trainable == "shared" and tokens and not self.lr:
            choices = replace(choices, max_lr=preset.token_max_lr)
        return choices

    def _preset(self) -> Preset:
        """Return the preset. For an L-CAM a shared row becomes all rows, and the ranked loss that of its paper."""
        preset = PRESETS.get(self.preset)
        form = LCAM_FORMS.get(self.attention or "")
        if form is None:
            return preset
        if self.trainable == "shared":
            raise InputError(f"only T-TAME has a shared row: expected trainable all for {self.attention}, got shared")
        if form.cross_entropy_only and self.loss not in (None, "cross-entropy"):
            raise InputError(f"{self.attention} is trained with the cross-entropy alone, got loss {self.loss}")
        if form.masks == "features" and self.masking:
            raise InputError(f"{self.attention} masks features, not images: expected no masking, got {self.masking}")
        if preset.trainable == "shared":
            preset = replace(preset, trainable="all", loss="released", max_lr=_LCAM_MAX_LR)
        return replace(preset, loss="cross-entropy") if form.cross_entropy_only else preset
