"""The depth head: diffusers' Sana transformer, which draws depth latents from an image's visual tokens."""

import torch
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from jaxtyping import Bool, Float
from torch import Tensor, nn

from egem.models.attention import CrossAttentionProcessor
from egem.models.flow_matching import TIME_SCALE, Draws, guide, integrate, interpolate, velocity_error


class DepthHead(nn.Module):
    """A plain `SanaTransformer2DModel` under the name `sana`, trained by flow matching.

    The context takes the place of the text encoder's states in Sana's cross-attention.
    """

    def __init__(self, sana: SanaTransformer2DModel):
        super().__init__()
        self.sana = sana
        for block in sana.transformer_blocks:
            block.attn2.set_processor(CrossAttentionProcessor())  # pyright: ignore

    def forward(
        self,
        latents: Float[Tensor, "map channel height width"],
        time: Float[Tensor, "map"],
        context: Float[Tensor, "map token context"],
        context_mask: Bool[Tensor, "map token"],
    ) -> Float[Tensor, "map channel height width"]:
        """The velocity at `latents`, which are x_t at noise level `time`."""
        dtype = self.sana.dtype
        return self.sana(
            hidden_states=latents.to(dtype),
            encoder_hidden_states=context.to(dtype),
            encoder_attention_mask=context_mask,
            timestep=TIME_SCALE * time,
            return_dict=False,
        )[0]

    def loss(
        self,
        latents: Float[Tensor, "map channel height width"],
        weight: Float[Tensor, "map weight_channel height width"],
        context: Float[Tensor, "map token context"],
        context_mask: Bool[Tensor, "map token"],
        draws: Draws,
    ) -> Float[Tensor, "map"]:
        """Mean squared velocity error of each map over its latent values of non-zero weight."""
        noisy = interpolate(latents, draws.noise, draws.time)
        velocity = self(noisy, draws.time, context, context_mask)
        return velocity_error(velocity, latents, draws.noise, weight)

    @torch.no_grad()
    def sample(
        self,
        noise: Float[Tensor, "map channel height width"],
        context: Float[Tensor, "map token context"],
        context_mask: Bool[Tensor, "map token"],
        null_context: Float[Tensor, "1 1 context"],
        *,
        num_steps: int,
        guidance: float,
        time_shift: float = 1.0,
    ) -> Float[Tensor, "map channel height width"]:
        """Integrate from noise to latents.

        Args:
            noise: where each map starts.
            context: one condition per map.
            context_mask: its real tokens.
            null_context: the null condition; one token says as much as many equal ones.
            num_steps: of Euler's method.
            time_shift: where the steps lie, see `flow_matching.shifted`.
            guidance: 1 leaves the null condition out.
        """
        num_maps = len(noise)
        if guidance != 1.0:
            padding = context.new_zeros(num_maps, context.shape[1] - 1, context.shape[2])
            null = torch.cat([null_context.to(context.dtype).expand(num_maps, -1, -1), padding], dim=1)
            null_mask = torch.zeros_like(context_mask)
            null_mask[:, 0] = True
            context, context_mask = torch.cat([context, null]), torch.cat([context_mask, null_mask])

        def velocity(state: Tensor, time: float) -> Tensor:
            times = state.new_full((len(context),), time)
            if guidance == 1.0:
                return self(state, times, context, context_mask).float()
            both = self(torch.cat([state, state]), times, context, context_mask).float()
            return guide(both[:num_maps], both[num_maps:], guidance)

        return integrate(velocity, noise.float(), num_steps=num_steps, time_shift=time_shift)


def initialize_depth_head(sana: SanaTransformer2DModel) -> None:
    """Starting values for training from scratch, drawn from torch's global generator.

    As PixArt and Sana were initialised: Xavier-uniform products, N(0, 0.02) for the time and context
    embeddings. Unlike theirs, the last projection starts small, not at zero, and cross-attention's output
    is left as it is: with zeros there, a frozen head would give the connector no gradient in the first stage.
    """
    for name, module in sana.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if name.startswith(("time_embed.", "caption_projection.", "proj_out")):
            nn.init.normal_(module.weight, std=0.02)
        else:
            nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    projection = sana.patch_embed.proj
    nn.init.xavier_uniform_(projection.weight.flatten(1))
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)
