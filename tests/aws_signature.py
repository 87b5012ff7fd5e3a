"""Whether a request that a server has seen carries a right AWS signature, worked out from the rules alone.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
from urllib.parse import quote

from asyncllm.testing import SeenRequest

__all__ = ["is_signed", "scope"]

_FORM = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<id>[^/]+)/(?P<scope>[^,]+), "
    r"SignedHeaders=(?P<names>[^,]+), Signature=(?P<signature>[0-9a-f]{64})"
)


def scope(request: SeenRequest) -> tuple[str, str, str]:
    """Key id, region and service of a request."""
    form = _FORM.fullmatch(request.headers["authorization"])
    assert form is not None
    _, region, service, _ = form["scope"].split("/")
    return form["id"], region, service


def is_signed(request: SeenRequest, secret: str) -> bool:
    """Whether the signature is over this very request, with the key that `secret` belongs to."""
    form = _FORM.fullmatch(request.headers["authorization"])
    assert form is not None
    path, _, query = request.path.partition("?")
    # Every service but S3 has each part of the path encoded twice, and it arrives encoded once.
    canonical = [request.method, quote(path, safe="/-_.~"), query]
    canonical += [f"{name}:{request.headers[name]}" for name in form["names"].split(";")]
    canonical += ["", form["names"], hashlib.sha256(request.body).hexdigest()]
    digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", request.headers["x-amz-date"], form["scope"], digest])
    key = b"AWS4" + secret.encode()
    for part in [*form["scope"].split("/"), text]:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.compare_digest(key.hex(), form["signature"])
