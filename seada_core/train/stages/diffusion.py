"""The diffusion stages of SeAda: base, control, stage2, stage3 (method.md's table), and what all of them share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...color.merging import merge_chroma
from ...color.spaces import luminance
from ...models import ccd
from ...models.backbone import Hook, denoise
from ...models.schedule import NoiseSchedule
from ...presets import TrainConfig
from ..batches import Batch
from ..draws import Draws
from ..lora import train_lora_alone
from ..perceptual import PerceptualLoss
from ..probe import ChromaProbe
from .registry import StageSetup
from .stage import Stage

GENERIC = ("colored photo", "high-quality photo", "a colorful photo")


def add_noise(schedule: NoiseSchedule, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """z_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) noise, in float32."""
    return schedule.add_noise(z.float(), noise.float(), t)


def target(schedule: NoiseSchedule, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the UNet is to predict: the noise, or v = sqrt(alpha_bar_t) noise - sqrt(1 - alpha_bar_t) z."""
    if schedule.prediction == "v_prediction":
        return schedule.velocity(z.float(), noise.float(), t)
    return noise.float()


def sample_timesteps(u: Tensor, config: TrainConfig, train_steps: int) -> Tensor:
    """(B,) long of u (B,) in [0, 1); a shift s maps u to s u / (1 + (s - 1) u), more noise for s > 1.

    The largest `last_timestep_share` of u are the last timestep.
    """
    if config.last_timestep_share:
        u = u / (1 - config.last_timestep_share)
    return _shifted(u, config, train_steps)


def _shifted(u: Tensor, config: TrainConfig, train_steps: int) -> Tensor:
    s = config.timestep_shift
    return (s * u / (1 + (s - 1) * u) * train_steps).long().clamp(max=train_steps - 1)


def predict_x0(schedule: NoiseSchedule, z_t: Tensor, output: Tensor, t: Tensor) -> Tensor:
    """The clean latent that an output (noise or v) at z_t stands for; Eq. 3 of EDN for noise."""
    alpha_bar = schedule.alphas_cumprod.to(z_t.device)[t][:, None, None, None]
    if schedule.prediction == "v_prediction":
        return alpha_bar.sqrt() * z_t - (1 - alpha_bar).sqrt() * output
    return ccd.predict_x0(z_t, output, alpha_bar)


def pick_texts(batch: Batch, config: TrainConfig, draws: Draws) -> list[str]:
    """A text a picture: grey caption, colour caption, a generic prompt, or none, by the config's probabilities."""
    texts = []
    for gray, color, (u, v) in zip(batch.captions, batch.color_captions, draws.uniform(2).tolist()):
        if u < config.empty_prob:
            texts.append("")
        elif u < config.empty_prob + config.generic_prob:
            texts.append(GENERIC[int(v * len(GENERIC))])
        else:
            texts.append(color if v < config.color_prob else gray)
    return texts


def drop_channels(maps: Sequence[Tensor], share: float, draws: Draws) -> list[Tensor]:
    """Maps (B, C, h, w) without a random `share` of each picture's channels, the others scaled to make up for it.

    A classifier's maps of a photo are the same in every epoch, and a model soon overfits to them.
    """
    if not share:
        return list(maps)
    kept = [draws.uniform(x.shape[1], 1, 1, device=x.device) >= share for x in maps]
    return [x * k.to(x.dtype) / (1 - share) for x, k in zip(maps, kept)]


