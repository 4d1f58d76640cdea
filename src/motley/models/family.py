"""What a family file provides. A family is a module; this is its type."""

from collections.abc import Mapping
from typing import Any, Protocol

from motley.models.config import Config
from motley.models.layers import Layer
from motley.models.loader import Loader


class Family(Protocol):
    def config(self, metadata: Mapping[str, Any]) -> Config:
        """Hyper-parameters from GGUF metadata; FormatError or UnsupportedError naming the key."""
        ...

    def layer(self, config: Config, load: Loader, index: int) -> Layer:
        """Everything of layer `index` but its routed experts."""
        ...
