"""Attention written as matrix products while networks train on a CPU, where sequences are short.

torch's fused kernel saves memory, which long sequences need. On a CPU its backward pass does not pay for short ones: of 64
tokens it takes two to six times as long as the products that it replaces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import nn
from transformers import PreTrainedModel

from sarnb.train.processes import processes

SHORT = 256  # tokens, beyond which the fused kernel is the faster one


@contextlib.contextmanager
def plain_attention(*networks: nn.Module, tokens: int) -> Iterator[None]:
    """Inside the block the attention of diffusers' and transformers' modules in ``networks`` is plain, with a softmax in fp32.

    ``tokens``: the longest sequence that they will see. Nothing changes beyond ``SHORT`` of them, or on another device than
    the CPU. Afterwards every module is what it was.
    """
    with contextlib.ExitStack() as undo:
        if tokens <= SHORT and processes().device.type == "cpu":
            for network in networks:
                for part in list(network.modules()):
                    if isinstance(part, Attention):
                        undo.callback(_restore, part, part.processor, part.upcast_softmax)
                        part.upcast_softmax = True
                        part.set_processor(AttnProcessor())
                    elif isinstance(part, PreTrainedModel):
                        undo.callback(part.set_attn_implementation, part.config._attn_implementation)
                        part.set_attn_implementation("eager")
        yield


def _restore(attention: Attention, processor: object, upcast: bool) -> None:
    attention.set_processor(processor)
    attention.upcast_softmax = upcast
