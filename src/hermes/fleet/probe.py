"""One token of a model: whether its backend can generate, which no list that it answers with tells."""

from math import inf

from hermes.chat import ChatRequest, EmbedRequest, Failure, Message, Sampling
from hermes.errors import BackendError
from hermes.fleet.driver import Server
from hermes.fleet.inventory import ModelInfo


async def generate(server: Server, model: ModelInfo) -> None:
    """Returns with the first sign of an answer, however long that takes. Raises GatewayError where there is none."""
    if "embedding" in model.capabilities and "completion" not in model.capabilities:
        await _embed(server, model.name)
        return
    request = ChatRequest(model.name, (Message("user", "Hi"),), stream=True, sampling=Sampling(max_tokens=1))
    spoken = server.dialect
    path, body = spoken.render_request(request, model.name)
    async with server.pool.exchange("POST", path, body, deadline=inf) as answer:
        if answer.status != 200:
            raise spoken.error(answer.status, await answer.read(inf))
        decoder = spoken.decoder(request, "probe")
        while data := await answer.read(inf):
            if events := decoder.feed(data):
                if isinstance(events[0], Failure):
                    raise spoken.failure(events[0])
                return
        if not decoder.finish():
            raise BackendError("the backend's answer ended before there was anything in it")


async def _embed(server: Server, model: str) -> None:
    request = EmbedRequest(model, ("Hi",))
    path, body = server.dialect.render_embed(request, model)
    async with server.pool.exchange("POST", path, body, whole=True, deadline=inf) as answer:
        said = answer.take_body()
        if answer.status != 200:
            raise server.dialect.error(answer.status, said)
        server.dialect.embeddings(said, request)
