"""Motion guidance over a run: which steps are guided, what they are held against, how strongly (paper, §3.4).

Shapes used here:
    b   batch entries of a model call      f   frames      c, h, w   a latent's channels and size
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

from torch import Tensor

from .appearance import AppearanceReader, Pull, pulls, reference_foreground
from .energy_gradient import EnergyGradient, Target, Targets
from .grids import RepresentationMismatchError, Size
from .hosts.base import ModelIdentity, VideoSize, View
from .mixing import Motion
from .representation import MotionRepresentation, Window
from .resampling import held_against
from .schedule import DEFAULT_WEIGHT, UPDATE_RULES, GuidanceWindow, Preset, Ramp, StrengthCurve, UpdateRule
from .semantics import Semantics, mask_on_grid
from .series import AnyReading
from .taps import UnknownTapError, execution_order, weights_by_tap
from .updates import corrected_denoised

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MotionGuidance:
    """Guides a run by one motion or several (a `hosts.base.Guide`).

    Attributes:
        motion: what to follow.
        weight: lambda.
        window: which steps, and how strongly.
        update_rule: see `corrected_denoised`.
        limit: see `corrected_denoised`; where a part of the clip is guided alone, that part's.
        reuse: how many steps in a row share one gradient; 1 takes one at every step.
        block_weights: what the motion's weight is multiplied by, by block or another pattern of tap names; 1 for the
            rest.
        semantics: pulls what the video shows, and where, to an unguided one; None or weights of 0 are off.
    """

    motion: Motion | AnyReading
    weight: float = DEFAULT_WEIGHT
    window: Ramp = field(default_factory=GuidanceWindow)
    update_rule: UpdateRule = "published"
    limit: float | None = None
    reuse: int = 1
    block_weights: Mapping[str, float] = field(default_factory=dict, hash=False)
    semantics: Semantics | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or self.weight < 0:
            raise ValueError(f"weight is {self.weight}: it must be a number of at least 0 (0 is off)")
        if isinstance(self.window, StrengthCurve) and self.window.empty:
            raise ValueError("the strength curve is 0 everywhere: nothing would be guided; raise a keyframe's strength")
        if self.update_rule not in UPDATE_RULES:
            raise ValueError(
                f"update rule {self.update_rule!r} is unknown: choose one of {', '.join(UPDATE_RULES)}"
            )
        if self.limit is not None and not self.limit > 0:
            raise ValueError(f"limit is {self.limit}: it must be above 0, or None for no limit")
        if self.reuse < 1:
            raise ValueError(f"reuse is {self.reuse}: a gradient serves 1 step or more")
        if self._semantics is not None and self.update_rule == "normalised" and not self.weight:
            raise ValueError(
                "weight is 0: the rule normalised takes from it how hard every step pushes, that of Semantic Guidance "
                "too; give a weight above 0, or take the rule published for Semantic Guidance alone"
            )
        self._require_blocks()

    def _require_blocks(self) -> None:
        """Check that every block that has a weight is one that the motion holds, and that its words are there."""
        with _named("block_weights"):
            weights_by_tap(self.taps, self.block_weights)
        if self._semantics is None:
            return
        with _named("Semantic Guidance"):
            weights_by_tap(self.taps, self._semantics.weights)
        if self._semantics.everywhere:
            return
        if self._semantics.appearance_mask is not None:
            mask_on_grid(self._semantics.appearance_mask, self._motion.frames, (1, 1))
        if len(self._motion.parts) > 1 and self._semantics.reference_mask is None:
            raise RepresentationMismatchError(
                f"Semantic Guidance reads where the subject is off one motion, and {len(self._motion.parts)} are "
                f"combined: give it a reference_mask, or take one motion"
            )
        reference_foreground(self._semantics, self._motion.representations[0])

    @classmethod
    def of(
        cls,
        motion: Motion | AnyReading,
        preset: Preset,
        *,
        curve: Ramp | None = None,
        reuse: int = 1,
        block_weights: Mapping[str, float] | None = None,
        semantics: Semantics | None = None,
    ) -> MotionGuidance:
        """Guidance with a preset's weight, guided steps, ramps, rule and limit; says so if k is not the preset's.

        Args:
            motion: what to follow.
            preset: the setting.
            curve: takes the place of the preset's guided steps and ramps.
            reuse: see the class.
            block_weights: likewise; a preset that has its own keeps them.
            semantics: likewise.

        Raises:
            ValueError: the preset weighs a block that the motion does not hold, or as of the class.
        """
        for k in sorted({representation.k for representation in Motion.of(motion).representations} - {preset.k}):
            log.info("this setting is made for a motion extracted with k = %d; this one has k = %d", preset.k, k)
        blocks = dict(preset.block_weights) or block_weights or {}
        if preset.block_weights:
            with _named(f"this preset is for a motion read from {' and '.join(blocks)}, or choose another preset"):
                weights_by_tap(Motion.of(motion).taps, blocks)
        window, rule = curve or preset.window, preset.update_rule
        return cls(motion, preset.weight, window, rule, preset.limit, reuse, blocks, semantics)

    @cached_property
    def _motion(self) -> Motion:
        return Motion.of(self.motion)

    @cached_property
    def _semantics(self) -> Semantics | None:
        """What counts of `semantics`."""
        return self.semantics if self.semantics is not None and self.semantics.active else None

    @cached_property
    def _multipliers(self) -> Mapping[str, float]:
        """Of the motion's weight, by tap; 1 for the rest."""
        return weights_by_tap(self.taps, self.block_weights)

    @cached_property
    def _pulls_of(self) -> Mapping[str, float]:
        """The semantic weight of each tap: a mean over the taps that are named."""
        if self._semantics is None:
            return {}
        weights = weights_by_tap(self.taps, self._semantics.weights)
        return {tap: weight / len(weights) for tap, weight in weights.items() if weight > 0}

    @property
    def taps(self) -> tuple[str, ...]:
        return self._motion.taps

    def compares(self, step: int, total_steps: int) -> bool:
        """Whether a step is held against an unguided video; see `hosts.base.Guide`."""
        return self._semantics is not None and self.strength(step, total_steps) > 0.0

    def reader(self, frames: int, size: Size) -> AppearanceReader:
        """What reads the unguided video at a step; see `hosts.base.Guide`."""
        if self._semantics is None:
            raise ValueError("guidance without semantics is held against no unguided video")
        return AppearanceReader(self._semantics, tuple(self._pulls_of), frames=frames, latent_size=size)

    def require(self, model: ModelIdentity, video: VideoSize) -> None:
        """Check that the motions fit the model and the video; see `hosts.base.Guide`."""
        for number, representation in enumerate(self._motion.representations, start=1):
            with _numbered(number, self._motion):
                _require_model(representation, model)
                representation.require_frames(video.frames, video.group)
            made, size = representation.latent_size, (video.height, video.width)
            if made != size:
                log.info(
                    "a motion read at %d x %d latent cells guides %d x %d: it is stretched over the frame",
                    *made[::-1], *size[::-1],
                )  # fmt: skip

    def guides(self, step: int, total_steps: int, *, sigma_next: float) -> bool:
        """Whether a step is guided: not at a strength of 0.

        Nor in a step that ends without noise, but for ``paper``: the other rules push the noise that is left.
        """
        return self.strength(step, total_steps) > 0.0 and (sigma_next > 0.0 or self.update_rule == "paper")

    def strength(self, step: int, total_steps: int) -> float:
        """lambda * w_i of the strongest part; 0 leaves the step alone.

        Under ``normalised`` it is less where a part of the clip is guided alone: what is guided is pushed by it, and
        what is not has no part in the push's root mean square.
        """
        strengths = self._motion.strengths(step, total_steps)
        strength = self._unit(step, total_steps) * self.window.ramp(step, total_steps)
        if self.update_rule != "normalised" or not strength or not max(strengths):
            return strength
        return strength * math.sqrt(self._motion.coverage(strengths))

    def _unit(self, step: int, total_steps: int) -> float:
        """What a step's energy is multiplied by, ramps aside: the motion's weight, or 1 where it has none."""
        unit = self.weight * max(self._motion.strengths(step, total_steps))
        if unit or self._semantics is None:
            return unit
        return self.weight or 1.0

    def _follows(self, step: int, total_steps: int) -> bool:
        """Whether the motion's energy is on in a guided step: it is off for i > G - alone * G (the first version)."""
        if self._semantics is None:
            return True
        start, guided = 0, total_steps
        if isinstance(self.window, GuidanceWindow):
            start = self.window.start_step
            guided = min(self.window.guided_steps, total_steps - start)
        weight = self.weight * max(self._motion.strengths(step, total_steps))
        return weight > 0 and step - start <= guided * (1.0 - self._semantics.alone)

    def observer(self, x: Tensor, view: View, *, scale: float) -> EnergyGradient:
        """The observer of one guided model call; see `hosts.base.Guide`."""
        follows = self._follows(view.step, view.total_steps)
        targets = self.targets(view) if follows else [{} for _ in view.windows]
        return EnergyGradient(x, targets, len(view.crops), scale, self._pulls(view))

    def _pulls(self, view: View) -> dict[str, Pull]:
        """What holds a call against the unguided video, in units of the motion's weight."""
        if self._semantics is None:
            return {}
        if view.appearance is None or (len(view.windows), len(view.crops)) != (1, 1):
            raise ValueError(
                f"semantic guidance needs an unguided video beside this one, and both whole: this call sees "
                f"{len(view.windows)} windows and {len(view.crops)} conditions"
            )
        unit = self._unit(view.step, view.total_steps)
        weights = {tap: weight / unit for tap, weight in self._pulls_of.items()}
        motions = [part.at(view.timestep) for part in self._motion.parts]
        return pulls(self._semantics, motions, view.appearance, weights, view.size)

    def targets(self, view: View) -> list[Targets]:
        """What a call of the model is held against, one for each of its windows.

        Raises:
            RepresentationMismatchError: a motion was not read in the call's window.
        """
        strengths = self._motion.strengths(view.step, view.total_steps)
        shares = [strength / max(strengths) for strength in strengths]
        return [self._in_blocks(_joined(self._each(shares, view, window))) for window in view.windows]

    def _in_blocks(self, targets: Targets) -> Targets:
        """With the weights of their blocks."""
        factors = self._multipliers
        return {
            name: [[replace(one, share=one.share * factors.get(name, 1.0)) for one in entry] for entry in tap]
            for name, tap in targets.items()
        }

    def _each(self, shares: Sequence[float], view: View, window: Window) -> list[Targets]:
        """Of each motion that has a share."""
        targets = []
        for place, share in enumerate(shares):
            if share > 0:
                with _numbered(place + 1, self._motion):
                    reading = self._motion.parts[place].at(view.timestep)
                    targets.append(_targets_of(reading, share, view, window))
        return targets

    def correct(
        self,
        denoised: Tensor,
        gradient: Tensor,
        *,
        step: int,
        total_steps: int,
        sigma: float,
        sigma_next: float,
        sigma_from: float | None = None,
    ) -> Tensor:
        """`corrected_denoised` by this guidance's rule, with the step's strength and limit."""
        return corrected_denoised(
            denoised,
            gradient,
            strength=self.strength(step, total_steps),
            sigma=sigma,
            sigma_next=sigma_next,
            sigma_from=sigma_from,
            rule=self.update_rule,
            limit=self._limit(step, total_steps),
        )

    def _limit(self, step: int, total_steps: int) -> float | None:
        strengths = self._motion.strengths(step, total_steps)
        if self.limit is None or not max(strengths):
            return self.limit
        return self.limit * math.sqrt(self._motion.coverage(strengths))


