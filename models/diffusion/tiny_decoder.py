"""A small autoencoder (TAESD) that decodes latents in place of a model's VAE: faster, but with different pixels."""

from dataclasses import dataclass
from typing import Any, Self

from models.diffusion.loading_error_types import UNLOADABLE
from models.engine.vae_decode import Decoder
from models.errors import CheckpointError
from models.runtime.compile_options import PLAIN, CompileOptions
from models.runtime.device import Device, memory_errors
from models.runtime.library_logging import quiet
from models.store.resolve_checkpoint import Checkpoint
from models.store.vetting import check_whole


@dataclass(frozen=True, eq=False)
class SmallDecoder:
    """A decoder like TAESD (Ollin Boer Bohan, github.com/madebyollin/taesd) on its device.

    `network` is diffusers' AutoencoderTiny, which takes latents as the UNet outputs them.
    """

    checkpoint: Checkpoint
    network: Any
    decoder: Decoder

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        device: Device,
        *,
        vae_factor: int,
        compile_options: CompileOptions = PLAIN,
    ) -> Self:
        """Load it for a model whose VAE scales by `vae_factor`. Raises CheckpointError, also if the factors differ."""
        with memory_errors(device):
            network = _from_files(checkpoint, device)
            factor = 2 ** (len(network.config.block_out_channels) - 1)
            if factor != vae_factor:
                raise CheckpointError(
                    f"{checkpoint.path}: it scales by {factor}, the VAE that it stands for by {vae_factor}"
                )
            network.to(device.name)
        compile_options.arrange(network)
        return cls(checkpoint, network, Decoder(network, device.dtype))


def _from_files(checkpoint: Checkpoint, device: Device) -> Any:
    try:
        with quiet():
            from diffusers import AutoencoderTiny  # noqa: PLC0415 - logs messages on import

            network, report = AutoencoderTiny.from_pretrained(
                checkpoint.path,
                torch_dtype=device.dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except UNLOADABLE as error:
        raise CheckpointError(f"{checkpoint.path}: can't be loaded as an AutoencoderTiny: {error}") from error
    check_whole(checkpoint.path, report)
    return network.eval()