class DiffusionStage(Stage):
    """The diffusion loss on a controlled UNet; trains the parts that the stage's entry lists.

    Parts: unet, semantic_encoder; from `control` on controlnet_rca; from `stage1` on semantic_adapter.
    """

    def __init__(self, setup: StageSetup):
        super().__init__()
        entry, parts, config = setup.entry, setup.parts, setup.config
        self.name, self.config, self.probe = entry.name, config, setup.probe
        self.perceptual: PerceptualLoss | None = None
        if config.perceptual_weight or entry.judges_colors:
            self.perceptual = PerceptualLoss.with_package_weights()
        self.condition: Tensor | None = None  # c_f of the last step
        self.schedule = NoiseSchedule(setup.preset.diffusion)
        self.unet, self.semantic_encoder = parts["unet"], parts["semantic_encoder"]
        self.controlnet_rca = parts.get("controlnet_rca")
        self.semantic_adapter = parts.get("semantic_adapter")
        trained = entry.trained(config)
        for name, module in self.denoising_parts().items():
            module.requires_grad_(name in trained)
        if getattr(self.unet, "peft_config", None):
            train_lora_alone(self.unet)
        # until stage II residuals alone connect the controller; a preset without residuals trains it through RCA
        control = self.controlnet_rca
        self.bypass_rca = False
        if entry.residuals_only and control is not None and control.zero_convs is not None:
            self.bypass_rca = True
            control.rca.requires_grad_(False)

    def denoising_parts(self) -> dict[str, nn.Module]:
        """The parts that predict the noise, as far as the stage has them."""
        names = ("unet", "semantic_encoder", "semantic_adapter", "controlnet_rca")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        draws = Draws(batch.seeds)
        context = self.context(pick_texts(batch, self.config, draws))
        z, rgb = batch.latent, batch.rgb
        noise = draws.normal(z)
        t = sample_timesteps(batch.uniform, self.config, self.schedule.train_steps)
        z_t = add_noise(self.schedule, z, noise, t)
        gray = luminance(rgb).expand_as(rgb)
        recognized = self.recognized(batch, gray)
        if recognized is not None and self.training:
            recognized = drop_channels(recognized, self.config.recognition_dropout, draws)
        output = self.predict(z_t, t, context, gray, recognized).float()
        return self.errors(output, z, noise, z_t, t, rgb)

    def recognized(self, batch: Batch, gray: Tensor) -> list[Tensor] | None:
        """The classifier's maps of the grey photos (B, 3, H, W), where they are known before the mapper runs."""
        return batch.recognized

    def errors(
        self, output: Tensor, z: Tensor, noise: Tensor, z_t: Tensor, t: Tensor, rgb: Tensor
    ) -> dict[str, Tensor]:
        """`diffusion`, the mean squared error of Eq. 4; `chroma`, that of the colour that x0 shows; `perceptual`, its
        distance in a classifier's features in the noisiest third of the timesteps, where colours are decided; `loss`,
        the first plus `chroma_weight`, `perceptual_weight` and `condition_weight` times the others.

        `condition` draws the first channels of c_f, "the latent space vector" of SeAda, towards z_0: the grey photo
        determines a latent's luminance, and where that estimate is off, the decoder turns the error into false colours.
        Where c_f has more channels, `condition_chroma` draws the next two towards the colour itself, in the probe's
        units. The picture gets its luminance from the photo, so only colour matters; but colour is a small share of a
        latent's variance, and a small model would learn it last.
        """
        terms = {"diffusion": (output - target(self.schedule, z, noise, t)).pow(2).mean()}
        terms["loss"] = terms["diffusion"]
        if self.config.chroma_weight or self.perceptual is not None:
            probe = self.required_probe()
            gray, wanted = luminance(rgb), probe.wanted(rgb)
            shown = probe(predict_x0(self.schedule, z_t, output, t), gray)
            terms["chroma"] = (shown - wanted).float().pow(2).mean()
            terms["loss"] = terms["loss"] + self.config.chroma_weight * terms["chroma"]
            if self.perceptual is not None:
                more, weighted = self.color_terms(shown * probe.deviation, wanted * probe.deviation, gray, t)
                terms |= more
                terms["loss"] = terms["loss"] + weighted
        if self.config.condition_weight and self.condition is not None:
            c_f, latent = self.condition.float(), z.shape[1]
            terms["condition"] = (c_f[:, :latent] - z).pow(2).mean()
            drawn = terms["condition"]
            if self.probe is not None and c_f.shape[1] >= latent + 2:
                wanted = self.probe.wanted(rgb).float()
                terms["condition_chroma"] = (c_f[:, latent : latent + 2] - wanted).pow(2).mean()
                drawn = drawn + terms["condition_chroma"]
            terms["loss"] = terms["loss"] + self.config.condition_weight * drawn
        return terms

    def required_probe(self) -> ChromaProbe:
        """The chroma probe. Raises ValueError where the recipe weighs colours and the stage was built without one."""
        if self.probe is None:
            raise ValueError(f"stage {self.name} weighs its loss by colours: build it with a chroma probe")
        return self.probe

    def is_noisy(self, t: Tensor) -> Tensor:
        """Which of the timesteps (B,) are in the noisiest third, or the last: where colours are decided."""
        border = _shifted(torch.tensor([2 / 3]), self.config, self.schedule.train_steps)
        return t >= border.to(t.device)

    def mean_of_noisy(self, total: Tensor, t: Tensor) -> Tensor:
        """The sum over the noisy pictures of a batch as their mean in a whole step, however many this batch has."""
        inverse_share = 3 / (1 + 2 * self.config.last_timestep_share)
        return inverse_share * total / len(t)

    def color_terms(self, shown: Tensor, wanted: Tensor, gray: Tensor, t: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Terms of the chroma that x0 shows and of the true chroma (B, 2, h, w) in noisy pictures; and the weighted
        sum of these terms, which is added to the loss."""
        noisy = self.is_noisy(t)
        distance = shown.sum() * 0
        if self.perceptual is not None and noisy.any():
            distance = self.perceptual.distance(*self.perceptual.look(shown[noisy], wanted[noisy], gray[noisy])).sum()
        perceptual = self.mean_of_noisy(distance, t)
        return {"perceptual": perceptual}, self.config.perceptual_weight * perceptual

    def context(self, texts: list[str]) -> Tensor:
        """e_r of captions; e_g before there is an adapter."""
        e_g = self.semantic_encoder(texts)[0]
        return e_g if self.semantic_adapter is None else self.semantic_adapter(e_g)

    def predict(
        self,
        z_t: Tensor,
        t: Tensor,
        context: Tensor,
        condition: Tensor,
        recognized: list[Tensor] | None = None,
        hooks: Sequence[Hook] = (),
    ) -> Tensor:
        """The UNet's output; where residuals connect the controller, RCA is bypassed up to and with stage I.

        recognized: the condition's cached maps.
        """
        control = self.controlnet_rca
        if control is None:
            return denoise(self.unet, z_t, t, context, hooks=hooks)
        features = control.encode(z_t, t, context, condition, recognized=recognized)
        if not self.bypass_rca:
            hooks = [lambda i, h: control.attend(i, h, features), *hooks]
        self.condition = features.condition
        return denoise(self.unet, z_t, t, context, features.residuals, hooks)

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        """The grey photos in the probe's colours of x0 after one step from pure noise; and the true pictures."""
        if self.probe is None:
            return {}
        rgb, z_t = batch.rgb, Draws(batch.seeds).normal(batch.latent)
        gray = luminance(rgb)
        t = torch.full((len(rgb),), self.schedule.train_steps - 1, device=rgb.device)
        output = self.predict(z_t, t, self.context(batch.captions), gray.expand_as(rgb)).float()
        chroma = self.probe(predict_x0(self.schedule, z_t, output, t), gray) * self.probe.deviation
        return {"one_step": merge_chroma(chroma, gray), "truth": rgb}

    def parts(self) -> dict[str, nn.Module]:
        return self.denoising_parts()


def build(setup: StageSetup) -> DiffusionStage:
    return DiffusionStage(setup)