@contextmanager
def _numbered(number: int, motion: Motion) -> Iterator[None]:
    """Says of several motions which one does not fit."""
    try:
        yield
    except RepresentationMismatchError as error:
        if len(motion.parts) == 1:
            raise
        raise RepresentationMismatchError(f"motion {number} of {len(motion.parts)}: {error}") from error


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Says which weights name a block that is not there."""
    try:
        yield
    except UnknownTapError as error:
        raise ValueError(f"{what}: {str(error).replace('this model has', 'the motion holds')}") from error


def _targets_of(representation: MotionRepresentation, share: float, view: View, window: Window) -> Targets:
    entries = [held_against(representation, window, crop, view.size) for crop in view.crops]
    return {name: [[Target(kept[name], share)] for kept in entries] for name in representation.taps}


def _joined(several: Sequence[Targets]) -> Targets:
    """The targets of each tap and batch entry side by side; taps in the order of execution."""
    names = sorted({name for targets in several for name in targets}, key=execution_order)
    return {
        name: [list(chain.from_iterable(entry)) for entry in zip(*(t[name] for t in several if name in t), strict=True)]
        for name in names
    }


def _require_model(representation: MotionRepresentation, model: ModelIdentity) -> None:
    made_with, fingerprint = representation.provenance.architecture, representation.provenance.fingerprint
    if fingerprint and fingerprint != model.fingerprint:
        log.warning(
            "the motion representation was made with other weights (%s) than this model's (%s): "
            "it may fit badly, extract it again to be sure",
            fingerprint,
            model.fingerprint,
        )
    if made_with and made_with != model.architecture:
        raise RepresentationMismatchError(
            f"the motion representation was made with {made_with}, this model is {model.architecture}: "
            f"extract it again with this model"
        )
    for name, tap in representation.taps.items():
        if name not in model.heads:
            raise RepresentationMismatchError(
                f"the motion representation reads {name}, which this model does not have "
                f"(it has {', '.join(model.heads)}): extract it again with this model"
            )
        if tap.heads != model.heads[name]:
            raise RepresentationMismatchError(
                f"the motion representation has {tap.heads} heads at {name}, this model has "
                f"{model.heads[name]}: extract it again with this model"
            )
