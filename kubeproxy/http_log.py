"""The log of HTTP servers that strangers may reach."""

import logging

from aiohttp.http_exceptions import HttpProcessingError


class _Unreadable(logging.Filter):
    """Keeps requests that are no HTTP out of the log, where each would be a trace of aiohttp's parser."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            HTTP_LOG.debug("a request that cannot be read: %s", error.message)
            return False
        return True


HTTP_LOG = logging.getLogger(__name__)
HTTP_LOG.addFilter(_Unreadable())
