"""User and password: the token that the members want to see with each request."""

from __future__ import annotations

import threading
import time

from .endpoint import Endpoint
from .settings import Settings
from .trouble import Trouble


class Login:
    """One token for all members and threads. A member forgets tokens (after 5 minutes, at its restart), and then says
    so before it does anything."""

    def __init__(self, settings: Settings) -> None:
        self.user = settings.user
        self._settings = settings
        #: The last one; "" before the first login.
        self.known = ""
        self._lock = threading.Lock()  # held over a login: the others wait for its token

    def token(self, endpoint: Endpoint, until: float) -> str:
        """ "" without a user. Blocks and raises as `renew`."""
        return self.known or (self.renew(endpoint, "", until) if self.user else "")

    def renew(self, endpoint: Endpoint, old: str, until: float) -> str:
        """A token other than `old`, which was refused. Blocks until `until`. Raises Trouble, always with `sure`."""
        if not self._lock.acquire(timeout=max(0.0, until - time.monotonic())):
            raise Trouble("no answer to another thread's login", sure=True)
        try:
            if self.known == old:
                body = {"name": self.user, "password": self._settings.read_password()}
                self.known = str(endpoint.call("/auth/authenticate", body, until)["token"])
            return self.known
        except ValueError as error:
            raise Trouble(str(error), sure=True, config=True, everywhere=True) from None
        except Trouble as error:
            error.sure = True  # whatever became of the login: the request itself was not sent
            raise
        finally:
            self._lock.release()
