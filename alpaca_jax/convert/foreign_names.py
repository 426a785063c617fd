"""The tensor names of formats other than Hugging Face's, both ways."""

import dataclasses
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class ForeignNames:
    """How a format calls its tensors, in Hugging Face's words; all of them end in `.weight`.

    Attributes:
      layer: what stands before a layer's number.
      outside: names outside the layers → Hugging Face's.
      inside: names within a layer → Hugging Face's within `model.layers.N`.
    """

    layer: str
    outside: Mapping[str, str]
    inside: Mapping[str, str]

    def theirs(self, own: str) -> str:
        """Hugging Face's name of a tensor; its own where it has none."""
        stem = own.removesuffix(".weight")
        if stem == own:
            return own
        if match := re.fullmatch(rf"{self.layer}\.(\d+)\.([\w.]+)", stem):
            number, part = match.groups()
            return f"model.layers.{int(number)}.{self.inside[part]}.weight" if part in self.inside else own
        return f"{self.outside[stem]}.weight" if stem in self.outside else own

    def own(self, theirs: str) -> str:
        """The inverse of `theirs`."""
        for mine, name in self.outside.items():
            if theirs == f"{name}.weight":
                return f"{mine}.weight"
        for mine, name in self.inside.items():
            if match := re.fullmatch(rf"model\.layers\.(\d+)\.{re.escape(name)}\.weight", theirs):
                return f"{self.layer}.{match[1]}.{mine}.weight"
        return theirs
