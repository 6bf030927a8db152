"""`GET /trace` on the agent's metrics server: a question in, JSON out. It changes nothing."""

from aiohttp import web

from kubeproxy.health.debug import Handler
from kubeproxy.health.http import json_answer
from kubeproxy.kernel.exec import KernelError
from kubeproxy.logs import one_line
from kubeproxy.trace.explainer import Explainer
from kubeproxy.trace.question import BadQuestion, parse


def answering(explainer: Explainer) -> Handler:
    """Return what answers; it runs on the loop that owns the explainer's World."""

    async def trace(request: web.Request) -> web.Response:
        try:
            return json_answer(200, explainer.answer(parse(request.query)))
        except BadQuestion as error:
            return json_answer(400, {"error": one_line(str(error))})
        except (KernelError, OSError) as error:
            return json_answer(503, {"error": f"the node's own addresses cannot be read: {error}"})

    return trace
