"""Detection of misspelt column names."""

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from types import MappingProxyType

OTHER_TOOLS: Mapping[str, str] = MappingProxyType(
    {
        "textprompt": "prompt",
        "positiveprompt": "prompt",
        "textprompts": "prompt",
        "negprompt": "negative_prompt",
        "negative": "negative_prompt",
        "negativeprompts": "negative_prompt",
        "uncondprompt": "negative_prompt",
        "checkpoint": "model",
        "ckpt": "model",
        "sdmodelcheckpoint": "model",
        "sdmodel": "model",
        "sdmodelname": "model",
        "ckptname": "model",
        "modelname": "model",
        "cfg": "guidance_scale",
        "cfgscale": "guidance_scale",
        "guidance": "guidance_scale",
        "step": "steps",
        "numsteps": "steps",
        "nsteps": "steps",
        "inferencesteps": "steps",
        "numinferencesteps": "steps",
        "samplingsteps": "steps",
        "ddimsteps": "steps",
        "scheduler": "sampler",
        "samplername": "sampler",
        "samplingmethod": "sampler",
        "samplerindex": "sampler",
        "sampling": "sampler",
        "schedulername": "sampler",
        "schedulertype": "sampler",
        "scheduletype": "sampler",
        "randomseed": "seed",
        "noiseseed": "seed",
        "rngseed": "seed",
        "numoutputs": "num_images",
        "imagesperprompt": "num_images",
        "samples": "num_images",
        "niter": "num_images",
        "nsamples": "num_images",
        "numsamples": "num_images",
        "nimages": "num_images",
        "imagecount": "num_images",
        "batchsize": "num_images",
        "batchcount": "num_images",
        "numimagesperprompt": "num_images",
        "initimg": "init_image",
        "initimages": "init_image",
        "inputimage": "init_image",
        "startimage": "init_image",
        "maskimg": "mask_image",
        "depthmap": "depth_image",
        "depthimg": "depth_image",
        "denoise": "strength",
        "denoisingstrength": "strength",
        "promptstrength": "strength",
        "imagestrength": "strength",
        "loras": "lora",
        "loraweights": "lora",
        "loramodel": "lora",
        "upscalefactor": "upscale",
        "upscaleby": "upscale",
        "upscaler": "upscale",
    }
)

# Words that are one edit from a known column but are ordinary column names.
ORDINARY = frozenset(
    {
        "lord",
        "lore",
        "mode",
        "modal",
        "sample",
        "sampled",
        "speed",
        "seen",
        "with",
        "stops",
        "tenants",
        "steep",
    }
)


def suggest(header: str, known: Collection[str]) -> str | None:
    """Return the known column that `header` resembles, or None for an ordinary column of the user's own.

    Case, spaces, dashes, dots and underscores are ignored. The first letter must agree, and one edit is allowed
    (insert, delete, replace, or swap neighbours: optimal string alignment), two in names of 13 or more letters.
    Names with trailing digits (`prompt_2`) are ordinary columns.
    """
    plain = plain_name(header)
    other = OTHER_TOOLS.get(plain)
    if other in known:
        return other
    if plain in ORDINARY or len(plain) > 30:
        return None
    return next((name for name in known if _looks_like(plain, _plain_known(name))), None)


@lru_cache(100)
def _plain_known(name: str) -> str:
    return plain_name(name)


def plain_name(name: str) -> str:
    """Return a name in lower case without spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name.lower())


def _looks_like(plain: str, known: str) -> bool:
    if len(known) < 4 or plain[:1] != known[0] or plain.rstrip("0123456789") == known != plain:
        return False
    from rapidfuzz.distance import OSA  # noqa: PLC0415 - few headers come so far

    most = 2 if len(known) >= 13 else 1
    return OSA.distance(plain, known, score_cutoff=most) <= most
