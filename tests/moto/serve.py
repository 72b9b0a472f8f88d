"""Runs the simulated AWS on a free port of 127.0.0.1 until standard input ends; the port is the first line of the output.

moto gives every ECR token the same end, years ago; here a token ends TOKEN_SECONDS (default 43200, as at Amazon) after it
was asked for. And moto refuses identities in a form that no SDK reads; here they are refused as Amazon does it, ECR in JSON
and STS in XML.
"""

import logging
import os
import sys
import threading
from datetime import datetime, timedelta, timezone

from moto.core.exceptions import JsonRESTError
from moto.ecr import responses
from moto.iam import access_control
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

LIFE = timedelta(seconds=int(os.environ.get("TOKEN_SECONDS", "43200")))


class EndOfToken:
    """Stands in for the class by which moto writes when a token ends."""

    def __new__(cls, *_, **__):
        return datetime.now(timezone.utc) + LIFE


class Refusal(JsonRESTError):
    """With the codes of the two services for one kind of refusal."""

    def __init__(self, service, ecr, sts):
        super().__init__(ecr if service == "ecr" else sts, "refused")
        if service == "ecr":
            self.code = 400
        else:
            self.code = 403
            self.content_type = "text/xml"
            self.description = (
                '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
                f"<Error><Type>Sender</Type><Code>{sts}</Code><Message>refused</Message></Error></ErrorResponse>"
            )


class Identity(access_control.IAMRequest):
    """Stands in for the class that checks who asks, and whether that one may."""

    def _raise_signature_does_not_match(self):
        raise Refusal(self._service, "InvalidSignatureException", "SignatureDoesNotMatch")

    def _raise_invalid_access_key(self, _):
        raise Refusal(self._service, "UnrecognizedClientException", "InvalidClientTokenId")

    def _raise_access_denied(self):
        raise Refusal(self._service, "AccessDeniedException", "AccessDenied")


responses.datetime = EndOfToken
access_control.IAMRequest = Identity


def main():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", int(os.environ.get("PORT", "0")), application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.port, flush=True)
    # whoever started this holds the other end, so that nothing is left when it goes, however it goes
    sys.stdin.read()


main()
