"""Text Generation Inference: the one model that a server has, and how much it does at once. Shapes: TGI 3.3."""

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from hermes.dialects import strict
from hermes.dialects.tgi import TgiBackend
from hermes.errors import BackendError
from hermes.fleet.inventory import ModelInfo
from hermes.fleet.kind import Listing, public_name


class _Info(Struct):
    model_id: str
    max_concurrent_requests: int | None = None
    max_total_tokens: int = 0
    version: str = ""


class Tgi(TgiBackend):
    asks = ("/health", "/info")
    slots: int | None = None  # it says so
    settles = True  # a prompt is read in one go

    def listing(self, said: Mapping[str, bytes]) -> Listing:
        try:
            info = msgspec.json.decode(said["/info"], type=_Info)
        except strict.MALFORMED as error:
            raise BackendError(f"the backend's answer is not TGI's: {error}") from error
        name = public_name(info.model_id)
        models = (ModelInfo(name, context_length=info.max_total_tokens),) if name else ()
        return Listing(models, info.max_concurrent_requests, info.version)
