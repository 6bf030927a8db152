"""`GET /services` on the agent's metrics server: one look at the kernel, in JSON. It changes nothing."""

from aiohttp import web

from kubeproxy.health.debug import Handler
from kubeproxy.health.http import json_answer
from kubeproxy.logs import one_line
from kubeproxy.trace.question import BadQuestion
from kubeproxy.traffic.observer import Busy, NoSuchService, Observer
from kubeproxy.traffic.question import parse


def answering(observer: Observer) -> Handler:
    """Return what answers; it runs on the loop that owns the observer's World."""

    async def services(request: web.Request) -> web.Response:
        try:
            return json_answer(200, await observer.answer(parse(request.query)))
        except NoSuchService as error:
            return json_answer(404, {"error": one_line(str(error))})
        except BadQuestion as error:
            return json_answer(400, {"error": one_line(str(error))})
        except Busy as error:
            return json_answer(503, {"error": str(error)})

    return services
